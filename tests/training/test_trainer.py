"""Claims about a device's whole local training, against training the whole table by hand."""

import numpy as np
import pytest
import torch
from few import BILSTM, PEOPLE, TRANSFORMER, WORDS, people

from fedsim.errors import ConfigError
from fedsim.models import BiLSTMTagger
from fedsim.privacy import Automatic, ExampleLevel, NoiseDecay, PerLayer
from fedsim.privacy.micro_batches import MicroBatches
from fedsim.privacy.release import AdaptiveClipping
from fedsim.rng import stream
from fedsim.training import SGD, AdamW, LocalTrainer, private_procedures, procedures
from fedsim.training.batches import shuffled, steps_of, tensors
from fedsim.training.poisson import poisson


def parameters_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def trainer(population=PEOPLE, model=BILSTM, procedure=None, **options):
    made = procedure or procedures("sgd", model, 0.5)
    options = {"batch_size": 4, "local_epochs": 1, "local_steps": None, "seed": 7} | options
    return LocalTrainer(population=population, model=model, procedure=made, **options)


def whole_table(population, model, procedure, *, device, round, epochs=1, batch_size=4):
    """The same training, on every row of the embedding table."""
    held = population.held(device, 0, 7)
    state = procedure.start(parameters_of(model))
    steps = steps_of(len(held), batch_size, epochs, None)
    for indices in shuffled(len(held), batch_size, steps, stream(7, "batches", round, device)):
        state = procedure.step(state, tensors(held, indices))
    return procedure.finish(state)


def assert_same(one, other, tolerance=0.0):
    assert set(one) == set(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance)


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("model", [BILSTM, TRANSFORMER], ids=["bilstm", "transformer"])
@pytest.mark.parametrize(
    "make",
    [
        lambda losses: SGD(losses=losses, learning_rate=0.5),
        lambda losses: SGD(losses=losses, learning_rate=0.5, proximal_mu=0.3),
        lambda losses: AdamW(losses=losses, learning_rate=0.01),
        lambda losses: AdamW(losses=losses, learning_rate=0.01, proximal_mu=0.3),
        lambda losses: AdamW(losses=losses, learning_rate=0.01, weight_decay=0.1),
    ],
    ids=["sgd", "proximal", "adamw", "adamw-proximal", "adamw-decay"],
)
def test_training_only_the_rows_of_own_words_changes_nothing(model, make):
    procedure = make(model.losses)
    wanted = whole_table(PEOPLE, model, procedure, device=2, round=3, epochs=2)
    own = trainer(model=model, procedure=lambda mu: procedure, local_epochs=2)
    got = own.train(parameters_of(model), device=2, period=0, round=3).parameters
    assert_same(got, wanted, 1e-7)
    assert not same(got, parameters_of(model))


def test_rows_of_words_a_device_never_said_come_back_to_the_bit():
    sent = parameters_of(BILSTM)
    got = trainer(procedure=procedures("adamw", BILSTM, 0.01)).train(
        sent, device=0, period=0, round=1
    )
    said = np.unique(PEOPLE.held(0, 0).token_ids)
    others = np.setdiff1d(np.arange(WORDS.rows), said)
    assert torch.equal(got.parameters["embedding"][others], sent["embedding"][others])
    assert not torch.equal(got.parameters["embedding"][said], sent["embedding"][said])


def test_what_was_received_is_never_modified():
    sent = parameters_of(BILSTM)
    trainer().train(sent, device=2, period=0, round=1)
    assert same(sent, parameters_of(BILSTM))


def test_training_is_a_function_of_seed_round_and_device_alone():
    sent = parameters_of(BILSTM)
    one = trainer().train(sent, device=2, period=0, round=3).parameters
    trainer().train(sent, device=0, period=0, round=9)
    assert same(one, trainer().train(sent, device=2, period=0, round=3).parameters)
    assert not same(one, trainer().train(sent, device=2, period=0, round=4).parameters)
    assert not same(one, trainer(seed=8).train(sent, device=2, period=0, round=3).parameters)


class Counting:
    """A procedure that trains nothing and remembers its batches."""

    def __init__(self):
        self.batches = []

    leaves_unused_rows = False

    def start(self, parameters, stream):
        return {"parameters": parameters, "loss": torch.zeros(()), "seen": torch.zeros(())}

    def step(self, state, batch):
        self.batches.append(batch)
        return state

    def finish(self, state):
        return state["parameters"]


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"local_epochs": 1}, [4, 4, 4]),
        ({"local_epochs": 2, "batch_size": 5}, [5, 5, 2, 5, 5, 2]),
        ({"local_steps": 2}, [4, 4]),
        ({"local_steps": 5, "local_epochs": 9}, [4, 4, 4, 4, 4]),
        ({"batch_size": 100, "local_epochs": 3}, [12, 12, 12]),
    ],
)
def test_epochs_and_steps_give_these_batches(options, sizes):
    counting = Counting()
    own = trainer(procedure=lambda mu: counting, **options)
    result = own.train(parameters_of(BILSTM), device=2, period=0, round=1)
    assert [len(batch["intents"]) for batch in counting.batches] == sizes
    assert [float(batch["size"]) for batch in counting.batches] == sizes
    assert result.examples == 12


