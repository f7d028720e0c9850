"""Joint intent classification and slot filling, on top of any sentence encoder.

The intent is read from the maximum over a sentence's words, each slot label from its word. The loss
is per example: intent cross-entropy plus the mean slot cross-entropy over the example's own words
(a mean over the batch's words would couple examples and break per-example privacy).

Models are functional: `losses(parameters, batch)` takes the parameters as a dict of tensors, all of
them with a leading device axis or none of them, so that one function serves a single device, a
stack of devices and the server.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.models.packing import Packing
from fedsim.models.tape import Blocks, Packed, Rows, Use, note
from fedsim.rng import torch_generator

if TYPE_CHECKING:
    from fedsim.population import Population

EMBEDDING_GAIN, FEATURE_GAIN = 8.0, 3.0
"""Constants that word vectors and the heads' inputs are multiplied by (initial word vectors keep
unit variance). Under plain SGD they act like larger rates for embeddings (64 times) and heads
(9 times), which one common rate would starve. Chosen on the dev set of `massive`, where an
embedding gain of 16 did better still, and worse on `home`."""

Parameters = dict[str, Tensor]
Batch = Mapping[str, Tensor]
"""token_ids (..., B, T, pieces), lengths (..., B), intents (..., B), slots (..., B, T), weight
(..., B), size (...); rows sorted by length, longest first. See `fedsim.training.batches`."""


class Predictions(NamedTuple):
    """What the model says about a batch.

    Attributes:
      intents: (..., B) intent ids.
      slots: (..., B, T) slot label ids, -1 at padding.
      losses: (..., B) per-example losses.
    """

    intents: Tensor
    slots: Tensor
    losses: Tensor


class JointTagger(nn.Module):
    """Word embedding, an encoder, and two linear heads.

    Subclasses add the encoder's parameters and `encode`, and say in `sgd_rate` at which rate plain
    SGD trains them well, and in `private_rate` at which DP-SGD does at clip norm 1.

    Args:
      rows: rows of the embedding table, padding included.
      intents: number of intents.
      slot_labels: number of BIO labels.
      embedding: width of a word embedding.
      features: width of the encoder's output.
    """

    sgd_rate: float
    private_rate: float
    """Untrained, every example's gradient is longer than 1 (about 9 in a BiLSTM and 60 in a
    transformer), so that a step's length and its noise follow from rate x clip norm alone. Chosen
    on the dev set of `massive` (noise multiplier 0.5, cohort 32) among 0.1, 0.3, 1 and 3 for the
    BiLSTM (intent accuracy after 40 rounds .10, .16, .24, .10) and 0.03, 0.1, 0.3 and 1 for the
    transformer (after 20 rounds .03, .06, .12, .11); the largest
    of these tried on `snips`, 1 and 0.3, were best there."""
    lookup: str | None = "embedding"
    """A parameter whose rows are read by `token_ids` and by nothing else, or None. Devices then
    train the rows of their own words alone."""

    def __init__(
        self, *, rows: int, intents: int, slot_labels: int, embedding: int, features: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(rows, embedding))
        self.intent_weight = nn.Parameter(torch.empty(intents, features))
        self.intent_bias = nn.Parameter(torch.empty(intents))
        self.slot_weight = nn.Parameter(torch.empty(slot_labels, features))
        self.slot_bias = nn.Parameter(torch.empty(slot_labels))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows of the embedding table, intents and slot labels."""
        return len(self.embedding), len(self.intent_bias), len(self.slot_bias)

    @classmethod
    def sized_for(cls, population: "Population", *, seed: int = 0, **sizes: Any) -> Self:
        """A model for a population's declared labels and vocabulary size; reads nothing else.

        Args:
          population: whose inventory and vocabulary rows are used.
          seed: of the initial parameters.
          **sizes: widths, passed to the constructor.
        """
        model = cls(
            rows=population.vocabulary.rows,
            intents=len(population.inventory.intents),
            slot_labels=len(population.inventory.slot_labels),
            **sizes,
        )
        model.initialise(torch_generator(seed, "model"))
        return model

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Fresh parameters: unit word vectors, matrices U(+-1/sqrt(inputs)), biases zero."""
        for name, parameter in self.named_parameters():
            if name == "embedding":
                parameter.normal_(std=1 / EMBEDDING_GAIN, generator=generator)
            elif "bias" in name:
                parameter.zero_()
            elif "scale" in name:
                parameter.fill_(1.0)
            else:
                bound = parameter.shape[-1] ** -0.5
                parameter.uniform_(-bound, bound, generator=generator)

    @abstractmethod
    def encode(self, parameters: Parameters, words: Tensor, packing: Packing) -> Tensor:
        """Features of each word: (..., n, embedding) -> (..., n, features)."""

    def losses(self, parameters: Parameters, batch: Batch) -> Tensor:
        """Joint loss of each example, shape (..., B)."""
        packing, intents, slots = self._logits(parameters, batch)
        return _joint_losses(batch, packing, intents, slots)

    def descend(self, parameters: Parameters, batch: Batch, learning_rate: float) -> Tensor | None:
        """A step of SGD, in place, where a model has one that is faster than autograd's.

        Args:
          parameters: -= learning rate x gradient of the batch mean, in which null records weigh 0
            and are counted.
          batch: as for `losses`.
          learning_rate: > 0.

        Returns:
          `losses` before the step; None, and nothing changed, where autograd is to do it.
        """
        return None

    def predict(self, parameters: Parameters, batch: Batch) -> Predictions:
        """Most likely labels, and the losses."""
        packing, intents, slots = self._logits(parameters, batch)
        labels = packing.padded(slots.argmax(-1, keepdim=True) + 1).squeeze(-1) - 1
        labels = labels.masked_fill(batch["slots"] < 0, -1)
        losses = _joint_losses(batch, packing, intents, slots)
        return Predictions(intents.argmax(-1), labels, losses)

    def word_losses(self, parameters: Parameters, batch: Batch) -> tuple[Tensor, Tensor]:
        """Joint losses, (..., B), and the slot loss of each word, (..., B, T), 0 at padding."""
        packing, intents, slots = self._logits(parameters, batch)
        words = packing.padded(_slot_losses(batch, packing, slots)).squeeze(-1)
        return _joint_losses(batch, packing, intents, slots), words

    def forward(self, batch: Batch) -> Tensor:
        """Per-example losses at the module's own parameters."""
        return self.losses(dict(self.named_parameters()), batch)

    def _logits(self, parameters: Parameters, batch: Batch) -> tuple[Packing, Tensor, Tensor]:
        """Layout, intent logits (..., B, intents) and slot logits (..., n, slot labels)."""
        token_ids = batch["token_ids"]
        packing = Packing.of(batch["lengths"], token_ids.shape[-2], token_ids.device)
        places = Packed(packing)
        words = _embed(parameters["embedding"], packing.packed(token_ids), places)
        features = FEATURE_GAIN * self.encode(parameters, words, packing)
        pooled = packing.maxima(features)
        whole = Blocks(packing.examples)
        intents = linear(pooled, parameters["intent_weight"], parameters["intent_bias"], whole)
        slots = linear(features, parameters["slot_weight"], parameters["slot_bias"], places)
        return packing, intents, slots


