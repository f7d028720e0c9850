"""A strategy sees the cohort and nobody else; phantoms never get work."""

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from fedsim import ConfigError
from fedsim.engine.cohort import CohortGrid
from fedsim.engine.flower import task_identity
from fedsim.plan import Plan


class Recording:
    """An engine's grid that notes what reaches it."""

    def __init__(self):
        self.sent = []

    def send_and_receive(self, messages, *, timeout=None):
        self.sent = [message.metadata.dst_node_id for message in messages]
        return self.sent


@pytest.fixture(autouse=True)
def identity():
    with task_identity():
        yield


def grid_of(*cohort: int) -> CohortGrid:
    plan = Plan(
        round=7,
        period=0,
        seed=0,
        cohort=np.array(cohort, np.int64),
        examples=np.ones(len(cohort), np.int64),
        weights=np.ones(len(cohort)),
        rates=np.full(20, 0.1),
        device_weights=np.ones(20),
        draw="poisson",
    )
    return CohortGrid(Recording(), plan)


def to(*nodes: int) -> list[Message]:
    return [Message(RecordDict(), node, "train") for node in nodes]


def test_nodes_are_the_cohort():
    assert list(grid_of(3, 8, 9).get_node_ids()) == [3, 8, 9]
    assert list(grid_of().get_node_ids()) == []


@pytest.mark.parametrize(("cohort", "phantoms"), [((), 2), ((5,), 1), ((5, 6), 0), ((1, 2, 3), 0)])
def test_phantoms_fill_up_to_the_minimum_and_go_away(cohort, phantoms):
    grid = grid_of(*cohort)
    with grid.padded(2):
        shown = list(grid.get_node_ids())
    assert len(set(shown)) == len(cohort) + phantoms
    assert [node for node in shown if node >= 0] == list(cohort)
    assert list(grid.get_node_ids()) == list(cohort)


def test_phantoms_go_away_when_the_strategy_raises():
    grid = grid_of(5)
    with pytest.raises(RuntimeError), grid.padded(4):
        raise RuntimeError
    assert list(grid.get_node_ids()) == [5]


def test_messages_to_phantoms_are_dropped():
    kept = grid_of(5).real(to(-1, 5, -2))
    assert [message.metadata.dst_node_id for message in kept] == [5]


@pytest.mark.parametrize("addressed", [(2,), (2, 4, 4), (2, 5), (2, 4, 7)])
def test_a_strategy_must_address_exactly_the_cohort(addressed):
    with pytest.raises(
        ConfigError, match=r"cohort of round 7 has 2; .* every node it is shown, once"
    ):
        grid_of(2, 4).real(to(*addressed))


def test_messages_go_through_the_engines_grid():
    assert grid_of(2, 4).send_and_receive(to(2, 4)) == [2, 4]
