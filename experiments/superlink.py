"""How does a SuperLink of one's own run for as long as it is needed, and no longer?

It has a home, a log and a port of its own on loopback, neither downloads nor reports anything, and
is stopped with all that it started. `flwr run` talks to it in the environment that it comes with.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

from experiments.processes import stop
from fedsim.errors import ConfigError

START = 60.0
"""Seconds a SuperLink may take to answer."""

POLL = 0.1
"""Seconds between looks at a process."""

SHORT = "/tmp"
"""Where Ray's sockets are, whose paths have at most 107 bytes; others come from $RAY_TMPDIR."""

ENVIRONMENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""No downloads and no reports, whatever the machine's own settings."""


@contextmanager
def superlink(
    home: Path, *arguments: str, check: Callable[[], None] = lambda: None
) -> Iterator[dict[str, str]]:
    """A SuperLink on loopback with a home and a port of its own, stopped at the end.

    Args:
      home: a new folder, for its settings and its log, `superlink.log`.
      arguments: more words for its command line.
      check: called while it starts; what it raises ends that.

    Yields:
      The environment in which `flwr` commands talk to it.

    Raises:
      ConfigError: it does not answer.
    """
    home.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "own"\n[superlink.own]\naddress = "127.0.0.1:{port}"\n'
        "insecure = true\n"
    )
    # Flower finds its programs by name, beside this interpreter also where no shell put them there.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", port, *arguments]
    with TemporaryDirectory(prefix="ray-", dir=SHORT, ignore_cleanup_errors=True) as ray:
        environment = {"RAY_TMPDIR": ray, **os.environ, **ENVIRONMENT}
        environment |= {"PATH": path, "FLWR_HOME": str(home)}
        link = _started(command, environment, home / "superlink.log")
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", link, check)
            yield environment
        finally:
            stop(link)


def flwr_run(
    app: Path,
    federation: str,
    environment: Mapping[str, str],
    said: Path,
    look: Callable[[], None],
    *arguments: str,
) -> None:
    """`flwr run` of an app, to its end.

    Args:
      app: its folder.
      federation: how many nodes to simulate, and on what.
      environment: that of a SuperLink.
      said: a file for what it prints.
      look: called while it runs, and once more after it; what it raises stops the run.
      arguments: more words for its command line.
    """
    words = ["flwr", "run", str(app), "--stream", "--federation-config", federation, *arguments]
    flwr = _started(words, environment, said)
    try:
        while flwr.poll() is None:
            look()
            time.sleep(POLL)
        look()
    finally:
        stop(flwr)


def _started(command: list[str], environment: Mapping[str, str], said: Path) -> subprocess.Popen:
    """A process that writes into a file, and that the terminal's signals do not reach."""
    with said.open("w") as file:
        return subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )


def _wait_for(address: str, link: subprocess.Popen, check: Callable[[], None]) -> None:
    """Return when the SuperLink answers."""
    end = time.monotonic() + START
    while link.poll() is None:
        check()
        try:
            with urlopen(address, timeout=1):
                return
        except OSError:
            time.sleep(POLL)
        if time.monotonic() > end:
            raise ConfigError(f"Flower's SuperLink did not answer within {START:g} s")
    check()
    raise ConfigError(f"Flower's SuperLink ended as it started, with exit code {link.returncode}")
