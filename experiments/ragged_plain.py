"""What is the fastest ordinary way to train the taggers on sentences of several lengths?

The models of `experiments.bench_plain`, out of PyTorch's own modules, on padded batches as devices
train on: an `nn.LSTM` reads packed sequences, attention is masked, and words have several pieces.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from experiments.bench_plain import PlainLSTM, PlainTagger, PlainTransformer
from fedsim.models import BiLSTMTagger, JointTagger, TransformerTagger
from fedsim.models.joint import EMBEDDING_GAIN, FEATURE_GAIN, Batch
from fedsim.models.transformer import _sinusoids


class RaggedTagger(nn.Module):
    """A tagger of PyTorch's modules.

    Args:
      plain: its layers.

    Example:
      >>> from fedsim.rng import torch_generator
      >>> model = BiLSTMTagger(rows=9, intents=2, slot_labels=3, embedding=4, hidden=2)
      >>> model.initialise(torch_generator(0, "model"))
      >>> batch = {
      ...     "token_ids": torch.tensor([[[4, 1], [5, 2]], [[6, 3], [0, 0]]]),
      ...     "lengths": torch.tensor([2, 1]),
      ...     "intents": torch.tensor([0, 1]),
      ...     "slots": torch.tensor([[0, 1], [2, -1]]),
      ... }
      >>> torch.allclose(ragged_plain(model)(batch), model(batch).mean(), atol=1e-6)
      True
    """

    def __init__(self, plain: PlainTagger) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss of the batch; sentences sorted by length, longest first, none empty."""
        token_ids, lengths, own = batch["token_ids"], batch["lengths"], self.plain
        tokens, pieces = token_ids.shape[1:]
        # A bag sums the pieces without ever building them one by one.
        bags = F.embedding_bag(token_ids.flatten(0, 1), own.embedding.weight, mode="sum")
        words = EMBEDDING_GAIN * pieces**-0.5 * bags.unflatten(0, (-1, tokens))
        outside = torch.arange(tokens) >= lengths.unsqueeze(1)
        features = FEATURE_GAIN * _encoded(own.encoder, words, lengths, outside)
        pooled = features.masked_fill(outside.unsqueeze(2), -torch.inf).amax(1)
        each = F.cross_entropy(
            own.slot(features).transpose(1, 2), batch["slots"], ignore_index=-1, reduction="none"
        )
        slots = (each.sum(1) / lengths).mean()
        return F.cross_entropy(own.intent(pooled), batch["intents"]) + slots


def ragged_plain(model: JointTagger) -> RaggedTagger:
    """The same model as a BiLSTM or transformer tagger, at its parameters."""
    rows, width = model.embedding.shape
    features = model.intent_weight.shape[1]
    encoder: nn.Module
    if isinstance(model, BiLSTMTagger):
        encoder = PlainLSTM(width, features // 2)
    else:
        assert isinstance(model, TransformerTagger)
        encoder = PlainTransformer(width, model.layers, model.heads)
    plain = PlainTagger(
        encoder,
        rows=rows,
        embedding=width,
        features=features,
        intents=len(model.intent_bias),
        slot_labels=len(model.slot_bias),
    )
    plain.take({name: p.detach() for name, p in model.named_parameters()})
    return RaggedTagger(plain)


def _encoded(encoder: nn.Module, words: Tensor, lengths: Tensor, outside: Tensor) -> Tensor:
    tokens = words.shape[1]
    if isinstance(encoder, PlainLSTM):
        packed = pack_padded_sequence(words, lengths, batch_first=True)
        return pad_packed_sequence(encoder.lstm(packed)[0], True, total_length=tokens)[0]
    assert isinstance(encoder, PlainTransformer)
    states = words + _sinusoids(tokens, words.shape[2], words)
    for layer in encoder.layers:
        states = layer(states, src_key_padding_mask=outside)
    return encoder.last(states)
