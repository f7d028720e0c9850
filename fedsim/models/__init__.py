"""Torch modules for joint intent classification and slot filling."""

from fedsim.models.bilstm import BiLSTMTagger
from fedsim.models.drop_in import LSTM
from fedsim.models.joint import JointTagger, Predictions
from fedsim.models.torch_module import ModuleTagger
from fedsim.models.transformer import TransformerTagger

__all__ = [
    "LSTM",
    "BiLSTMTagger",
    "JointTagger",
    "ModuleTagger",
    "Predictions",
    "TransformerTagger",
]
