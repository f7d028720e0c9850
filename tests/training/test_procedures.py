"""Claims about local procedures, against `torch.optim` and the explicit penalty."""

from dataclasses import replace

import pytest
import torch

from fedsim.training.procedures import SGD, AdamW

STEPS, EXAMPLES = 6, 5


def losses(parameters, batch):
    """Per-example squared errors of a small network; any leading device axis."""
    hidden = torch.tanh(batch["inputs"] @ parameters["w"] + parameters["b"].unsqueeze(-2))
    return (hidden @ parameters["v"].unsqueeze(-1)).squeeze(-1).sub(batch["wanted"]).square()


def received(seed, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    shapes = {"w": (3, 4), "b": (4,), "v": (4,)}
    return {k: torch.randn(s, generator=draw, dtype=dtype) for k, s in shapes.items()}


def batches(seed, dtype=torch.float64):
    draw = torch.Generator().manual_seed(100 + seed)
    return [
        {
            "inputs": torch.randn(EXAMPLES, 3, generator=draw, dtype=dtype),
            "wanted": torch.randn(EXAMPLES, generator=draw, dtype=dtype),
            "weight": torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0], dtype=dtype),
            "size": torch.tensor(float(EXAMPLES), dtype=dtype),
        }
        for _ in range(STEPS)
    ]


def trained(procedure, parameters, data):
    state = procedure.start(parameters)
    for batch in data:
        state = procedure.step(state, batch)
    return procedure.finish(state), state


def oracle(make, mu, parameters, data):
    """The same training by a `torch.optim` optimizer on the penalised objective."""
    own = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    optimizer = make(list(own.values()))
    for batch in data:
        optimizer.zero_grad()
        penalty = sum((own[n] - parameters[n]).square().sum() for n in own)
        mean = (losses(own, batch) * batch["weight"]).sum() / batch["size"]
        (mean + mu / 2 * penalty).backward()
        optimizer.step()
    return {name: p.detach() for name, p in own.items()}


def assert_close(one, other, tolerance=1e-10):
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=tolerance, atol=tolerance)


SGDS = (SGD(losses=losses, learning_rate=0.3), lambda ps: torch.optim.SGD(ps, lr=0.3))
ADAMWS = (
    AdamW(losses=losses, learning_rate=0.02),
    lambda ps: torch.optim.AdamW(ps, lr=0.02, weight_decay=0.0),
)
DECAYING = (
    AdamW(losses=losses, learning_rate=0.02, weight_decay=0.4),
    lambda ps: torch.optim.AdamW(ps, lr=0.02, weight_decay=0.4),
)
ALL = pytest.mark.parametrize(
    ("procedure", "make"), [SGDS, ADAMWS, DECAYING], ids=["sgd", "adamw", "decay"]
)
MUS = pytest.mark.parametrize("mu", [0.0, 0.7])


@ALL
@MUS
def test_training_equals_torch_on_the_explicit_objective(procedure, make, mu):
    parameters, data = received(0), batches(0)
    wanted = oracle(make, mu, parameters, data)
    got, _ = trained(replace(procedure, proximal_mu=mu), parameters, data)
    assert_close(got, wanted)
    assert not torch.allclose(got["w"], parameters["w"])


@ALL
@MUS
def test_a_stack_of_devices_equals_the_devices_one_by_one(procedure, make, mu):
    procedure = replace(procedure, proximal_mu=mu)
    devices = range(3)
    parameters = [received(d) for d in devices]
    data = [batches(d) for d in devices]
    data[1] = [batch | {"weight": torch.zeros_like(batch["weight"])} for batch in data[1]]
    stack = {n: torch.stack([p[n] for p in parameters]) for n in parameters[0]}
    stacked = [
        {n: torch.stack([data[d][k][n] for d in devices]) for n in data[0][k]} for k in range(STEPS)
    ]
    got, state = trained(procedure, stack, stacked)
    for d in devices:
        wanted, own = trained(procedure, parameters[d], data[d])
        assert_close({n: got[n][d] for n in got}, wanted)
        torch.testing.assert_close(state["loss"][d], own["loss"])
        torch.testing.assert_close(state["seen"][d], own["seen"])


@ALL
@MUS
def test_a_null_device_stays_where_it_is_to_the_bit(procedure, make, mu):
    parameters = received(0)
    null = [batch | {"weight": torch.zeros(EXAMPLES)} for batch in batches(0)]
    got, state = trained(replace(procedure, proximal_mu=mu), parameters, null)
    assert all(torch.equal(got[n], parameters[n]) for n in parameters)
    assert float(state["seen"]) == 0


@ALL
@MUS
def test_what_was_received_is_never_modified(procedure, make, mu):
    parameters = received(0)
    before = {name: p.clone() for name, p in parameters.items()}
    got, _ = trained(replace(procedure, proximal_mu=mu), parameters, batches(0))
    for name in parameters:
        assert torch.equal(parameters[name], before[name])
        assert not parameters[name].requires_grad
        assert got[name].data_ptr() != parameters[name].data_ptr()
        assert not got[name].requires_grad


@ALL
@MUS
def test_the_state_is_a_tree_of_tensors_before_and_after_steps(procedure, make, mu):
    procedure = replace(procedure, proximal_mu=mu)
    parameters = received(0)
    _, after = trained(procedure, parameters, batches(0))
    for state in (procedure.start(parameters), after):
        assert "anchor" in state or not mu
        for value in state.values():
            for leaf in value.values() if isinstance(value, dict) else [value]:
                assert isinstance(leaf, torch.Tensor)


@ALL
def test_loss_and_seen_are_over_real_examples(procedure, make):
    small = replace(procedure, learning_rate=0.0)
    data, parameters = batches(0), received(0)
    _, state = trained(small, parameters, data)
    real = torch.cat([losses(parameters, b)[b["weight"] > 0] for b in data])
    assert float(state["seen"]) == len(real) == STEPS * (EXAMPLES - 1)
    torch.testing.assert_close(state["loss"], real.sum())


def test_null_records_shorten_the_step_because_their_slots_count():
    parameters, (batch, *_) = received(0), batches(0)
    sgd, _ = SGDS
    kept = batch["weight"] > 0
    without = batch | {name: batch[name][kept] for name in ("inputs", "wanted", "weight")}
    fewer = without | {"size": torch.tensor(4.0)}
    with_null, _ = trained(sgd, parameters, [batch])
    alone, _ = trained(sgd, parameters, [fewer])
    step = {n: (with_null[n] - parameters[n]) * EXAMPLES / 4 for n in parameters}
    assert_close(step, {n: alone[n] - parameters[n] for n in parameters})


def test_moments_start_afresh_every_round():
    adamw, _ = ADAMWS
    once, _ = trained(adamw, received(0), batches(0))
    again, _ = trained(adamw, received(0), batches(0))
    assert_close(once, again, 0.0)
