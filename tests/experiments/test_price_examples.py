"""Prices without training are those of the run itself, and the policies differ as they should."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.options import RunOptions, population_of
from experiments.price_examples import draws, example_prices
from experiments.price_rows import POLICIES
from experiments.recipe import run_recipe
from fedsim.privacy import Gaussian, epsilon
from fedsim.report.price_examples import PricedExamples, example_notes
from fedsim.rng import stream

OPTIONS = RunOptions(
    corpus="home", devices=40, cohort=6, rounds=6, dp="example", noise_multiplier=1.5,
    local_steps=2, batch_size=4, evaluate_every=6, workers=0, weighting="auto",
)  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"selection": "activity", "max_participations": 2}])
def test_a_run_ends_with_the_ledger_that_was_priced_before_it(changes):
    options = replace(OPTIONS, **changes)
    run = run_recipe(options, None, progress=False)
    known = draws(options)
    assert run.summary["delta"] == known.delta
    figures = known.ledger(1.5).figures()
    assert run.summary["example_epsilon_max"] == figures["example_epsilon_max"]
    assert run.summary["example_epsilon_median"] == figures["example_epsilon_median"]
    np.testing.assert_array_equal(known.participations, run.files["ledger"]["participations"])


def test_a_devices_price_is_that_of_its_participations():
    known = draws(OPTIONS)
    device = int(known.participations.argmax())
    held = int(population_of(OPTIONS).activity()[device])
    steps = 2 * int(known.participations[device])
    by_hand = epsilon([Gaussian(noise_multiplier=1.5, rate=min(1, 4 / held), steps=steps)], 1e-5)
    assert known.priced("both", 1.5).epsilons[device] == pytest.approx(by_hand, rel=1e-6)


def test_effective_noise_is_the_deviation_of_the_noise_in_the_mean_update():
    """Simulated: unit noise a step over the expected batch, steps summed, devices averaged."""
    options = replace(OPTIONS, rounds=1)
    known = draws(options)
    held = np.array([n for _, n in known.taken])
    random = stream(0, "noise-of-a-mean")
    steps = random.standard_normal((40_000, 2, len(held))).sum(axis=1)
    mean = (steps / np.minimum(held, 4) * held).sum(axis=1) / held.sum()
    # The relative error of a deviation from 40,000 draws is 0.35 %; 1.5 % is over four of them.
    assert known.unit_noise == pytest.approx(mean.std(), rel=0.015)


@pytest.fixture(scope="module")
def prices():
    some = {name: POLICIES[name] for name in ("uniform", "activity")}
    return example_prices(replace(OPTIONS, noise_multiplier=None, epsilon=4.0), some, ["activity"])


def test_rows_keep_what_they_promise(prices):
    for setting in ("static", "continual"):
        own = [row for row in prices if row.setting == setting]
        noisy = [row.effective_noise for row in own if row.held in ("both", "noise")]
        np.testing.assert_allclose(noisy, noisy[0])
        equal = [row.epsilons.max() for row in own if row.held in ("both", "epsilon")]
        assert len(noisy) == len(equal) == 3
        np.testing.assert_allclose(equal, 4.0, rtol=2e-3)


def test_who_may_refuse_comes_no_more_often_than_anybody_under_uniform_selection():
    uniform = draws(replace(OPTIONS, **POLICIES["uniform"]))
    most = int(uniform.participations.max())
    refusing = draws(replace(OPTIONS, selection="activity", max_participations=most))
    assert (
        refusing.participations.max()
        <= most
        < draws(replace(OPTIONS, selection="activity")).participations.max()
    )


def row(selection, epsilons, held="noise"):
    return PricedExamples(
        setting="static", selection=selection, weighting="equal", held=held, noise_multiplier=1.0,
        effective_noise=0.1, delta=1e-5, activity=np.arange(1.0, 21.0),
        epsilons=np.array(epsilons, float),
    )  # fmt: skip


def test_the_most_even_policy_is_the_one_whose_worst_device_is_nearest_to_the_median_one():
    even, steep = row("log", np.linspace(1, 1.5, 20)), row("activity", np.linspace(0, 9, 20))
    (who, _) = example_notes([row("uniform", np.linspace(3, 1, 20), "both"), steep, even])
    assert "log spreads the cost most evenly" in who
    assert "activity selection costs the tenth of devices with least data 0.474" in who
    assert row("top", [0] * 15 + [1] * 5).imbalance == float("inf")


def test_where_the_median_device_never_comes_no_policy_is_called_most_even():
    rare = [0] * 15 + [1] * 5
    (who, _) = example_notes([row("uniform", rare, "both"), row("activity", rare)])
    assert "spreads the cost most evenly" not in who and "which policy is most even" in who
