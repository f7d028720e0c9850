"""Claims about the numbers of private noise: how they are spread, and that none comes twice."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.random.bit_generator import ISeedSequence
from scipy.stats import kstest, norm

from fedsim.rng import stream
from fedsim.training import gaussian
from fedsim.training.gaussian import BLOCK, opened, resumed

HERE = torch.device("cpu")
WORD = st.integers(0, 2**64 - 1)


def source(round=1, device=2, seed=7):
    return resumed(opened(stream(seed, "example-noise", round, device), HERE), HERE)


def drawn(size, dtype=torch.float32, own=None, deviation=1.0):
    into = torch.full((size,), torch.nan, dtype=dtype)
    (own or source()).fill(into, deviation)
    return into.numpy().astype(np.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2 * BLOCK + 3, 3 * BLOCK])
def test_numbers_are_normal_and_those_of_a_pair_have_nothing_to_do_with_each_other(dtype, size):
    """Kolmogorov-Smirnov of numbers, radii and angles: wrong once in 300,000 runs."""
    got = drawn(size, dtype)
    assert kstest(got, "norm").pvalue > 1e-6
    x, y = got[: BLOCK // 2], got[BLOCK // 2 : BLOCK]
    assert kstest((x**2 + y**2) / 2, "expon").pvalue > 1e-6
    assert kstest(np.arctan2(y, x) / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-6


def test_what_lies_far_out_is_there_as_often_as_it_should_be():
    """Counts within five deviations of what is expected, on either side: error rate 1e-5."""
    got = drawn(20_000_000)
    for far in (1.0, 3.0, 4.0, 5.0):
        expected = len(got) * norm.sf(far)
        for count in ((got > far).sum(), (got < -far).sum()):
            assert abs(count - expected) < 5 * expected**0.5 + 1


@pytest.mark.parametrize(("dtype", "end"), [(torch.float32, 6.76), (torch.float64, 9.49)])
def test_no_bits_give_anything_but_a_finite_number(monkeypatch, dtype, end):
    """All bits off is the longest radius, all bits on the shortest."""
    found = []
    for word in (0, 2**64 - 1):
        monkeypatch.setattr(
            gaussian._OnProcessor, "bits", lambda _, n, word=word: np.full(n, word, np.uint64)
        )
        found.append(np.abs(drawn(5, dtype)).max())
    assert found == pytest.approx([end, 0.0], abs=5e-3)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 64, BLOCK, BLOCK + 1])
def test_every_number_is_filled_and_scaled(size):
    one, tenth = drawn(size), drawn(size, deviation=0.1)
    assert np.isfinite(one).all()
    np.testing.assert_allclose(tenth, 0.1 * one, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_source_that_was_put_away_goes_on_to_the_bit(dtype):
    whole, own = source(), source()
    together = [drawn(size, dtype, whole) for size in (5, 1000, 3)]
    apart = []
    for size in (5, 1000, 3):
        apart.append(drawn(size, dtype, own))
        own = resumed(own.state.clone(), HERE)
    for one, other in zip(together, apart, strict=True):
        assert np.array_equal(one, other)


class Words(ISeedSequence):
    """Seeds NumPy's generator with given words."""

    def __init__(self, words):
        self._words = words

    def generate_state(self, n_words, dtype=np.uint32):
        assert n_words == len(self._words)
        return self._words.astype(dtype)


def test_bits_are_those_of_sfc64_seeded_with_three_words_of_the_stream():
    words = stream(7, "example-noise", 1, 2).integers(2**64, size=3, dtype=np.uint64)
    assert source().bits(1000).tolist() == np.random.SFC64(Words(words)).random_raw(1000).tolist()


@given(st.tuples(WORD, WORD, WORD, WORD))
def test_a_step_of_the_generator_can_be_undone(before):
    """So that two streams never meet: see the module."""
    generator = np.random.SFC64(0)
    words = {"state": np.array(before, np.uint64)}
    generator.state = generator.state | {"state": words}
    generator.random_raw()
    a, b, c, count = map(int, generator.state["state"]["state"])
    all_bits = 2**64 - 1
    former_c = b * pow(9, -1, 2**64) & all_bits
    turned = (former_c << 24 | former_c >> 40) & all_bits
    former_b = 0
    for _ in range(6):
        former_b = a ^ former_b >> 11
    former_a = (c - turned - former_b - (count - 1)) & all_bits
    assert (former_a, former_b, former_c, (count - 1) & all_bits) == before


def test_streams_count_from_the_same_number_and_share_none():
    """Of seeds, rounds and devices, at any offset."""
    names = [(1, 2, 7), (2, 2, 7), (1, 3, 7), (2, 1, 7), (1, 2, 8)]
    sources = [source(*name) for name in names]
    assert {int(each.state[3]) for each in sources} == {1 + 12}
    words = np.concatenate([each.bits(20_000) for each in sources])
    assert len(np.unique(words)) == len(words)
    assert {int(each.state[3]) for each in sources} == {1 + 12 + 20_000}
