"""What a device does with the model it receives: batches, local procedures, the trainer."""

from fedsim.training.dpsgd import DPSGD
from fedsim.training.procedures import SGD, AdamW, LocalProcedure
from fedsim.training.trainer import LocalResult, LocalTrainer, private_procedures, procedures

__all__ = [
    "DPSGD",
    "SGD",
    "AdamW",
    "LocalProcedure",
    "LocalResult",
    "LocalTrainer",
    "private_procedures",
    "procedures",
]
