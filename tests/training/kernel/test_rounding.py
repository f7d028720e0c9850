"""What an example adds to a clipped sum after passes in bfloat16 is at most (1 + tau) C long.

Tape values are made up, so that they are as bad as they can be: words that cancel out, scales far
apart, the smallest numbers there are, long sentences, one word said again and again.
"""

from itertools import product

import pytest
import torch

from fedsim.models.tape import Blocks, Use
from fedsim.privacy.clipping import Automatic, Flat, PerLayer
from fedsim.privacy.rounding import TAU
from fedsim.training.kernel import stages
from fedsim.training.kernel.linear import product_squares
from fedsim.training.kernel.rules import RULES

HALF = torch.bfloat16
NAMES = [["linear_weight", "linear_bias"], ["head"], ["lstm_ih", "lstm_hh", "lstm_bias"]]
NAMES += [["table"], ["norm_scale", "norm_bias"]]


def cancelling(g, draw):
    """Every second word takes back what the one before it added, but for a last digit here and
    there."""
    taken = -g[0::2] * torch.where(torch.rand(g[0::2].shape, generator=draw) < 0.1, 1 + 2**-7, 1.0)
    g[1::2] = taken[: len(g[1::2])]
    return g


def taken_back(g, draw):
    """The first three words take back all the others add, to the last digit that they have."""
    g = g.to(HALF).float()
    left = g[3:].sum(0)
    for t in range(min(3, len(g))):
        g[t] = -left.to(HALF).float()
        left = left + g[t]
    return g


def all_but_one(g, draw):
    """Whole numbers that add up to nothing, but for one 1 in one feature: float32 measures the
    norm without any rounding, and rounds when it adds what the clip factor has multiplied."""
    g = taken_back((2**11 * g).to(HALF).round(), draw)
    g[min(2, len(g) - 1), 0] += 1
    return g


def far_apart(g, draw):
    return g * 10.0 ** torch.randint(-12, 9, (len(g), 1), generator=draw)


def subnormal(g, draw):
    return g * 2.0**-130


def scaled(by):
    return lambda g, draw: g * by


SLOPES = {
    "random": lambda g, draw: g,
    "cancelling": cancelling,
    "cancelling, long": lambda g, draw: cancelling(1e6 * g, draw),
    "taken back": lambda g, draw: 1e4 * taken_back(g, draw),
    "taken back, long": lambda g, draw: 1e7 * taken_back(g, draw),
    "all but one": all_but_one,
    "far apart": far_apart,
    "subnormal": subnormal,
    "huge": scaled(1e12),
    "tiny": scaled(1e-15),
}
INPUTS = {
    "random": lambda a, draw: a,
    "signs": lambda a, draw: a[:1].sign().expand_as(a).clone(),
    "one word": lambda a, draw: a[:1].expand_as(a).clone(),
    "nearly one word": lambda a, draw: a[:1] * (1 + 2**-7 * torch.rand(a.shape, generator=draw)),
    "positive": lambda a, draw: 1e3 * a.abs(),
}


def uses_of(tokens, width, outputs, slopes_of, inputs_of, draw, dtype=HALF):
    """Five layers of one example with made-up tape values: uses and slopes."""

    def made(way, *shape):
        return way(torch.randn(*shape, generator=draw), draw).to(dtype)

    def layer(kind, parameters, inputs, slopes, gain=1.0):
        empty = tuple(torch.empty(shape, dtype=dtype) for shape in parameters)
        rows = Blocks(1, slopes.shape[-2])
        return Use(kind, empty, inputs, torch.empty(0, dtype=dtype), rows, gain), slopes

    two = torch.stack([made(inputs_of, tokens, width) for _ in range(2)])
    back = torch.stack([made(slopes_of, tokens, outputs) for _ in range(2)])
    same = inputs_of is INPUTS["one word"]
    ids = torch.randint(0, 2 if same else 50, (tokens, 3), generator=draw)
    fed, third = made(inputs_of, tokens, width), width // 3
    return [
        layer("linear", [(outputs, width), (outputs,)], fed, made(slopes_of, tokens, outputs)),
        layer("linear", [(outputs, width)], fed[:1], made(slopes_of, 1, outputs)),
        layer("lstm", [(2, outputs, third), (2, outputs, width - third), (2, outputs)], two, back),
        layer("embedding", [(50, width)], ids, made(slopes_of, tokens, width), gain=8 / 3**0.5),
        layer("affine", [(width,), (width,)], fed, made(slopes_of, tokens, width)),
    ]


def contribution(layers, clipping):
    """What the kernel adds for the one example, and the longest that it should be."""
    uses, slopes = zip(*layers, strict=True)
    measured = stages.measure(uses, slopes)
    squares = stages.squares_of(measured)
    finite = squares.isfinite().all(0)
    factors = torch.where(finite, clipping.factors(squares, NAMES[: len(uses)], 1.0), 0.0)
    totals = [[torch.zeros(p.shape) for p in use.parameters] for use in uses]
    stages.add(uses, measured, factors, totals, finite=bool(finite.all()))
    return totals, factors.expand(len(uses), 1)[:, 0]


