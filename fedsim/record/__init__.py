"""The files of a run: the only output of a simulation, and what every table is made from."""

from fedsim.record.run import Run, compare, is_finished, load_run
from fedsim.record.writer import Writer, model_sha256

__all__ = ["Run", "Writer", "compare", "is_finished", "load_run", "model_sha256"]
