"""How long are the rounds of Flower's own simulation, on Ray, on the same devices?

    python -m experiments.peers.flower_ray CORES FILE ROUNDS

prints one JSON line: seconds and examples of every round. `flwr run` is given an app folder, a home
and a SuperLink of its own, which end with this process. There are as many nodes as devices.
"""

import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import urlopen

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
rounds = 1
out = ""
"""

START_SECONDS = 60
"""How long a SuperLink may take to answer."""

END_SECONDS = 20
"""How long what a SuperLink started may take to end."""

LAST_LINES = 15
"""Lines of a failed run's log that are shown."""


def main(cores: int, path: str, rounds: int) -> None:
    """Run and print.

    Raises:
      SystemExit: with the end of the log, where the run failed.
    """
    # A request to end unwinds like an error, so that nothing stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    with TemporaryDirectory() as folder:
        home, out = Path(folder), Path(folder) / "measured.json"
        (home / "app").mkdir()
        (home / "app" / "pyproject.toml").write_text(APP, "utf-8")
        devices = len(_offsets(path)) - 1
        settings = f'workload="{Path(path).resolve()}" rounds={rounds} out="{out}"'
        resources = (
            f"num-supernodes={devices} client-resources-num-cpus=1 client-resources-num-gpus=0.0 "
            f"init-args-num-cpus={cores}"
        )
        with superlink(home) as environment:
            words = ["run", "app", "--stream", "--run-config", settings]
            run = subprocess.run(
                [_script("flwr"), *words, "--federation-config", resources],
                cwd=home,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        if not out.exists():
            sys.exit("\n".join(run.stdout.splitlines()[-LAST_LINES:]))
        print(out.read_text("utf-8"), flush=True)


@contextmanager
def superlink(home: Path) -> Iterator[Mapping[str, str]]:
    """A SuperLink that answers meanwhile; yields the environment in which `flwr` finds it."""
    port, control = _free_port(), _free_port()
    environment = os.environ | {
        "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_LOCAL_CONTROL_API_PORT": str(control),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [_script("flower-superlink"), "--insecure", "--simulation"]
    command += ["--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(port)]
    link = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(link, f"http://127.0.0.1:{port}/health")
        yield environment
    finally:
        left = _descendants(link.pid)
        link.terminate()
        # They end by themselves, but later: nothing timed next may share the machine with them.
        deadline = time.monotonic() + END_SECONDS
        while (link.poll() is None or any(map(_lives, left))) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in filter(_lives, left):
            os.kill(process, signal.SIGKILL)
        link.kill()
        link.wait()


def _wait_for(link: subprocess.Popen, address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and link.poll() is None:
        try:
            with urlopen(address, timeout=1):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    sys.exit(f"flower-superlink did not answer within {START_SECONDS} seconds")


def _descendants(process: int) -> list[int]:
    """Ids of everything that a process started, directly or not."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found, parents = list[int](), {process}
    while parents:
        parents = {child for child, parent in pairs if parent in parents}
        found.extend(parents)
    return found


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _script(name: str) -> str:
    return str(Path(sysconfig.get_path("scripts")) / name)


def _offsets(path: str):
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return file["offsets"]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
