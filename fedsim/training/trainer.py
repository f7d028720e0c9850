"""A device's whole local training: what it holds, its batches, and the procedure run over them.

`LocalTrainer` is what every engine calls, in this process or behind a Flower `ClientApp`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from fedsim.models.joint import JointTagger, Parameters
from fedsim.population import Examples, Population
from fedsim.rng import stream
from fedsim.training.batches import shuffled, steps_of, tensors
from fedsim.training.procedures import SGD, AdamW, LocalProcedure


class LocalResult(NamedTuple):
    """What a device sends back.

    Attributes:
      parameters: after local training; the received ones where the device holds nothing.
      examples: examples the device holds, null records counted.
      seen: real examples that `loss` is the mean over, repeats counted.
      loss: mean training loss, 0 where `seen` is 0.
    """

    parameters: Parameters
    examples: int
    seen: float
    loss: float


class LocalScore(NamedTuple):
    """How a model does on a device's own held-out utterances."""

    examples: int
    loss: float
    intent_accuracy: float


@dataclass(frozen=True, kw_only=True)
class LocalTrainer:
    """Local training bound to a population and a model.

    Attributes:
      population: already cut into periods, with what devices keep.
      model: supplies losses and predictions; its own parameters are not used.
      procedure: proximal weight -> local procedure.
      batch_size: examples a batch.
      local_epochs: passes over what the device holds.
      local_steps: number of batches instead of epochs, or None.
      seed: the run's.
      proximal_mu: proximal weight of the client's own, used where the server sends none.
    """

    population: Population
    model: JointTagger
    procedure: Callable[[float], LocalProcedure]
    batch_size: int
    local_epochs: int
    local_steps: int | None
    seed: int
    proximal_mu: float = 0.0

    def train(
        self,
        parameters: Parameters,
        *,
        device: int,
        period: int,
        round: int,
        proximal_mu: float | None = None,
    ) -> LocalResult:
        """Train on what `device` holds in `period` (from 0)."""
        procedure = self.procedure(self.proximal_mu if proximal_mu is None else proximal_mu)
        held = self.population.held(device, period, self.seed)
        steps = steps_of(len(held), self.batch_size, self.local_epochs, self.local_steps)
        if steps == 0:
            return LocalResult(parameters, 0, 0.0, 0.0)
        held, used, local = _own_rows(held, parameters, procedure)
        state = procedure.start(local)
        draw = stream(self.seed, "batches", round, device)
        for indices in shuffled(len(held), self.batch_size, steps, draw):
            state = procedure.step(state, tensors(held, indices))
        trained = procedure.finish(state)
        if used is not None:
            whole = parameters["embedding"].detach().clone()
            whole[used] = trained["embedding"]
            trained = trained | {"embedding": whole}
        seen = float(state["seen"])
        loss = float(state["loss"]) / seen if seen else 0.0
        return LocalResult(trained, len(held), seen, loss)

    def evaluate(self, parameters: Parameters, *, device: int) -> LocalScore | None:
        """Score on the device's own test utterances, or None where it has none."""
        rows = np.flatnonzero(self.population.test.device == device)
        if len(rows) == 0:
            return None
        with torch.no_grad():
            batch = tensors(self.population.test, rows)
            said = self.model.predict(parameters, batch)
        right = (said.intents == batch["intents"]).float().mean()
        return LocalScore(len(rows), float(said.losses.mean()), float(right))

    def activity(self, device: int, period: int) -> int:
        """Examples the device holds in `period`."""
        return int(self.population.activity(period)[device])


def procedures(
    optimizer: str, model: JointTagger, learning_rate: float
) -> Callable[[float], LocalProcedure]:
    """Proximal weight -> procedure, for the optimizer named "sgd" or "adamw"."""
    kinds: dict[str, type[SGD] | type[AdamW]] = {"sgd": SGD, "adamw": AdamW}
    kind = kinds[optimizer]
    return lambda proximal_mu: kind(
        losses=model.losses, learning_rate=learning_rate, proximal_mu=proximal_mu
    )


def _own_rows(
    held: Examples, parameters: Parameters, procedure: LocalProcedure
) -> tuple[Examples, torch.Tensor | None, Parameters]:
    """Train only the embedding rows that the device's own words use.

    Rows of other words have zero gradients, so SGD, Adam without weight decay and the proximal term
    leave them as they are: the result is the same to the bit, and a step no longer touches a table
    of thousands of rows for a dozen short utterances.
    """
    exact = isinstance(procedure, SGD) or (
        isinstance(procedure, AdamW) and procedure.weight_decay == 0
    )
    if not exact or "embedding" not in parameters:
        return held, None, parameters
    rows, token_ids = np.unique(held.token_ids, return_inverse=True)
    used = torch.from_numpy(rows.astype(np.int64))
    small = parameters["embedding"].detach().index_select(0, used)
    # Padding is row 0 of the small table: any row will do, since no word's result depends on it.
    held = held.with_(token_ids=token_ids.reshape(held.token_ids.shape))
    return held, used, parameters | {"embedding": small}
