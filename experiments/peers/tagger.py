"""What would a researcher train without fedsim? A torch module, its loss, and a loop over batches.

Peers have environments of their own, where fedsim cannot be imported: this module needs torch and
NumPy alone, and reads devices from the file that `Workload.save` writes.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Device(NamedTuple):
    """What a device holds: token_ids and slots (examples, words), intents (examples,); int64."""

    token_ids: Tensor
    intents: Tensor
    slots: Tensor


class Tagger(nn.Module):
    """Embedding, bidirectional LSTM, an intent head over mean-pooled states and a slot head.

    Args:
      rows: of the embedding.
      embedding: its width.
      hidden: width of a direction's state.
      intents: number of intents.
      slot_labels: number of slot labels.
    """

    def __init__(
        self, rows: int, embedding: int, hidden: int, intents: int, slot_labels: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True, bidirectional=True)
        self.intent = nn.Linear(2 * hidden, intents)
        self.slot = nn.Linear(2 * hidden, slot_labels)

    def loss(self, token_ids: Tensor, intents: Tensor, slots: Tensor, **_) -> Tensor:
        """Mean cross-entropy of intents plus that of slots."""
        states, _ = self.lstm(self.embedding(token_ids))
        intent = F.cross_entropy(self.intent(states.mean(1)), intents)
        return intent + F.cross_entropy(self.slot(states).flatten(0, 1), slots.flatten())


class Task(NamedTuple):
    """A workload as peers see it.

    Attributes:
      devices: what each holds.
      shape: sizes of the module, in the order of `Tagger`'s arguments.
      cohorts: device ids of every round, as many in each.
      batch_size: examples a batch.
      learning_rate: of SGD.
    """

    devices: list[Device]
    shape: tuple[int, ...]
    cohorts: list[list[int]]
    batch_size: int
    learning_rate: float

    @classmethod
    def load(cls, path: str | Path) -> "Task":
        """Read what `Workload.save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        flat = (torch.from_numpy(arrays[name]) for name in Device._fields)
        parts = (each.tensor_split(arrays["offsets"][1:-1].tolist()) for each in flat)
        return cls(
            devices=[Device(*rows) for rows in zip(*parts, strict=True)],
            shape=tuple(arrays["shape"].tolist()),
            cohorts=arrays["cohorts"].tolist(),
            batch_size=int(arrays["batch_size"]),
            learning_rate=float(arrays["learning_rate"]),
        )

    def module(self) -> Tagger:
        """A module, whose parameters torch draws from its global generator."""
        return Tagger(*self.shape)

    def initial(self) -> dict[str, Tensor]:
        """The state that every run starts from."""
        draw, state = torch.Generator().manual_seed(0), self.module().state_dict()
        for p in state.values():
            nn.init.uniform_(p, -0.1, 0.1, generator=draw)
        return state

    def train(self, module: Tagger, device: int, draw: torch.Generator) -> float:
        """One epoch of SGD on a device, in place; the mean loss of its batches."""
        held = self.devices[device]
        optimizer = torch.optim.SGD(module.parameters(), lr=self.learning_rate)
        losses = []
        for rows in torch.randperm(len(held.intents), generator=draw).split(self.batch_size):
            optimizer.zero_grad()
            loss = module.loss(held.token_ids[rows], held.intents[rows], held.slots[rows])
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return sum(losses) / len(losses)
