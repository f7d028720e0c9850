"""Claims about passes in bfloat16, alone and as a stack, against slow and ordinary ways."""

from dataclasses import replace

import pytest
import torch
from few import HELD, MODELS, PEOPLE

from fedsim.errors import ConfigError
from fedsim.models import BiLSTMTagger, TransformerTagger
from fedsim.models.tape import tape
from fedsim.privacy import ExampleLevel
from fedsim.privacy.rounding import TAU
from fedsim.rng import stream, torch_generator
from fedsim.training import DPSGD, SGD, LocalTrainer, private_procedures, procedures
from fedsim.training.cohort import in_turn, train_together
from fedsim.training.kernel import clipped_gradient
from fedsim.training.kernel.rules import RULES
from fedsim.training.kernel.stages import matched
from fedsim.training.one_by_one import one_by_one
from fedsim.training.opacus.gradient import GhostGradient, HooksGradient
from fedsim.training.precision import cast, in_precision

HALF = "bfloat16"
ROWS, INTENTS, LABELS = 60, 5, 7
SIZES = {"rows": ROWS, "intents": INTENTS, "slot_labels": LABELS}
TAGGERS = {
    "bilstm": BiLSTMTagger(**SIZES, embedding=12, hidden=16),
    "transformer": TransformerTagger(**SIZES, embedding=16, layers=2, heads=4),
}
EVERY_TAGGER = pytest.mark.parametrize("model", TAGGERS.values(), ids=TAGGERS)
EVERY_MODEL = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
RAGGED, FULL = (9, 6, 6, 3, 1), (6, 6, 6, 6)


def parameters_of(model):
    model.initialise(torch_generator(3, "model"))
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def batch_of(lengths):
    draw = torch.Generator().manual_seed(1)
    lengths = torch.tensor(lengths)
    examples, tokens = len(lengths), int(lengths.max())
    slots = torch.randint(0, LABELS, (examples, tokens), generator=draw)
    inside = torch.arange(tokens) < lengths.unsqueeze(1)
    return {
        "token_ids": torch.randint(1, ROWS, (examples, tokens, 2), generator=draw),
        "lengths": lengths,
        "intents": torch.randint(0, INTENTS, (examples,), generator=draw),
        "slots": slots.masked_fill(~inside, -1),
        "weight": torch.ones(examples),
        "size": torch.tensor(float(examples)),
    }


def alone(model, parameters, batch, b):
    """The gradient of one example, passed alone in bfloat16 and put together in float64."""
    one = {name: v[b : b + 1] if v.dim() else v for name, v in batch.items()}
    with tape() as uses:
        loss = model.losses(parameters, one)
    slopes = torch.autograd.grad(loss.sum(), [use.output for use in uses])
    found = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p in parameters.items()}
    for use, slope, names in zip(uses, slopes, matched(uses, parameters), strict=True):
        inputs = use.inputs if use.kind == "embedding" else use.inputs.detach().double()
        rule = RULES[use.kind]
        values = rule.measure(use, inputs, slope.double()).values
        factor = torch.ones(1, dtype=torch.float64)
        totals = [found[name] for name in names]
        wide = use._replace(parameters=tuple(totals), inputs=inputs)
        rule.add(wide, values, factor, totals)
    return found


def length(tensors):
    return torch.cat([v.double().flatten() for v in tensors]).norm()


def assert_near(one, other, share):
    """Up to a share of the length of all of it."""
    assert list(one) == list(other)
    away = length(one[name].double() - v.double() for name, v in other.items())
    assert away <= share * length(other.values())


@EVERY_TAGGER
@pytest.mark.parametrize("lengths", [RAGGED, FULL], ids=["ragged", "full"])
@pytest.mark.parametrize("clip_norm", [1.0, 100.0])
def test_norms_and_clipped_sums_are_those_of_single_examples(model, lengths, clip_norm):
    """Within 1 %: norms are rounded up, and alone an example may be rounded otherwise."""
    parameters, batch = cast(parameters_of(model), HALF), batch_of(lengths)
    clipped = clipped_gradient(model.losses, parameters, batch, clip_norm)
    each = [alone(model, parameters, batch, b) for b in range(len(lengths))]
    norms = torch.stack([length(g.values()) for g in each])
    torch.testing.assert_close(clipped.norms.double(), norms, rtol=0.01, atol=0)
    factors = (clip_norm / norms).clamp(max=1.0)
    wanted = {n: sum(f * g[n] for f, g in zip(factors, each, strict=True)) for n in parameters}
    assert_near(clipped.gradients, wanted, 0.01)
    assert {g.dtype for g in clipped.gradients.values()} == {clipped.norms.dtype} == {torch.float32}


@EVERY_TAGGER
def test_no_example_adds_more_than_the_clip_norm_and_tau(model):
    parameters = cast(parameters_of(model), HALF)
    for b, lengths in enumerate([(9,), (4,), (1,)]):
        added = clipped_gradient(model.losses, parameters, batch_of(lengths), 0.5 + b).gradients
        assert length(added.values()) <= (0.5 + b) * (1 + TAU[HALF])


@EVERY_TAGGER
def test_other_examples_hardly_change_what_one_adds(model):
    """Neither who they are nor how far they pad the batch: within 1 % of the clip norm."""
    parameters, whole = cast(parameters_of(model), HALF), batch_of(RAGGED)

    def added(rows):
        tokens = RAGGED[rows[0]]
        batch = {n: v[rows] if v.dim() else v for n, v in whole.items()}
        batch |= {n: batch[n][:, :tokens] for n in ("token_ids", "slots")}
        batch["weight"] = torch.tensor([float(row == 3) for row in rows])
        return clipped_gradient(model.losses, parameters, batch, 1.0).gradients

    for rows in ([1, 2, 3, 4], [3, 4], [3]):
        assert_near(added(rows), added([0, 1, 2, 3, 4]), 0.01)


