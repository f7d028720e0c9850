"""Claims about dealing rows to devices and to splits."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import ConfigError
from fedsim.population.examples import Utterance
from fedsim.population.partition import Partition, deal, seeded_split


def rows(count: int, intents: int = 5, held_out: int = 3) -> list[Utterance]:
    """Training rows of several intents, then some of dev and test."""
    return [
        Utterance((str(i),), ("O",), f"intent-{i % intents}", "somebody", split, i)
        for i, split in enumerate(["train"] * count + ["dev", "test"] * held_out)
    ]


def sizes(dealt: list[Utterance]) -> np.ndarray:
    return np.array(sorted(Counter(row.user for row in dealt if row.split == "train").values()))


def dominance(dealt: list[Utterance]) -> float:
    """Share of a device's rows that have its commonest intent, averaged over devices."""
    by_device: dict[str | None, list[str]] = {}
    for row in dealt:
        if row.split == "train":
            by_device.setdefault(row.user, []).append(row.intent)
    return float(
        np.mean([Counter(own).most_common(1)[0][1] / len(own) for own in by_device.values()])
    )


@given(
    text=st.sampled_from(["iid", "dirichlet:0.01", "dirichlet:100", "quantity:0.01", "quantity:3"]),
    count=st.integers(1, 60),
    devices=st.integers(1, 60),
    seed=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_every_device_gets_a_row_and_every_row_one_device(text, count, devices, seed):
    before = rows(count)
    devices = min(devices, count)
    after, _ = deal(before, Partition.parse(text), devices, seed)
    assert [row._replace(user="somebody") for row in after] == before
    assert len({row.user for row in after if row.split == "train"}) == devices
    assert all((row.user is None) == (row.split != "train") for row in after)


def test_iid_parts_are_equal_and_alike():
    dealt, _ = deal(rows(1000), Partition.parse("iid"), 10, seed=0)
    assert sizes(dealt).tolist() == [100] * 10
    assert dominance(dealt) < 0.35


def test_dirichlet_separates_intents_the_more_the_smaller_its_parameter():
    shares = [
        dominance(deal(rows(2000), Partition.parse(f"dirichlet:{a}"), 10, seed=0)[0])
        for a in (0.05, 1, 100)
    ]
    assert shares[0] > 0.8 > shares[1] > shares[2]
    assert shares[2] < 0.35


def test_quantity_skews_sizes_and_leaves_intents_mixed():
    heavy, even = (
        deal(rows(4000), Partition.parse(f"quantity:{a}"), 20, seed=0)[0] for a in (0.3, 1000)
    )
    assert sizes(heavy)[-2:].sum() > 0.3 * 4000
    assert sizes(heavy)[0] < 20
    assert sizes(even)[-1] < 1.2 * 200
    biggest = Counter(row.user for row in heavy if row.split == "train").most_common(1)[0][0]
    intents = Counter(row.intent for row in heavy if row.user == biggest)
    assert max(intents.values()) < 1.3 * min(intents.values())


@pytest.mark.parametrize("text", ["iid", "dirichlet:0.5", "quantity:0.5"])
def test_dealing_is_a_function_of_the_seed(text):
    deals = [deal(rows(200), Partition.parse(text), 10, seed)[0] for seed in (1, 1, 2)]
    assert deals[0] == deals[1] != deals[2]


def test_devices_that_drew_nothing_are_told_of():
    _, sentence = deal(rows(60), Partition.parse("dirichlet:0.01"), 50, seed=0)
    assert "dealt to 50 devices by dirichlet:0.01, seed 0" in sentence
    assert "that drew nothing" in sentence


def test_more_devices_than_rows_is_refused_with_the_largest_number_possible():
    with pytest.raises(ConfigError, match=r"devices is 100, .* 7 training rows.* between 1 and 7"):
        deal(rows(7), Partition.parse("iid"), None, seed=0)
    with pytest.raises(ConfigError, match="devices is 0"):
        deal(rows(7), Partition.parse("iid"), 0, seed=0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "idd",
        "iid:1",
        "natural:2",
        "dirichlet",
        "dirichlet:",
        "dirichlet:x",
        "dirichlet:0",
        "quantity:-1",
        "quantity:nan",
        "quantity:inf",
        "dirichlet:1e-9",
        "Dirichlet:1",
    ],
)
def test_any_other_partition_is_refused(text):
    with pytest.raises(ConfigError, match="expected iid, dirichlet:A, quantity:A or natural"):
        Partition.parse(text)


@pytest.mark.parametrize("text", ["iid", "natural", "dirichlet:0.1", "quantity:2"])
def test_a_partition_reads_what_it_prints(text):
    assert str(Partition.parse(text)) == text


def test_a_misspelt_partition_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'dirichlet'"):
        Partition.parse("dirichlt:0.5")


def test_each_person_is_split_eight_one_one():
    said = [row._replace(user=f"p{i % 7}") for i, row in enumerate(rows(7 * 30, held_out=0))]
    split = seeded_split(said, seed=3)
    counts = Counter((row.user, row.split) for row in split)
    assert all(
        [counts[f"p{k}", name] for name in ("train", "dev", "test")] == [24, 3, 3] for k in range(7)
    )


def test_each_single_row_is_train_with_probability_eight_in_ten():
    alone = [Utterance((str(i),), ("O",), "x", f"p{i}") for i in range(10_000)]
    counts = Counter(row.split for row in seeded_split(alone, seed=0))
    # Standard deviations are 40 and 30: five of them is less than one failure in a million.
    assert abs(counts["train"] - 8000) < 200
    assert abs(counts["dev"] - 1000) < 150
    assert abs(counts["test"] - 1000) < 150


@given(
    users=st.lists(st.sampled_from(["a", "b", None]), min_size=2, max_size=60),
    seed=st.integers(0, 5),
)
@settings(max_examples=40)
def test_later_rows_change_no_earlier_split(users, seed):
    said = [Utterance((str(i),), ("O",), "x", user) for i, user in enumerate(users)]
    half = len(said) // 2
    assert seeded_split(said, seed)[:half] == seeded_split(said[:half], seed)
