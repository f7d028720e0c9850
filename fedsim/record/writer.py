"""The files of a run, written as it goes.

    config.json     first, before anything is computed
    devices.npz start.json    once the corpus is read
    rounds.jsonl    one line a round, flushed
    failures.jsonl  one line a failed device
    checkpoint/     where an interrupted run goes on; removed at the end
    cohorts.npz model.safetensors summary.json    at the end

A figure that was not measured is null; infinity is the string "inf" (and the like for "nan").
"""

import hashlib
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save
from torch import Tensor

from fedsim.errors import require
from fedsim.folder import CHECKPOINT, Folder, check_free, read, read_json
from fedsim.plan import SERVER, FinishedRound
from fedsim.record.encoding import decoded, encoded
from fedsim.record.run import Arrays
from fedsim.record.same import check_same

COLUMNS = (
    *("round", "period", "seconds", "cohort_size", "cohort_examples", "failures", "train_loss"),
    *("test_loss", "intent_accuracy", "slot_f1", "exact_match", "privacy_unit"),
    *("epsilon_max", "epsilon_median", "epsilon_participation_max", "epsilon_server_max", "delta"),
    *("example_epsilon_max", "example_epsilon_median"),
    *("mia_auc", "mia_auc_low", "mia_auc_high", "mia_tpr_at_1pct"),
    *("epsilon_audit_low", "delta_audit", "epsilon_claim_at_delta_audit"),
)
"""Keys of every line of rounds.jsonl, in this order; `figures` follows them."""

COHORTS = f"{CHECKPOINT}/cohorts.jsonl"
"""Who was drawn, arrived and failed, until cohorts.npz says so."""

LOGS = ("rounds.jsonl", "failures.jsonl", COHORTS)


