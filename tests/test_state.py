"""What a checkpoint can hold comes back as it was; what it cannot is refused by name."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM

from clients import NLUClient
from fedsim import ConfigError, Population, Simulation, Static
from fedsim.models import BiLSTMTagger
from fedsim.state import StrategyState, pack, unpack
from strategies import Selective, UniformSelection

PEOPLE = Population.load("home", devices=4)


class Diary(FedAvg):
    """A strategy that holds whatever it is given."""

    def __init__(self, held) -> None:
        super().__init__()
        self.held = held


def refused(strategy, out):
    with pytest.raises(ConfigError) as error:
        Simulation(
            population=PEOPLE,
            model=BiLSTMTagger.sized_for(PEOPLE, embedding=2, hidden=2),
            client=NLUClient(),
            strategy=strategy,
            schedule=Static(rounds=1),
        ).run(out)
    return str(error.value)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, 10**30, 0.1, float("inf"), -0.0, "é", b"\x00\xff"),
        [1, (2.5, None), {"a": [], 3: {(1, "x"): ()}}],
        np.float32(0.1),
        np.int64(-7),
        np.bool_(True),
    ],
    ids=repr,
)
def test_plain_values_come_back_with_their_types(value):
    again = unpack(*pack(value))
    assert again == value
    assert type(again) is type(value)
    assert str(again) == str(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.zeros((0, 3), np.float16),
        np.array(5, np.int8),
        np.array([np.nan, -0.0, np.inf]),
        np.array(["a", "bcd"]),
        np.arange(3, dtype=">i4"),
    ],
)
def test_arrays_come_back_to_the_bit(array):
    again = unpack(*pack([array]))[0]
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert again.tobytes() == array.tobytes()


def test_flower_s_records_come_back():
    record = RecordDict(
        {
            "arrays": ArrayRecord({"b": Array(np.arange(3)), "a": Array(np.zeros((2, 0)))}),
            "metrics": MetricRecord({"loss": 0.5, "counts": [1, 2]}),
            "config": ConfigRecord({"word": "x", "raw": b"y", "on": True}),
        }
    )
    again = unpack(*pack(record))
    assert again == record
    assert list(again["arrays"]) == ["b", "a"]


def test_a_saved_value_does_not_change_with_the_original():
    moments = np.zeros(2)
    tree, arrays = pack({"m": moments})
    moments += 1
    assert unpack(tree, arrays)["m"].tolist() == [0, 0]


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: Selective(s, UniformSelection(cohort=1))])
def test_the_state_of_a_strategy_moves_into_a_fresh_one(wrap):
    used, fresh = FedAdam(), FedAdam()
    used.m_t = {"w": np.ones(2)}
    used.eta = 0.5
    StrategyState(wrap(fresh)).load_state_dict(StrategyState(wrap(used)).state_dict())
    assert fresh.m_t["w"].tolist() == [1, 1]
    assert fresh.eta == 0.5


def test_functions_are_configuration_and_stay():
    state = StrategyState(FedAvgM(train_metrics_aggr_fn=lambda records, key: MetricRecord()))
    assert "train_metrics_aggr_fn" not in state.state_dict()
    assert "momentum_vector" in state.state_dict()


@pytest.mark.parametrize(
    ("held", "named"),
    [
        ({1, 2}, "a set"),
        ([np.array([object()])], "an array of Python objects"),
        ({"deep": [object()]}, "an object"),
        (Population, None),
    ],
    ids=["set", "objects", "nested", "class"],
)
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: Selective(s, UniformSelection(cohort=1))])
def test_anything_else_is_refused_by_name_before_training(tmp_path, held, named, wrap):
    if named is None:
        assert "held" not in StrategyState(wrap(Diary(held))).state_dict()
        return
    said = refused(wrap(Diary(held)), tmp_path / "run")
    assert said.startswith(f"held of Diary holds {named}, which a checkpoint cannot hold; keep ")
    assert "give Diary state_dict() and load_state_dict()" in said
    assert list(tmp_path.iterdir()) == []


def test_a_strategy_that_saves_itself_may_hold_anything():
    class Own(Diary):
        def state_dict(self):
            return {"held": sorted(self.held)}

        def load_state_dict(self, state):
            self.held = set(state["held"])

    own = Own(set())
    StrategyState(own).load_state_dict(StrategyState(Own({3, 1})).state_dict())
    assert own.held == {1, 3}
