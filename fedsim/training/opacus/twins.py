"""Which module, built from layers that Opacus knows, computes what a tagger computes?

Taggers are functions of bare parameters; Opacus watches modules. A twin has the same layers as
`nn.Embedding`, `nn.Linear`, `nn.LayerNorm` and Opacus's LSTM, takes its parameters from the tagger,
and returns the same per-example losses. The second bias of the LSTM is zero and frozen: trained, it
would count twice in every norm.
"""

import torch
import torch.nn.functional as F
from opacus.layers import DPLSTM
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fedsim.errors import require
from fedsim.models import BiLSTMTagger, JointTagger, TransformerTagger
from fedsim.models.joint import EMBEDDING_GAIN, FEATURE_GAIN, Batch, Parameters
from fedsim.models.transformer import _sinusoids


class Twin(nn.Module):
    """A tagger as a module; made by `twin_of`.

    Args:
      model: whose sizes and names it has.
      encoder: (words (examples, tokens, embedding), lengths) -> (examples, tokens, features).
      places: parameter of the tagger's encoder -> names of the encoder's own, one a direction.
    """

    def __init__(
        self, model: JointTagger, encoder: nn.Module, places: dict[str, tuple[str, ...]]
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(*model.embedding.shape)
        self.encoder = encoder
        self.intent = _head(model.intent_weight)
        self.slot = _head(model.slot_weight)
        own = {"embedding": ("embedding.weight",)} | {
            f"{head}_{part}": (f"{head}.{part}",)
            for head in ("intent", "slot")
            for part in ("weight", "bias")
        }
        inner = {n: tuple(f"encoder.{p}" for p in names) for n, names in places.items()}
        self._places = own | inner

    def forward(self, batch: Batch) -> Tensor:
        """Joint loss of each example, (examples,); sentences sorted by length, longest first."""
        token_ids, lengths = batch["token_ids"], batch["lengths"]
        tokens, pieces = token_ids.shape[1:]
        rows = self.embedding(token_ids.flatten(1)).unflatten(1, (tokens, pieces))
        words = EMBEDDING_GAIN * pieces**-0.5 * rows.sum(2)
        features = FEATURE_GAIN * self.encoder(words, lengths)
        outside = torch.arange(tokens, device=lengths.device) >= lengths.unsqueeze(1)
        pooled = features.masked_fill(outside.unsqueeze(2), -torch.inf).amax(1)
        pooled = pooled.masked_fill(lengths.unsqueeze(1) == 0, 0.0)
        intents = F.cross_entropy(self.intent(pooled), batch["intents"], reduction="none")
        slots = F.cross_entropy(
            self.slot(features).transpose(1, 2), batch["slots"], ignore_index=-1, reduction="none"
        )
        return intents + slots.sum(1) / lengths.clamp(min=1)

    def places(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """Own parameters under the tagger's names; several where the tagger stacks directions."""
        return {n: tuple(map(self.get_parameter, own)) for n, own in self._places.items()}

    @torch.no_grad()
    def take(self, parameters: Parameters) -> None:
        """Compute at these parameters of the tagger."""
        for name, own in self.places().items():
            for p, value in zip(own, _parts(parameters[name], own), strict=True):
                p.copy_(value)


def twin_of(model: JointTagger) -> Twin:
    """The twin of a BiLSTM or a transformer tagger, at parameters of its own.

    Raises:
      ConfigError: the tagger is of another class.

    Example:
      >>> from fedsim.rng import torch_generator
      >>> model = BiLSTMTagger(rows=9, intents=2, slot_labels=3, embedding=4, hidden=2)
      >>> model.initialise(torch_generator(0, "model"))
      >>> twin = twin_of(model)
      >>> twin.take(dict(model.named_parameters()))
      >>> batch = {
      ...     "token_ids": torch.tensor([[[4], [5]], [[6], [0]]]),
      ...     "lengths": torch.tensor([2, 1]),
      ...     "intents": torch.tensor([0, 1]),
      ...     "slots": torch.tensor([[0, 1], [2, -1]]),
      ... }
      >>> torch.allclose(twin(batch), model(batch), atol=1e-6)
      True
    """
    width = model.embedding.shape[1]
    if type(model) is BiLSTMTagger:
        encoder: nn.Module = _LSTM(width, model.lstm_hh.shape[-1])
        places = {
            f"lstm_{ours}": tuple(f"lstm.{theirs}_{way}" for way in ("l0", "l0_reverse"))
            for ours, theirs in (("ih", "weight_ih"), ("hh", "weight_hh"), ("bias", "bias_ih"))
        }
    else:
        require(
            type(model) is TransformerTagger,
            f"the model is a {type(model).__name__}, which has no twin made of Opacus's layers; "
            "choose the backend book-keeping",
        )
        assert isinstance(model, TransformerTagger)
        encoder = _Transformer(width, model.layers, model.heads)
        places = encoder.places()
    return Twin(model, encoder, places)


def gathered(places: dict[str, tuple[Tensor, ...]]) -> Parameters:
    """Values of a twin's parameters under the tagger's names, directions stacked."""
    return {n: own[0] if len(own) == 1 else torch.stack(own) for n, own in places.items()}


def _head(weight: Tensor) -> nn.Linear:
    outputs, inputs = weight.shape
    return nn.Linear(inputs, outputs)


def _parts(value: Tensor, own: tuple[nn.Parameter, ...]) -> tuple[Tensor, ...]:
    return (value,) if len(own) == 1 else value.unbind()


class _LSTM(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lstm = DPLSTM(width, hidden, batch_first=True, bidirectional=True)
        for way in ("l0", "l0_reverse"):
            second = self.lstm.get_parameter(f"bias_hh_{way}")
            second.requires_grad_(False).zero_()

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        tokens = words.shape[1]
        if bool((lengths == tokens).all()):
            return self.lstm(words)[0]
        # A sentence without words is padding: its one step has no weight.
        packed = pack_padded_sequence(words, lengths.clamp(min=1).cpu(), batch_first=True)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=tokens)[0]


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.last = nn.LayerNorm(width)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        column = torch.arange(words.shape[1], device=words.device)
        visible = column < lengths.clamp(min=1).unsqueeze(-1)
        states = words + _sinusoids(words.shape[1], words.shape[2], words)
        for block in self.blocks:
            states = block(states, visible)
        return self.last(states)

    def places(self) -> dict[str, tuple[str, ...]]:
        """Names of the tagger's parameters -> own names."""
        places: dict[str, tuple[str, ...]] = {
            "last_scale": ("last.weight",),
            "last_bias": ("last.bias",),
        }
        for n in range(len(self.blocks)):
            for part in ("qkv", "mix", "up", "down"):
                for kind in ("weight", "bias"):
                    places[f"{part}_{kind}_{n}"] = (f"blocks.{n}.{part}.{kind}",)
            for norm in ("attention", "feedforward"):
                for ours, theirs in (("scale", "weight"), ("bias", "bias")):
                    places[f"{norm}_{n}_{ours}"] = (f"blocks.{n}.{norm}.{theirs}",)
        return places


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention, self.feedforward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, states: Tensor, visible: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention(states)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None, None])
        states = states + self.mix(mixed.transpose(1, 2).flatten(2))
        return states + self.down(F.gelu(self.up(self.feedforward(states))))
