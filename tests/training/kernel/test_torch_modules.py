"""Claims about PyTorch's own modules on a tape, against single examples and against Opacus."""

import pytest
import torch
from naive_clipping import assert_same, naive
from opacus import GradSampleModule
from torch import nn
from torch.func import functional_call

from fedsim import ConfigError
from fedsim.models import LSTM
from fedsim.models.modules import noting
from fedsim.rng import torch_generator
from fedsim.training.kernel import clipped_gradient


class Reader(nn.Module):
    """Every module the tape knows, one after the other."""

    def __init__(self, recurrent):
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.lstm = LSTM(4, 2, bidirectional=True) if recurrent else nn.Identity()
        self.norm = nn.LayerNorm(4)
        self.inner = nn.Linear(4, 6, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, ids):
        states = self.norm(self.lstm(self.embedding(ids)))
        return self.head(torch.tanh(self.inner(states)).amax(1))


def reader(recurrent, dtype):
    model, draw = Reader(recurrent).to(dtype), torch_generator(0, "test")
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=draw)
    return model


def batch_of(dtype):
    draw = torch_generator(1, "test")
    return {
        "ids": torch.randint(0, 9, (5, 7), generator=draw),
        "weight": torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0], dtype=dtype),
    }


def losses_of(model):
    return lambda p, batch: functional_call(model, p, (batch["ids"],)).square().sum(-1)


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_norms_and_clipped_sums_are_those_of_single_examples(recurrent, dtype, tolerance):
    model, batch = reader(recurrent, dtype), batch_of(dtype)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    wanted = naive(losses_of(model), parameters, batch, 3.0)
    clipped = clipped_gradient(losses_of(noting(model)), parameters, batch, 3.0)
    assert_same(clipped, wanted, tolerance)


def test_norms_are_those_of_opacus():
    """Opacus builds every example's gradient from hooks; an independent implementation."""
    model, batch = reader(False, torch.float64), batch_of(torch.float64)
    theirs = GradSampleModule(reader(False, torch.float64), loss_reduction="sum")
    theirs(batch["ids"]).square().sum().backward()
    each = [p.grad_sample.flatten(1) for p in theirs.parameters()]
    parameters = dict(model.named_parameters())
    clipped = clipped_gradient(losses_of(noting(model)), parameters, batch, 1.0)
    wanted = torch.cat(each, dim=1).norm(dim=1)
    torch.testing.assert_close(clipped.norms, wanted, rtol=1e-10, atol=1e-10)


def test_ordinary_training_is_what_it_was():
    plain, noted = reader(True, torch.float64), noting(reader(True, torch.float64))
    ids = batch_of(torch.float64)["ids"]
    for model in (plain, noted):
        model(ids).square().sum().backward()
    for one, other in zip(plain.parameters(), noted.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (nn.LSTM(2, 2), "module 0 is a nn.LSTM"),
        (nn.BatchNorm1d(2), "module 0 is a BatchNorm1d"),
        (nn.BatchNorm1d(2, affine=False), "module 0 is a BatchNorm1d"),
        (nn.Embedding(3, 2, padding_idx=0), "module 0 is a Embedding with padding_idx 0"),
        (nn.LayerNorm((2, 2)), "module 0 is a LayerNorm of 2 axes"),
        (nn.LayerNorm(2, elementwise_affine=False), "without a scale"),
    ],
)
def test_modules_whose_gradients_are_not_known_are_refused(module, what):
    with pytest.raises(ConfigError, match=what):
        noting(nn.Sequential(module))
