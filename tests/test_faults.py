"""Faults happen at the rates that were asked for, to whom the seed says; bad ones are refused."""

import numpy as np
import pytest
from scipy import stats

from fedsim import ConfigError, Faults
from fedsim.faults import KINDS
from fedsim.rng import stream

EVERY = Faults(unavailable=0.1, dropout=0.3, nan=0.05, exploding=0.02, error=0.05)


class TestFates:
    def test_each_kind_happens_at_its_rate_and_the_rest_stay_well(self):
        """A chi-square test over 4,000 draws; a right implementation fails one seed in 10,000."""
        fates = [EVERY.fate(11, round=r, device=d) for r in range(1, 41) for d in range(100)]
        counts = [fates.count(kind) for kind in (*KINDS, None)]
        expected = 4000 * np.array([*EVERY.rates, 1 - sum(EVERY.rates)])
        assert stats.chisquare(counts, expected).pvalue > 1e-4

    @pytest.mark.parametrize("along", ["rounds", "devices"])
    def test_draws_of_other_rounds_and_devices_are_independent(self, along):
        """Neighbours agree as often as chance has it; fails by chance one seed in 10,000."""
        coin = Faults(dropout=0.5)
        drawn = np.array(
            [[coin.fate(3, round=r, device=d) == "dropout" for d in range(60)] for r in range(60)]
        )
        a, b = (drawn[:-1:2], drawn[1::2]) if along == "rounds" else (drawn[:, ::2], drawn[:, 1::2])
        agree = int((a == b).sum())
        assert stats.binomtest(agree, a.size, 0.5).pvalue > 1e-4

    def test_one_number_is_cut_into_the_shares_in_the_stated_order(self):
        edges = np.cumsum(EVERY.rates)
        for device in range(200):
            uniform = stream(5, "faults", 2, device).random()
            slow = next((k for k, edge in zip(KINDS, edges, strict=True) if uniform < edge), None)
            assert EVERY.fate(5, round=2, device=device) == slow

    def test_sure_things_always_happen_and_impossible_ones_never(self):
        for kind in KINDS:
            sure = Faults(**{kind: 1.0})
            assert {sure.fate(0, round=1, device=d) for d in range(50)} == {kind}
        assert {Faults().fate(0, round=1, device=d) for d in range(50)} == {None}


class TestSpeed:
    def test_the_logarithm_of_the_speed_is_normal_with_the_given_median_and_spread(self):
        """A Kolmogorov-Smirnov test on 2,000 devices; fails by chance one seed in 10,000."""
        faults = Faults(deadline=1, speed=50, spread=0.7)
        seconds = faults.seconds(1, np.arange(2000), np.full(2000, 10))
        found = stats.kstest(np.log(10 / seconds), "norm", args=(np.log(50), 0.7))
        assert found.pvalue > 1e-4

    def test_a_device_keeps_its_speed_whoever_is_asked_beside_it(self):
        faults = Faults(deadline=1)
        together = faults.seconds(1, np.arange(9), np.full(9, 30))
        alone = faults.seconds(1, np.array([4]), np.array([60]))
        assert alone[0] == pytest.approx(2 * together[4])

    def test_without_spread_time_is_work_over_speed(self):
        faults = Faults(deadline=1, speed=20, spread=0)
        seconds = faults.seconds(1, np.arange(3), np.array([0, 10, 40]))
        assert seconds.tolist() == [0, 0.5, 2]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("dropout=1.5", "dropout of faults is 1.5; choose a probability, 0 to 1"),
        ("nan=-.1", "nan of faults is -0.1; choose a probability"),
        ("error=nan", "error of faults is nan; choose a probability"),
        ("dropout=.7,error=.4", "the probabilities of faults sum to 1.1; they exclude each other"),
        ("dropuot=.3", r"faults names 'dropuot' \(did you mean 'dropout'\?\); choose among unav"),
        ("dropout=.1,dropout=.2", "faults names dropout twice; give it once"),
        ("dropout", "faults has the part 'dropout'; expected name=number pairs joined by commas"),
        ("", "faults has the part ''; expected name=number pairs"),
        ("dropout=.1,", "faults has the part ''; expected name=number pairs"),
        ("dropout=often", "dropout of faults is 'often'; expected a number"),
        ("dropout=", "dropout of faults is ''; expected a number"),
        ("deadline=0", "deadline of faults is 0.0; choose a finite number above 0"),
        ("deadline=-3", "deadline of faults is -3.0; choose a finite number above 0"),
        ("deadline=inf", "deadline of faults is inf; choose a finite number above 0"),
        ("deadline=1,speed=0", "speed of faults is 0.0; choose a finite number above 0"),
        ("deadline=1,spread=-1", r"spread of faults is -1; choose a finite number, 0 \(equal"),
        ("speed=5", "speed of faults is 5, which has no effect without a deadline; add deadline="),
        ("spread=.5", "spread of faults is 0.5, which has no effect without a deadline"),
    ],
)
def test_faults_that_make_no_sense_are_refused(text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Faults.parse(text)


def test_what_is_written_is_what_is_meant():
    text = "unavailable=.1, dropout=.3,nan=.05,exploding=.02,error=.05,deadline=20,speed=9,spread=0"
    assert Faults.parse(text) == Faults(
        unavailable=0.1,
        dropout=0.3,
        nan=0.05,
        exploding=0.02,
        error=0.05,
        deadline=20,
        speed=9,
        spread=0,
    )


def test_probabilities_that_sum_to_one_are_allowed():
    assert sum(Faults.parse("dropout=.6,nan=.3,error=.1").rates) == pytest.approx(1)
