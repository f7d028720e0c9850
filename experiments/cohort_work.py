"""What do the cohorts of the benchmark hold, and how are they trained: one by one, stacked, pooled?

Sentences are random and of 1 to 16 words; the work is that of real training. Nothing here needs
Flower or a corpus.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch

from fedsim.models import BiLSTMTagger, JointTagger, TransformerTagger
from fedsim.models.joint import Parameters
from fedsim.population import Population
from fedsim.population.arrays import ArraySource
from fedsim.population.examples import Examples, concatenate
from fedsim.population.labels import Inventory
from fedsim.population.vocabulary import HashedVocabulary
from fedsim.privacy import ExampleLevel
from fedsim.rng import stream, torch_generator
from fedsim.training import LocalTrainer, private_procedures, procedures
from fedsim.training.batches import tensors
from fedsim.training.chunks import ChunkPlan, planned
from fedsim.training.cohort import in_turn, train_together
from fedsim.training.mean import weighted_sum
from fedsim.training.stacking import StackedBatches
from fedsim.training.trainer import LocalResult

SIZES = {"rows": 5000, "intents": 64, "slot_labels": 100}
MODELS = ("BiLSTM", "transformer")
LOADS = {"light": (1, 8), "mixed": (1, 64), "heavy": (48, 80)}
"""Fewest and most examples of a device; between them evenly, of mixed ones evenly in logarithm."""

BATCH, POOLED, LONGEST, PIECES = 16, 256, 16, 3


def cohort_of(devices: int, load: str) -> Population:
    """Devices with random sentences.

    Example:
      >>> cohort_of(3, "light").activity().tolist()
      [8, 4, 1]
    """
    fewest, most = LOADS[load]
    place = np.linspace(1.0, 0.0, devices)
    spread = (
        most**place * fewest ** (1 - place) if load == "mixed" else fewest + place * (most - fewest)
    )
    held = np.floor(spread + 1e-9).astype(np.int64)
    draw = stream(0, "bench cohort")
    n = int(held.sum())
    lengths = draw.integers(1, LONGEST + 1, n)
    words = int(lengths.sum())
    device = np.repeat(np.arange(devices), held)
    examples = Examples(
        token_ids=draw.integers(1, SIZES["rows"], (words, PIECES)).astype(np.int32),
        slots=draw.integers(0, SIZES["slot_labels"], words).astype(np.int16),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        intents=draw.integers(0, SIZES["intents"], n).astype(np.int16),
        device=device.astype(np.int32),
        period=np.zeros(n, np.int16),
        null=np.zeros(n, bool),
    )
    source = ArraySource(
        examples=examples,
        person=device,
        split=np.zeros(n, np.int8),
        order=np.arange(n),
        device_names=tuple(map(str, range(devices))),
    )
    return Population(
        name=load,
        source=source,
        inventory=Inventory(("intent",), ("slot",)),
        vocabulary=HashedVocabulary(),
    )


def model_of(name: str) -> JointTagger:
    """A tagger of the reference shape, initialised."""
    kinds: dict[str, type[JointTagger]] = {"BiLSTM": BiLSTMTagger, "transformer": TransformerTagger}
    tagger = kinds[name](**SIZES)
    tagger.initialise(torch_generator(0, "model"))
    return tagger


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """One round of a cohort, in several ways.

    Attributes:
      people: the cohort; everybody takes part.
      model: what is trained.
      private: by DP-SGD, of noise multiplier 1.
      where: the torch device that computes.
    """

    people: Population
    model: JointTagger
    private: bool
    where: torch.device

    PRIVACY: ClassVar = ExampleLevel(noise_multiplier=1.0, delta=1e-6)

    @cached_property
    def trainer(self) -> LocalTrainer:
        """What every device does."""
        rate = 0.1
        made = procedures("sgd", self.model, rate)
        if self.private:
            made = private_procedures(self.PRIVACY, self.model, rate, BATCH)
        return LocalTrainer(
            population=self.people,
            model=self.model,
            procedure=made,
            batch_size=BATCH,
            local_epochs=1,
            local_steps=None,
            seed=0,
            privacy=self.PRIVACY if self.private else None,
        )

    @cached_property
    def parameters(self) -> Parameters:
        """Of the global model."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    @cached_property
    def plan(self) -> ChunkPlan:
        """How many devices make a stack."""
        return planned(self.trainer, self.parameters, self.where)

    @cached_property
    def turn(self) -> list[int]:
        """Devices, those with most to do first."""
        return in_turn(self.trainer, range(self.people.devices), 0)

    def finished(self, results: Iterable[LocalResult]) -> int:
        """Take the mean of what devices trained, as a server does; how many examples they hold."""
        replies = list(results)
        held = [reply.examples for reply in replies]
        weighted_sum([reply.trained for reply in replies], [n / sum(held) for n in held])
        return sum(held)

    def one_by_one(self, round: int, devices: list[int]) -> Iterator[LocalResult]:
        """Devices one after another: on a processor as the local engine trains them."""
        for device in devices:
            if self.where.type == "cpu":
                yield self.trainer.train(self.parameters, device=device, period=0, round=round)
            else:
                yield from self.stacked(round, [device], 1)

    def stacked(
        self, round: int, devices: list[int], most: int | None = None
    ) -> Iterator[LocalResult]:
        """Devices as stacks of so many, or of as many as are planned."""
        most = most or self.plan.devices
        for start in range(0, len(devices), most):
            yield from train_together(
                self.trainer,
                self.parameters,
                devices[start : start + most],
                period=0,
                round=round,
                where=self.where,
            )

    def served(self, round: int) -> int:
        """Examples in the batches of a round: as many as are held, or as Poisson's coins say."""
        held = enumerate(self.people.activity().tolist())
        plans = (self.trainer.drawn(n, device=device, round=round) for device, n in held)
        return sum(len(indices) for plan in plans for indices, _ in plan)

    def places(self, round: int) -> int:
        """Words that a round works on as stacks, with all that fills them up."""
        most, found = self.plan.devices, 0
        for start in range(0, len(self.turn), most):
            held = {d: self.people.held(d, 0) for d in self.turn[start : start + most]}
            together = StackedBatches(list(held.values()))
            plans = [
                [indices for indices, _ in self.trainer.drawn(len(own), device=d, round=round)]
                for d, own in held.items()
            ]
            for step in range(len(plans[0])):
                drawn = [plan[step] for plan in plans if step < len(plan)]
                lengths = together.batch(drawn, [1.0] * len(drawn))["lengths"]
                # A sentence is padded to that of the same rank by length on another device.
                found += len(drawn) * int(lengths.amax(0).sum())
        return found

    def pooled(self, round: int) -> int:
        """One model on large batches of everybody's examples; how many it met.

        At most four batches: it is a throughput that is asked for.
        """
        held = concatenate([self.people.held(d, 0) for d in range(min(self.people.devices, 512))])
        procedure = self.trainer.procedure(0.0)
        if self.private:
            made = private_procedures(self.PRIVACY, self.model, 0.1, POOLED)
            procedure = made(0.0)
        own = {name: p.to(self.where) for name, p in self.parameters.items()}
        state = procedure.start(own, stream(0, "bench noise", round))
        order = stream(0, "bench pooled", round).permutation(len(held))[: 4 * POOLED]
        for start in range(0, len(order), POOLED):
            batch = tensors(held, order[start : start + POOLED])
            lengths = batch["lengths"]
            batch = {n: v.to(self.where) for n, v in batch.items()} | {"lengths": lengths}
            state = procedure.step(state, batch)
        procedure.finish(state)
        return len(order)
