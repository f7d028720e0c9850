"""Claims about the step that is written out: it is autograd's, in the same places, or not taken."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import NLUClient
from fedsim.models import BiLSTMTagger
from fedsim.rng import torch_generator
from fedsim.training.procedures import SGD
from tests.training.few import BILSTM, PEOPLE

ROWS, INTENTS, SLOTS = 11, 3, 5


def model(dtype=torch.float32):
    """Untrained, with biases, so that nothing is zero."""
    own = BiLSTMTagger(rows=ROWS, intents=INTENTS, slot_labels=SLOTS, embedding=4, hidden=3)
    own.initialise(torch_generator(0, "model"))
    with torch.no_grad():
        for p in own.parameters():
            p.add_(0.1)
    return own.to(dtype)


@st.composite
def batches(draw):
    """Sentences of 0 to 6 words, longest first, of 1 to 3 pieces a word; some of weight 0."""
    lengths = sorted(draw(st.lists(st.integers(0, 6), min_size=1, max_size=5)), reverse=True)
    tokens = max(1, lengths[0]) + draw(st.integers(0, 2))
    if draw(st.booleans()):
        lengths = [tokens] * len(lengths)
    pieces, count = draw(st.integers(1, 3)), len(lengths)
    own = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    inside = torch.arange(tokens) < torch.tensor(lengths).unsqueeze(-1)
    slots = torch.randint(0, SLOTS, (count, tokens), generator=own)
    weight = torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count))).float()
    return {
        "token_ids": torch.randint(0, ROWS, (count, tokens, pieces), generator=own),
        "lengths": torch.tensor(lengths),
        "intents": torch.randint(0, INTENTS, (count,), generator=own),
        "slots": slots.masked_fill(~inside, -1),
        "weight": weight,
        "size": torch.tensor(float(count)),
    }


def trained(procedure, dtype, batch):
    """Parameters and state after three steps on a batch."""
    parameters = {name: p.detach().to(dtype) for name, p in model().named_parameters()}
    state = procedure.start(parameters)
    for _ in range(3):
        state = procedure.step(state, batch)
    return procedure.finish(state), state


@given(batches())
@settings(max_examples=100, deadline=None)
def test_steps_are_those_of_autograd(batch):
    own = model()
    by_hand = SGD(losses=own.losses, learning_rate=0.7, descend=own.descend)
    wanted, state = trained(replace(by_hand, descend=None), torch.float64, batch)
    got, mine = trained(by_hand, torch.float32, batch)
    for name in wanted:
        torch.testing.assert_close(got[name].double(), wanted[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine["loss"].double(), state["loss"].double(), rtol=1e-5, atol=1e-6)
    assert mine["seen"] == state["seen"] == 3 * batch["weight"].sum()


def test_losses_are_those_before_the_step():
    batch = next(iter(client().bind(PEOPLE, BILSTM, 0).batches(held(), device=0, round=1)))
    parameters = {name: p.detach().clone() for name, p in BILSTM.named_parameters()}
    wanted = BILSTM.losses(parameters, batch)
    said = BILSTM.descend(parameters, batch, 0.5)
    torch.testing.assert_close(said, wanted)
    assert not torch.equal(BILSTM.losses(parameters, batch), wanted)


def client(**settings):
    return NLUClient(batch_size=4, **settings)


def held():
    return PEOPLE.held(0, 0, 0)


def taken(monkeypatch, trainer_of=lambda: client().bind(PEOPLE, BILSTM, 0)):
    """Steps that were written out while a device trained."""
    steps = []
    whole = BiLSTMTagger.descend

    def watched(self, *given):
        losses = whole(self, *given)
        steps.append(losses is not None)
        return losses

    monkeypatch.setattr(BiLSTMTagger, "descend", watched)
    trainer = trainer_of()
    parameters = {name: p.detach() for name, p in trainer.model.named_parameters()}
    trainer.train(parameters, device=0, period=0, round=1)
    return steps


def test_devices_train_by_it(monkeypatch):
    assert taken(monkeypatch) == [True, True]


@pytest.mark.parametrize(
    "settings",
    [{"proximal_mu": 0.1}, {"optimizer": "adamw"}, {"precision": "bfloat16"}],
    ids=["proximal", "adamw", "bfloat16"],
)
def test_other_procedures_do_not(monkeypatch, settings):
    assert taken(monkeypatch, lambda: client(**settings).bind(PEOPLE, BILSTM, 0)) == []


class Louder(BiLSTMTagger):
    """An encoder of one's own."""

    def encode(self, parameters, words, packing):
        return 2 * super().encode(parameters, words, packing)


