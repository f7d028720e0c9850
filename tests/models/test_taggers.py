"""Claims that hold for every tagger, against one sentence computed on its own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsim.models import BiLSTMTagger, TransformerTagger
from fedsim.models.joint import EMBEDDING_GAIN, FEATURE_GAIN
from fedsim.population.examples import Examples
from fedsim.rng import torch_generator
from fedsim.training.batches import tensors

ROWS, PIECES, INTENTS, SLOT_LABELS = 40, 3, 4, 5
LENGTHS = (3, 1, 7, 2, 4)


def bilstm(seed=0):
    return started(
        BiLSTMTagger(rows=ROWS, intents=INTENTS, slot_labels=SLOT_LABELS, embedding=6, hidden=5),
        seed,
    )


def transformer(seed=0):
    return started(
        TransformerTagger(
            rows=ROWS, intents=INTENTS, slot_labels=SLOT_LABELS, embedding=8, layers=2, heads=2
        ),
        seed,
    )


def started(model, seed):
    """Initial parameters, moved so that no bias is zero and no scale one."""
    model.initialise(torch_generator(seed, "model"))
    shift = torch_generator(seed, "shift")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=shift)
    return model


TAGGERS = pytest.mark.parametrize("make", [bilstm, transformer])


def utterances(lengths=LENGTHS, seed=0):
    draw = np.random.default_rng(seed)
    n, m = len(lengths), sum(lengths)
    return Examples(
        token_ids=draw.integers(1, ROWS, (m, PIECES)).astype(np.int32),
        slots=draw.integers(0, SLOT_LABELS, m).astype(np.int16),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        intents=draw.integers(0, INTENTS, n).astype(np.int16),
        device=np.zeros(n, np.int32),
        period=np.zeros(n, np.int16),
        null=np.zeros(n, bool),
    )


def parameters_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def widened(batch, tokens):
    """The same batch, padded by further columns of rubbish token ids."""
    extra = tokens - batch["slots"].shape[-1]
    return batch | {
        "token_ids": F.pad(batch["token_ids"], (0, 0, 0, extra), value=7),
        "slots": F.pad(batch["slots"], (0, extra), value=-1),
    }


def gradients(model, parameters, batch):
    own = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    total = (model.losses(own, batch) * batch["weight"]).sum()
    return dict(zip(own, torch.autograd.grad(total, list(own.values())), strict=True))


def assert_close(one, other, tolerance=1e-5):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def bilstm_features(p, words):
    """(length, embedding) -> (length, 2 hidden) through `nn.LSTM`."""
    lstm = nn.LSTM(words.shape[1], p["lstm_hh"].shape[-1], bidirectional=True)
    for d, suffix in enumerate(("l0", "l0_reverse")):
        for name, value in (
            ("weight_ih", p["lstm_ih"][d]),
            ("weight_hh", p["lstm_hh"][d]),
            ("bias_ih", p["lstm_bias"][d]),
            ("bias_hh", torch.zeros_like(p["lstm_bias"][d])),
        ):
            getattr(lstm, f"{name}_{suffix}").data.copy_(value)
    return lstm(words)[0]


def transformer_features(p, words, layers=2, heads=2):
    """(length, width) -> (length, width), one head at a time, the softmax written out."""
    length, width = words.shape
    codes = torch.empty(length, width)
    for place in range(length):
        for k in range(width // 2):
            angle = place / 10_000 ** (2 * k / width)
            codes[place, 2 * k] = np.sin(angle)
            codes[place, 2 * k + 1] = np.cos(angle)
    states = words + codes
    for n in range(layers):
        normed = norm(states, p[f"attention_{n}_scale"], p[f"attention_{n}_bias"])
        q, k, v = (normed @ p[f"qkv_weight_{n}"].T + p[f"qkv_bias_{n}"]).chunk(3, -1)
        mixed = []
        for head in range(heads):
            part = slice(head * width // heads, (head + 1) * width // heads)
            scores = q[:, part] @ k[:, part].T / (width // heads) ** 0.5
            mixed.append(scores.softmax(-1) @ v[:, part])
        states = states + torch.cat(mixed, -1) @ p[f"mix_weight_{n}"].T + p[f"mix_bias_{n}"]
        normed = norm(states, p[f"feedforward_{n}_scale"], p[f"feedforward_{n}_bias"])
        inner = F.gelu(normed @ p[f"up_weight_{n}"].T + p[f"up_bias_{n}"])
        states = states + inner @ p[f"down_weight_{n}"].T + p[f"down_bias_{n}"]
    return norm(states, p["last_scale"], p["last_bias"])


def norm(states, scale, bias):
    centred = states - states.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale + bias


FEATURES = {bilstm: bilstm_features, transformer: transformer_features}


def by_hand(make, p, examples, i):
    """Intent, slots, loss and word losses of one sentence, without batch, packing or padding."""
    start, stop = examples.offsets[i : i + 2]
    ids = torch.from_numpy(examples.token_ids[start:stop].astype(np.int64))
    words = EMBEDDING_GAIN * p["embedding"][ids].sum(1) / PIECES**0.5
    features = FEATURE_GAIN * FEATURES[make](p, words)
    intent = p["intent_weight"] @ features.amax(0) + p["intent_bias"]
    slots = features @ p["slot_weight"].T + p["slot_bias"]
    wanted = torch.from_numpy(examples.slots[start:stop].astype(np.int64))
    words_lost = -slots.log_softmax(-1)[torch.arange(len(wanted)), wanted].detach()
    loss = words_lost.mean() - intent.log_softmax(0)[int(examples.intents[i])].detach()
    return intent.argmax(), slots.argmax(-1), loss, words_lost


@TAGGERS
@pytest.mark.parametrize("lengths", [LENGTHS, (1,), (1, 1), (128,), (128, 1)])
def test_a_batch_says_what_each_sentence_computed_by_hand_says(make, lengths):
    model, examples = make(), utterances(lengths)
    p = parameters_of(model)
    order = np.argsort(-examples.lengths, kind="stable")
    said = model.predict(p, tensors(examples, order))
    for row, i in enumerate(order):
        intent, slots, loss, _ = by_hand(make, p, examples, i)
        assert said.intents[row] == intent
        assert torch.equal(said.slots[row, : len(slots)], slots)
        assert (said.slots[row, len(slots) :] == -1).all()
        assert_close(said.losses[row], loss)


@TAGGERS
@pytest.mark.parametrize("lengths", [LENGTHS, (1,), (128, 1)])
def test_the_loss_of_each_word_is_that_computed_by_hand(make, lengths):
    model, examples = make(), utterances(lengths)
    p = parameters_of(model)
    order = np.argsort(-examples.lengths, kind="stable")
    joint, words = model.word_losses(p, tensors(examples, order))
    for row, i in enumerate(order):
        *_, loss, own = by_hand(make, p, examples, i)
        assert_close(joint[row].detach(), loss)
        assert_close(words[row, : len(own)].detach(), own)
        assert (words[row, len(own) :] == 0).all()


@TAGGERS
def test_a_sentence_does_not_notice_its_batch_or_the_padding(make):
    model, examples = make(), utterances()
    p = parameters_of(model)
    order = np.argsort(-examples.lengths, kind="stable")
    together = model.predict(p, widened(tensors(examples, order), tokens=11))
    for row, i in enumerate(order):
        alone = model.predict(p, tensors(examples, np.array([i])))
        assert_close(together.losses[row], alone.losses[0])
        assert torch.equal(together.intents[row], alone.intents[0])
        assert torch.equal(together.slots[row, : LENGTHS[i]], alone.slots[0])


@TAGGERS
def test_padding_and_the_padding_row_get_no_gradient(make):
    model, examples = make(), utterances()
    p = parameters_of(model)
    batch = tensors(examples, np.arange(5))
    narrow = gradients(model, p, batch)
    wide = gradients(model, p, widened(batch, tokens=11))
    for name in p:
        assert_close(wide[name], narrow[name])
    untouched = np.setdiff1d(np.arange(ROWS), examples.token_ids)
    assert 0 in untouched and not narrow["embedding"][untouched].any()


@TAGGERS
def test_losses_add_up_from_the_sentences_one_by_one(make):
    """No example's loss or gradient depends on another's."""
    model, examples = make(), utterances()
    p = parameters_of(model)
    whole = gradients(model, p, tensors(examples, np.arange(5)))
    parts = [gradients(model, p, tensors(examples, np.array([i]))) for i in range(5)]
    for name in p:
        assert_close(whole[name], sum(part[name] for part in parts))


@TAGGERS
def test_null_records_contribute_no_gradient(make):
    model, examples = make(), utterances()
    p = parameters_of(model)
    null = np.array([True, False, True, False, False])
    got = gradients(model, p, tensors(examples.with_(null=null), np.arange(5)))
    wanted = gradients(model, p, tensors(examples, np.flatnonzero(~null)))
    nothing = gradients(model, p, tensors(examples.with_(null=np.ones(5, bool)), np.arange(5)))
    for name in p:
        assert_close(got[name], wanted[name])
        assert not nothing[name].any()


def stacked(make, rows):
    """Models, examples and one stacked batch of devices whose batches are equally large."""
    models = [make(seed) for seed in range(len(rows))]
    single = [parameters_of(model) for model in models]
    held = [utterances(lengths, seed) for seed, lengths in enumerate(rows)]
    batches = [tensors(h, np.argsort(-h.lengths, kind="stable")) for h in held]
    tokens = max(batch["slots"].shape[-1] for batch in batches)
    batches = [widened(batch, tokens) for batch in batches]
    stack = {name: torch.stack([batch[name] for batch in batches]) for name in batches[0]}
    parameters = {name: torch.stack([p[name] for p in single]) for name in single[0]}
    return models[0], single, batches, parameters, stack


@TAGGERS
@pytest.mark.parametrize("rows", [[(3, 1, 7), (2, 2, 1), (5, 4, 4)], [(1,), (1,)], [(2, 6)]])
def test_a_stack_of_devices_equals_the_devices_one_by_one(make, rows):
    model, single, batches, parameters, stack = stacked(make, rows)
    said = model.predict(parameters, stack)
    slopes = gradients(model, parameters, stack)
    for d, (p, batch) in enumerate(zip(single, batches, strict=True)):
        alone = model.predict(p, batch)
        assert_close(said.losses[d], alone.losses)
        assert torch.equal(said.intents[d], alone.intents)
        assert torch.equal(said.slots[d], alone.slots)
        own = gradients(model, p, batch)
        for name in p:
            assert_close(slopes[name][d], own[name])


@TAGGERS
def test_empty_padding_examples_of_a_stack_do_not_reach_the_others(make):
    """A device with fewer examples is filled up with rows of length and weight 0."""
    model, single, batches, parameters, stack = stacked(make, [(3, 2, 1), (4, 2, 2)])
    stack["lengths"][1, 2], stack["weight"][1, 2], stack["slots"][1, 2] = 0, 0.0, -1
    losses, slopes = model.losses(parameters, stack), gradients(model, parameters, stack)
    assert losses.isfinite().all()
    kept = {name: value[:2] if value.dim() else value for name, value in batches[1].items()}
    assert_close(losses[1, :2], model.losses(single[1], kept))
    own = gradients(model, single[1], kept)
    for name in own:
        assert_close(slopes[name][1], own[name])


@pytest.mark.parametrize("kind", [BiLSTMTagger, TransformerTagger])
def test_sizes_come_from_the_inventory_and_the_vocabulary_alone(kind):
    declared = SimpleNamespace(intents=("a", "b", "c"), slot_labels=("O", "B-x", "I-x"))
    population = SimpleNamespace(inventory=declared, vocabulary=SimpleNamespace(rows=11))
    model = kind.sized_for(population, embedding=8)
    assert model.embedding.shape == (11, 8)
    assert (len(model.intent_bias), len(model.slot_bias)) == (3, 3)


@pytest.mark.parametrize("kind", [BiLSTMTagger, TransformerTagger])
def test_initial_parameters_are_a_function_of_the_seed(kind):
    declared = SimpleNamespace(intents=("a", "b", "c"), slot_labels=("O", "B-x", "I-x"))
    population = SimpleNamespace(inventory=declared, vocabulary=SimpleNamespace(rows=11))
    before = torch.random.get_rng_state()
    one, same, other = (kind.sized_for(population, seed=s, embedding=8) for s in (3, 3, 4))
    for name, p in one.named_parameters():
        assert torch.equal(p, same.get_parameter(name))
        assert "bias" in name or "scale" in name or not torch.equal(p, other.get_parameter(name))
        assert p.isfinite().all()
    assert one.embedding.detach().std().item() * EMBEDDING_GAIN == pytest.approx(1.0, abs=0.35)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_forget_gates_start_open():
    model = BiLSTMTagger(rows=5, intents=2, slot_labels=3, embedding=4, hidden=2)
    model.initialise(torch_generator(0, "model"))
    assert model.lstm_bias.tolist() == [[0, 0, 1, 1, 0, 0, 0, 0]] * 2


@TAGGERS
def test_the_module_itself_is_the_same_function(make):
    model, examples = make(), utterances()
    batch = tensors(examples, np.arange(5))
    assert torch.equal(model(batch), model.losses(parameters_of(model), batch))
