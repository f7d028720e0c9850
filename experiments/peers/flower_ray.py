"""How long are the rounds of Flower's own simulation, on Ray, on the same devices?

    python -m experiments.peers.flower_ray CORES MODULES FILE ROUNDS

with MODULES "built" for every message, as in Flower's quickstart, or "kept" by each actor, prints
one JSON line: seconds and examples of every round. `flwr run` is given an app folder, a home and a
SuperLink of its own, which end with this process. There are as many nodes as devices.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

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

[tool.flwr.app.config]
workload = ""
keep = false
rounds = 1
out = ""
"""

LAST_LINES = 15
"""Lines of a failed run's log that are shown."""


def main(cores: int, keep: bool, path: str, rounds: int) -> None:
    """Run and print.

    Raises:
      SystemExit: with the end of the log, where the run failed.
    """
    with TemporaryDirectory() as folder, requests_to_end("stopping Flower's processes") as check:
        home, said, out = (Path(folder) / name for name in ("home", "said", "measured.json"))
        app = Path(folder) / "app"
        app.mkdir()
        (app / "pyproject.toml").write_text(APP, "utf-8")
        keeping = f"keep={str(keep).lower()}"
        settings = f'workload="{Path(path).resolve()}" {keeping} rounds={rounds} out="{out}"'
        federation = (
            f"num-supernodes={len(_offsets(path)) - 1} client-resources-num-cpus=1 "
            f"client-resources-num-gpus=0.0 init-args-num-cpus={cores}"
        )
        try:
            with superlink(home, "--simulation", check=check) as environment:
                flwr_run(app, federation, environment, said, check, "--run-config", settings)
        except (ConfigError, KeyboardInterrupt) as error:
            sys.exit(str(error) or "ended from outside")
        if not out.exists():
            sys.exit("\n".join(said.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]))
        print(out.read_text("utf-8"), flush=True)


def _offsets(path: str):
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return file["offsets"]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "kept", sys.argv[3], int(sys.argv[4]))
