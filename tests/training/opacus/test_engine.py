"""Claims about the kernel under Opacus's PrivacyEngine, against Opacus's own hooks."""

import copy

import pytest
import torch
from opacus import PrivacyEngine
from opacus.accountants import RDPAccountant
from opacus.grad_sample import GradSampleModule
from opacus.layers import DPLSTM
from opacus.optimizers import DPOptimizer
from opacus.schedulers import ExponentialGradClip, ExponentialNoise
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedsim import ConfigError
from fedsim.models import LSTM
from fedsim.rng import torch_generator
from fedsim.training.opacus import BookKeepingEngine, BookKeepingModule, BookKeepingOptimizer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

EXAMPLES, TOKENS = 12, 5


class Reader(nn.Module):
    """Every layer the kernel knows, and one it does not."""

    def __init__(self, recurrent=None, unknown=False):
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.recurrent = recurrent
        self.norm = nn.LayerNorm(4)
        self.mix = nn.Conv1d(4, 4, 1) if unknown else nn.Identity()
        self.head = nn.Linear(4, 3)

    def forward(self, ids):
        words = self.embedding(ids)
        if self.recurrent is not None:
            words = self.recurrent(words)[0]
        words = self.mix(self.norm(words).transpose(1, 2))
        return self.head(torch.tanh(words).amax(2))


def filled(model, seed=0, dtype=torch.float64):
    draw = torch_generator(seed, "test")
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=draw)
    return model.to(dtype)


def data(examples=EXAMPLES):
    draw = torch_generator(1, "test")
    ids = torch.randint(0, 9, (examples, TOKENS), generator=draw)
    return ids, torch.randint(0, 3, (examples,), generator=draw)


def private(engine, model, *, noise=0.0, clip=0.7, batch_size=EXAMPLES, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loader = DataLoader(TensorDataset(*data()), batch_size=batch_size)
    return engine.make_private(
        module=model,
        optimizer=optimizer,
        data_loader=loader,
        noise_multiplier=noise,
        max_grad_norm=clip,
        noise_generator=torch_generator(2, "test"),
        **options,
    )


def stepped(model, optimizer, ids, labels, reduction="mean"):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(ids), labels, reduction=reduction)
    loss.backward()
    optimizer.step()
    return {name: p.detach().clone() for name, p in model._module.named_parameters()}


def assert_near(one, other, tolerance=2e-6):
    """Opacus adds 1e-6 to every norm."""
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_updates_are_those_of_opacus_hooks(reduction, unknown, noise):
    runs = []
    for engine in (BookKeepingEngine(accountant="rdp"), PrivacyEngine(accountant="rdp")):
        model, optimizer, _ = private(
            engine, filled(Reader(unknown=unknown)), noise=noise, loss_reduction=reduction
        )
        stepped(model, optimizer, *data(7), reduction)
        runs.append(stepped(model, optimizer, *data(5), reduction))
    assert_near(*runs)


def test_a_recurrent_layer_of_opacus_is_left_to_opacus(caplog):
    runs = []
    for engine in (BookKeepingEngine(accountant="rdp"), PrivacyEngine(accountant="rdp")):
        model = filled(Reader(DPLSTM(4, 4, batch_first=True)), dtype=torch.float32)
        model, optimizer, _ = private(engine, model)
        runs.append(stepped(model, optimizer, *data(4)))
    assert_near(*runs)
    assert [r.getMessage() for r in caplog.records if "fedsim" in r.name] == [
        "the clipping kernel does not know DPLSTM; Opacus's hooks take their gradients"
    ]


def test_a_stock_lstm_becomes_one_with_one_bias_and_the_same_update():
    """Against Opacus's LSTM with its second bias frozen, whose norm counts one bias alone."""
    stock = filled(Reader(nn.LSTM(4, 4, batch_first=True)), dtype=torch.float32)
    ours = BookKeepingEngine.get_compatible_module(stock)
    ids, labels = data(6)
    torch.testing.assert_close(ours(ids), stock(ids))
    assert isinstance(ours.recurrent, LSTM) and type(stock.recurrent) is nn.LSTM

    theirs = PrivacyEngine.get_compatible_module(copy.deepcopy(stock))
    state = ours.recurrent.state_dict()
    theirs.recurrent.load_state_dict(state)
    theirs.recurrent.l0.hh.bias.requires_grad_(False)
    model, optimizer, _ = private(BookKeepingEngine(accountant="rdp"), ours)
    stepped(model, optimizer, ids, labels)
    wrapped = GradSampleModule(theirs)
    inner = torch.optim.SGD([p for p in theirs.parameters() if p.requires_grad], lr=0.5)
    other = DPOptimizer(inner, noise_multiplier=0.0, max_grad_norm=0.7, expected_batch_size=12)
    stepped(wrapped, other, ids, labels)
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert_near(dict(ours), {name: theirs[name] for name in ours})