def linear(inputs: Tensor, weight: Tensor, bias: Tensor, rows: Rows) -> Tensor:
    """A linear layer whose weight may carry a leading device axis.

    Args:
      inputs: (..., rows, inputs).
      weight: (outputs, inputs) or (devices, outputs, inputs).
      bias: (outputs,) or (devices, outputs).
      rows: which example each row belongs to.
    """
    if weight.dim() == 2:
        output = F.linear(inputs, weight, bias)
    else:
        output = torch.baddbmm(bias.unsqueeze(1), inputs, weight.transpose(1, 2))
    note(Use("linear", (weight, bias), inputs, output, rows))
    return output


def _embed(table: Tensor, token_ids: Tensor, places: Rows) -> Tensor:
    """Word vectors (..., n, width): the scaled sum of the rows (..., n, pieces) of each word."""
    pieces = token_ids.shape[-1]
    gain = EMBEDDING_GAIN * pieces**-0.5
    if table.dim() == 2:
        rows = F.embedding(token_ids, table)
    else:
        devices, count, width = table.shape
        shifted = token_ids + count * torch.arange(devices, device=table.device).view(-1, 1, 1)
        rows = F.embedding(shifted, table.reshape(-1, width))
    words = gain * (rows.squeeze(-2) if pieces == 1 else rows.sum(-2))
    note(Use("embedding", (table,), token_ids, words, places, gain))
    return words


def _joint_losses(batch: Batch, packing: Packing, intents: Tensor, slots: Tensor) -> Tensor:
    """Intent cross-entropy plus the mean slot cross-entropy of each example's words."""
    words = _slot_losses(batch, packing, slots)
    return _cross_entropy(intents, batch["intents"]) + packing.means(words).squeeze(-1)


def _slot_losses(batch: Batch, packing: Packing, slots: Tensor) -> Tensor:
    """Slot cross-entropy of each word, (..., n, 1)."""
    wanted = packing.packed(batch["slots"].unsqueeze(-1)).squeeze(-1)
    return _cross_entropy(slots, wanted).unsqueeze(-1)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Of each label, in float32 at least; 0 for -1, where there is no word."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    flat = F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=-1, reduction="none"
    )
    return flat.view(labels.shape)