@EVERY_TAGGER
@pytest.mark.parametrize("lengths", [RAGGED, FULL], ids=["ragged", "full"])
def test_passes_differ_from_those_in_float32_by_rounding_alone(model, lengths):
    """Losses are float32 and within 2 %, gradients within a fifth: maxima over words flip."""
    parameters, batch = parameters_of(model), batch_of(lengths)
    own = {name: p.requires_grad_() for name, p in parameters.items()}
    found = {}
    for precision in TAU:
        losses = in_precision(model.losses, precision)(own, batch)
        gradients = torch.autograd.grad(losses.sum(), list(own.values()))
        found[precision] = losses, dict(zip(own, gradients, strict=True))
    (exact, wanted), (losses, got) = found["float32"], found[HALF]
    assert losses.dtype == torch.float32 and not torch.equal(losses, exact)
    torch.testing.assert_close(losses, exact, rtol=0.02, atol=0.02)
    assert {g.dtype for g in got.values()} == {torch.float32}
    assert_near(got, wanted, 0.2)


@EVERY_TAGGER
@pytest.mark.parametrize("lengths", [RAGGED, FULL], ids=["ragged", "full"])
def test_without_noise_and_clipping_it_is_ordinary_training(model, lengths):
    """A few steps, within 5 % of the way: PyTorch's LSTM rounds its cells otherwise."""
    parameters, batch = parameters_of(model), batch_of(lengths)
    private = DPSGD(
        losses=model.losses,
        learning_rate=0.05,
        clip_norm=torch.inf,
        noise_multiplier=0.0,
        physical_size=8,
        precision=HALF,
    )
    ordinary = SGD(losses=in_precision(model.losses, HALF), learning_rate=0.05)
    ends = []
    for procedure in (private, ordinary):
        state = procedure.start(parameters, stream(0, "noise"))
        for _ in range(3):
            state = procedure.step(state, batch)
        end = procedure.finish(state)
        assert {p.dtype for p in end.values()} == {torch.float32}
        ends.append({name: p - parameters[name] for name, p in end.items()})
    assert_near(*ends, 0.05)


def test_noise_and_updates_keep_what_bfloat16_would_round_away():
    model = TAGGERS["bilstm"]
    parameters, batch = parameters_of(model), batch_of(FULL)
    step = DPSGD(
        losses=model.losses,
        learning_rate=1e-5,
        clip_norm=1.0,
        noise_multiplier=1.0,
        physical_size=8,
        precision=HALF,
    )
    state = step.step(step.start(parameters, stream(0, "noise")), batch)
    moved = {name: p - parameters[name] for name, p in step.finish(state).items()}
    other = replace(step, precision="float32")
    state = other.step(other.start(parameters, stream(0, "noise")), batch)
    wanted = {name: p - parameters[name] for name, p in other.finish(state).items()}
    assert_near(moved, wanted, 0.1)


@EVERY_MODEL
@pytest.mark.parametrize("way", ["sgd", "adamw", "private", "noised"])
def test_a_stack_of_devices_goes_where_the_devices_go_alone(model, way):
    """Within 10 % of the way; AdamW, which makes a whole step of any rounding, up to two steps."""
    level = ExampleLevel(
        noise_multiplier=float(way == "noised"), clip_norm=0.3, delta=1e-5, precision=HALF
    )
    private = level if way in ("private", "noised") else None
    rate = 0.002 if way == "adamw" else 0.1
    made = (
        private_procedures(level, model, rate, 4)
        if private
        else procedures(way, model, rate, precision=HALF)
    )
    own = LocalTrainer(
        population=PEOPLE,
        model=model,
        procedure=made,
        batch_size=4,
        local_epochs=1,
        local_steps=None,
        seed=7,
        privacy=private,
    )
    sent = {name: p.detach().clone() for name, p in model.named_parameters()}
    turn = in_turn(own, range(len(HELD)), 0)
    stacked = train_together(own, sent, turn, period=0, round=1)
    for device, one in zip(turn, stacked, strict=True):
        other = own.train(sent, device=device, period=0, round=1)
        ways = [{n: r.parameters[n] - p for n, p in sent.items()} for r in (one, other)]
        assert {p.dtype for p in one.parameters.values()} == {torch.float32}
        if way == "noised":  # other draws, of the same size
            went = [float(length(moves.values())) for moves in ways]
            assert went[0] == pytest.approx(went[1], rel=0.2)
        elif way == "adamw":
            steps = own.steps(other.examples)
            away = max(float((ways[0][n] - ways[1][n]).abs().max()) for n in sent)
            assert away <= 2 * steps * rate
            assert one.loss == pytest.approx(other.loss, rel=0.02)
        else:
            assert_near(*ways, 0.1)
            assert one.loss == pytest.approx(other.loss, rel=0.02)


@pytest.mark.parametrize("of", [HooksGradient, GhostGradient])
def test_a_gradient_whose_rounding_is_not_accounted_for_is_refused(of):
    model = TAGGERS["bilstm"]
    private = DPSGD(
        losses=model.losses,
        learning_rate=1.0,
        clip_norm=1.0,
        noise_multiplier=1.0,
        physical_size=4,
        gradient=of(model),
    )
    with pytest.raises(ConfigError, match="precision is bfloat16"):
        replace(private, precision=HALF)
    assert replace(private, precision=HALF, gradient=one_by_one).precision == HALF
