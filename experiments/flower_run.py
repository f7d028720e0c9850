"""How does `fedsim run --engine flower` get a run onto Flower's runtime, from any folder?

It writes a small Flower app that names the installed packages and the options, starts a SuperLink
with a home and a port of its own on loopback, gives it the app with `flwr run`, watches the record
grow, and stops whatever it started.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError
from urllib.request import urlopen

from experiments.options import RunOptions
from fedsim import __version__
from fedsim.errors import ConfigError, require
from fedsim.progress import Progress
from fedsim.record import Run, is_finished, load_run

SUPERNODES = 16
"""Simulated nodes. Flower hands each of them one message every tenth of a second."""

START = 60.0
"""Seconds a SuperLink may take to answer."""

GRACE = 10.0
"""Seconds processes may take to end before they are killed."""

ENVIRONMENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""No downloads and no reports, whatever the machine's own settings."""


def run_on_flower(options: RunOptions, out: Path, progress: bool = True) -> Run:
    """Run options under `flwr run` on Flower's Ray simulation; goes on where the run stopped.

    Args:
      options: of the run.
      out: the folder of its record, begun already.
      progress: show a progress bar on a terminal.

    Raises:
      ConfigError: Ray is missing, or the run was refused or failed.
    """
    require(
        find_spec("ray") is not None,
        "--engine flower runs on Ray, which is not installed; pip install 'flwr[simulation]'",
    )
    with tempfile.TemporaryDirectory(prefix="fedsim-") as place:
        folder = Path(place)
        write_app(folder / "fedsim-run", options, out)
        with superlink(folder / "home", "--simulation") as environment:
            workers = max(1, os.cpu_count() or 1 if options.workers is None else options.workers)
            said = _follow(
                [
                    *("flwr", "run", str(folder / "fedsim-run"), "--stream"),
                    "--federation-config",
                    f"num-supernodes={SUPERNODES} init-args-num-cpus={workers} "
                    "client-resources-num-cpus=1",
                ],
                environment,
                Watched(out, options.rounds, progress),
                folder / "said",
            )
    if not is_finished(out):
        raise ConfigError(_reason(said))
    return load_run(out)
