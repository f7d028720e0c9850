"""Claims about the validator: what breaks per-example gradients is named before training."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsim import ConfigError
from fedsim.models import BiLSTMTagger, TransformerTagger
from fedsim.models.joint import linear
from fedsim.models.tape import Blocks
from fedsim.training.validator import (
    faults,
    require_exact,
    require_exact_tagger,
    unknown_parameters,
)

SIZES = {"rows": 11, "intents": 3, "slot_labels": 4}


def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (nn.Sequential(nn.BatchNorm1d(2)), ["module 0 is a BatchNorm1d, which mixes"]),
        (nn.Sequential(nn.BatchNorm1d(2, affine=False)), ["module 0 is a BatchNorm1d"]),
        (tied(), ["parameters 0.weight and 2.weight are one tensor"]),
        (nn.Sequential(nn.LSTM(2, 2)), ["module 0 is a nn.LSTM, whose two biases"]),
        (nn.Sequential(nn.Conv1d(2, 2, 1)), ["module 0 is a Conv1d"]),
        (nn.Sequential(nn.BatchNorm1d(2), nn.Conv1d(2, 2, 1)), ["module 0", "module 1"]),
        (nn.Sequential(nn.Embedding(3, 2), nn.LayerNorm(2), nn.ReLU(), nn.Linear(2, 2)), []),
    ],
)
def test_every_layer_that_breaks_gradients_is_named_with_a_remedy(model, what):
    found = faults(model)
    assert len(found) == len(what)
    assert all(
        fault.startswith(start) and ";" in fault for fault, start in zip(found, what, strict=True)
    )


@pytest.mark.parametrize("model", [BiLSTMTagger(**SIZES), TransformerTagger(**SIZES)])
def test_the_taggers_pass(model):
    require_exact_tagger(model)


def parameters(*names):
    draw = torch.Generator().manual_seed(0)
    shapes = {"w": (3, 3), "b": (3,), "v": (3, 3), "c": (3,)}
    return {n: torch.randn(shapes[n], generator=draw) for n in names}


BATCH = {
    "x": torch.randn(4, 3, generator=torch.Generator().manual_seed(1)),
    "weight": torch.ones(4),
}


def layer(p, x, w="w", b="b"):
    return linear(x, p[w], p[b], Blocks(len(x)))


def squares(states):
    return states.square().sum(-1)


def sound(p, batch):
    return squares(layer(p, torch.tanh(layer(p, batch["x"])), "v", "c"))


def batch_averaged(p, batch):
    return squares(layer(p, batch["x"])) / len(batch["x"])


def batch_normalised(p, batch):
    hidden = F.batch_norm(layer(p, batch["x"]), None, None, training=True)
    return squares(layer(p, hidden, "v", "c"))


def tied_weights(p, batch):
    return squares(layer(p, layer(p, batch["x"])))


def unknown_layer(p, batch):
    return squares(layer(p, batch["x"]) @ p["v"])


def used_beside_its_layer(p, batch):
    return squares(layer(p, batch["x"])) + (batch["x"] @ p["w"]).sum(-1)


def broadcast_positions(p, batch):
    return squares(layer(p, batch["x"]) + layer(p, torch.ones(1, 3), "v", "c"))


def test_a_sound_model_passes():
    require_exact(sound, parameters("w", "b", "v", "c"), BATCH)


@pytest.mark.parametrize(
    ("losses", "names", "what"),
    [
        (batch_averaged, "wb", "gradient at the layer with parameter w changes with who else"),
        (batch_normalised, "wbvc", "input of the layer with parameter v changes with who else"),
        (tied_weights, "wb", "parameter w is used by 2 layers"),
        (unknown_layer, "wbv", "parameter v is used by 0 layers"),
        (used_beside_its_layer, "wb", "gradient of parameter w is not the sum"),
        (broadcast_positions, "wbvc", "sees 1 examples where another sees 4"),
    ],
)
def test_what_breaks_gradients_is_refused_and_named(losses, names, what):
    with pytest.raises(ConfigError, match=what):
        require_exact(losses, parameters(*names), BATCH)


class Averaged(BiLSTMTagger):
    """A tagger whose loss is a mean over the batch."""

    def losses(self, parameters, batch):
        each = super().losses(parameters, batch)
        return each / batch["lengths"].sum()


class Crowded(TransformerTagger):
    """A tagger whose words are centred over the batch."""

    def encode(self, parameters, words, packing):
        return super().encode(parameters, words - words.mean(-2, keepdim=True), packing)


class Scalar(BiLSTMTagger):
    """A tagger with one loss for all."""

    def losses(self, parameters, batch):
        return super().losses(parameters, batch).mean()


class Neighbourly(BiLSTMTagger):
    """A tagger whose examples lend each other a part of their loss."""

    def losses(self, parameters, batch):
        each = super().losses(parameters, batch)
        return each + 0.1 * each.roll(-1, dims=-1)


class Positioned(TransformerTagger):
    """A tagger that looks positions up once for all examples."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.position_weight = nn.Parameter(torch.zeros(self.embedding.shape[1], 1))
        self.position_bias = nn.Parameter(torch.zeros(self.embedding.shape[1]))

    def encode(self, parameters, words, packing):
        one = words.new_ones(1, 1)
        at = linear(one, parameters["position_weight"], parameters["position_bias"], Blocks(1))
        return super().encode(parameters, words + at, packing)


class Twice(BiLSTMTagger):
    """A tagger that uses one layer twice."""

    def losses(self, parameters, batch):
        return super().losses(parameters, batch) + super().losses(parameters, batch)


class Normalised(BiLSTMTagger):
    """A tagger with a module that mixes examples."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.norm = nn.BatchNorm1d(2, affine=False)


class Tied(BiLSTMTagger):
    """A tagger with one tensor under two names."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.second_bias = self.intent_bias


class Gated(BiLSTMTagger):
    """A sound tagger with a layer of its own, which no tape notes."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.gate = nn.Parameter(torch.ones(self.embedding.shape[1]))

    def encode(self, parameters, words, packing):
        return super().encode(parameters, words * parameters["gate"], packing)


class GatedAndCrowded(Gated):
    """One of them, normalised over the batch."""

    def encode(self, parameters, words, packing):
        return super().encode(parameters, words - words.mean(-2, keepdim=True), packing)


def test_layers_of_ones_own_are_named_and_need_only_keep_examples_apart():
    assert unknown_parameters(Gated(**SIZES)) == ["gate"]
    require_exact_tagger(Gated(**SIZES))
    assert unknown_parameters(Crowded(**SIZES)) == []


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (Averaged(**SIZES), "with parameter embedding changes with who else is in the batch"),
        (Crowded(**SIZES), "the input of the layer with parameter attention_0_scale changes"),
        (Scalar(**SIZES), r"losses of 3 examples have the shape \(\); give each example a loss"),
        (Neighbourly(**SIZES), "an example's loss changes with who else is in the batch"),
        (Positioned(**SIZES), r"sees 1 examples .* \(position ids: expand them over the batch\)"),
        (Twice(**SIZES), "parameter embedding is used by 2 layers"),
        (Normalised(**SIZES), "module norm is a BatchNorm1d, .*; use nn.LayerNorm"),
        (Tied(**SIZES), "intent_bias and second_bias are one tensor, .*; give each layer a param"),
        (GatedAndCrowded(**SIZES), "loss changes with who else .*batch norm: use layer norm"),
    ],
)
def test_a_tagger_that_couples_its_examples_is_refused(model, what):
    with pytest.raises(ConfigError, match=what):
        require_exact_tagger(model)