def test_the_accountant_prices_every_step():
    engine = BookKeepingEngine(accountant="rdp")
    model, optimizer, _ = private(engine, filled(Reader()), noise=1.0, batch_size=3)
    for _ in range(20):
        stepped(model, optimizer, *data(3))
    by_hand = RDPAccountant()
    for _ in range(20):
        by_hand.step(noise_multiplier=1.0, sample_rate=0.25)
    assert engine.get_epsilon(1e-5) == by_hand.get_epsilon(1e-5) > 0


def test_a_target_epsilon_is_kept():
    engine = BookKeepingEngine(accountant="rdp")
    model = filled(Reader())
    model, optimizer, loader = engine.make_private_with_epsilon(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(TensorDataset(*data()), batch_size=3),
        target_epsilon=5.0,
        target_delta=1e-3,
        epochs=2,
        max_grad_norm=1.0,
    )
    for _ in range(2):
        for ids, labels in loader:
            stepped(model, optimizer, ids, labels)
    assert 4.0 < engine.get_epsilon(1e-3) <= 5.0


@pytest.mark.parametrize(
    ("scheduler", "field", "value"),
    [(ExponentialNoise, "noise_multiplier", 0.5), (ExponentialGradClip, "max_grad_norm", 0.35)],
)
def test_schedulers_change_the_next_step(scheduler, field, value):
    """The step after half the noise, or half the clip norm, is that of an engine told so."""
    start = {"noise": 1.0, "clip": 0.7}
    model, optimizer, _ = private(BookKeepingEngine(accountant="rdp"), filled(Reader()), **start)
    scheduler(optimizer, gamma=0.5).step()
    assert getattr(optimizer, field) == value
    told = start | ({"noise": value} if "noise" in field else {"clip": value})
    other, wanted, _ = private(BookKeepingEngine(accountant="rdp"), filled(Reader()), **told)
    assert_near(stepped(model, optimizer, *data(4)), stepped(other, wanted, *data(4)), 1e-12)


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_an_empty_batch_is_a_step_of_noise_alone(noise):
    engine = BookKeepingEngine(accountant="rdp")
    model, optimizer, _ = private(engine, filled(Reader()), noise=noise)
    before = {name: p.detach().clone() for name, p in model._module.named_parameters()}
    after = stepped(model, optimizer, *(part[:0] for part in data()))
    assert all(torch.equal(after[n], before[n]) == (noise == 0) for n in before)
    assert all(p.isfinite().all() for p in after.values())


def test_one_large_batch_in_physical_parts_is_one_step():
    model, optimizer, _ = private(BookKeepingEngine(accountant="rdp"), filled(Reader()))
    whole = stepped(model, optimizer, *data())
    engine = BookKeepingEngine(accountant="rdp")
    model, optimizer, _ = private(engine, filled(Reader()), poisson_sampling=False)
    loader = DataLoader(TensorDataset(*data()), batch_size=EXAMPLES)
    with BatchMemoryManager(
        data_loader=loader, max_physical_batch_size=5, optimizer=optimizer
    ) as parts:
        for ids, labels in parts:
            split = stepped(model, optimizer, ids, labels)
    # The mean loss of a part is over the part; the sum of clipped gradients does not care.
    assert_near(split, whole, 1e-10)


def test_passes_add_up_until_the_step():
    model, optimizer, _ = private(
        BookKeepingEngine(accountant="rdp"),
        filled(Reader()),
        loss_reduction="sum",
        poisson_sampling=False,
    )
    ids, labels = data()
    for rows in (slice(0, 5), slice(5, None)):
        loss = nn.functional.cross_entropy(model(ids[rows]), labels[rows], reduction="sum")
        loss.backward()
    assert optimizer.accumulated_iterations == 2
    optimizer.step()
    split = dict(model._module.named_parameters())
    model, optimizer, _ = private(
        BookKeepingEngine(accountant="rdp"), filled(Reader()), loss_reduction="sum"
    )
    assert_near(split, stepped(model, optimizer, ids, labels, "sum"), 1e-10)


def test_frozen_layers_stay_and_do_not_count():
    runs = []
    for engine in (BookKeepingEngine(accountant="rdp"), PrivacyEngine(accountant="rdp")):
        model = filled(Reader())
        model.embedding.requires_grad_(False)
        model.norm.requires_grad_(False)
        before = model.embedding.weight.clone()
        optimizer = torch.optim.SGD([*model.head.parameters()], lr=0.5)
        model, optimizer, _ = engine.make_private(
            module=model,
            optimizer=optimizer,
            data_loader=DataLoader(TensorDataset(*data()), batch_size=3),
            noise_multiplier=0.0,
            max_grad_norm=0.1,
        )
        runs.append(stepped(model, optimizer, *data(6)))
        assert torch.equal(runs[-1]["embedding.weight"], before)
    assert_near(*runs)