def test_what_a_null_record_said_cannot_be_seen_in_a_batch():
    held = PEOPLE.held(2, 0)
    null = np.arange(12) % 3 == 0
    one = tensors(held.with_(null=null), np.arange(12))
    words = np.repeat(null, held.lengths)
    other = held.with_(
        null=null,
        token_ids=np.where(words[:, None], 9, held.token_ids),
        slots=np.where(words, 3, held.slots),
        intents=np.where(null, 1, held.intents),
    )
    two = tensors(other, np.arange(12))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert one["lengths"][one["weight"] == 0].tolist() == [1, 1, 1, 1]


def test_a_model_that_names_no_lookup_trains_its_whole_table():
    class Plain(BiLSTMTagger):
        lookup = None

    whole = Plain(rows=WORDS.rows, intents=3, slot_labels=5, embedding=4, hidden=3)
    seen = []

    class Watching(Counting):
        leaves_unused_rows = True

        def start(self, parameters, stream):
            seen.append(len(parameters["embedding"]))
            return super().start(parameters, stream)

    own = trainer(model=whole, procedure=lambda mu: Watching())
    own.train(parameters_of(whole), device=2, period=0, round=1)
    assert seen == [WORDS.rows]


def test_every_epoch_meets_every_example_once_in_another_order():
    order = [i for batch in shuffled(12, 5, 6, stream(7, "batches", 1, 2)) for i in batch.tolist()]
    assert sorted(order[:12]) == sorted(order[12:]) == list(range(12))
    assert order[:12] != order[12:]


def test_a_batch_is_sorted_by_length_and_weighs_null_records_zero():
    held = PEOPLE.held(2, 0)
    null = np.arange(12) % 3 == 0
    batch = tensors(held.with_(null=null), np.arange(12))
    lengths = batch["lengths"]
    assert torch.equal(lengths, lengths.sort(descending=True).values)
    assert float(batch["weight"].sum()) == 8 and float(batch["size"]) == 12
    assert torch.equal((batch["slots"] >= 0).sum(1), lengths)


def test_a_device_with_nothing_returns_what_it_received():
    cut = people(periods=2)
    sent = parameters_of(BILSTM)
    assert cut.activity(1)[1] == 0
    for options in ({}, {"local_steps": 5}):
        result = trainer(cut, **options).train(sent, device=1, period=1, round=1)
        assert same(result.parameters, sent)
        assert result[1:] == (0, 0.0, 0.0)


