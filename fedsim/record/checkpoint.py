"""Where does a run go on that was killed?

    checkpoint/round-000012.npz    all that has state after round 12, parameters included
    checkpoint/rates-000001.npy    participation rates from round 1 on, written once per change
    checkpoint/cohorts.jsonl       who was drawn, arrived and failed, one line a round

A checkpoint is whole before the one before it goes; one that is not is passed over. What only grows
is appended, and rates are not written again, so that a checkpoint grows neither with the rounds nor
with the devices.
"""

import json
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsim.errors import ConfigError
from fedsim.folder import CHECKPOINT, Folder
from fedsim.models.joint import Parameters
from fedsim.record.writer import Writer
from fedsim.state import Stateful, pack, unpack

Packed = tuple[Any, list[np.ndarray]]


class Checkpoints:
    """Saves and restores a run as it goes; does nothing for one that is kept in memory.

    As a context manager it saves, when left by an interrupt or an error, the last whole round.

    Args:
      writer: of the run's record.
      every: rounds between checkpoints.
      stateful: everything else that has state, by name.
    """

    def __init__(self, writer: Writer, every: int, stateful: Mapping[str, Stateful]) -> None:
        self._writer = writer
        self._every = every
        self._stateful = stateful
        self._pending: tuple[int, Packed] | None = None
        self._before = 0.0

    def __enter__(self) -> "Checkpoints":
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is not None and self._pending is not None:
            # On a full disk the checkpoint before has to do.
            try:
                self._save(*self._pending)
            except ConfigError as full:
                error.add_note(str(full))

    @property
    def seconds(self) -> float:
        """Spent on rounds so far, also by processes that ran them before."""
        return self._before + time.perf_counter() - self._began

    def restore(self, parameters: Parameters) -> tuple[int, Parameters]:
        """The newest whole checkpoint: its round and its parameters; 0 and the given ones if none.

        The record is cut back to that round.

        Raises:
          ConfigError: the record has lost rounds that the checkpoint counts on.
        """
        folder = self._writer.folder
        if folder is None:
            return 0, parameters
        round, state = newest(folder)
        self._writer.rewind(round)
        if state is None:
            return 0, parameters
        for name, each in self._stateful.items():
            each.load_state_dict(state["state"][name])
        self._before = state["seconds"]
        saved = state["parameters"]
        return round, {name: torch.from_numpy(saved[name]) for name in parameters}

    def keep(self, round: int, parameters: Parameters, *, last: bool) -> None:
        """Note the end of a round, and save it where one is due."""
        if self._writer.folder is None:
            return
        state = {
            "state": {name: each.state_dict() for name, each in self._stateful.items()},
            "parameters": {name: p.detach().cpu().numpy() for name, p in parameters.items()},
            "seconds": self.seconds,
        }
        try:
            self._pending = round, pack(state)
        except TypeError as error:
            raise ConfigError(
                f"the state after round {round} holds {error}, which a checkpoint cannot hold; "
                "keep numbers, text, arrays, and lists, tuples and dicts of these"
            ) from None
        if last or round % self._every == 0:
            self._save(*self._pending)
            self._pending = None

    def _save(self, round: int, packed: Packed) -> None:
        folder = self._writer.folder
        assert folder is not None
        self._writer.settle(round)
        tree, arrays = packed
        text = np.frombuffer(json.dumps(tree).encode(), np.uint8)

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, text, *arrays)

        name = f"round-{round:06d}.npz"
        folder.replace(f"{CHECKPOINT}/{name}", write)
        for old in (folder.path / CHECKPOINT).glob("round-*.npz"):
            if old.name != name:
                old.unlink()


def newest(folder: Folder) -> tuple[int, dict[str, Any] | None]:
    """The round and the state of the newest checkpoint that is whole; 0 and None without one."""
    for path in sorted((folder.path / CHECKPOINT).glob("round-*.npz"), reverse=True):
        try:
            # Reading a member checks its sum, so that a damaged one is noticed.
            with np.load(path, allow_pickle=False) as archive:
                text, *arrays = (archive[f"arr_{k}"] for k in range(len(archive.files)))
            return int(path.stem.partition("-")[2]), unpack(json.loads(text.tobytes()), arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue
    return 0, None
