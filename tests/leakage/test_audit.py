"""What an audit promised before training: its looks, its level and its delta."""

import numpy as np
import pytest

from fedsim.errors import ConfigError
from fedsim.leakage.audit import GUESSES, MOST_ROUNDS, Audit, audited_rounds
from fedsim.rng import stream


@pytest.mark.parametrize("rounds", [1, 2, 9, 10, 11, 37, 5000])
def test_at_most_ten_rounds_are_audited_the_first_and_the_last_among_them(rounds):
    chosen = audited_rounds(rounds)
    assert (chosen[0], chosen[-1]) == (1, rounds)
    assert len(chosen) == len(set(chosen)) == min(rounds, MOST_ROUNDS)


@pytest.mark.parametrize("rounds", [(1,), tuple(range(1, 11))])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("canaries", [1, 25, 100, 167, 500, 5000])
def test_delta_is_the_largest_power_of_ten_that_costs_a_hundredth_of_the_level(
    rounds, groups, canaries
):
    audit = Audit(rounds=rounds, groups=groups)
    delta, most = audit.delta(canaries), audit.level_each / 100
    assert 2 * canaries * delta <= most * (1 + 1e-9) < 2 * canaries * 10 * delta
    assert np.log10(delta) == pytest.approx(round(np.log10(delta)))


def test_every_look_is_paid_for():
    audit = Audit(rounds=(1, 5), groups=4, attacks=3)
    assert audit.looks == 2 * 4 * 3 * len(GUESSES)
    assert audit.level_each * audit.looks == pytest.approx(0.05)


def test_bounds_on_a_blind_attack_are_zero_in_nineteen_runs_of_twenty_and_more():
    """The level holds for all looks together; 200 trials, so at most 21 may be above 0."""
    audit = Audit(rounds=(1,))
    above = 0
    for seed in range(200):
        draw = stream(seed, "blind attack")
        member = draw.random(200) < 0.5
        above += audit.bound(draw.normal(size=200), member, audit.delta(200)) > 0
    assert above <= 21


def test_a_memorised_panel_is_found_and_a_smaller_level_finds_less():
    member = stream(0, "panel").random(500) < 0.5
    bounds = [
        audit.bound(member.astype(float), member, audit.delta(500))
        for audit in (Audit(rounds=(1,)), Audit(rounds=audited_rounds(100), groups=4))
    ]
    assert 3.5 < bounds[1] < bounds[0] < 5.1


def test_a_panel_too_small_to_say_anything_gives_a_bound_of_zero():
    audit = Audit(rounds=audited_rounds(50))
    assert audit.bound(np.array([1.0, 0.0]), np.array([True, False]), audit.delta(2)) == 0.0


def test_a_level_that_is_no_probability_is_refused():
    with pytest.raises(ConfigError, match=r"level is 1\.5"):
        Audit(rounds=(1,), level=1.5)
