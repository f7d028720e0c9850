"""What is the fastest ordinary way to train the taggers on padded batches?

The same models out of PyTorch's own modules, whose kernels are what per-example privacy is compared
with: `nn.LSTM`, and `nn.TransformerEncoderLayer`. The loss is the batch mean.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.models.joint import EMBEDDING_GAIN, FEATURE_GAIN, Batch, Parameters
from fedsim.models.transformer import _sinusoids


class PlainTagger(nn.Module):
    """Embedding, an encoder, maximum over the words, two heads; sentences of one length.

    Args:
      encoder: (examples, tokens, embedding) -> (examples, tokens, features).
      rows: rows of the embedding table.
      embedding: width of a word vector.
      features: width of the encoder's output.
      intents: number of intents.
      slot_labels: number of slot labels.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        rows: int,
        embedding: int,
        features: int,
        intents: int,
        slot_labels: int,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, embedding)
        self.encoder = encoder
        self.intent = nn.Linear(features, intents)
        self.slot = nn.Linear(features, slot_labels)

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss of the batch; words of one piece."""
        words = EMBEDDING_GAIN * self.embedding(batch["token_ids"].squeeze(-1))
        features = FEATURE_GAIN * self.encoder(words)
        slots = F.cross_entropy(self.slot(features).flatten(0, 1), batch["slots"].flatten())
        return F.cross_entropy(self.intent(features.amax(1)), batch["intents"]) + slots

    @torch.no_grad()
    def take(self, parameters: Parameters) -> None:
        """Start from the parameters of a tagger of the same shape."""
        self.embedding.weight.copy_(parameters["embedding"])
        for head, name in ((self.intent, "intent"), (self.slot, "slot")):
            head.weight.copy_(parameters[f"{name}_weight"])
            head.bias.copy_(parameters[f"{name}_bias"])
        self.encoder.take(parameters)  # type: ignore[operator]


class PlainLSTM(nn.Module):
    """`nn.LSTM`, bidirectional."""

    def __init__(self, embedding: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True, bidirectional=True)

    def forward(self, words: Tensor) -> Tensor:
        """(examples, tokens, embedding) -> (examples, tokens, 2 hidden)."""
        return self.lstm(words)[0]

    def take(self, parameters: Parameters) -> None:
        """Weights of both directions."""
        for d, suffix in enumerate(("l0", "l0_reverse")):
            for ours, theirs in (("ih", "weight_ih"), ("hh", "weight_hh"), ("bias", "bias_ih")):
                self.lstm.get_parameter(f"{theirs}_{suffix}").copy_(parameters[f"lstm_{ours}"][d])
            self.lstm.get_parameter(f"bias_hh_{suffix}").zero_()


class PlainTransformer(nn.Module):
    """`nn.TransformerEncoderLayer`s, pre-norm, with sinusoids for positions."""

    def __init__(self, embedding: int, layers: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                embedding, heads, 4 * embedding, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.last = nn.LayerNorm(embedding)

    def forward(self, words: Tensor) -> Tensor:
        """(examples, tokens, embedding) -> the same."""
        states = words + _sinusoids(words.shape[1], words.shape[2], words)
        for layer in self.layers:
            states = layer(states)
        return self.last(states)

    def take(self, parameters: Parameters) -> None:
        """Weights of every block."""
        own = dict(self.named_parameters())
        for n in range(len(self.layers)):
            for theirs, ours in (
                ("self_attn.in_proj_*", f"qkv_*_{n}"),
                ("self_attn.out_proj.*", f"mix_*_{n}"),
                ("linear1.*", f"up_*_{n}"),
                ("linear2.*", f"down_*_{n}"),
            ):
                for kind in ("weight", "bias"):
                    target = own[f"layers.{n}.{theirs.replace('*', kind)}"]
                    target.copy_(parameters[ours.replace("*", kind)])
            for norm, name in (("norm1", "attention"), ("norm2", "feedforward")):
                own[f"layers.{n}.{norm}.weight"].copy_(parameters[f"{name}_{n}_scale"])
                own[f"layers.{n}.{norm}.bias"].copy_(parameters[f"{name}_{n}_bias"])
        self.last.weight.copy_(parameters["last_scale"])
        self.last.bias.copy_(parameters["last_bias"])
