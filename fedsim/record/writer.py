"""The files of a run, written as it goes.

    config.json     first, before anything is computed
    start.json      once the corpus is read
    rounds.jsonl    one line a round, flushed
    failures.jsonl  one line a failed device
    cohorts.npz devices.npz model.safetensors summary.json    at the end

A figure that was not measured is null; infinity is the string "inf".
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from fedsim.errors import ConfigError
from fedsim.plan import FinishedRound
from fedsim.record.run import Arrays

COLUMNS = (
    *("round", "period", "seconds", "cohort_size", "cohort_examples", "failures", "train_loss"),
    *("test_loss", "intent_accuracy", "slot_f1", "exact_match", "privacy_unit"),
    *("epsilon_max", "epsilon_median", "epsilon_participation_max", "epsilon_server_max", "delta"),
    *("example_epsilon_max", "example_epsilon_median"),
    *("mia_auc", "mia_auc_low", "mia_auc_high", "mia_tpr_at_1pct"),
    *("epsilon_audit_low", "delta_audit", "epsilon_claim_at_delta_audit"),
)
"""Keys of every line of rounds.jsonl, in this order; `figures` follows them."""


class Writer:
    """Writes the record of one run, into a folder or (with None) into memory alone.

    Args:
      out: a folder that is new or empty, or None.

    Raises:
      ConfigError: the folder holds something already, or cannot be written.
    """

    def __init__(self, out: str | Path | None) -> None:
        self.path = None if out is None else Path(out)
        self.rounds: list[dict[str, Any]] = []
        self._cohorts: dict[str, list[np.ndarray]] = {"drawn": [], "arrived": [], "failed": []}
        self._rates: list[np.ndarray] = []
        self._rates_round: list[int] = []
        if self.path is None:
            return
        self._created = next((p for p in (*reversed(self.path.parents), self.path) if not p.exists()), None)
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            what = "holds a run already" if (self.path / "config.json").exists() else "is not empty"
            raise ConfigError(f"output folder {self.path} {what}; choose another one or remove it")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"output folder {self.path} cannot be made: {error.strerror}"
            ) from None

    def discard(self) -> None:
        """Remove what was created; for runs refused before round 1."""
        if self.path is None or self.rounds:
            return
        for child in self.path.iterdir():
            child.unlink()
        if self._created is not None:
            shutil.rmtree(self._created, ignore_errors=True)

    def config(self, value: Mapping[str, Any]) -> None:
        """Write config.json."""
        self._json("config.json", value)

    def start(self, value: Mapping[str, Any], devices: Arrays) -> None:
        """Write start.json and devices.npz."""
        self._json("start.json", value)
        self._arrays("devices.npz", devices)

    def round(self, finished: FinishedRound, seconds: float, figures: Mapping[str, Any]) -> dict:
        """Append one round and return its line."""
        line: dict[str, Any] = dict.fromkeys(COLUMNS)
        line |= {
            "round": finished.round,
            "period": finished.period + 1,
            "seconds": round(seconds, 6),
            "cohort_size": len(finished.cohort),
            "cohort_examples": finished.examples,
            "failures": len(finished.failures),
            "train_loss": finished.train_loss,
        }
        line |= {key: value for key, value in figures.items() if "/" not in key}
        line["figures"] = {key: value for key, value in figures.items() if "/" in key}
        self.rounds.append(line)
        self._append("rounds.jsonl", [encoded(line)])
        self._append(
            "failures.jsonl",
            [{"round": finished.round, **f._asdict()} for f in finished.failures],
        )
        failed = np.array([f.device for f in finished.failures], np.int64)
        for name, ids in (
            ("drawn", finished.cohort),
            ("arrived", finished.arrived),
            ("failed", failed),
        ):
            self._cohorts[name].append(ids.astype(np.int32))
        rates = None if finished.plan is None else finished.plan.rates
        if rates is not None and not (self._rates and np.array_equal(rates, self._rates[-1])):
            self._rates.append(rates)
            self._rates_round.append(finished.round)
        return line

    def finish(self, parameters: Mapping[str, Tensor], summary: Mapping[str, Any]) -> Arrays:
        """Write the rest, summary.json last, and return the cohorts."""
        cohorts: Arrays = {}
        for name, rows in self._cohorts.items():
            cohorts[name] = np.concatenate(rows)
            cohorts[f"{name}_offsets"] = np.cumsum([0, *map(len, rows)])
        cohorts["rates"] = np.array(self._rates)
        cohorts["rates_round"] = np.array(self._rates_round, np.int64)
        self._arrays("cohorts.npz", cohorts)
        if self.path is not None:
            with _written("model.safetensors"):
                save_file({k: v.contiguous() for k, v in parameters.items()}, self.path / "model.safetensors")
        self._json("summary.json", encoded(summary))
        return cohorts

    def _json(self, name: str, value: Mapping[str, Any]) -> None:
        text = json.dumps(value, indent=1, ensure_ascii=False)
        self._replace(name, lambda path: path.write_text(text + "\n", "utf-8"))

    def _arrays(self, name: str, arrays: Arrays) -> None:
        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

        self._replace(name, write)

    def _replace(self, name: str, write) -> None:
        """Write beside the file and move it into place, so that no half file is ever seen."""
        if self.path is None:
            return
        temporary = self.path / f".{name}.part"
        with _written(name):
            try:
                write(temporary)
                os.replace(temporary, self.path / name)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

    def _append(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        if self.path is None or not lines:
            return
        with _written(name), (self.path / name).open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))


class _written:
    """Turn a failed write (a full disk, a folder that vanished) into one clear sentence."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, OSError):
            raise ConfigError(
                f"{self.name} cannot be written: {error.strerror or error}; "
                "make room or choose another output folder"
            ) from None


def encoded(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Infinity as the string "inf", so that every line is standard JSON."""
    return {
        key: "inf" if isinstance(value, float) and math.isinf(value) else value
        for key, value in figures.items()
    }


def model_sha256(parameters: Mapping[str, Tensor]) -> str:
    """SHA-256 of all parameters in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(name.encode())
        digest.update(parameters[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
