"""How does `fedsim run --engine flower` get a run onto Flower's runtime, from any folder?

It writes a small Flower app that names the installed packages and the options, gives it to a
SuperLink of its own with `flwr run`, watches the record grow, and stops whatever it started.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiments.options import ENGINE, RunOptions
from experiments.processes import requests_to_end
from experiments.superlink import flwr_run, superlink
from fedsim import __version__
from fedsim.errors import ConfigError, require
from fedsim.progress import Progress
from fedsim.record import Run, is_finished, load_run

SUPERNODES = 16
"""Simulated nodes. Flower hands each of them one message every tenth of a second."""

STOPPING = "stopping Flower's processes, which takes some seconds"


def run_on_flower(options: RunOptions, out: Path, progress: bool = True) -> Run:
    """Run options under `flwr run` on Flower's Ray simulation; goes on where the run stopped.

    Args:
      options: of the run.
      out: the folder of its record, begun already.
      progress: show a progress bar on a terminal.

    Raises:
      ConfigError: Ray is missing, or the run was refused or failed.
      KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP has come; Flower's processes are stopped.
    """
    require(
        find_spec("ray") is not None,
        "--engine flower runs on Ray, which is not installed; pip install 'flwr[simulation]'",
    )
    workers = (os.cpu_count() or 1) if options.workers is None else options.workers
    federation = (
        f"num-supernodes={SUPERNODES} client-resources-num-cpus=1 init-args-num-cpus={workers}"
    )
    with tempfile.TemporaryDirectory(prefix="fedsim-") as place, requests_to_end(STOPPING) as check:
        home, said = Path(place) / "home", Path(place) / "flwr-run.log"
        app = write_app(Path(place) / "fedsim-run", run_config(options, out))
        logs = [said, home / "superlink.log"]
        try:
            with (
                superlink(home, "--simulation", check=check) as environment,
                Progress(options.rounds, done=len(_lines(out)), shown=progress) as bar,
            ):
                flwr_run(app, federation, environment, said, _look(out, bar, check))
        except ConfigError as error:
            raise _failure(str(error), logs) from None
        if not is_finished(out):
            raise _failure("Flower's runtime ended before the run was finished", logs)
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
    return {
        key.replace("_", "-"): value
        for key, value in values.items()
        if value is not None and key not in ENGINE
    }


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


def _look(out: Path, bar: Progress, check: Callable[[], None]) -> Callable[[], None]:
    """What shows the lines of a record that came since the last look."""
    shown = len(_lines(out))

    def look() -> None:
        nonlocal shown
        check()
        lines = _lines(out)
        for line in lines[shown:]:
            bar.show(json.loads(line))
        shown = max(shown, len(lines))

    return look


def _lines(out: Path) -> list[str]:
    """Whole lines of a record."""
    path = out / "rounds.jsonl"
    return path.read_text("utf-8").split("\n")[:-1] if path.exists() else []


def _failure(what: str, logs: list[Path]) -> ConfigError:
    """Why a run ended early, in one sentence: its refusal, or the cause, and where the logs are."""
    there = [log for log in logs if log.exists()]
    said = "\n".join(log.read_text("utf-8", "replace") for log in there)
    refusals = re.findall(r"^fedsim\.errors\.ConfigError: (.+)$", said, re.MULTILINE)
    if refusals:
        return ConfigError(refusals[-1])
    kept = tempfile.mkdtemp(prefix="fedsim-flower-")
    for log in there:
        shutil.copy(log, kept)
    return ConfigError(f"{what}: {_cause(said)}; its logs are in {kept}")


def _cause(said: str) -> str:
    """The first error of a log: what follows is said of it by others, higher up."""
    errors = re.findall(r"^[\w.]*(?:Error|Exception): .+$", said, re.MULTILINE)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    wrong = [line for line in lines if re.search(r"error|exception", line, re.IGNORECASE)]
    return [*errors[:1], *wrong[-1:], *lines[-1:], "it said nothing"][0]
