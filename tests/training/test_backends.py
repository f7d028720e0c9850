"""Claims about the backends: one sum, whoever computes it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fedsim import ConfigError
from fedsim.models import BiLSTMTagger, JointTagger, TransformerTagger
from fedsim.training.backends import backend
from tests.training.kernel.naive_clipping import assert_same, naive

SIZES = {"rows": 11, "intents": 3, "slot_labels": 4}
MODELS = {
    "bilstm": BiLSTMTagger(**SIZES, embedding=4, hidden=3),
    "transformer": TransformerTagger(**SIZES, embedding=8, layers=2, heads=2),
}
BACKENDS = ("book-keeping", "opacus-hooks", "opacus-ghost")

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.parametrize("model", MODELS.values(), ids=MODELS),
    pytest.mark.parametrize("name", BACKENDS),
]


def parameters_of(model, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        n: 0.4 * torch.randn(p.shape, generator=draw, dtype=torch.float64)
        for n, p in model.named_parameters()
    }


def batch_of(lengths, seed=0, pieces=2):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths, dtype=torch.int64)
    examples, tokens = len(lengths), 5
    slots = torch.randint(0, 4, (examples, tokens), generator=draw)
    return {
        "token_ids": torch.randint(1, 11, (examples, tokens, pieces), generator=draw),
        "lengths": lengths,
        "intents": torch.randint(0, 3, (examples,), generator=draw),
        "slots": slots.masked_fill(torch.arange(tokens) >= lengths.unsqueeze(1), -1),
        "weight": torch.arange(examples).ne(1).double(),
        "size": torch.tensor(4.0),
    }


@pytest.mark.parametrize("lengths", [[5], [5, 5, 5], [4, 3, 1]])
@pytest.mark.parametrize("clip_norm", [0.5, 4.0, torch.inf])
def test_sums_are_those_of_single_examples(model, name, lengths, clip_norm):
    parameters, batch = parameters_of(model), batch_of(lengths)
    clipped = backend(name, model)(model.losses, parameters, batch, clip_norm)
    assert_same(clipped, naive(model.losses, parameters, batch, clip_norm), 1e-10)
    torch.testing.assert_close(clipped.losses, model.losses(parameters, batch))


def test_one_backend_serves_many_batches_and_nobody(model, name):
    compute, there = backend(name, model), None
    wanted = {n: torch.zeros_like(p) for n, p in parameters_of(model).items()}
    for seed, lengths in enumerate([[3, 2], [], [5, 4, 4, 1], [], [2]]):
        parameters, batch = parameters_of(model, seed), batch_of(lengths, seed)
        there = compute(model.losses, parameters, batch, 1.0, into=there).gradients
        for n, part in naive(model.losses, parameters, batch, 1.0)[0].items():
            wanted[n] += part
    for n in wanted:
        torch.testing.assert_close(there[n], wanted[n], rtol=1e-10, atol=1e-10)


def test_what_fills_a_batch_up_changes_nothing(model, name):
    parameters, full = parameters_of(model), batch_of([4, 2, 0, 0])
    full["weight"] = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    short = {n: v[:2] if v.dim() else v for n, v in full.items()}
    one, other = (
        backend(name, model)(model.losses, parameters, batch, 1.0).gradients
        for batch in (full, short)
    )
    for n in one:
        torch.testing.assert_close(one[n], other[n])


def test_an_example_that_is_not_finite_counts_as_zero(model, name):
    parameters, batch = parameters_of(model), batch_of([3, 3, 2])
    batch["token_ids"] = batch["token_ids"].clamp(max=9)
    batch["weight"] = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    wanted = naive(model.losses, parameters, batch, 1.0)[0]
    parameters["embedding"][10] = torch.inf
    batch["token_ids"][1, 0, 0] = 10
    batch["weight"] = torch.ones(3, dtype=torch.float64)
    clipped = backend(name, model)(model.losses, parameters, batch, 1.0)
    assert clipped.factors[1] == 0
    for n in wanted:
        torch.testing.assert_close(clipped.gradients[n], wanted[n])


def test_threads_do_not_meet(model, name):
    compute = backend(name, model)
    cases = [(parameters_of(model, seed), batch_of([4, 3], seed)) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        sums = list(pool.map(lambda c: compute(model.losses, *c, 1.0).gradients, cases))
    for (parameters, batch), got in zip(cases, sums, strict=True):
        for n, wanted in naive(model.losses, parameters, batch, 1.0)[0].items():
            torch.testing.assert_close(got[n], wanted, rtol=1e-10, atol=1e-10)


def test_what_opacus_cannot_compute_is_refused(model, name):
    with pytest.raises(ConfigError, match=f"dp_backend is '{name[:-1]}' .did you mean"):
        backend(name[:-1], model)
    if name == "book-keeping":
        return

    class Own(JointTagger):
        """A user's tagger."""

    own = Own(**SIZES, embedding=2, features=2)
    with pytest.raises(ConfigError, match="a Own, which has no twin"):
        backend(name, own)
    stack = {"weight": torch.ones(2, 3)}
    with pytest.raises(ConfigError, match="one device at a time"):
        backend(name, model)(model.losses, {}, stack, 1.0)
