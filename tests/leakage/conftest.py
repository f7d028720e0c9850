"""Utterances that can be learnt by heart alone."""

from itertools import pairwise

import numpy as np
import pytest

from fedsim.population import Population
from fedsim.population.examples import concatenate
from fedsim.rng import stream


@pytest.fixture(scope="session")
def unlearnable():
    """`unlearnable(size, devices)`: home's utterances, each once, with random intents."""

    def made(size, devices=2):
        people = Population.load("home", devices=8)
        said = concatenate([people.train(device) for device in range(people.devices)])
        words = [
            said.token_ids[a:b].tobytes()
            for a, b in zip(said.offsets[:-1], said.offsets[1:], strict=True)
        ]
        rows = said.take(np.sort(np.unique(words, return_index=True)[1])[:size])
        draw, intents = stream(0, "random labels"), len(people.inventory.intents)
        rows = rows.with_(intents=draw.integers(0, intents, len(rows)).astype(np.int16))
        nobody = Population.load("home", devices=1)
        nobody = nobody.without(np.ones(nobody.starts[-1], bool))
        ends = np.linspace(0, len(rows), devices + 1).astype(int)
        parts = [rows.slice(a, b) for a, b in pairwise(ends.tolist())]
        return nobody.with_devices(parts)

    return made
