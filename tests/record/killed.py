"""A process whose run kills itself halfway through its n-th write: python killed.py FOLDER N.

With N = 0 it lives to the end, unless its parent kills it. With a third word it is a run whose
rates and noise follow what was released. Not a test by itself.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.serverapp.strategy import FedAdam
from reading import NoiseByMovement, UniformUntilItSlows

from clients import NLUClient
from fedsim import Continual, Faults, Population, Simulation
from fedsim.folder import Folder
from fedsim.leakage import Leakage, example_panel
from fedsim.models import BiLSTMTagger
from fedsim.privacy.release import DeviceLevel
from strategies import ActivitySelection, PrivateAggregation, Selective


def simulation() -> Simulation:
    """A strategy with moments, probes that remember, rates that change, devices that fail."""
    people = Population.load("home", devices=12)
    model = BiLSTMTagger.sized_for(people, embedding=4, hidden=4)
    schedule, panel = Continual(periods=3, rounds=40), example_panel(people, seed=0, size=30)
    probe = Leakage(panel=panel, population=people, model=model, schedule=schedule, every=3)
    return Simulation(
        population=panel.applied(people),
        model=model,
        client=NLUClient(local_steps=1, batch_size=4),
        strategy=Selective(FedAdam(eta=0.01), ActivitySelection(cohort=3)),
        schedule=schedule,
        probes=[probe],
        evaluate_every=10,
        workers=0,
        faults=Faults(dropout=0.2, nan=0.1, error=0.1, deadline=0.1),
    )


def reading() -> Simulation:
    """Rates and noise that follow releases, within a budget that some devices reach."""
    level = DeviceLevel(clip_norm=0.5, noise_multiplier=1.0, delta=1e-3, device_budget=6.0)
    noise = NoiseByMovement(sigma=1.0, slow=0.645)
    private = PrivateAggregation(FedAdam(eta=0.01), level, noise)
    policy = UniformUntilItSlows(cohort=3, slow=0.7)
    return replace(simulation(), strategy=Selective(private, policy), probes=[])


def die_in_write(n: int) -> None:
    """Patch what writes: the second half of the n-th write never happens."""
    writes = iter(range(1, 1 << 30))

    def patch(owner, name, halfway):
        whole = getattr(owner, name)

        def patched(*args, **kwargs):
            if next(writes) == n:
                halfway(whole, *args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(*args, **kwargs)

        setattr(owner, name, patched)

    def half_an_archive(whole, file, *arrays):
        whole(file, *arrays)
        file.truncate(file.tell() // 2)

    def half_a_line(whole, folder, name, lines):
        whole(folder, name, lines)
        if lines:
            path = folder.path / name
            os.truncate(path, path.stat().st_size - 7)

    patch(os, "fsync", lambda whole, file: None)
    patch(os, "replace", lambda whole, old, new: None)
    patch(np, "savez", half_an_archive)
    patch(Folder, "append", half_a_line)


if __name__ == "__main__":
    die_in_write(int(sys.argv[2]))
    run = reading() if len(sys.argv) > 3 else simulation()
    run.run(Path(sys.argv[1]), resume=True, progress=False)
