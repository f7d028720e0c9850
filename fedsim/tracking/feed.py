"""What is a tracker told of a run, and when?

It is told what the record says and nothing else: the config as parameters when the run begins or
goes on, every round's line as it is written, the summary at the end. A run that goes on tells all
rounds of its record again, and the tracker keeps each step once.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fedsim.errors import ConfigError

log = logging.getLogger(__name__)

Line = Mapping[str, Any]
"""One round: a line of rounds.jsonl, with infinity as a number."""


class Log(Protocol):
    """One run, as a tracker shows it."""

    def round(self, line: Line) -> None:
        """Show a round; one that is shown already is left as it is."""

    def end(self, summary: Mapping[str, Any]) -> None:
        """Show the summary of a run that reached its end."""

    def close(self, error: BaseException | None) -> None:
        """Let go of the run, which an error or an interrupt has ended, or nothing has."""


class Tracker(Protocol):
    """Shows runs; one object serves many."""

    def open(self, folder: Path | None, config: Mapping[str, Any]) -> Log:
        """Begin to show a run, or go on.

        Args:
          folder: of the run's record, or None.
          config: what config.json says.

        Raises:
          ConfigError: the tracker is not installed or cannot show the run.
        """


class Feed:
    """Tells trackers of a run, as a context manager.

    Trackers are a convenience, the record is the result: one that fails during the run is left out
    from then on, with a warning, and the run goes on.

    Args:
      trackers: none or more.
      folder: of the run's record, or None.
      config: what config.json says.

    Raises:
      ConfigError: on entry, a tracker cannot be used.
    """

    def __init__(
        self, trackers: Sequence[Tracker], folder: Path | None, config: Mapping[str, Any]
    ) -> None:
        self._trackers = trackers
        self._folder = folder
        self._config = config
        self._logs: dict[str, Log] = {}

    def __enter__(self) -> "Feed":
        for number, tracker in enumerate(self._trackers, start=1):
            name = type(tracker).__name__
            try:
                self._logs[f"{name} ({number})"] = tracker.open(self._folder, self._config)
            except Exception as error:
                self.__exit__(type(error), error, None)
                if isinstance(error, ConfigError):
                    raise
                raise ConfigError(
                    f"{name} cannot be used: {error}; run without it, or correct that"
                ) from error
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for name in list(self._logs):
            self._tell(name, "close", error)

    def rounds(self, lines: Iterable[Line]) -> None:
        """Tell of rounds, in their order."""
        for line in lines:
            for name in list(self._logs):
                self._tell(name, "round", line)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Tell of the end."""
        for name in list(self._logs):
            self._tell(name, "end", summary)

    def _tell(self, name: str, what: str, value: Any) -> None:
        try:
            getattr(self._logs[name], what)(value)
        except Exception as error:
            del self._logs[name]
            log.warning(
                "%s failed (%s) and is left out from here on; the record is whole", name, error
            )


def scalars(line: Line) -> Iterator[tuple[str, float]]:
    """Names and values of a line's finite numbers, probes' figures among them.

    An infinite epsilon claims nothing, and a curve would hide that; so would a huge number.

    Example:
      >>> line = {"round": 3, "epsilon_max": float("inf"), "slot_f1": None, "figures": {"a/b": 2}}
      >>> list(scalars({**line, "train_loss": 0.5, "privacy_unit": "device"}))
      [('train_loss', 0.5), ('a/b', 2.0)]
    """
    flat = {**line, **line.get("figures", {})}
    for name, value in flat.items():
        if name != "round" and _is_number(value) and np.isfinite(value):
            yield name, float(value)


def parameters(config: Mapping[str, Any]) -> dict[str, str | int | float]:
    """What was asked for, by name: the options of a run, or the objects of a script's.

    Example:
      >>> parameters({"seed": 1, "recipe": {"seed": 1, "draw": "fixed", "data": None}})
      {'seed': 1, 'draw': 'fixed'}
      >>> parameters({"seed": 1, "recipe": None, "simulation": {"strategy": {"class": "FedAvg"}}})
      {'seed': 1, 'strategy.class': 'FedAvg'}
    """
    recipe = config.get("recipe")
    if recipe is not None:
        # The top level repeats the options, with what was left open resolved.
        found = {name: config.get(name, value) for name, value in recipe.items()}
    else:
        own = {k: v for k, v in config.get("simulation", {}).items() if k != "model"}
        found = {"seed": config["seed"], **dict(_leaves(own))}
    return {
        name: value if _is_number(value) else str(value)
        for name, value in found.items()
        if value is not None
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
