"""Small runs, whole or as a kill leaves them, for the tests of trackers."""

import shutil
from pathlib import Path

import pytest

from clients import NLUClient
from fedsim import Population, Simulation, Static
from fedsim.models import BiLSTMTagger
from fedsim.record.checkpoint import Checkpoints
from fedsim.tracking import Tracker
from strategies import Selective, UniformSelection

PEOPLE = Population.load("home", devices=12)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4)
ROUNDS = 6


def simulation(*trackers: Tracker) -> Simulation:
    """Six rounds, the second, fourth and sixth with a measurement and a checkpoint."""
    from flwr.serverapp.strategy import FedAvg

    return Simulation(
        population=PEOPLE,
        model=MODEL,
        client=NLUClient(local_steps=1),
        strategy=Selective(FedAvg(), UniformSelection(cohort=4)),
        schedule=Static(rounds=ROUNDS),
        workers=0,
        evaluate_every=2,
        checkpoint_every=2,
        trackers=trackers,
    )


def killed(out: Path, *trackers: Tracker, error: type[BaseException] = KeyboardInterrupt) -> Path:
    """The folder of a run that was killed after round 5, and goes on from its checkpoint of 4."""
    keep = Checkpoints.keep

    def stop(checkpoints, round, *rest, **more):
        if round == ROUNDS - 1:
            # As a kill leaves it, before the process can put anything in order.
            shutil.copytree(out, out.with_name("killed"))
            raise error("stop")
        keep(checkpoints, round, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "keep", stop)
        with pytest.raises(error):
            simulation(*trackers).run(out)
    return out.with_name("killed")
