"""How does `fedsim run --engine flower` get a run onto Flower's runtime, from any folder?

It writes a small Flower app that names the installed packages and the options, starts a SuperLink
with a home and a port of its own on loopback, gives it the app with `flwr run`, watches the record
grow, and stops whatever it started.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from experiments.options import RunOptions
from experiments.processes import stop
from fedsim import __version__
from fedsim.errors import ConfigError, require
from fedsim.progress import Progress
from fedsim.record import Run, is_finished, load_run

SUPERNODES = 16
"""Simulated nodes. Flower hands each of them one message every tenth of a second."""

START = 60.0
"""Seconds a SuperLink may take to answer."""

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
    workers = max(1, (os.cpu_count() or 1) if options.workers is None else options.workers)
    with tempfile.TemporaryDirectory(prefix="fedsim-") as place:
        folder = Path(place)
        app = write_app(folder / "fedsim-run", run_config(options, out))
        with superlink(folder / "home", "--simulation") as environment:
            command = [
                *("flwr", "run", str(app), "--stream", "--federation-config"),
                f"num-supernodes={SUPERNODES} client-resources-num-cpus=1 "
                f"init-args-num-cpus={workers}",
            ]
            with (folder / "said").open("w") as file:
                flwr = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
                try:
                    _watch(flwr, out, options.rounds, progress)
                finally:
                    stop(flwr)
        said = (folder / "said").read_text("utf-8", "replace")
    if not is_finished(out):
        raise ConfigError(_reason(said))
    return load_run(out)


def absolute(options: RunOptions) -> RunOptions:
    """Options whose files Flower's processes find from working folders of their own.

    Example:
      >>> absolute(RunOptions(data="/data/..")).data
      '/'
    """
    names = ["data", "labels", *(["corpus"] if Path(options.corpus).is_file() else [])]
    given: dict[str, Any] = {name: getattr(options, name) for name in names}
    paths = {name: str(Path(path).resolve()) for name, path in given.items() if path is not None}
    return replace(options, **paths)  # type: ignore[arg-type]


def run_config(options: RunOptions, out: Path) -> dict[str, Any]:
    """Options as a run config of Flower's: what is not None, under the command line's names."""
    values = {**asdict(options), "out": str(out.resolve())}
    del values["engine"]
    return {key.replace("_", "-"): value for key, value in values.items() if value is not None}


def write_app(folder: Path, config: Mapping[str, Any]) -> Path:
    """A folder that `flwr run` takes: the installed packages' apps, and a run config."""
    folder.mkdir()
    lines = [
        *("[project]", 'name = "fedsim-run"', f'version = "{__version__}"'),
        *("[tool.flwr.app]", 'publisher = "fedsim"'),
        *("[tool.flwr.app.components]", 'serverapp = "experiments.flower_app:server_app"'),
        *('clientapp = "experiments.flower_app:client_app"', "[tool.flwr.app.config]"),
        # A JSON text, number or truth value is one in TOML.
        *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in config.items()),
    ]
    (folder / "pyproject.toml").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


@contextmanager
def superlink(home: Path, *arguments: str) -> Iterator[dict[str, str]]:
    """A SuperLink on loopback with a home and a port of its own, stopped at the end.

    Args:
      home: a new folder, for its settings and its log.
      arguments: more words for its command line.

    Yields:
      The environment in which `flwr` commands talk to it.
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
    environment = {**os.environ, **ENVIRONMENT, "PATH": path, "FLWR_HOME": str(home)}
    command = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", port, *arguments]
    with (home / "superlink.log").open("w") as said:
        link = subprocess.Popen(
            command, env=environment, stdout=said, stderr=said, start_new_session=True
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", link, home / "superlink.log")
        yield environment
    finally:
        stop(link)


def _wait_for(address: str, link: subprocess.Popen, said: Path) -> None:
    """Return when the SuperLink answers."""
    end = time.monotonic() + START
    while link.poll() is None and time.monotonic() < end:
        try:
            with urlopen(address, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise ConfigError(f"Flower's SuperLink did not start: {_reason(said.read_text())}")


def _watch(flwr: subprocess.Popen, out: Path, rounds: int, progress: bool) -> None:
    """Show the lines of the record as they come, until the run has ended."""
    lines = out / "rounds.jsonl"
    shown = len(lines.read_text("utf-8").splitlines()) if lines.exists() else 0
    with Progress(rounds, done=shown, shown=progress) as bar:
        while flwr.poll() is None:
            time.sleep(0.2)
            whole = lines.read_text("utf-8").split("\n")[:-1] if lines.exists() else []
            for line in whole[shown:]:
                bar.show(json.loads(line))
            shown = max(shown, len(whole))


def _reason(said: str) -> str:
    """Why a run ended early, in one sentence: its refusal, or the last thing that went wrong."""
    refusals = re.findall(r"^fedsim\.errors\.ConfigError: (.+)$", said, re.MULTILINE)
    if refusals:
        return refusals[-1]
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    wrong = [line for line in lines if re.search(r"error|exception", line, re.IGNORECASE)]
    last = (wrong or lines or ["it said nothing"])[-1]
    return f"Flower's runtime ended before the run was finished; the last it said: {last}"