class Steeper(BiLSTMTagger):
    """Losses of one's own."""

    def losses(self, parameters, batch):
        return 2 * super().losses(parameters, batch)


@pytest.mark.parametrize("kind", [Louder, Steeper])
def test_a_model_that_computes_something_else_is_left_to_autograd(monkeypatch, kind):
    other = kind.sized_for(PEOPLE, embedding=6, hidden=5)
    assert taken(monkeypatch, lambda: client().bind(PEOPLE, other, 0)) == [False, False]


@pytest.mark.parametrize("change", ["stack", "double", "no examples"])
def test_what_it_cannot_do_leaves_parameters_alone(change):
    own = model(torch.float64 if change == "double" else torch.float32)
    parameters = {name: p.detach().clone() for name, p in own.named_parameters()}
    if change == "stack":
        parameters = {name: p.unsqueeze(0) for name, p in parameters.items()}
    before = {name: p.clone() for name, p in parameters.items()}
    count = 0 if change == "no examples" else 1
    batch = {
        "token_ids": torch.ones(count, 1, 1, dtype=torch.int64),
        "lengths": torch.ones(count, dtype=torch.int64),
        "intents": torch.zeros(count, dtype=torch.int64),
        "slots": torch.zeros(count, 1, dtype=torch.int64),
    }
    assert own.descend(parameters, batch, 0.5) is None
    assert all(torch.equal(parameters[name], before[name]) for name in before)


@pytest.fixture
def defaults():
    """Sets what torch makes tensors of, and sets it back."""
    before = torch.get_default_dtype()
    yield lambda dtype, device: (torch.set_default_dtype(dtype), torch.set_default_device(device))
    torch.set_default_dtype(before)
    torch.set_default_device(None)


@pytest.mark.parametrize(("dtype", "device"), [("float64", "cpu"), ("float32", "meta")])
def test_what_torch_makes_tensors_of_meanwhile_changes_no_step_and_no_later_one(
    defaults, dtype, device
):
    # Sizes of its own: what is kept of a size is made here first.
    own = BiLSTMTagger(rows=ROWS, intents=INTENTS, slot_labels=SLOTS, embedding=3, hidden=7)
    own.initialise(torch_generator(0, "model"))
    batch = {
        "token_ids": torch.tensor([[[1], [2], [3]], [[4], [0], [0]]]),
        "lengths": torch.tensor([3, 1]),
        "intents": torch.tensor([0, 1]),
        "slots": torch.tensor([[0, 1, 2], [3, -1, -1]]),
        "weight": torch.ones(2),
        "size": torch.tensor(2.0),
    }

    def stepped():
        parameters = {name: p.detach().clone() for name, p in own.named_parameters()}
        assert own.descend(parameters, batch, 0.5) is not None
        return parameters

    defaults(getattr(torch, dtype), device)
    meanwhile = stepped()
    defaults(torch.float32, "cpu")
    later = stepped()
    losses = own.losses(dict(own.named_parameters()), batch)
    (losses * batch["weight"]).mean().backward()
    for name, p in own.named_parameters():
        assert torch.equal(meanwhile[name], later[name])
        torch.testing.assert_close(later[name], (p - 0.5 * p.grad).detach())
