"""How sentences of any lengths run through an LSTM.

Both directions run side by side: the backward direction is the forward one on reversed sentences,
so padding always comes last and never reaches a word. One device on a CPU goes through
PyTorch's own kernel; stacked devices (a leading axis on every weight) go through `_Recurrence`,
one batched product a time step over all devices and directions, packed so that no step works on
sentences that have ended.

Gates are in PyTorch's order (input, forget, cell, output). There is one bias, the sum of
`nn.LSTM`'s two: their gradients are equal, so training both would only double its step.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedsim.models.packing import Packing
from fedsim.models.tape import Packed, Use, note, taping


def bidirectional_lstm(
    words: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, packing: Packing
) -> Tensor:
    """Hidden states of one bidirectional layer.

    Args:
      words: (..., n, inputs) packed words.
      weight_ih: (..., 2, 4 hidden, inputs), forward then backward.
      weight_hh: (..., 2, 4 hidden, hidden).
      bias: (..., 2, 4 hidden).
      packing: where the words lie.

    Returns:
      (..., n, 2 hidden) packed states.
    """
    if words.dim() == 2 and not taping():
        layouts = (packing, packing.backwards())
        directions = zip(
            layouts, weight_ih.unbind(), weight_hh.unbind(), bias.unbind(), strict=True
        )
        states = [p.packed(_stock(p.padded(words), *weights)) for p, *weights in directions]
        return torch.cat(states, dim=-1)
    stacked = torch.stack([words, packing.reversed(words)], dim=-3).flatten(0, -3)
    projected = torch.baddbmm(
        bias.flatten(0, -2).unsqueeze(1), stacked, weight_ih.flatten(0, -3).transpose(1, 2)
    )
    leading = (*words.shape[:-2], 2)
    projected = projected.unflatten(0, leading)
    states = _Recurrence.apply(
        projected.flatten(0, -3), weight_hh.flatten(0, -3), packing.steps
    ).unflatten(0, leading)
    if taping():
        inputs = _with_states_before(stacked.unflatten(0, leading), states, packing.steps)
        note(Use("lstm", (weight_ih, weight_hh, bias), inputs, projected, Packed(packing)))
    ahead, back = states.unbind(-3)
    return torch.cat([ahead, packing.reversed(back)], dim=-1)


def _stock(padded: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Tensor:
    """One direction through PyTorch's kernel: (examples, tokens, inputs) -> (..., hidden)."""
    state = padded.new_zeros(1, padded.shape[0], weight_hh.shape[1])
    weights = [weight_ih, weight_hh, bias, torch.zeros_like(bias)]
    return torch.lstm(padded, (state, state), weights, True, 1, 0.0, True, False, True)[0]


class _Recurrence(torch.autograd.Function):
    """Hidden states from gate pre-activations, packed; the time loop and its mirror image."""

    @staticmethod
    def forward(ctx, projected: Tensor, weight: Tensor, steps: list[int]) -> Tensor:
        directions, words, width = projected.shape
        hidden = width // 4
        candidate = slice(2 * hidden, 3 * hidden)
        # tanh(x) = 2 sigmoid(2 x) - 1: all four gates in one call, and tanh costs four sigmoids.
        transposed = weight.transpose(1, 2).clone()
        transposed[..., candidate].mul_(2)
        gates = projected.clone()
        gates[..., candidate].mul_(2)
        minus_one = projected.new_full((), -1.0)
        memory = projected.new_empty(3, directions, words, hidden)  # cells, their tanh, states
        h = c = None
        for a, kept in zip(gates.split(steps, 1), memory.split(steps, 2), strict=True):
            cell, squashed, state = kept.unbind(0)
            count = a.shape[1]
            if h is not None:
                a.baddbmm_(h[:, :count], transposed)
            a.sigmoid_()
            i, f, g, o = a.split(hidden, 2)
            torch.add(minus_one, g, alpha=2, out=g)
            torch.mul(i, g, out=cell)
            if c is not None:
                cell.addcmul_(f, c[:, :count])
            torch.mul(cell, 2, out=squashed).sigmoid_()
            torch.add(minus_one, squashed, alpha=2, out=squashed)
            torch.mul(o, squashed, out=state)
            h, c = state, cell
        ctx.save_for_backward(gates, memory, weight)
        ctx.steps = steps
        return memory[2]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        gates, memory, weight = ctx.saved_tensors
        steps, hidden = ctx.steps, memory.shape[-1]
        delta = torch.empty_like(gates)
        parts = list(
            zip(
                grad.split(steps, 1),
                gates.split(steps, 1),
                memory.split(steps, 2),
                delta.split(steps, 1),
                strict=True,
            )
        )
        later = dc = None
        for index in range(len(steps) - 1, -1, -1):
            gh, a, kept, d = parts[index]
            count = gh.shape[1]
            _, squashed, _ = kept.unbind(0)
            i, f, g, o = a.split(hidden, 2)
            di, df, dg, do = d.split(hidden, 2)
            if later is not None:
                gh = _plus_product(gh, later, weight)
            torch.mul(gh, squashed, out=do)
            gc = torch.ops.aten.tanh_backward(gh * o, squashed)
            if dc is not None:
                gc[:, : dc.shape[1]].add_(dc)
            torch.mul(gc, g, out=di)
            torch.mul(gc, i, out=dg)
            if index:
                torch.mul(gc, parts[index - 1][2][0][:, :count], out=df)
                dc = gc.mul_(f)
            else:
                df.zero_()
            torch.ops.aten.tanh_backward.grad_input(dg, g, grad_input=dg)
            for part in (slice(0, 2 * hidden), slice(3 * hidden, 4 * hidden)):
                slope = d[..., part]
                torch.ops.aten.sigmoid_backward.grad_input(slope, a[..., part], grad_input=slope)
            later = d
        if not ctx.needs_input_grad[1]:
            return delta, None, None
        return delta, _weight_gradient(delta, memory[2], steps), None


def _plus_product(grad: Tensor, later: Tensor, weight: Tensor) -> Tensor:
    """grad + later @ weight, for the sentences that go on."""
    count = later.shape[1]
    if count == grad.shape[1]:
        return torch.baddbmm(grad, later, weight)
    grad = grad.clone()
    grad[:, :count].baddbmm_(later, weight)
    return grad


def _weight_gradient(delta: Tensor, states: Tensor, steps: list[int]) -> Tensor:
    """Gradient of the recurrent weight: each word's delta with the state before it."""
    each = states.split(steps, 1)[:-1]
    before = [state[:, :count] for state, count in zip(each, steps[1:], strict=True)]
    previous = torch.cat([states[:, :0], *before], dim=1)
    return torch.bmm(delta[:, steps[0] :].transpose(1, 2), previous)


def _with_states_before(inputs: Tensor, states: Tensor, steps: list[int]) -> Tensor:
    """What gates are linear in: each word's input beside the state before it, no gradient.

    Args:
      inputs: (..., n, inputs).
      states: (..., n, hidden).
      steps: sentences at each time step.
    """
    width = inputs.shape[-1]
    joined = inputs.new_zeros(*inputs.shape[:-1], width + states.shape[-1])
    joined[..., :width] = inputs.detach()
    place = sum(steps[:1])
    for state, count in zip(states.detach().split(steps, -2), steps[1:], strict=False):
        joined[..., place : place + count, width:] = state[..., :count, :]
        place += count
    return joined
