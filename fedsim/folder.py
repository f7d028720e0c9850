"""Whose folder is this, and is every file in it whole?

The folder of a run is claimed before anything heavy is imported, belongs to one process at a time,
and never shows a half-written file: whole files are written beside their place, synced to the disk
and moved, logs are cut back to their last whole line.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError, require

CHECKPOINT = "checkpoint"
"""Where a run that is not finished keeps what it goes on from."""


def check_free(path: Path) -> None:
    """Refuse an output folder that holds something already."""
    try:
        taken = path.exists() and (not path.is_dir() or any(map(_counts, path.iterdir())))
    except OSError as error:
        raise ConfigError(_cannot_be_used(path, error)) from None
    if not taken:
        return
    begun, ended = ((path / name).exists() for name in ("config.json", "summary.json"))
    what, way = "is not empty", "choose another one or remove it"
    if not path.is_dir():
        what = "is a file"
    elif ended:
        what = "holds a run already"
    elif begun:
        what, way = "holds a run already", "choose another one, remove it, or resume the run"
    raise ConfigError(f"output folder {path} {what}; {way}")


def _counts(child: Path) -> bool:
    """Whether a file is anything but what a process killed at its very start leaves behind."""
    return child.name != ".config.json.part"


class Folder:
    """The folder of one run.

    Args:
      path: it is made where it is missing; `check_free` says whether it holds something.

    Raises:
      ConfigError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._created = [p for p in (path, *path.parents) if not p.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(_cannot_be_used(path, error)) from None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out meanwhile; the operating system lets go if this one is killed.

        Raises:
          ConfigError: another process works in the folder.
        """
        file = os.open(self.path, os.O_RDONLY)
        try:
            # Some network file systems cannot lock a folder; then nobody is kept out.
            with contextlib.suppress(OSError):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ConfigError(
                        f"another process is running the simulation in {self.path}; "
                        "wait for it to end or choose another folder"
                    ) from None
            yield
        finally:
            os.close(file)

    def discard(self) -> None:
        """Remove everything, and the folders above that were made for it."""
        if not self.path.is_dir():
            return
        for child in self.path.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
            else:
                child.unlink()
        # One by one: a folder above may meanwhile hold another run.
        with contextlib.suppress(OSError):
            for folder in self._created:
                folder.rmdir()

    def json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file."""
        text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
        self.replace(name, lambda path: path.write_text(text + "\n", "utf-8"))

    def replace(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write beside the file and move it into place, so that no half file is ever seen.

        Args:
          name: of the file, or of one in a folder below, which is made where it is missing.
          write: writes the file it is given.

        Raises:
          ConfigError: there is no room, or the folder vanished.
        """
        place = self.path / name
        temporary = place.with_name(f".{place.name}.part")
        with _written(name):
            try:
                if place.parent != self.path:
                    place.parent.mkdir(exist_ok=True)
                write(temporary)
                _sync(temporary)
                os.replace(temporary, place)
                _sync(place.parent)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

    def append(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add lines of JSON to a log, all of them or none.

        Raises:
          ConfigError: there is no room, or the folder vanished.
        """
        if not lines:
            return
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        with _written(name), (self.path / name).open("ab", buffering=0) as file:
            before = file.tell()
            try:
                # A disk that fills in the middle of a line takes a part and reports no error.
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(before)
                raise

    def sync(self, names: Iterable[str]) -> None:
        """Have the logs on the disk before a checkpoint that counts on them."""
        for name in names:
            if (self.path / name).exists():
                with _written(name):
                    _sync(self.path / name)

    def rewind(self, name: str, round: int) -> list[dict[str, Any]]:
        """Cut a log back to the lines up to a round, and return them.

        What a killed process left behind them goes: lines of later rounds, and half a line. A log
        that has none left is removed, as if it had never been begun.
        """
        path = self.path / name
        kept: list[dict[str, Any]] = []
        if not path.exists():
            return kept
        length = 0
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                value = json.loads(line)
                whole = line.endswith(b"\n") and value["round"] <= round
            except (ValueError, TypeError, KeyError):
                break
            if not whole:
                break
            kept.append(value)
            length += len(line)
        with _written(name):
            if kept:
                os.truncate(path, length)
            else:
                path.unlink()
        return kept


def begin(out: str | Path, config: Mapping[str, Any]) -> Folder:
    """Claim a new folder for a run and write what is known of it.

    Raises:
      ConfigError: the folder holds something already, or cannot be written.
    """
    check_free(Path(out))
    folder = Folder(Path(out))
    try:
        folder.json("config.json", config)
    except BaseException:
        folder.discard()
        raise
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a run.

    Raises:
      ConfigError: it is missing or damaged.
    """
    with read(path):
        return json.loads(path.read_text("utf-8"))


@contextmanager
def read(path: Path, where: str = "") -> Iterator[None]:
    """Turn a missing or damaged file into one clear sentence."""
    try:
        yield
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        what = getattr(error, "strerror", None) or "it is damaged"
        raise ConfigError(
            f"{path}{where} cannot be read: {what}; run the simulation again into a new folder"
        ) from None


def require_begun(path: Path) -> None:
    """Refuse a folder that holds no run."""
    require(
        (path / "config.json").is_file(),
        f"{path} holds no run (config.json); name the folder of one, "
        "or start one with fedsim run --out",
    )


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _cannot_be_used(path: Path, error: OSError) -> str:
    return f"output folder {path} cannot be used: {error.strerror or error}; choose another one"


@contextmanager
def _written(name: str) -> Iterator[None]:
    """Turn a failed write (a full disk, a folder that vanished) into one clear sentence."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{name} cannot be written: {error.strerror or error}; "
            "make room or choose another output folder"
        ) from None
