"""A device's whole local training: what it holds, its batches, and the procedure run over them.

`LocalTrainer` is what every engine calls, in this process or behind a Flower `ClientApp`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedsim.errors import require
from fedsim.models.joint import JointTagger, Parameters
from fedsim.population import Examples, Population
from fedsim.privacy.example_level import ExampleLevel, LocalSteps
from fedsim.privacy.rounding import Precision
from fedsim.rng import stream
from fedsim.training.backends import backend, require_computes
from fedsim.training.batches import Table, shuffled, steps_of, tensors
from fedsim.training.dpsgd import DPSGD
from fedsim.training.own_rows import OwnRows, Trained, whole
from fedsim.training.poisson import (
    expected_size,
    physical_size,
    poisson,
    poisson_batches,
    poisson_rate,
)
from fedsim.training.precision import in_precision
from fedsim.training.procedures import SGD, AdamW, LocalProcedure
from fedsim.training.unread import Unread
from fedsim.training.validator import require_exact_tagger


class LocalResult(NamedTuple):
    """What a device sends back.

    Attributes:
      trained: parameters after local training, perhaps without their last noise yet; the received
        ones where the device took no step.
      examples: examples the device holds, null records counted.
      seen: real examples that `loss` is the mean over, repeats counted.
      loss: mean training loss, 0 where `seen` is 0.
    """

    trained: Trained | Unread
    examples: int
    seen: float
    loss: float

    @property
    def parameters(self) -> Parameters:
        """What was trained, as whole tensors with their noise.

        A table of which only rows are new is copied whenever it is asked for.
        """
        return self.trained.read() if isinstance(self.trained, Unread) else whole(self.trained)


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
      privacy: example-level privacy with its noise and delta, or None. Batches are then drawn by
        coins, and a device that holds nothing takes a step of noise alone like any other.
      remarks: what a reader of the record should know of how devices train.
    """

    population: Population
    model: JointTagger
    procedure: Callable[[float], LocalProcedure]
    batch_size: int
    local_epochs: int
    local_steps: int | None
    seed: int
    proximal_mu: float = 0.0
    privacy: ExampleLevel | None = None
    remarks: Sequence[str] = ()

    @property
    def local(self) -> LocalSteps:
        """How a device goes through its examples under example-level privacy."""
        return LocalSteps(
            batch_size=self.batch_size,
            local_epochs=self.local_epochs,
            local_steps=self.local_steps,
        )

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
        if self.steps(len(held)) == 0:
            return LocalResult(parameters, 0, 0.0, 0.0)
        held, used, local = self._own_rows(held, parameters, procedure)
        state = procedure.start(local, stream(self.seed, "example-noise", round, device))
        for batch in self.batches(held, device=device, round=round):
            state = procedure.step(state, batch)
        values = procedure.finish(state)
        trained = values | {n: own._replace(values=values[n].detach()) for n, own in used.items()}
        seen = float(state["seen"])
        loss = float(state["loss"]) / seen if seen else 0.0
        return LocalResult(trained, len(held), seen, loss)

    def steps(self, examples: int) -> int:
        """Local steps of a device that holds so many examples."""
        if self.privacy is not None:
            return self.local.steps(examples)
        return steps_of(examples, self.batch_size, self.local_epochs, self.local_steps)

    def batches(self, held: Examples, *, device: int, round: int) -> Iterator[dict[str, Tensor]]:
        """The batches of one device and round, a pure function of (seed, round, device)."""
        draw = stream(self.seed, "batches", round, device)
        if self.privacy is not None:
            yield from poisson_batches(
                held,
                batch_size=self.batch_size,
                steps=self.steps(len(held)),
                physical_size=physical_size(self.batch_size),
                draw=draw,
            )
            return
        parts = shuffled(len(held), self.batch_size, self.steps(len(held)), draw)
        yield from Table(held).batches(parts)

    def drawn(
        self, examples: int, *, device: int, round: int
    ) -> Iterator[tuple[np.ndarray, float]]:
        """For engines that stack batches: the examples of each of `batches`, and its `size`."""
        draw, steps = stream(self.seed, "batches", round, device), self.steps(examples)
        if self.privacy is None:
            for indices in shuffled(examples, self.batch_size, steps, draw):
                yield indices, float(len(indices))
            return
        size = expected_size(examples, self.batch_size)
        rate = poisson_rate(examples, self.batch_size)
        for indices in poisson(examples, rate, steps, draw):
            yield indices, size

    def own_table(self, procedure: LocalProcedure) -> str | None:
        """The parameter of which a device trains the rows of its own words alone, or None."""
        return self.model.lookup if procedure.leaves_unused_rows else None

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

    def _own_rows(
        self, held: Examples, parameters: Parameters, procedure: LocalProcedure
    ) -> tuple[Examples, dict[str, OwnRows], Parameters]:
        """What the device holds, the table rows its words use, and parameters with those alone.

        Rows of other words have zero gradients, so procedures that leave such rows as they are give
        the same result to the bit, and a step no longer touches a table of thousands of rows for a
        dozen short utterances.
        """
        name = self.own_table(procedure)
        if name is None:
            return held, {}, parameters
        rows, token_ids = np.unique(held.token_ids, return_inverse=True)
        used = torch.from_numpy(rows.astype(np.int64))
        table = parameters[name].detach()
        own = OwnRows(table, used, table.index_select(0, used))
        # Padding is row 0 of the small table: any row will do, no word's result depends on it.
        held = held.with_(token_ids=token_ids.reshape(held.token_ids.shape))
        return held, {name: own}, parameters | {name: own.values}


