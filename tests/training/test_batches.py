"""Claims about batches cut together, against each of them cut alone."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim import Population
from fedsim.training.batches import AT_ONCE, Table, tensors

HELD = Population.load("home", devices=6).held(1, period=0, seed=0)
NULLED = HELD.with_(null=np.arange(len(HELD)) % 3 == 0)

PARTS = st.lists(
    st.lists(st.integers(0, len(HELD) - 1), max_size=5, unique=True), max_size=2 * AT_ONCE + 1
)


@given(PARTS)
def test_batches_cut_together_are_those_cut_alone(parts):
    for examples in (HELD, NULLED):
        cut = list(Table(examples).batches(np.array(part, np.int64) for part in parts))
        assert len(cut) == len(parts)
        for batch, part in zip(cut, parts, strict=True):
            alone = tensors(examples, np.array(part, np.int64))
            assert batch.keys() == alone.keys()
            for name, value in alone.items():
                assert batch[name].dtype == value.dtype
                assert torch.equal(batch[name], value), name


def test_a_batch_is_cut_no_earlier_than_it_is_needed_by_one_cut():
    taken = []

    def parts():
        for step in range(10 * AT_ONCE):
            taken.append(step)
            yield np.array([0])

    next(Table(HELD).batches(parts()))
    assert len(taken) == AT_ONCE
