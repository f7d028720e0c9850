"""The files of a run, written as it goes.

    config.json     first, before anything is computed
    start.json devices.npz    once the corpus is read
    rounds.jsonl    one line a round, flushed
    failures.jsonl  one line a failed device
    cohorts.npz model.safetensors summary.json    at the end

A figure that was not measured is null; infinity is the string "inf" (and the like for "nan").
"""

import contextlib
import errno
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save
from torch import Tensor

from fedsim.errors import ConfigError, require
from fedsim.plan import SERVER, FinishedRound
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


def check_free(path: Path) -> None:
    """Refuse an output folder that holds something already."""
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise ConfigError(_cannot_be_used(path, error)) from None
    if taken:
        what = "holds a run already" if (path / "config.json").exists() else "is not empty"
        what = what if path.is_dir() else "is a file"
        raise ConfigError(f"output folder {path} {what}; choose another one or remove it")


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
        check_free(self.path)
        self._created = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(_cannot_be_used(self.path, error)) from None

    def discard(self) -> None:
        """Remove what was created; for runs refused before round 1."""
        if self.path is None or self.rounds or not self.path.is_dir():
            return
        for child in self.path.iterdir():
            child.unlink()
        # One by one: a folder above may meanwhile hold another run.
        with contextlib.suppress(OSError):
            for folder in self._created:
                folder.rmdir()

    def config(self, value: Mapping[str, Any]) -> None:
        """Write config.json."""
        self._json("config.json", value)

    def start(self, value: Mapping[str, Any], devices: Arrays) -> None:
        """Write start.json and devices.npz."""
        self._json("start.json", value)
        self._arrays("devices.npz", devices)

    def round(self, finished: FinishedRound, seconds: float, figures: Mapping[str, Any]) -> dict:
        """Append one round and return its line.

        Raises:
          ConfigError: a figure has no place in a line, or the line cannot be written.
        """
        for name in figures:
            require(
                "/" in name or name in COLUMNS,
                f"a probe returned the figure {name!r}, which is no column of a line; "
                f"name it 'probe/{name}'",
            )
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
        self._append("rounds.jsonl", [encoded(line)])
        self._append(
            "failures.jsonl",
            [{"round": finished.round, **f._asdict()} for f in finished.failures],
        )
        self.rounds.append(line)
        failed = np.array([f.device for f in finished.failures if f.device != SERVER], np.int64)
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
        model = {name: p.detach().cpu().contiguous() for name, p in parameters.items()}
        self._replace("model.safetensors", lambda path: path.write_bytes(save(model)))
        self._json("summary.json", summary)
        return cohorts

    def _json(self, name: str, value: Mapping[str, Any]) -> None:
        text = json.dumps(encoded(value), indent=1, ensure_ascii=False, default=str)
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
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        with _written(name), (self.path / name).open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(before)
                raise


def _cannot_be_used(path: Path, error: OSError) -> str:
    return f"output folder {path} cannot be used: {error.strerror or error}; choose another one"


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


def encoded(value: Any) -> Any:
    """Figures as standard JSON values: infinity as the string "inf", NumPy values as plain ones.

    Example:
      >>> encoded({"epsilon_max": float("inf"), "figures": {"probe/x": np.float32(0.5)}})
      {'epsilon_max': 'inf', 'figures': {'probe/x': 0.5}}
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encoded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def model_sha256(parameters: Mapping[str, Tensor]) -> str:
    """SHA-256 of all parameters in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(name.encode())
        digest.update(parameters[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
