"""Claims about Poisson batches, with their error rates."""

import numpy as np
import torch
from scipy.stats import chisquare

from fedsim.population.examples import Examples
from fedsim.rng import stream
from fedsim.training.poisson import poisson, poisson_batches, poisson_rate


def held(examples, null=()):
    """Utterance i says word i + 1, i % 3 + 1 times."""
    lengths = np.arange(examples) % 3 + 1
    words = np.repeat(np.arange(examples) + 1, lengths)
    return Examples(
        token_ids=words[:, None].astype(np.int32),
        slots=np.zeros(len(words), np.int16),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        intents=np.arange(examples, dtype=np.int16),
        device=np.zeros(examples, np.int32),
        period=np.zeros(examples, np.int16),
        null=np.isin(np.arange(examples), null),
    )


def test_every_set_of_examples_is_as_likely_as_independent_coins_make_it():
    """A chi-squared test at level 1e-6 with a fixed seed."""
    rate, draws = 0.3, 20_000
    seen = np.zeros(8)
    for batch in poisson(3, rate, draws, stream(1, "test")):
        assert len(set(batch)) == len(batch)
        seen[(1 << batch).sum()] += 1
    sizes = np.array([bin(s).count("1") for s in range(8)])
    expected = draws * rate**sizes * (1 - rate) ** (3 - sizes)
    assert chisquare(seen, expected).pvalue > 1e-6


def test_a_light_device_shows_all_it_holds_at_every_step():
    assert poisson_rate(5, 16) == 1.0
    for batch in poisson(5, poisson_rate(5, 16), 3, stream(0, "test")):
        assert sorted(batch) == [0, 1, 2, 3, 4]


def test_batches_are_whole_physical_ones_filled_up_with_weight_zero():
    options = {"batch_size": 6, "steps": 40, "physical_size": 4}
    own = poisson(20, 6 / 20, 40, stream(0, "test"))
    for batch, drawn in zip(
        poisson_batches(held(20), **options, draw=stream(0, "test")), own, strict=True
    ):
        examples = len(batch["weight"])
        assert examples % 4 == 0 and examples - len(drawn) < 4
        assert batch["weight"].tolist() == [1.0] * len(drawn) + [0.0] * (examples - len(drawn))
        assert (batch["lengths"][len(drawn) :] == 0).all()
        assert (batch["lengths"].diff() <= 0).all()
        assert sorted(batch["intents"][: len(drawn)].tolist()) == sorted(drawn.tolist())


def test_the_stated_size_is_the_expected_one_whatever_was_drawn():
    for examples, size in [(20, 6.0), (6, 6.0), (3, 3.0), (0, 6.0)]:
        options = {"batch_size": 6, "steps": 5, "physical_size": 4, "draw": stream(0, "test")}
        for batch in poisson_batches(held(examples), **options):
            assert float(batch["size"]) == size and batch["size"].dim() == 0


def test_a_device_that_holds_nothing_has_batches_of_nobody():
    options = {"batch_size": 6, "steps": 3, "physical_size": 4, "draw": stream(0, "test")}
    batches = list(poisson_batches(held(0), **options))
    assert [len(batch["weight"]) for batch in batches] == [0, 0, 0]


def test_null_records_are_drawn_and_weigh_nothing():
    options = {"batch_size": 9, "steps": 1, "physical_size": 3, "draw": stream(0, "test")}
    (batch,) = poisson_batches(held(3, null=[1]), **options)
    weights = dict(zip(batch["token_ids"][:, 0, 0].tolist(), batch["weight"].tolist(), strict=True))
    assert weights == {1: 1.0, 3: 1.0, 0: 0.0}
    assert torch.equal(batch["size"], torch.tensor(3.0))
