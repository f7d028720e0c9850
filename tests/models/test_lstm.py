"""Claims about the LSTM, against `torch.nn.LSTM` on packed sequences."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fedsim.models.lstm import lstm_layer
from fedsim.models.packing import Packing

INPUTS, HIDDEN = 5, 3
RAGGED = [[6, 4, 4, 1], [1], [7], [2, 2, 2], [1, 1]]


def weights(dtype, seed):
    draw = torch.Generator().manual_seed(seed)
    shapes = [(2, 4 * HIDDEN, INPUTS), (2, 4 * HIDDEN, HIDDEN), (2, 4 * HIDDEN)]
    return [torch.randn(shape, generator=draw, dtype=dtype) * 0.5 for shape in shapes]


def words(lengths, tokens, dtype, seed):
    shape = (len(lengths), tokens, INPUTS)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 99), dtype=dtype)


def oracle(padded, lengths, w_ih, w_hh, bias, seed_grad):
    """States of PyTorch's own module, zero at padding, and the gradients of all four inputs."""
    lstm = nn.LSTM(INPUTS, HIDDEN, batch_first=True, bidirectional=True).to(padded.dtype)
    with torch.no_grad():
        for d, suffix in enumerate(("l0", "l0_reverse")):
            getattr(lstm, f"weight_ih_{suffix}").copy_(w_ih[d])
            getattr(lstm, f"weight_hh_{suffix}").copy_(w_hh[d])
            getattr(lstm, f"bias_ih_{suffix}").copy_(bias[d])
            getattr(lstm, f"bias_hh_{suffix}").zero_()
    padded = padded.clone().requires_grad_()
    packed = pack_padded_sequence(padded, torch.tensor(lengths), batch_first=True)
    states, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=padded.shape[1])
    (states * seed_grad).sum().backward()
    gradients = [padded.grad] + [
        torch.stack([getattr(lstm, f"{kind}_{s}").grad for s in ("l0", "l0_reverse")])
        for kind in ("weight_ih", "weight_hh", "bias_ih")
    ]
    return states.detach(), gradients


def ours(padded, lengths, w_ih, w_hh, bias, seed_grad):
    """The same from `lstm_layer`; any leading device axis."""
    leaves = [x.clone().requires_grad_() for x in (padded, w_ih, w_hh, bias)]
    packing = Packing.of(lengths, padded.shape[-2])
    out = lstm_layer(packing.packed(leaves[0]), *leaves[1:], packing)
    inside = torch.arange(padded.shape[-2]) < lengths.unsqueeze(-1)
    states = packing.padded(out) * inside.unsqueeze(-1)
    (states * seed_grad).sum().backward()
    return states.detach(), [leaf.grad for leaf in leaves]


def assert_same(got, wanted, tolerance):
    torch.testing.assert_close(got[0], wanted[0], rtol=tolerance, atol=tolerance)
    for mine, theirs in zip(got[1], wanted[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("lengths", RAGGED)
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_one_device_equals_torch_in_values_and_all_gradients(lengths, padding, dtype, tolerance):
    tokens = max(lengths) + padding
    padded, own = words(lengths, tokens, dtype, 0), weights(dtype, 0)
    seed_grad = torch.randn(len(lengths), tokens, 2 * HIDDEN, dtype=dtype)
    wanted = oracle(padded, lengths, *own, seed_grad)
    assert_same(ours(padded, torch.tensor(lengths), *own, seed_grad), wanted, tolerance)


@pytest.mark.parametrize(
    "stack",
    [
        [[6, 4, 4, 1], [3, 3, 2, 2], [1, 1, 1, 1]],
        [[1], [5]],
        [[1, 1], [1, 1]],
        [[2, 2, 2]],
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_every_device_of_a_stack_equals_torch_on_its_own(stack, dtype, tolerance):
    tokens = max(map(max, stack)) + 1
    padded = torch.stack([words(lengths, tokens, dtype, d) for d, lengths in enumerate(stack)])
    own = [weights(dtype, d) for d in range(len(stack))]
    seed_grad = torch.randn(*padded.shape[:-1], 2 * HIDDEN, dtype=dtype)
    states, gradients = ours(
        padded, torch.tensor(stack), *(torch.stack(w) for w in zip(*own, strict=True)), seed_grad
    )
    for d, lengths in enumerate(stack):
        wanted = oracle(padded[d], lengths, *own[d], seed_grad[d])
        assert_same((states[d], [g[d] for g in gradients]), wanted, tolerance)


def test_the_stacked_recurrence_passes_a_numerical_gradient_check():
    stack = torch.tensor([[3, 1], [2, 2]])
    packing = Packing.of(stack, 3)
    inputs = torch.stack([words([3, 1], 3, torch.float64, d) for d in range(2)])
    w = [torch.stack(x) for x in zip(*(weights(torch.float64, d) for d in range(2)), strict=True)]
    leaves = [x.requires_grad_() for x in (packing.packed(inputs), *w)]
    real = packing.real.unsqueeze(-1)
    assert torch.autograd.gradcheck(lambda *x: lstm_layer(*x, packing) * real, leaves)
