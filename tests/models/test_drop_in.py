"""Claims about the LSTM that stands in for `nn.LSTM`."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fedsim import ConfigError
from fedsim.models import LSTM
from fedsim.rng import torch_generator
from fedsim.training.kernel import clipped_gradient

INPUTS, HIDDEN = 4, 3
SHAPES = pytest.mark.parametrize("layers", [1, 2, 3])
DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True])
LENGTHS = torch.tensor([2, 5, 1, 4])
"""Not sorted."""


def theirs(layers, bidirectional, dtype=torch.float32):
    module = nn.LSTM(
        INPUTS, HIDDEN, layers, batch_first=True, bidirectional=bidirectional, dtype=dtype
    )
    draw = torch_generator(0, "test")
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(generator=draw)
    return module


def words(dtype=torch.float32):
    return torch.randn(4, 5, INPUTS, generator=torch_generator(1, "test"), dtype=dtype)


def packed_states(module, inputs):
    packed = pack_padded_sequence(inputs, LENGTHS, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(module(packed)[0], batch_first=True)[0]


@SHAPES
@DIRECTIONS
def test_it_computes_what_the_lstm_it_was_loaded_from_computes(layers, bidirectional):
    module = theirs(layers, bidirectional)
    own = LSTM.of(module)
    torch.testing.assert_close(own(words()), module(words())[0], rtol=1e-6, atol=1e-6)
    ragged = own(words(), LENGTHS)
    torch.testing.assert_close(ragged, packed_states(module, words()), rtol=1e-6, atol=1e-6)


@SHAPES
@DIRECTIONS
def test_written_back_it_is_the_same_lstm_with_one_bias(layers, bidirectional):
    own = LSTM(INPUTS, HIDDEN, layers=layers, bidirectional=bidirectional)
    own.initialise(torch_generator(2, "test"))
    module = theirs(layers, bidirectional)
    module.load_state_dict(own.state_dict())
    torch.testing.assert_close(own(words()), module(words())[0], rtol=1e-6, atol=1e-6)
    assert not any(p.any() for name, p in module.named_parameters() if "bias_hh" in name)
    again = LSTM.of(module)
    assert all(torch.equal(p, again.get_parameter(name)) for name, p in own.named_parameters())


def test_the_longest_sentence_may_come_last():
    module, lengths = theirs(1, True), torch.tensor([2, 1, 4, 5])
    packed = pack_padded_sequence(words(), lengths, batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(module(packed)[0], batch_first=True)
    torch.testing.assert_close(LSTM.of(module)(words(), lengths), states, rtol=1e-6, atol=1e-6)


def test_it_is_loaded_inside_another_module():
    outer, inner = nn.Sequential(LSTM(INPUTS, HIDDEN)), nn.Sequential(theirs(1, False))
    outer.load_state_dict(inner.state_dict())
    torch.testing.assert_close(outer(words()), inner[0](words())[0])


def test_a_state_that_does_not_fit_is_refused():
    own = LSTM(INPUTS, HIDDEN)
    with pytest.raises(RuntimeError, match="bias_hh_l0_reverse"):
        own.load_state_dict(theirs(1, True).state_dict())
    with pytest.raises(RuntimeError, match="weight_ih_l1"):
        LSTM(INPUTS, HIDDEN, layers=2).load_state_dict(theirs(1, False).state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        LSTM(INPUTS + 1, HIDDEN).load_state_dict(theirs(1, False).state_dict())


@pytest.mark.parametrize("options", [{"bias": False}, {"proj_size": 2}])
def test_what_it_cannot_stand_in_for_is_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        LSTM.of(nn.LSTM(INPUTS, HIDDEN, **options))


@SHAPES
@DIRECTIONS
def test_norms_are_those_of_single_examples_with_the_second_bias_frozen(layers, bidirectional):
    module = theirs(layers, bidirectional, torch.float64)
    own = LSTM.of(module)
    inputs = words(torch.float64)
    batch = {"words": inputs, "lengths": LENGTHS, "weight": torch.ones(4, dtype=torch.float64)}

    def losses(parameters, batch):
        states = functional_call(own, parameters, (batch["words"], batch["lengths"]))
        return states.square().sum((-2, -1))

    clipped = clipped_gradient(losses, dict(own.named_parameters()), batch, torch.inf)
    trained = [p for name, p in module.named_parameters() if "bias_hh" not in name]
    losses = packed_states(module, inputs).square().sum((-2, -1))
    for norm, loss in zip(clipped.norms, losses, strict=True):
        each = torch.autograd.grad(loss, trained, retain_graph=True)
        wanted = torch.cat([g.flatten() for g in each]).norm()
        torch.testing.assert_close(norm, wanted, rtol=1e-10, atol=1e-10)
