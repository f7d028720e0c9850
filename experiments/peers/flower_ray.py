"""How long are the rounds of Flower's own simulation, on Ray, on the same devices?

    python -m experiments.peers.flower_ray CORES FORM FILE ROUNDS

prints one JSON line: seconds and examples of every round. FORM is "run_simulation", a script with
Flower's older function, or "flwr-run", in an app folder with a home and a SuperLink of its own,
which end with this process; both build a module for every message, as Flower's quickstart does, and
the apps of a script also read their devices for each, since Ray sends such apps by value.
"flwr-run-kept" keeps a module in each actor. There are as many nodes as devices.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from runpy import run_module
from tempfile import TemporaryDirectory

from experiments.peers.flower_app import Settings
from experiments.peers.tagger import Task
from experiments.processes import requests_to_end
from experiments.superlink import flwr_run, superlink
from fedsim.errors import ConfigError

APP = """
[project]
name = "peer"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "peer"

[tool.flwr.app.components]
serverapp = "experiments.peers.flower_app:server"
clientapp = "experiments.peers.flower_app:client"
"""

LAST_LINES = 15
"""Lines of a failed run's log that are shown."""


FORMS = ("run_simulation", "flwr-run", "flwr-run-kept")


def main(cores: int, form: str, path: str, rounds: int) -> None:
    """Run and print.

    Raises:
      SystemExit: with the end of the log, where the run failed.
    """
    with TemporaryDirectory() as folder, requests_to_end("stopping Flower's processes") as check:
        out, said = Path(folder) / "measured.json", Path(folder) / "said"
        keep = form == FORMS[2]
        Settings(str(Path(path).resolve()), keep, rounds, str(out)).publish()
        if form == FORMS[0]:
            sys.argv[1:] = [str(cores)]
            run_module("experiments.peers.flower_app", run_name="__main__", alter_sys=True)
        else:
            _flwr_run(cores, len(Task.load(path).devices), Path(folder), said, check)
        if not out.exists():
            sys.exit("\n".join(said.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]))
        print(out.read_text("utf-8"), flush=True)


def _flwr_run(cores: int, nodes: int, folder: Path, said: Path, check: Callable[[], None]) -> None:
    app = folder / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(APP, "utf-8")
    federation = (
        f"num-supernodes={nodes} client-resources-num-cpus=1 "
        f"client-resources-num-gpus=0.0 init-args-num-cpus={cores}"
    )
    try:
        with superlink(folder / "home", "--simulation", check=check) as environment:
            flwr_run(app, federation, environment, said, check)
    except (ConfigError, KeyboardInterrupt) as error:
        sys.exit(str(error) or "ended from outside")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
