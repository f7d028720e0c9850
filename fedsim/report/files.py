"""How a finished file reaches the disk: whole, or not at all."""

import os
from pathlib import Path

from fedsim.errors import ConfigError


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file next to its place and rename it there; returns the path.

    Raises:
      ConfigError: the file cannot be written, on a full disk for example; what stood there stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        if temporary.is_file():
            temporary.unlink()
        raise ConfigError(
            f"{path} cannot be written ({error.strerror or error}); free space or name a folder "
            "that can be written"
        ) from error
    return path
