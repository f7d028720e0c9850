"""Claims about noise that is drawn when a reply is read: whatever is read, in whatever order, is
distributed as if every device had drawn its noise before it replied."""

import gc
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.rng import stream
from fedsim.training.mean import weighted_sum
from fedsim.training.own_rows import OwnRows, whole
from fedsim.training.unread import Unread

WIDTH, SHARES, VARIANCES = 40_000, (0.5, 0.3, 0.2), (4.0, 1.0, 0.25)


def reply(device, variance=1.0, size=WIDTH, seed=0):
    """One parameter, and one table of which a row was trained."""
    received = torch.arange(3.0).unsqueeze(-1).expand(3, size).contiguous()
    own = OwnRows(received, torch.tensor([1]), torch.full((1, size), float(device)))
    owed = {"w": torch.tensor(variance), "table": variance * torch.tensor([[1.0], [2.0], [1.0]])}
    draw = partial(stream, seed, round=1, device=device)
    return Unread({"w": torch.full((size,), float(device)), "table": own}, owed, draw)


def cohort(**options):
    return [reply(device, variance, **options) for device, variance in enumerate(VARIANCES)]


def noise_of(read, unread):
    """What was added, in one row: (4 x size,)."""
    before = whole(unread.trained)
    return torch.cat([(read[n] - before[n]).flatten() for n in before])


def assert_covariance(rows, wanted):
    """Of (k, n) numbers with means of 0, each entry within five standard errors."""
    rows, wanted = rows.double(), torch.as_tensor(wanted, dtype=torch.float64)
    found = rows @ rows.T / rows.shape[1]
    spread = wanted.diagonal()
    error = ((spread[:, None] * spread + wanted**2) / rows.shape[1]).sqrt()
    assert ((found - wanted).abs() <= 5 * error).all(), found
    assert (rows.mean(1).abs() <= 5 * (spread / rows.shape[1]).sqrt()).all()


def test_a_reply_that_is_read_has_the_noise_it_owes_and_is_read_once():
    one = reply(1, 4.0)
    read = one.read()
    assert one.read() is read
    assert not one.waiting
    first, second, third = read["table"] - whole(one.trained)["table"]
    assert_covariance(torch.stack([first, second, third]), torch.diag(torch.tensor([4.0, 8.0, 4])))
    assert_covariance((read["w"] - 1)[None], [[4.0]])


def test_what_was_trained_and_received_stays_as_it_was():
    one, same = reply(1), reply(1)
    one.read()
    for name, before in whole(same.trained).items():
        assert torch.equal(whole(one.trained)[name], before)


def test_noise_is_a_function_of_seed_and_device():
    assert torch.equal(reply(1).read()["w"], reply(1).read()["w"])
    assert not torch.equal(reply(1).read()["w"] - 1, reply(2).read()["w"] - 2)
    assert not torch.equal(reply(1).read()["w"], reply(1, seed=1).read()["w"])


@pytest.mark.parametrize("first", [(), (1,), (0, 2)], ids=["mean first", "one first", "two first"])
def test_means_and_replies_have_the_joint_distribution_of_noise_drawn_by_devices(first):
    replies = cohort()
    read = {k: replies[k].read() for k in first}
    total = weighted_sum(replies, SHARES)
    before = weighted_sum([r.trained for r in replies], SHARES)
    moved = torch.from_numpy(total["w"] - before["w"])
    read |= {k: each.read() for k, each in enumerate(replies)}
    rows = [read[k]["w"] - k for k in range(3)]
    variance = torch.diag(torch.tensor(VARIANCES, dtype=torch.float64))
    with_mean = variance @ torch.tensor(SHARES, dtype=torch.float64)
    square = float(torch.tensor(SHARES, dtype=torch.float64) @ with_mean)
    wanted = torch.zeros(4, 4, dtype=torch.float64)
    wanted[:3, :3], wanted[:3, 3], wanted[3, :3], wanted[3, 3] = (
        variance,
        with_mean,
        with_mean,
        square,
    )
    assert_covariance(torch.stack([*rows, moved]), wanted)


def test_rows_of_a_table_in_a_mean_have_the_noise_of_their_own_variances():
    replies = cohort()
    total = torch.from_numpy(weighted_sum(replies, SHARES)["table"])
    moved = total - torch.from_numpy(weighted_sum([r.trained for r in replies], SHARES)["table"])
    square = sum(s**2 * v for s, v in zip(SHARES, VARIANCES, strict=True))
    assert_covariance(moved, torch.diag(square * torch.tensor([1.0, 2.0, 1.0])))


@given(
    seed=st.integers(0, 2**32),
    weights=st.lists(st.just(0.0) | st.floats(1e-3, 1e3), min_size=1, max_size=5).filter(any),
    read=st.sets(st.integers(0, 4)),
    variance=st.sampled_from([1e-30, 1e-6, 1.0, 1e20]),
    twice=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_mean_is_that_of_the_replies_as_they_are_read(seed, weights, read, variance, twice):
    replies = [reply(k, variance * (k + 1), size=5, seed=seed) for k in range(len(weights))]
    shares = [weight / sum(weights) for weight in weights]
    if twice:
        replies, shares = [*replies, replies[0]], [*shares, 0.5]
    for k in read & set(range(len(weights))):
        replies[k].read()
    totals = [weighted_sum(replies, shares)]
    part = weighted_sum(replies[:1], shares[:1])
    totals.append(weighted_sum(replies, shares))
    wanted = weighted_sum([each.read() for each in replies], shares)
    scale = 1 + variance**0.5
    for name, value in wanted.items():
        for total in totals:
            np.testing.assert_allclose(total[name], value, rtol=1e-4, atol=3e-5 * scale)
        again = weighted_sum([replies[0].read()], shares[:1])[name]
        np.testing.assert_allclose(part[name], again, rtol=1e-4, atol=3e-5 * scale)


def test_replies_of_a_mean_are_freed_as_soon_as_nobody_holds_them():
    replies = cohort(size=3)
    weighted_sum(replies, SHARES)
    one, gone = replies[0], [weakref.ref(reply) for reply in replies[1:]]
    gc.disable()
    try:
        del replies
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()
    assert torch.isfinite(one.read()["w"]).all()


def test_nothing_owed_is_nothing_added():
    replies = [reply(k, 0.0, size=4) for k in range(2)]
    weighted_sum(replies, [0.5, 0.5])
    for each in replies:
        assert all(torch.equal(p, whole(each.trained)[n]) for n, p in each.read().items())


def test_no_number_of_noise_comes_twice():
    drawn = []
    for round in range(3):
        replies = cohort(size=500, seed=round)
        mean = weighted_sum(replies[:2], [0.5, 0.5])
        before = weighted_sum([r.trained for r in replies[:2]], [0.5, 0.5])
        drawn.append(np.concatenate([(mean[n] - before[n]).ravel() for n in mean]))
        drawn += [noise_of(each.read(), each).numpy() for each in replies]
    values = np.sort(np.abs(np.concatenate(drawn).astype(np.float64)))
    # Among 20,000 numbers in float32 a few meet by chance; a stream drawn twice meets 2,000 times.
    assert (np.diff(values) == 0).sum() < 200