def length(totals):
    return torch.stack([p.double().square().sum() for layer in totals for p in layer]).sum().sqrt()


def exact(layers, factors):
    """Factor x gradient in float64, of the same tape values."""
    found = []
    for (use, slopes), factor in zip(layers, factors.double(), strict=True):
        totals = [torch.zeros(p.shape, dtype=torch.float64) for p in use.parameters]
        inputs = use.inputs if use.kind == "embedding" else use.inputs.double()
        wide = use._replace(parameters=tuple(totals), inputs=inputs)
        rule = RULES[use.kind]
        values = rule.measure(wide, inputs, slopes.double()).values
        rule.add(wide, values, factor.view(1), totals)
        found.append(totals)
    return found


def excess(clipping, shapes, seeds, dtype=HALF):
    """The largest share by which any made-up example exceeds the clip norm, over all ways.

    Layers are tried together, and alone where a clipping allows it: beside another layer's longer
    gradient, what one of them gets wrong would not show.
    """
    most = -1.0
    ways = product(SLOPES.values(), INPUTS.values(), shapes, range(seeds))
    for slopes_of, inputs_of, (tokens, width, outputs), seed in ways:
        draw = torch.Generator().manual_seed(seed)
        layers = uses_of(tokens, width, outputs, slopes_of, inputs_of, draw, dtype)
        alone = [] if isinstance(clipping, PerLayer) else [[layer] for layer in layers]
        for some in (layers, *alone):
            totals, factors = contribution(some, clipping)
            # In float32 an example's gradient is what float32 makes of it.
            for added in (totals, exact(some, factors)) if dtype == HALF else (totals,):
                most = max(most, float(length(added)) / clipping.bound - 1)
    return most


SHAPES = [(2, 6, 8), (6, 48, 96), (40, 30, 20), (128, 32, 16), (300, 24, 24)]
CLIPPINGS = {
    "flat": Flat(),
    "automatic": Automatic(),
    "per layer": PerLayer(scales={"linear": 0.3, "head": 0.2, "lstm": 1, "table": 0.5, "norm": 2}),
}


@pytest.mark.parametrize("dtype", [HALF, torch.float32])
@pytest.mark.parametrize("way", ["random", "cancelling"])
@pytest.mark.parametrize(("tokens", "width", "outputs"), [(6, 48, 96), (40, 30, 20)])
def test_how_far_a_batch_is_padded_does_not_change_a_norm(tokens, width, outputs, way, dtype):
    """Places without a gradient, whatever went in there, as if a longer example were in the batch.

    Within 10 % where words cancel out, as float32 rounds; else to the last digits.
    """

    def padded(use, slopes):
        if slopes.shape[-2] == 1:
            return use, slopes
        longer = 4 * tokens
        inputs = use.inputs.repeat(*[1] * (use.inputs.dim() - 2), 4, 1)
        slopes = torch.nn.functional.pad(slopes, (0, 0, 0, longer - tokens))
        return use._replace(inputs=inputs, rows=Blocks(1, longer)), slopes

    draw = torch.Generator().manual_seed(2)
    layers = uses_of(tokens, width, outputs, SLOPES[way], INPUTS["one word"], draw, dtype)
    before, after = (
        stages.squares_of(stages.measure(*zip(*some, strict=True)))
        for some in (layers, [padded(*layer) for layer in layers])
    )
    close = 1e-6 if way == "random" else 0.1
    torch.testing.assert_close(after, before, rtol=close, atol=0)


@pytest.mark.parametrize("clipping", CLIPPINGS.values(), ids=CLIPPINGS)
def test_no_example_adds_more_than_the_stated_share_beyond_the_clip_norm(clipping):
    assert excess(clipping, SHAPES, seeds=1) <= TAU["bfloat16"]


@pytest.mark.parametrize("clipping", CLIPPINGS.values(), ids=CLIPPINGS)
def test_in_float32_no_example_adds_more_than_the_clip_norm_but_for_a_last_digit(clipping):
    assert excess(clipping, SHAPES, seeds=1, dtype=torch.float32) <= 1e-6


@pytest.mark.parametrize("shape", [(2, 8, 16), (2, 64, 64), (2, 128, 512), (3, 64, 64)])
def test_of_thousands_of_words_that_take_back_another_no_norm_is_measured_too_short(shape):
    """Two words that were nearly the same, with opposite slopes: Gram matrices leave rounding."""
    tokens, width, outputs = shape
    draw = torch.Generator().manual_seed(0)
    near = 1 + 1e-4 * torch.randn(2000, tokens, 1, generator=draw)
    inputs = torch.randn(2000, 1, width, generator=draw) * near
    slopes = 1e5 * torch.randn(2000, tokens, outputs, generator=draw)
    slopes[:, -1] = -slopes[:, :-1].sum(1)
    factors = (1 / product_squares(inputs, slopes, 0.0).clamp(min=0).sqrt()).clamp(max=1)
    added = (slopes.double() * factors.double().view(-1, 1, 1)).mT @ inputs.double()
    assert added.square().sum((1, 2)).sqrt().max() <= 1 + 1e-6