def procedures(
    optimizer: str, model: JointTagger, learning_rate: float, precision: Precision = "float32"
) -> Callable[[float], LocalProcedure]:
    """Proximal weight -> procedure, for the optimizer named "sgd" or "adamw"."""
    losses = in_precision(model.losses, precision)
    descend = model.descend if precision == "float32" else None

    # The same object for all devices: procedures keep nothing.
    @cache
    def of(proximal_mu: float) -> LocalProcedure:
        if optimizer == "adamw":
            return AdamW(losses=losses, learning_rate=learning_rate, proximal_mu=proximal_mu)
        return SGD(
            losses=losses, learning_rate=learning_rate, proximal_mu=proximal_mu, descend=descend
        )

    return of


def private_procedures(
    privacy: ExampleLevel,
    model: JointTagger,
    learning_rate: float,
    batch_size: int,
    dp_backend: str = "book-keeping",
) -> Callable[[float], LocalProcedure]:
    """Proximal weight -> DP-SGD.

    Args:
      privacy: with its noise, and sized for the model and the precision of its passes.
      model: whose losses are trained.
      learning_rate: of a step, > 0.
      batch_size: expected examples of a step.
      dp_backend: who computes clipped sums: book-keeping, opacus-hooks or opacus-ghost.

    Raises:
      ConfigError: the noise is not known yet, or does not go with the clipping; the model's
        examples have no gradients of their own; the backend does not compute the model, the
        clipping or the precision.
    """
    require_computes(dp_backend, privacy)
    require_exact_tagger(model)
    sigma = privacy.noise_multiplier
    require(sigma is not None, "no noise is known yet; call ExampleLevel.resolved() first")
    # Built once here, so that what cannot be is refused before a device trains.
    private = DPSGD(
        losses=model.losses,
        learning_rate=learning_rate,
        clip_norm=privacy.clip_norm,
        noise_multiplier=sigma or 0.0,
        physical_size=physical_size(batch_size),
        clipping=privacy.clipping,
        adaptive=privacy.adaptive,
        decay=privacy.decay,
        secure_noise=privacy.secure_noise,
        gradient=backend(dp_backend, model),
        precision=privacy.precision,
    )
    return cache(lambda proximal_mu: replace(private, proximal_mu=proximal_mu))
