"""Claims about random streams: same name, same numbers; another name, other numbers."""

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.rng import seeded_globals, stream, torch_generator

NAMES = st.tuples(
    st.integers(-(2**70), 2**70),
    st.sampled_from(["cohort", "batches", "model", "1/cohort"]),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
)


def numbers(name, count=8):
    return stream(*name).integers(2**63, size=count).tolist()


@given(NAMES)
def test_a_stream_gives_the_same_numbers_whenever_it_is_opened(name):
    first = numbers(name)
    numbers((name[0], "other", name[2], name[3]))
    assert numbers(name) == first


@given(NAMES, NAMES)
def test_streams_of_different_names_share_no_number(one, other):
    shared = set(numbers(one)) & set(numbers(other))
    assert bool(shared) == (one == other)


@pytest.mark.parametrize(
    "other", [(8, "cohort", 3, 5), (7, "batches", 3, 5), (7, "cohort", 4, 5), (7, "cohort", 3, 6)]
)
def test_each_part_of_the_name_alone_changes_the_stream(other):
    assert not set(numbers((7, "cohort", 3, 5))) & set(numbers(other))


def test_round_and_device_are_not_interchangeable():
    assert not set(numbers((7, "cohort", 3, 5))) & set(numbers((7, "cohort", 5, 3)))


def test_neighbouring_streams_stay_apart_however_much_is_drawn():
    one = stream(7, "cohort", 3, 5).integers(2**63, size=20_000)
    for other in ((7, "cohort", 3, 6), (7, "cohort", 4, 5)):
        assert not np.isin(one, stream(*other).integers(2**63, size=20_000)).any()


def test_another_process_draws_the_same_numbers():
    code = (
        "from fedsim.rng import stream, torch_generator\n"
        "import torch\n"
        "print(stream(7, 'cohort', 3, 5).integers(2**63, size=8).tolist())\n"
        "print(torch.rand(4, generator=torch_generator(7, 'model')).tolist())\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    own = torch.rand(4, generator=torch_generator(7, "model")).tolist()
    assert said == [str(numbers((7, "cohort", 3, 5))), str(own)]


def test_the_numbers_of_a_seed_are_fixed_for_good():
    assert numbers((7, "cohort", 3, 5), 2) == [4317812515891079078, 4614992399268251079]


def test_threads_and_order_do_not_matter():
    names = [(7, "batches", r, d) for r in range(5) for d in range(20)]
    with ThreadPoolExecutor(4) as pool:
        mixed = dict(zip(reversed(names), pool.map(numbers, reversed(names)), strict=True))
    assert mixed == {name: numbers(name) for name in names}


def test_a_negative_device_is_refused_instead_of_wrapping_round():
    with pytest.raises(OverflowError):
        stream(7, "batches", 1, -1)


def test_torch_generators_follow_the_name_and_leave_the_global_one_alone():
    before = torch.random.get_rng_state()
    one, same, other = (
        torch.rand(4, generator=torch_generator(7, "model", device=d)) for d in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_seeded_globals_repeat_inside_and_restore_outside():
    before = random.getstate()
    draws = []
    for round in (1, 1, 2):
        with seeded_globals(7, "strategy", round):
            draws.append(random.sample(range(1000), 5))
    assert draws[0] == draws[1] != draws[2]
    assert random.getstate() == before


def test_seeded_globals_restore_after_an_error():
    before = random.getstate()
    with pytest.raises(KeyError), seeded_globals(7, "strategy"):
        random.random()
        raise KeyError
    assert random.getstate() == before
