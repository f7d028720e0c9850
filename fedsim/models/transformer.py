"""A small transformer for joint intents and slots.

Pre-norm blocks; attention is built from linear maps and `scaled_dot_product_attention`; positions
are sinusoids, so they are no parameters and need no table.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.models.joint import JointTagger, Parameters, linear
from fedsim.models.packing import Packing
from fedsim.models.tape import Blocks, Packed, Rows, Use, note


class TransformerTagger(JointTagger):
    """Embedding, `layers` pre-norm transformer blocks, intent and slot heads.

    Args:
      rows: rows of the embedding table, padding included.
      intents: number of intents.
      slot_labels: number of BIO labels.
      embedding: width of the model; divisible by `heads`.
      layers: number of blocks.
      heads: attention heads.
    """

    sgd_rate = 0.1
    private_rate = 0.3

    def __init__(
        self,
        *,
        rows: int,
        intents: int,
        slot_labels: int,
        embedding: int = 128,
        layers: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__(
            rows=rows,
            intents=intents,
            slot_labels=slot_labels,
            embedding=embedding,
            features=embedding,
        )
        self.layers, self.heads = layers, heads
        for layer in range(layers):
            for name, outputs, inputs in (
                ("qkv", 3 * embedding, embedding),
                ("mix", embedding, embedding),
                ("up", 4 * embedding, embedding),
                ("down", embedding, 4 * embedding),
            ):
                self._add(f"{name}_weight_{layer}", outputs, inputs)
                self._add(f"{name}_bias_{layer}", outputs)
            for name in ("attention", "feedforward"):
                self._add_norm(f"{name}_{layer}", embedding)
        self._add_norm("last", embedding)

    def _add(self, name: str, *shape: int) -> None:
        self.register_parameter(name, nn.Parameter(torch.empty(*shape)))

    def _add_norm(self, name: str, width: int) -> None:
        self._add(f"{name}_scale", width)
        self._add(f"{name}_bias", width)

    def encode(self, parameters: Parameters, words: Tensor, packing: Packing) -> Tensor:
        """Contextual words, shape (..., n, embedding)."""
        layout = _Layout.of(packing)
        codes = _sinusoids(packing.tokens, words.shape[-1], words)
        states = layout.laid_out(words) + codes.index_select(0, layout.steps)
        column = torch.arange(packing.tokens, device=words.device)
        # An empty sentence attends to its first place, so that no softmax is over nothing.
        visible = column < packing.lengths.clamp(min=1).unsqueeze(-1)
        for layer in range(self.layers):
            states = states + self._attend(parameters, layer, states, visible, layout)
            states = states + self._feed(parameters, layer, states, layout.rows)
        return layout.taken_up(_norm(parameters, "last", states, layout.rows))

    def _attend(
        self, p: Parameters, layer: int, states: Tensor, visible: Tensor, layout: "_Layout"
    ) -> Tensor:
        normed = _norm(p, f"attention_{layer}", states, layout.rows)
        qkv = linear(normed, p[f"qkv_weight_{layer}"], p[f"qkv_bias_{layer}"], layout.rows)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for part in layout.by_sentence(qkv).chunk(3, dim=-1)
        )
        mask = visible[..., None, None, :]
        mixed = layout.by_row(_attention(q, k, v, mask).transpose(-3, -2).flatten(-2))
        return linear(mixed, p[f"mix_weight_{layer}"], p[f"mix_bias_{layer}"], layout.rows)

    def _feed(self, p: Parameters, layer: int, states: Tensor, rows: Rows) -> Tensor:
        normed = _norm(p, f"feedforward_{layer}", states, rows)
        up = linear(normed, p[f"up_weight_{layer}"], p[f"up_bias_{layer}"], rows)
        return linear(F.gelu(up), p[f"down_weight_{layer}"], p[f"down_bias_{layer}"], rows)


class _Layout(NamedTuple):
    """Where words lie between the layers: as rows, which attention alone wants by sentence.

    A stack's rows are its places, and only attention works on padding. A single device's are its
    sentences with their padding, one after another: seen by sentence without a copy.
    """

    packing: Packing
    rows: Rows
    steps: Tensor

    @classmethod
    def of(cls, packing: Packing) -> "_Layout":
        if not packing.whole:
            return cls(packing, Packed(packing), packing.place % packing.tokens)
        steps = torch.arange(packing.tokens, device=packing.lengths.device)
        rows = Blocks(packing.examples, packing.tokens)
        return cls(packing, rows, steps.repeat(packing.examples))

    def laid_out(self, words: Tensor) -> Tensor:
        """The words of a packing as rows."""
        return self.packing.padded(words).flatten(0, 1) if self.packing.whole else words

    def taken_up(self, rows: Tensor) -> Tensor:
        """Rows as words of a packing."""
        return self.packing.packed(self.by_sentence(rows)) if self.packing.whole else rows

    def by_sentence(self, rows: Tensor) -> Tensor:
        """(..., rows, features) -> (..., examples, tokens, features)."""
        if self.packing.whole:
            return rows.unflatten(0, (self.packing.examples, self.packing.tokens))
        return self.packing.padded(rows)

    def by_row(self, sentences: Tensor) -> Tensor:
        """(..., examples, tokens, features) -> (..., rows, features)."""
        if self.packing.whole:
            return sentences.flatten(0, 1)
        return self.packing.packed(sentences)


def _norm(parameters: Parameters, name: str, states: Tensor, rows: Rows) -> Tensor:
    """Layer normalisation whose scale and bias may carry a leading device axis."""
    scale, bias = parameters[f"{name}_scale"], parameters[f"{name}_bias"]
    normed = F.layer_norm(states, states.shape[-1:])
    if scale.dim() == 2:
        output = normed * scale.unsqueeze(1) + bias.unsqueeze(1)
    else:
        output = normed * scale + bias
    note(Use("affine", (scale, bias), normed, output, rows))
    return output


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Values mixed, (..., heads, tokens, width) each."""
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":
        # Several times as fast: PyTorch's backward pass for processors is slow in bfloat16.
        wide = q.float(), k.float(), v.float()
        return F.scaled_dot_product_attention(*wide, attn_mask=mask).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _sinusoids(tokens: int, width: int, like: Tensor) -> Tensor:
    """Position codes (tokens, width) of Vaswani et al. 2017, section 3.5."""
    # An angle of many turns has none of them right in half precision.
    kind = torch.promote_types(like.dtype, torch.float32)
    place = torch.arange(tokens, dtype=kind, device=like.device).unsqueeze(1)
    rate = torch.exp(
        torch.arange(0, width, 2, dtype=kind, device=like.device)
        * (-torch.log(torch.tensor(10_000.0)).item() / width)
    )
    angle = place * rate
    return torch.stack([torch.sin(angle), torch.cos(angle)], dim=-1).flatten(-2).to(like.dtype)
