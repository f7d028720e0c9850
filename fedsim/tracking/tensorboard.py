"""How does TensorBoard show a run?

As event files under DIR/tensorboard, so that `tensorboard --logdir runs` shows every run below
`runs` by the name of its folder. They are written anew from the record when a run goes on: what a
killed process had shown of rounds that are run again is gone, and what it had not yet shown is
there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fedsim.errors import ConfigError
from fedsim.tracking.feed import Line, parameters, scalars

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
"""Below the run's own."""


@dataclass(frozen=True)
class TensorBoard:
    """Shows runs that have a record; needs the package `tensorboard`.

    Example:
      >>> from fedsim import Simulation
      >>> simulation = Simulation(..., trackers=[TensorBoard()])  # doctest: +SKIP
      >>> simulation.run(out="runs/a")  # doctest: +SKIP
    """

    def open(self, folder: Path | None, config: Mapping[str, Any]) -> "TensorBoardLog":
        """Begin DIR/tensorboard, anew where a run goes on."""
        if folder is None:
            raise ConfigError(
                "TensorBoard's files go beside a run's record, and this run has none; "
                "name a folder with --out or .run(out=...)"
            )
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                f"TensorBoard cannot be imported ({error}); pip install tensorboard"
            ) from None
        for path in (folder / FOLDER).glob("events.out.tfevents.*"):
            path.unlink()
        # A TensorBoard that is watching forgets what the files before said from step 0 on.
        return TensorBoardLog(SummaryWriter(str(folder / FOLDER), purge_step=0), config)


class TensorBoardLog:
    """One run's event files.

    Args:
      writer: of them.
      config: what config.json says.
    """

    def __init__(self, writer: "SummaryWriter", config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard.summary import hparams

        self._writer = writer
        self._file = cast(Any, writer.file_writer)
        compared = ("intent_accuracy", "slot_f1", "epsilon_max", "example_epsilon_max", "mia_auc")
        begun = hparams(parameters(config), dict.fromkeys(compared, 0.0))
        experiment, start, self._ended = begun
        for summary in (experiment, start):
            self._file.add_summary(summary)

    def round(self, line: Line) -> None:
        """A point of every curve, on the disk at once."""
        for name, value in scalars(line):
            self._writer.add_scalar(name, value, line["round"])
        self._writer.flush()

    def end(self, summary: Mapping[str, Any]) -> None:
        """The summary as a table under "text", and the run's parameters as those of a whole one."""
        rows = [f"| {name} | {value} |" for name, value in summary.items()]
        table = "\n".join(["| figure | at the end |", "|:--|:--|", *rows])
        self._writer.add_text("summary", table, summary["rounds"])
        self._file.add_summary(self._ended)

    def close(self, error: BaseException | None) -> None:
        """Close the files."""
        self._writer.close()