def test_an_example_that_is_not_finite_counts_as_zero():
    model, optimizer, _ = private(BookKeepingEngine(accountant="rdp"), filled(Reader()))
    ids, labels = data(6)
    ids = ids.clamp(max=7)
    wanted = stepped(model, optimizer, ids[:5], labels[:5])
    broken = filled(Reader())
    broken.embedding.weight.data[8] = torch.inf
    ids[5] = 8
    model, optimizer, _ = private(BookKeepingEngine(accountant="rdp"), broken)
    got = stepped(model, optimizer, ids, labels)
    wanted["embedding.weight"][8] = torch.inf
    assert_near(got, wanted, 1e-10)


def test_without_training_nothing_is_noted():
    model = BookKeepingModule(filled(Reader()))
    model.eval()
    model(data()[0]).sum()
    with torch.no_grad():
        model.train()(data()[0])
    assert all(p.grad_sample is None for p in model._module.parameters())


def test_unwrapping_leaves_the_model_as_it_was():
    model = filled(Reader(unknown=True))
    before = copy.deepcopy(model)
    same = BookKeepingModule(model).to_standard_module()
    assert same is model
    for one, other in ((same, before),):
        nn.functional.cross_entropy(one(data()[0]), data()[1]).backward()
        nn.functional.cross_entropy(other(data()[0]), data()[1]).backward()
    for one, other in zip(same.parameters(), before.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad) and not hasattr(one, "grad_sample")
    assert not same.head._forward_hooks
    BookKeepingModule(model)


class Positions(nn.Module):
    """Position codes looked up once and broadcast over the batch."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(9, 4), nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids):
        places = self.places(torch.arange(ids.shape[1]).unsqueeze(0))
        return self.head((self.words(ids) + places).mean(1))


def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "module 1 is a BatchNorm1d, which mix"),
        (tied(), "parameters 0.weight and 1.weight are one tensor"),
        (nn.Sequential(nn.LSTM(2, 2)), "module 0 is a nn.LSTM"),
        (nn.Sequential(nn.Conv1d(2, 2, 1)), "no trainable layer"),
    ],
)
def test_what_breaks_per_example_gradients_is_refused_by_name(model, what):
    with pytest.raises(ConfigError, match=what):
        BookKeepingModule(model)


def test_broadcast_position_ids_are_refused():
    """Where Opacus's hooks go on with wrong gradients (its issue 841)."""
    model, optimizer, _ = private(BookKeepingEngine(accountant="rdp"), filled(Positions()))
    with pytest.raises(ConfigError, match="sees 1 examples where another sees 4"):
        stepped(model, optimizer, *data(4))


def test_a_step_without_a_clipped_gradient_is_refused():
    model, optimizer, _ = private(BookKeepingEngine(accountant="rdp"), filled(Reader()))
    nn.functional.cross_entropy(model._module(data()[0]), data()[1]).backward()
    with pytest.raises(ConfigError, match="no gradient to clip"):
        optimizer.step()


def test_a_gradient_is_used_once():
    model, optimizer, _ = private(BookKeepingEngine(accountant="rdp"), filled(Reader()))
    stepped(model, optimizer, *data(3))
    with pytest.raises(ValueError, match="haven't been cleared"):
        optimizer.step()
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(data()[0]), data()[1])
    loss.backward(retain_graph=True)
    with pytest.raises(ConfigError, match="backward was called twice"):
        loss.backward()
    with pytest.raises(ConfigError, match="a second pass before"):
        model(data()[0])


def test_a_parameter_outside_the_optimizer_is_refused():
    model = filled(Reader())
    module = BookKeepingModule(model)
    inner = torch.optim.SGD(model.head.parameters(), lr=0.1)
    optimizer = BookKeepingOptimizer(
        inner, noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=2
    )
    with pytest.raises(ConfigError, match="is in no group of the optimizer"):
        stepped(module, optimizer, *data(2))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"grad_sample_mode": "ghost"}, "grad_sample_mode is 'ghost'"),
        ({"clipping": "per_layer"}, "clipping is 'per_layer'"),
    ],
)
def test_other_modes_are_refused(options, what):
    with pytest.raises(ConfigError, match=what):
        private(BookKeepingEngine(accountant="rdp"), filled(Reader()), **options)
