"""Who may work in a folder: one process at a time, until it ends, however it ends.

The lock is the operating system's, on a file that names the process; a file that a dead process
left behind locks nothing.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsim.errors import ConfigError

NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder; it is made where it is missing, and removed again if it stays empty.

    Raises:
      ConfigError: another process holds it, or it cannot be written.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = _take(folder / NAME)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be used: {error.strerror or error}; name another output folder"
        ) from None
    try:
        yield
    finally:
        (folder / NAME).unlink(missing_ok=True)
        os.close(held)
        with contextlib.suppress(OSError):
            for path in created:
                path.rmdir()


def _take(path: Path) -> int:
    """The locked file, as a descriptor to keep open."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed the file before we got it.
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                os.ftruncate(file, 0)
                os.write(file, f"{os.getpid()}\n".encode())
                return file
        except BlockingIOError:
            process = os.read(file, 20).decode().strip() or "another one"
            os.close(file)
            raise ConfigError(
                f"{path.parent} is in use by the running process {process}; wait for it to end, "
                "or name another output folder"
            ) from None
        except BaseException:
            os.close(file)
            raise
        os.close(file)