class Writer:
    """Writes the record of one run, into a folder or (with None) into memory alone.

    Args:
      out: a folder that is new or empty, or None.
      resume: it may also hold a run that is to go on.

    Attributes:
      folder: where to, or None.
      rounds: the lines so far.

    Raises:
      ConfigError: the folder holds something already, or cannot be written.
    """

    def __init__(self, out: str | Path | None, *, resume: bool = False) -> None:
        begun = out is not None and resume and (Path(out) / "config.json").is_file()
        if out is not None and not begun:
            check_free(Path(out))
        self.folder = None if out is None else Folder(Path(out))
        self.rounds: list[dict[str, Any]] = []
        self._fresh = not begun
        self._cohorts: dict[str, list[np.ndarray]] = {"drawn": [], "arrived": [], "failed": []}
        self._rates: list[np.ndarray] = []
        self._rates_round: list[int] = []
        self._settled = 0

    @property
    def path(self) -> Path | None:
        """The folder's, or None."""
        return None if self.folder is None else self.folder.path

    def held(self) -> AbstractContextManager[None]:
        """Keep other processes out of the folder meanwhile."""
        return nullcontext() if self.folder is None else self.folder.held()

    def discard(self) -> None:
        """Remove what was created; for runs refused before round 1."""
        if self.folder is not None and self._fresh and not self.rounds:
            self.folder.discard()

    def config(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Write config.json, and return what it holds.

        Raises:
          ConfigError: the run that is to go on has another one.
        """
        if self.folder is None:
            return dict(value)
        path = self.folder.path / "config.json"
        if path.exists():
            recorded = read_json(path)
            if "simulation" in recorded:
                check_same(path, recorded, value)
                return recorded
            # Written before anything was built: the options and versions alone.
            check_same(path, _first(recorded), _first(value))
        self.folder.json("config.json", encoded(value))
        return dict(value)

    def start(self, value: Mapping[str, Any], devices: Arrays) -> dict[str, Any]:
        """Write devices.npz and start.json, and return what the latter holds.

        Raises:
          ConfigError: the run that is to go on was begun on other data or another model.
        """
        if self.folder is None:
            return dict(value)
        path = self.folder.path / "start.json"
        if path.exists():
            recorded = read_json(path)
            check_same(path, recorded, value)
            return recorded
        self._arrays("devices.npz", devices)
        self.folder.json("start.json", encoded(value))
        return dict(value)

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
        if self.folder is not None:
            failures = [{"round": finished.round, **f._asdict()} for f in finished.failures]
            self.folder.append("rounds.jsonl", [encoded(line)])
            self.folder.append("failures.jsonl", failures)
        self.rounds.append(line)
        training = [f for f in finished.failures if f.stage != "evaluate" and f.device != SERVER]
        failed = np.array([failure.device for failure in training], np.int64)
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

    def finish(
        self,
        parameters: Mapping[str, Tensor],
        summary: Mapping[str, Any],
        files: Mapping[str, Arrays],
    ) -> Arrays:
        """Write the rest, summary.json last, and return the cohorts.

        Args:
          parameters: of the final model.
          summary: summary.json.
          files: what probes leave behind, by file stem.
        """
        cohorts: Arrays = {}
        for name, rows in self._cohorts.items():
            cohorts[name] = np.concatenate(rows)
            cohorts[f"{name}_offsets"] = np.cumsum([0, *map(len, rows)])
        cohorts["rates"] = np.array(self._rates)
        cohorts["rates_round"] = np.array(self._rates_round, np.int64)
        self._arrays("cohorts.npz", cohorts)
        for stem, arrays in files.items():
            self._arrays(f"{stem}.npz", arrays)
        if self.folder is not None:
            model = {name: p.detach().cpu().contiguous() for name, p in parameters.items()}
            self.folder.replace("model.safetensors", lambda path: path.write_bytes(save(model)))
            self.folder.json("summary.json", encoded(summary))
            shutil.rmtree(self.folder.path / CHECKPOINT, ignore_errors=True)
        return cohorts

    def settle(self, round: int) -> None:
        """Have everything up to a round on the disk, before a checkpoint that counts on it."""
        assert self.folder is not None
        for since, rates in zip(self._rates_round, self._rates, strict=True):
            if self._settled < since <= round:
                self.folder.replace(f"{CHECKPOINT}/rates-{since:06d}.npy", partial(_save, rates))
        rows = [
            {"round": k + 1, **{name: ids[k].tolist() for name, ids in self._cohorts.items()}}
            for k in range(self._settled, round)
        ]
        (self.folder.path / CHECKPOINT).mkdir(exist_ok=True)
        self.folder.append(COHORTS, rows)
        self._settled = round
        self.folder.sync(LOGS)

    def rewind(self, round: int) -> None:
        """Go back to the end of a round: what a killed process wrote after it is dropped.

        Raises:
          ConfigError: the record does not reach that round.
        """
        assert self.folder is not None
        for half in (".*.part", f"{CHECKPOINT}/.*.part"):
            for path in self.folder.path.glob(half):
                path.unlink()
        lines, _, rows = (self.folder.rewind(name, round) for name in LOGS)
        # An interrupt may have come between writing cohorts and noting that they are written.
        cohorts = {row["round"]: row for row in rows}
        require(
            [line["round"] for line in lines] == list(range(1, round + 1)) == list(cohorts),
            f"{self.path} has a checkpoint of round {round}, but a record of "
            f"{min(len(lines), len(cohorts))} rounds; run the simulation again into a new folder",
        )
        self.rounds = [decoded(line) for line in lines]
        for name, ids in self._cohorts.items():
            ids.extend(np.array(row[name], np.int32) for row in cohorts.values())
        for path in sorted((self.folder.path / CHECKPOINT).glob("rates-*.npy")):
            since = int(path.stem.partition("-")[2])
            if since > round:
                path.unlink()
                continue
            with read(path):
                self._rates.append(np.load(path, allow_pickle=False))
            self._rates_round.append(since)
        self._settled = round

    def _arrays(self, name: str, arrays: Arrays) -> None:
        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

        if self.folder is not None:
            self.folder.replace(name, write)


def _first(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a run before anything is built."""
    return {"options": config.get("recipe"), "environment": config.get("environment")}


def _save(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def model_sha256(parameters: Mapping[str, Tensor]) -> str:
    """SHA-256 of all parameters in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(name.encode())
        digest.update(parameters[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
