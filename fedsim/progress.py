"""How far a run is: one line on the terminal with the current figures and the time left."""

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)


class Progress:
    """A progress bar on standard error; silent where that is no terminal.

    Args:
      rounds: rounds in all.
      done: rounds that an earlier process finished.
      shown: False never shows it.
    """

    def __init__(self, rounds: int, *, done: int, shown: bool) -> None:
        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not (shown and console.is_terminal),
            transient=True,
        )
        self._task = self._bar.add_task("", total=rounds, completed=done)
        self._loss = self._accuracy = ""

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()

    def show(self, line: dict[str, Any]) -> None:
        """Advance by one round, given its line of the record."""
        if line["train_loss"] is not None:
            self._loss = f"loss {line['train_loss']:.3f}"
        if line["intent_accuracy"] is not None:
            named = (("intent", line["intent_accuracy"]), ("slot F1", line["slot_f1"]))
            self._accuracy = "  ".join(f"{n} {100 * v:.1f} %" for n, v in named if v is not None)
        self._bar.update(self._task, advance=1, description=f"{self._loss}  {self._accuracy}")
