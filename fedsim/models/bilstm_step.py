"""One step of SGD of a BiLSTM tagger of a single device, with the gradient written out.

A device's step is a hundred short operations around two long ones, the LSTM's kernel and its mirror
image. Through autograd each of the short ones leaves a node and a tensor of its own behind, and a
gradient is first stored and then added; written out, it is added where it arises. The model is that
of `fedsim.models.bilstm` and `fedsim.models.joint`; going down its losses by autograd is the oracle
of this module's tests.

Rows are words, time step by time step, padding included (`fedsim.models.packing`).
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from fedsim.models.joint import EMBEDDING_GAIN, FEATURE_GAIN, Batch, Parameters
from fedsim.models.packing import Packing, among_highest

_kernel: Callable = torch.mkldnn_rnn_layer
_mirror_image: Callable = torch.ops.aten.mkldnn_rnn_layer_backward.default

# What cross-entropy consists of.
_nll: Callable = torch.ops.aten.nll_loss_forward.default
_nll_backward: Callable = torch.ops.aten.nll_loss_backward.default
_log_softmax_backward: Callable = torch.ops.aten._log_softmax_backward_data.default
_EACH, _NO_LABEL = 0, -1
"""PyTorch's number for a loss of each row, and the label of rows that have none."""

_PRESENT = torch.backends.mkldnn.is_available()
"""Whether this build of PyTorch has them."""

_LSTM = 2
"""PyTorch's number for this kind of recurrent layer."""


def can_descend(parameters: Parameters, batch: Batch) -> bool:
    """Whether a step can be had here: one device, on a CPU, with PyTorch's kernel, and words."""
    table = parameters["embedding"]
    return (
        table.dim() == 2
        and table.dtype == torch.float32
        and table.device.type == "cpu"
        and _PRESENT
        and batch["token_ids"].numel() > 0
    )


@torch.no_grad()
def descend(parameters: Parameters, batch: Batch, learning_rate: float) -> Tensor:
    """parameters -= learning rate x gradient of the batch mean, in place.

    Args:
      parameters: of a BiLSTM tagger, without a device axis, float32 on a CPU.
      batch: of at least one word; see `fedsim.models.joint.Batch`.
      learning_rate: > 0.

    Returns:
      (B,) losses before the step.
    """
    packing = Packing.of(batch["lengths"], batch["token_ids"].shape[1])
    ids = packing.packed(batch["token_ids"])
    slots = batch["slots"].t().flatten()
    table, pieces = parameters["embedding"], ids.shape[1]
    gain = EMBEDDING_GAIN * pieces**-0.5
    words = table.index_select(0, ids.flatten()).mul_(gain)
    if pieces > 1:
        words = words.unflatten(0, ids.shape).sum(1)
    lstm = [parameters[name].unbind() for name in ("lstm_ih", "lstm_hh", "lstm_bias")]
    ways = [_Way(words, packing, i == 1, *own) for i, own in enumerate(zip(*lstm, strict=True))]
    features = torch.cat([way.states for way in ways], dim=1)
    values = packing.timed(packing.kept(features, float("-inf")))
    pooled = values.amax(0)
    if not packing.full:
        pooled.masked_fill_(packing.lengths.unsqueeze(-1) == 0, 0.0)
    intent_head, slot_head = (
        (parameters[f"{name}_weight"], parameters[f"{name}_bias"]) for name in ("intent", "slot")
    )
    lengths = packing.lengths.clamp(min=1)
    rates = batch["weight"] * (learning_rate / max(float(batch["size"]), 1.0))
    of_words = (rates / lengths).repeat(packing.tokens)
    losses, of_pooled = _down(pooled, *intent_head, batch["intents"], rates)
    word_losses, of_features = _down(features, *slot_head, slots, of_words)
    losses += word_losses.view(packing.tokens, -1).sum(0) / lengths
    is_highest, count = among_highest(values, pooled, 0)
    packing.timed(of_features).addcmul_(is_highest, of_pooled / count)
    halves = of_features.chunk(2, dim=1)
    forth, back = (way.down(half) for way, half in zip(ways, halves, strict=True))
    of_rows = forth.add_(back)
    if pieces > 1:
        of_rows = of_rows.repeat_interleave(pieces, 0)
    table.index_add_(0, ids.flatten(), of_rows, alpha=-gain)
    return losses


def _down(
    inputs: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, rates: Tensor
) -> tuple[Tensor, Tensor]:
    """A step of a head under cross-entropy, in place; -1 stands for no label.

    Args:
      inputs: (rows, inputs), which the head multiplies by FEATURE_GAIN.
      weight: (labels, inputs).
      bias: (labels,).
      labels: (rows,).
      rates: (rows,).

    Returns:
      Losses, (rows,), and the gradient by the inputs, of the layer before the step.
    """
    # The gain goes to the weight, which is smaller than the inputs.
    scaled = weight * FEATURE_GAIN
    said = torch.addmm(bias, inputs, scaled.t()).log_softmax(1)
    losses, total = _nll(said, labels, None, _EACH, _NO_LABEL)
    of_said = _nll_backward(rates, said, labels, None, _EACH, _NO_LABEL, total)
    slope = _log_softmax_backward(of_said, said, 1, said.dtype)
    of_inputs = slope.mm(scaled)
    weight.addmm_(slope.t(), inputs, alpha=-FEATURE_GAIN)
    bias.sub_(slope.sum(0))
    return losses, of_inputs


class _Way:
    """One direction of the LSTM, by PyTorch's kernel: words (n, inputs) -> states (n, hidden).

    The kernel can read from the last place on, which is the last word where all sentences are
    equally long; others are turned round for it.
    """

    def __init__(self, words: Tensor, packing: Packing, backwards: bool, *weights: Tensor) -> None:
        self._turn = packing.mirror if backwards and not packing.full else None
        self._packing, self._weights, hidden = packing, weights, weights[1].shape[1]
        # No state comes before the first, and the kernel's second bias is nothing here.
        zero, nought = _zeros(1, packing.examples, hidden), _zeros(4 * hidden)
        self._inputs = packing.timed(self._turned(words)), *weights, nought, zero, zero
        self._reverse, self._hidden = backwards and packing.full, hidden
        # Only then the kernel keeps what its mirror image needs.
        with torch.enable_grad():
            *self._outputs, self._workspace = _kernel(
                *(*self._inputs, self._reverse, [], _LSTM, hidden, 1, True, False, False, True)
            )
        self.states = self._turned(self._outputs[0].flatten(0, 1))

    def down(self, grad: Tensor) -> Tensor:
        """A step, given the gradient by the states, (n, hidden): that by the words before it."""
        of_states = self._packing.timed(self._turned(grad)), None, None
        words, *of_weights = _mirror_image(
            *(*self._inputs, *self._outputs, *of_states, self._reverse, _LSTM, self._hidden),
            *(1, True, True, False, [], False, self._workspace),
        )[:4]
        torch._foreach_sub_(self._weights, of_weights)
        return self._turned(words.flatten(0, 1))

    def _turned(self, rows: Tensor) -> Tensor:
        return rows if self._turn is None else rows.index_select(0, self._turn)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _zeros(*shape: int) -> Tensor:
    """Zeros that nobody writes to; kept, for training too, whatever torch's defaults are now."""
    return torch.zeros(shape, dtype=torch.float32, device="cpu")