@pytest.mark.parametrize("mu", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_null_device_returns_what_it_received_to_the_bit(optimizer, mu):
    starts = PEOPLE.starts
    mask = np.zeros(starts[-1], bool)
    mask[starts[2] : starts[3]] = True
    own = trainer(PEOPLE.nulled(mask), procedure=procedures(optimizer, BILSTM, 0.5))
    sent = parameters_of(BILSTM)
    result = own.train(sent, device=2, period=0, round=1, proximal_mu=mu)
    assert same(result.parameters, sent)
    assert result[1:] == (12, 0.0, 0.0)


def test_loss_is_the_mean_over_real_examples_and_seen_counts_repeats():
    mask = np.zeros(PEOPLE.starts[-1], bool)
    mask[PEOPLE.starts[2]] = True
    nulled = PEOPLE.nulled(mask)
    own = trainer(nulled, procedure=procedures("sgd", BILSTM, 0.0), local_epochs=3)
    result = own.train(parameters_of(BILSTM), device=2, period=0, round=1)
    with torch.no_grad():
        real = BILSTM(tensors(PEOPLE.held(2, 0), np.arange(1, 12))).mean()
    assert (result.examples, result.seen) == (12, 33.0)
    assert result.loss == pytest.approx(float(real), rel=1e-5)


def test_a_reservoir_trains_on_exactly_what_the_device_holds():
    cut = people(periods=3, keep="reservoir:2")
    held = cut.held(2, 2, 7)
    own = trainer(cut, batch_size=100)
    got = own.train(parameters_of(BILSTM), device=2, period=2, round=5)
    assert got.examples == len(held) == own.activity(2, 2) == 6
    state = SGD(losses=BILSTM.losses, learning_rate=0.5).start(parameters_of(BILSTM))
    draw = stream(7, "batches", 5, 2)
    SGD(losses=BILSTM.losses, learning_rate=0.5).step(state, tensors(held, draw.permutation(6)))
    assert_same(got.parameters, {n: p.detach() for n, p in state["parameters"].items()}, 1e-7)


def test_the_servers_proximal_weight_stands_before_the_clients_own():
    asked = []

    def procedure(mu):
        asked.append(mu)
        return SGD(losses=BILSTM.losses, learning_rate=0.5, proximal_mu=mu)

    own = trainer(procedure=procedure, proximal_mu=0.2)
    for sent in (None, 0.0, 0.9):
        own.train(parameters_of(BILSTM), device=1, period=0, round=1, proximal_mu=sent)
    assert asked == [0.2, 0.0, 0.9]


def test_a_proximal_term_keeps_devices_nearer():
    sent = parameters_of(BILSTM)

    def distance(mu):
        got = trainer(local_epochs=5).train(sent, device=2, period=0, round=1, proximal_mu=mu)
        return sum(float((got.parameters[n] - sent[n]).square().sum()) for n in sent)

    assert distance(1.0) < distance(0.1) < distance(0.0)


def test_evaluation_is_on_a_devices_own_test_utterances():
    score = trainer().evaluate(parameters_of(BILSTM), device=0)
    with torch.no_grad():
        batches = [tensors(PEOPLE.test, np.array([i])) for i in range(5)]
        said = [BILSTM.predict(parameters_of(BILSTM), batch) for batch in batches]
    right = [bool(s.intents[0] == b["intents"][0]) for s, b in zip(said, batches, strict=True)]
    assert score.examples == 5
    assert score.intent_accuracy == pytest.approx(np.mean(right))
    assert score.loss == pytest.approx(np.mean([float(s.losses[0]) for s in said]), rel=1e-5)
    assert trainer().evaluate(parameters_of(BILSTM), device=1) is None


def private_trainer(batch_size=4, population=PEOPLE, learning_rate=0.5, **privacy):
    level = ExampleLevel(**{"noise_multiplier": 1.0, "delta": 1e-5} | privacy)
    made = private_procedures(level, BILSTM, learning_rate, batch_size)
    return trainer(population, procedure=made, batch_size=batch_size, privacy=level)


def test_without_noise_and_clipping_private_training_is_ordinary_training_on_poisson_batches():
    """The oracle: SGD on the summed loss of the same coins over the same constant."""
    sent = parameters_of(BILSTM)
    held = PEOPLE.held(2, 0, 7)
    rate, steps = 4 / len(held), 3
    expected = {name: p.clone().requires_grad_() for name, p in sent.items()}
    for drawn in poisson(len(held), rate, steps, stream(7, "batches", 5, 2)):
        loss = BILSTM.losses(expected, tensors(held, drawn)).sum() / 4
        gradients = torch.autograd.grad(loss, list(expected.values()))
        with torch.no_grad():
            for p, gradient in zip(expected.values(), gradients, strict=True):
                p -= 0.5 * gradient
    quiet = private_trainer(noise_multiplier=0.0, clip_norm=np.inf)
    got = quiet.train(sent, device=2, period=0, round=5)
    assert_same({n: p.detach() for n, p in expected.items()}, got.parameters, 1e-5)


def test_a_device_with_fewer_examples_than_a_batch_sees_all_of_them_at_every_step():
    result = private_trainer(batch_size=16).train(
        parameters_of(BILSTM), device=0, period=0, round=1
    )
    assert (result.examples, result.seen) == (7, 7.0)


def test_a_device_that_holds_nothing_replies_with_noise_of_the_stated_size():
    sent = parameters_of(BILSTM)
    result = private_trainer(population=people(2)).train(sent, device=1, period=1, round=1)
    assert (result.examples, result.seen, result.loss) == (0, 0.0, 0.0)
    moved = torch.cat([(result.parameters[n] - p).flatten() for n, p in sent.items()])
    # Learning rate over batch size; more than five standard errors of the deviation.
    expected = 0.5 / 4
    assert abs(float(moved.std()) / expected - 1) < 5 / (2 * len(moved)) ** 0.5


def test_noise_is_a_function_of_seed_round_and_device_unless_it_is_secure():
    sent = parameters_of(BILSTM)

    def reply(round=3, **privacy):
        return private_trainer(**privacy).train(sent, device=2, period=0, round=round).parameters

    assert same(reply(), reply())
    assert not same(reply(), reply(round=4))
    assert not same(reply(secure_noise=True), reply(secure_noise=True))


@pytest.mark.parametrize(
    ("privacy", "same_as"),
    [
        ({"decay": NoiseDecay(factor=0.5)}, None),
        ({"adaptive": AdaptiveClipping()}, None),
        ({"clipping": Automatic()}, None),
        ({"clipping": MicroBatches(size=2)}, None),
        ({"clipping": PerLayer.by_size(parameters_of(BILSTM))}, None),
        ({"decay": NoiseDecay(factor=0.5, every=100)}, {}),
        ({"clipping": PerLayer(scales={"": 1.0})}, {}),
    ],
)
def test_the_trainer_clips_and_noises_as_the_privacy_says(privacy, same_as):
    """Each way differs from the plain one, unless it says the same in other words."""

    def reply(**privacy):
        small = private_trainer(clip_norm=0.1, **privacy)
        return small.train(parameters_of(BILSTM), device=2, period=0, round=3).parameters

    plain, got = reply(), reply(**privacy)
    assert same(reply(**privacy), got)
    if same_as is None:
        assert not same(got, plain)
    else:
        assert_same(plain, got, 1e-6)


def test_clip_bits_without_enough_noise_are_refused_before_a_device_trains():
    with pytest.raises(ConfigError, match="bit"):
        private_trainer(adaptive=AdaptiveClipping(bit_noise=0.4))
