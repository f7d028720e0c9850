"""How sentences of any lengths run through an LSTM.

Both directions run side by side: the backward direction is the forward one on reversed sentences,
so padding always comes last and never reaches a word. One device on a CPU goes through
PyTorch's own kernel; stacked devices (a leading axis on every weight) go through `_Recurrence`,
one batched product a time step over all devices and directions, packed so that no step works on
sentences that have ended. So does whatever is put on a tape, which wants gradients of the gates.

Gates are in PyTorch's order (input, forget, cell, output). There is one bias, the sum of
`nn.LSTM`'s two: their gradients are equal, so training both would only double its step.

In half precision `_Recurrence` multiplies in it, and keeps gates, cells and their gradients in
float32: they are added up over the whole sentence.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedsim.models.packing import Packing
from fedsim.models.tape import Packed, Use, note, taping


def lstm_layer(
    words: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, packing: Packing
) -> Tensor:
    """Hidden states of one layer of one direction or two.

    Args:
      words: (..., n, inputs) packed words.
      weight_ih: (..., directions, 4 hidden, inputs), forward then backward.
      weight_hh: (..., directions, 4 hidden, hidden).
      bias: (..., directions, 4 hidden).
      packing: where the words lie.

    Returns:
      (..., n, directions x hidden) packed states.
    """
    if words.dim() == 2 and not taping() and packing.full:
        return _stock(words, packing, weight_ih, weight_hh, bias)
    ways = [words, packing.reversed(words)][: weight_ih.shape[-3]]
    if words.dim() == 2 and not taping():
        weights = zip(weight_ih.split(1), weight_hh.split(1), bias.split(1), strict=True)
        states = [_stock(way, packing, *own) for way, own in zip(ways, weights, strict=True)]
    else:
        states = _looped(torch.stack(ways, dim=-3), weight_ih, weight_hh, bias, packing)
    return torch.cat([states[0], *map(packing.reversed, states[1:])], dim=-1)


def _looped(
    words: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, packing: Packing
) -> list[Tensor]:
    """States of each direction, side by side: (..., directions, n, inputs) -> (..., n, hidden)."""
    leading, hidden = words.shape[:-2], weight_hh.shape[-1]
    stand_in = None
    if taping():
        # Pre-activations are overwritten by the gates: this takes their gradient, and no memory.
        stand_in = (
            words.new_zeros((), dtype=_kept_type(words))
            .expand(*words.shape[:-1], 4 * hidden)
            .requires_grad_()
        )
    states, inputs = _Recurrence.apply(
        words.flatten(0, -3),
        weight_ih.flatten(0, -3),
        weight_hh.flatten(0, -3),
        bias.flatten(0, -2),
        None if stand_in is None else stand_in.flatten(0, -3),
        packing.steps,
    )
    if stand_in is not None:
        weights = (weight_ih, weight_hh, bias)
        note(Use("lstm", weights, inputs.unflatten(0, leading), stand_in, Packed(packing)))
    return list(states.unflatten(0, leading).unbind(-3))


def _stock(
    words: Tensor, packing: Packing, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
) -> Tensor:
    """Through PyTorch's kernel: (n, inputs) -> (n, directions x hidden).

    It runs the second direction from the last place on, which is the last word where all sentences
    are equally long.
    """
    directions, hidden = weight_hh.shape[0], weight_hh.shape[-1]
    state = words.new_zeros(directions, packing.examples, hidden)
    nought = torch.zeros_like(bias[0])
    each = zip(weight_ih.unbind(), weight_hh.unbind(), bias.unbind(), strict=True)
    weights = [part for own in each for part in (*own, nought)]
    # Time first, as the kernel wants it: otherwise it copies its input and its output.
    states = torch.lstm(
        packing.timed(words), (state, state), weights, True, 1, 0.0, True, directions == 2, False
    )[0]
    return states.flatten(0, 1)


class _Recurrence(torch.autograd.Function):
    """One layer, packed: the time loop and its mirror image.

    Args:
      words: (directions, n, inputs).
      weight_ih: (directions, 4 hidden, inputs).
      weight_hh: (directions, 4 hidden, hidden).
      bias: (directions, 4 hidden).
      stand_in: None, or a tensor (directions, n, 4 hidden) whose gradient is that of the gates'
        pre-activations.
      steps: sentences at each time step.

    Returns:
      States (directions, n, hidden), and what the gates are linear in: each word's input beside the
      state before it, (directions, n, inputs + hidden), without a gradient.
    """

    @staticmethod
    def forward(ctx, words, weight_ih, weight_hh, bias, stand_in, steps):
        directions, n, width = words.shape
        hidden = weight_hh.shape[-1]
        weight = torch.cat([weight_ih, weight_hh], dim=-1)
        # tanh(x) = 2 sigmoid(2 x) - 1: all four gates in one call, and tanh costs four sigmoids.
        doubled, start = weight.clone(), bias.clone()
        for part in (doubled, start):
            part.narrow(1, 2 * hidden, hidden).mul_(2)
        doubled, start = doubled.transpose(1, 2), start.unsqueeze(1)
        kept_type = _kept_type(words)
        minus_one = words.new_full((), -1.0, dtype=kept_type)
        inputs = words.new_zeros(directions, n, width + hidden)
        inputs[..., :width] = words
        gates = words.new_empty(directions, n, 4 * hidden, dtype=kept_type)
        # Cells, their tanh, states.
        memory = words.new_empty(3, directions, n, hidden, dtype=kept_type)
        h = c = None
        for x, a, kept in zip(
            inputs.split(steps, 1), gates.split(steps, 1), memory.split(steps, 2), strict=True
        ):
            cell, squashed, state = kept.unbind(0)
            count = a.shape[1]
            if h is not None:
                x[..., width:] = h[:, :count]
            # Into memory of its own: into a part of each device's, it would be device by device.
            torch.sigmoid(torch.baddbmm(start, x, doubled).to(a.dtype), out=a)
            i, f, g, o = a.split(hidden, 2)
            torch.add(minus_one, g, alpha=2, out=g)
            torch.mul(i, g, out=cell)
            if c is not None:
                cell.addcmul_(f, c[:, :count])
            torch.add(cell, cell, out=squashed).sigmoid_()
            torch.add(minus_one, squashed, alpha=2, out=squashed)
            torch.mul(o, squashed, out=state)
            h, c = state, cell
        ctx.save_for_backward(inputs, gates, memory, weight)
        ctx.steps = steps
        ctx.mark_non_differentiable(inputs)
        return memory[2].to(words.dtype), inputs

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        inputs, gates, memory, weight = ctx.saved_tensors
        steps, hidden = ctx.steps, memory.shape[-1]
        width = inputs.shape[-1] - hidden
        # A tape's graph is walked once, so the gates' memory may take their gradients.
        delta = gates if ctx.needs_input_grad[4] else torch.empty_like(gates)
        slope = torch.empty_like(inputs)
        scratch = gates.new_empty(len(gates), max(steps, default=0), 4 * hidden)
        parts = list(
            zip(
                grad.to(gates.dtype).split(steps, 1),
                gates.split(steps, 1),
                memory.split(steps, 2),
                delta.split(steps, 1),
                slope.split(steps, 1),
                strict=True,
            )
        )
        dh = dc = None
        for index in range(len(steps) - 1, -1, -1):
            gh, a, kept, d, s = parts[index]
            count = gh.shape[1]
            _, squashed, _ = kept.unbind(0)
            i, f, g, o = a.split(hidden, 2)
            di, df, dg, do = scratch[:, :count].split(hidden, 2)
            if dh is not None:
                later = dh.shape[1]
                gh = torch.add(gh, dh) if later == count else _add_first(gh, dh)
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
            into = d.split(hidden, 2)
            torch.ops.aten.tanh_backward.grad_input(dg, g, grad_input=into[2])
            for slope_of, gate, out in ((di, i, into[0]), (df, f, into[1]), (do, o, into[3])):
                torch.ops.aten.sigmoid_backward.grad_input(slope_of, gate, grad_input=out)
            both = torch.bmm(d.to(weight.dtype), weight)
            s.copy_(both)
            dh = both[..., width:]
        gradients = [slope[..., :width], None, None, None, None, None]
        if ctx.needs_input_grad[4]:
            gradients[4] = delta
        if ctx.needs_input_grad[1]:
            both = torch.bmm(delta.to(inputs.dtype).transpose(1, 2), inputs)
            gradients[1:4] = both[..., :width], both[..., width:], delta.sum(1).to(inputs.dtype)
        return tuple(gradients)


def _kept_type(words: Tensor) -> torch.dtype:
    """Of gates and cells."""
    return torch.promote_types(words.dtype, torch.float32)


def _add_first(grad: Tensor, later: Tensor) -> Tensor:
    grad = grad.clone()
    grad[:, : later.shape[1]].add_(later)
    return grad
