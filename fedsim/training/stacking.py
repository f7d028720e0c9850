"""How do the batches of several devices, and their states, become one stack and come apart again?

A leading axis counts devices. Batches are padded to the largest of them, with examples of weight 0
and without words; a state is cut along the axis when devices have taken their last step.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fedsim.models.joint import Parameters
from fedsim.models.packing import sent
from fedsim.population.examples import Examples, concatenate
from fedsim.training.procedures import SHARED, State


class StackedBatches:
    """Batches of several devices, stacked as they are asked for.

    Args:
      held: what each device holds.

    Example:
      >>> import numpy as np
      >>> one = Examples(
      ...     token_ids=np.array([[5], [6], [7]], np.int32), slots=np.zeros(3, np.int16),
      ...     offsets=np.array([0, 1, 3]), intents=np.zeros(2, np.int16),
      ...     device=np.zeros(2, np.int32), period=np.zeros(2, np.int16), null=np.zeros(2, bool),
      ... )
      >>> both = StackedBatches([one, one]).batch([np.array([0, 1]), np.array([0])], [2.0, 1.0])
      >>> both["lengths"].tolist(), both["weight"].tolist(), both["size"].tolist()
      ([[2, 1], [1, 0]], [[1.0, 1.0], [1.0, 0.0]], [2.0, 1.0])
    """

    def __init__(self, held: Sequence[Examples]) -> None:
        self._all = concatenate(list(held))
        self._words = np.where(self._all.null, 1, self._all.lengths)
        self._first = np.cumsum([0, *map(len, held)])

    def batch(self, drawn: Sequence[np.ndarray], sizes: Sequence[float]) -> dict[str, Tensor]:
        """One batch of the first `len(drawn)` devices.

        Args:
          drawn: which of its examples each device is to see.
          sizes: what each device's sum is divided by.

        Returns:
          As `fedsim.training.batches.tensors`, each with a leading axis of devices; examples that
          fill a row up have no words and weight 0.
        """
        devices, most = len(drawn), max(map(len, drawn))
        record = np.zeros((devices, most), np.int64)
        real = np.arange(most) < np.array([len(own) for own in drawn])[:, None]
        record[real] = np.concatenate(drawn)
        place = record + self._first[:devices, None]
        words = np.full((devices, most), -1)
        words[real] = self._words[place[real]]
        # As for one device: longest first, and in the order of the draw where equally long.
        order = np.argsort(-words, axis=1, kind="stable")
        place, record = (np.take_along_axis(a, order, axis=1) for a in (place, record))
        padded = self._all.padded(place[real])

        def spread(values: np.ndarray, nothing: int = 0) -> Tensor:
            whole = np.full((devices, most, *values.shape[1:]), nothing, values.dtype)
            whole[real] = values
            return torch.from_numpy(whole)

        return {
            "token_ids": spread(padded.token_ids),
            "lengths": spread(padded.lengths),
            "intents": spread(padded.intents),
            "slots": spread(padded.slots, -1),
            "weight": spread((~padded.null).astype(np.float32)),
            "record": torch.from_numpy(record),
            "size": torch.tensor(sizes, dtype=torch.float32),
        }


def on(where: torch.device, batches: Sequence[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Batches on a device, sent from pinned memory, so that nothing waits for their arrival.

    Lengths stay here: layouts are made from them, and reading them back would wait for the device.
    """
    for batch in batches:
        yield {n: v if n == "lengths" else sent(v, where) for n, v in batch.items()}


def copies(parameters: Parameters, devices: int, where: torch.device) -> Parameters:
    """The same parameters for every device of a stack, without a copy yet."""
    own = {name: sent(p.detach(), where) for name, p in parameters.items()}
    return {name: p.expand(devices, *p.shape) for name, p in own.items()}


def part(state: State, start: int, stop: int) -> State:
    """The state of some devices of a stack that has taken a step, sharing its memory.

    Example:
      >>> state = {"parameters": {"w": torch.arange(3.0)}, "loss": torch.ones(3)}
      >>> part(state, 1, 3)["parameters"]["w"].tolist()
      [1.0, 2.0]
    """

    def cut(value: Tensor) -> Tensor:
        own = value.detach()[start:stop]
        return own.requires_grad_() if value.requires_grad else own

    return {
        name: value
        if name in SHARED
        else {key: cut(each) for key, each in value.items()}
        if isinstance(value, dict)
        else cut(value)
        for name, value in state.items()
    }
