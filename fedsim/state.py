"""What must survive a crash, and as what is it written?

Whatever has state offers `state_dict()` and `load_state_dict()` and is registered under a name; a
checkpoint is a dict of these. A Flower strategy offers neither, so its attributes are captured:
numbers, text, None, NumPy arrays, Flower's records, and lists, tuples and dicts of these. Functions
are configuration, which the next process has anyway. Nothing is pickled: a checkpoint cannot run
code, and does not depend on where a class lives.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from fedsim.errors import ConfigError

PLAIN = (bool, int, float, str, type(None))
RECORDS = {c.__name__: c for c in (ArrayRecord, ConfigRecord, MetricRecord, RecordDict)}


@runtime_checkable
class Stateful(Protocol):
    """Something that remembers, and can be told to go on from what it remembered."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers: values that `pack` takes."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


def registry(strategy: Strategy, grid: Any, probes: Iterable[Any]) -> dict[str, Stateful]:
    """Everything of a run that has state, by name."""
    named = {
        f"probe {number} {type(probe).__name__}": probe
        for number, probe in enumerate(probes, start=1)
    }
    named |= {"strategy": StrategyState(strategy), "grid": grid}
    return {name: each for name, each in named.items() if isinstance(each, Stateful)}


class StrategyState:
    """The state of a Flower strategy, also of one inside `Selective`.

    A strategy with a `state_dict` of its own is asked for it.

    Example:
      >>> from flwr.serverapp.strategy import FedProx
      >>> mine, theirs = FedProx(proximal_mu=0.5), FedProx(proximal_mu=0.1)
      >>> StrategyState(mine).load_state_dict(StrategyState(theirs).state_dict())
      >>> mine.proximal_mu
      0.1
    """

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy

    def state_dict(self) -> dict[str, Any]:
        """Attributes by name.

        Raises:
          ConfigError: one of them is nothing that a checkpoint can hold.
        """
        if isinstance(self._strategy, Stateful):
            return self._strategy.state_dict()
        state = {}
        for name, value in vars(self._strategy).items():
            if _is_configuration(value):
                continue
            if isinstance(value, Strategy):
                state[name] = StrategyState(value).state_dict()
                continue
            try:
                pack(value)
            except TypeError as error:
                owner = type(self._strategy).__name__
                raise ConfigError(
                    f"{name} of {owner} holds {error}, which a checkpoint cannot hold; keep "
                    "numbers, text, arrays, records, and lists, tuples and dicts of these, or "
                    f"give {owner} state_dict() and load_state_dict()"
                ) from None
            state[name] = value
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the attributes; those that are configuration stay."""
        if isinstance(self._strategy, Stateful):
            self._strategy.load_state_dict(state)
            return
        for name, value in state.items():
            own = getattr(self._strategy, name, None)
            if isinstance(own, Strategy):
                StrategyState(own).load_state_dict(value)
            else:
                setattr(self._strategy, name, value)


def set_back(strategy: Strategy) -> Callable[[], None]:
    """What makes the optimizer inside a strategy forget all that it has assigned since.

    An aggregate that is refused must not live on in moments, or in the model that FedAvgM keeps for
    itself and steps from. Nothing is copied, so what is changed in place stays changed; Flower's
    own strategies assign anew.

    Args:
      strategy: itself the optimizer, or around it.

    Example:
      >>> from flwr.serverapp.strategy import FedAvgM
      >>> strategy = FedAvgM(server_momentum=0.9)
      >>> forget = set_back(strategy)
      >>> strategy.momentum_vector = [np.full(2, np.inf)]
      >>> forget()
      >>> strategy.momentum_vector is None
      True
    """
    while isinstance(inner := getattr(strategy, "strategy", None), Strategy):
        strategy = inner
    own = vars(strategy)
    before = dict(own)

    def forget() -> None:
        own.clear()
        own.update(before)

    return forget


def _is_configuration(value: Any) -> bool:
    return inspect.isroutine(value) or isinstance(value, type | partial)


def pack(value: Any) -> tuple[Any, list[np.ndarray]]:
    """A value as a JSON tree and the arrays that it points to by number, copied.

    Raises:
      TypeError: somewhere inside is something else; says what.

    Example:
      >>> tree, arrays = pack({"steps": 3, "moments": [np.zeros(2)]})
      >>> unpack(tree, arrays)
      {'steps': 3, 'moments': [array([0., 0.])]}
    """
    arrays: list[np.ndarray] = []

    def store(kind: str, array: np.ndarray) -> dict[str, Any]:
        if array.dtype.hasobject:
            raise TypeError("an array of Python objects")
        arrays.append(array.copy(order="K"))
        return {kind: len(arrays) - 1}

    def walk(value: Any) -> Any:
        kind = type(value)
        if kind in PLAIN:
            return value
        if kind in (list, tuple):
            return {kind.__name__: [walk(item) for item in value]}
        if kind is dict:
            return {"dict": [[walk(key), walk(item)] for key, item in value.items()]}
        if kind is np.ndarray:
            return store("array", value)
        if kind is bytes:
            return store("bytes", np.frombuffer(value, np.uint8))
        if isinstance(value, np.generic):
            return store("scalar", np.asarray(value))
        if isinstance(value, Array):
            return store("Array", value.numpy())
        if kind.__name__ in RECORDS and kind is RECORDS[kind.__name__]:
            return {kind.__name__: [[key, walk(item)] for key, item in value.items()]}
        raise TypeError(f"{'an' if kind.__name__[0] in 'aeiouAEIOU' else 'a'} {kind.__name__}")

    return walk(value), arrays


def unpack(tree: Any, arrays: list[np.ndarray] | Mapping[int, np.ndarray]) -> Any:
    """What `pack` was given."""
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind in ("list", "tuple"):
        items = [unpack(item, arrays) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return {unpack(key, arrays): unpack(item, arrays) for key, item in content}
    if kind in RECORDS:
        record = RECORDS[kind]()
        for key, item in content:
            record[key] = unpack(item, arrays)
        return record
    array = arrays[content]
    leaves = {
        "array": lambda: array,
        "scalar": lambda: array[()],
        "bytes": lambda: array.tobytes(),
        "Array": lambda: Array(array),
    }
    return leaves[kind]()
