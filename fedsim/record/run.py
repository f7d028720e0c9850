"""A finished run, read back from its folder (or held in memory where it was given none).

Every table and figure is made from this, never from the running simulation.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.errors import ConfigError
from fedsim.folder import read, read_json
from fedsim.models.joint import Parameters
from fedsim.record.encoding import decoded

if TYPE_CHECKING:
    from fedsim.report.table import Table

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What a run left behind.

    Attributes:
      path: its folder, or None.
      config: what was run (config.json).
      start: fingerprints, assumptions and the untrained model's figures (start.json).
      rounds: one dict a round; `figures` within holds the probes'. Not measured is None.
      summary: last measured figures, model hash, rounds, seconds, seed.
      cohorts: `drawn`, `arrived`, `failed`, flat device ids, each with `*_offsets` (rounds + 1,);
        `rates` (changes, devices) and `rates_round` (changes,), the first round of each.
      devices: `activity` (periods, devices), `decile` (devices,) and `names` (hashed).
      parameters: the final model's, or None where it is still on disk.
      files: what probes left behind, by file stem, or None where it is still on disk.
    """

    path: Path | None
    config: dict[str, Any]
    start: dict[str, Any]
    rounds: list[dict[str, Any]]
    summary: dict[str, Any]
    cohorts: Arrays
    devices: Arrays
    parameters: Parameters | None = field(default=None, repr=False)
    files: Mapping[str, Arrays] | None = field(default=None, repr=False)

    @cached_property
    def model(self) -> Parameters:
        """Parameters of the final model, by name."""
        if self.parameters is not None:
            return self.parameters
        from safetensors.torch import load_file

        assert self.path is not None
        return load_file(self.path / "model.safetensors")

    def arrays(self, stem: str) -> Arrays:
        """What a probe left behind, such as "ledger"; empty where none did."""
        if self.files is not None:
            return self.files.get(stem, {})
        assert self.path is not None
        path = self.path / f"{stem}.npz"
        return _arrays(path) if path.is_file() else {}

    def table(self) -> "Table":
        """The measured rounds as a table."""
        from fedsim.report.runs import rounds_table

        return rounds_table(self)


def compare(runs: Sequence[Run]) -> "Table":
    """Final figures of several runs, a row each."""
    from fedsim.report.runs import final_table

    return final_table(runs)


def is_finished(path: str | Path) -> bool:
    """Whether a folder holds a run that reached its end."""
    return (Path(path) / "config.json").is_file() and (Path(path) / "summary.json").is_file()


def load_run(path: str | Path) -> Run:
    """Read the folder of a finished run.

    Raises:
      ConfigError: the folder holds none, or one of its files is missing or damaged.
    """
    path = Path(path)
    if not is_finished(path):
        raise ConfigError(
            f"{path} holds no finished run (config.json and summary.json); "
            "name the folder of a run that reached its end"
        )
    return Run(
        path=path,
        config=read_json(path / "config.json"),
        start=read_json(path / "start.json"),
        rounds=[decoded(line) for line in _json_lines(path / "rounds.jsonl")],
        summary=decoded(read_json(path / "summary.json")),
        cohorts=_arrays(path / "cohorts.npz"),
        devices=_arrays(path / "devices.npz"),
    )


def _json_lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    with read(path):
        text = path.read_text("utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        with read(path, f", line {number}"):
            lines.append(json.loads(line))
    return lines


def _arrays(path: Path) -> Arrays:
    with read(path), np.load(path, allow_pickle=False) as archive:
        return dict(archive)
