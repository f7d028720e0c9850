"""Stacked batches hold what the batches of each device hold, and nothing else."""

import numpy as np
import pytest
import torch
from few import BILSTM, HELD, PEOPLE

from fedsim.privacy import ExampleLevel
from fedsim.training import LocalTrainer, private_procedures, procedures
from fedsim.training.batches import tensors
from fedsim.training.procedures import SGD
from fedsim.training.stacking import StackedBatches, copies, part

NULL = np.arange(sum(HELD)) % 3 == 0
HOLDINGS = [PEOPLE.nulled(NULL).held(d, 0) for d in range(len(HELD))]


@pytest.mark.parametrize("drawn", [[7, 1, 12, 1, 17, 4], [3, 0, 5], [1], [0, 0]])
def test_each_row_is_the_batch_of_its_device_and_the_rest_is_padding(drawn):
    draw = np.random.default_rng(1)
    indices = [draw.permutation(len(own))[:n] for own, n in zip(HOLDINGS, drawn, strict=False)]
    stack = StackedBatches(HOLDINGS).batch(indices, [float(n) for n in drawn])
    for device, (own, chosen) in enumerate(zip(HOLDINGS, indices, strict=False)):
        alone = tensors(own, chosen)
        n, tokens = len(chosen), alone["slots"].shape[1]
        for name, value in alone.items():
            if name == "size":
                assert stack[name][device] == value
                continue
            row = stack[name][device]
            inside = row[:n, :tokens] if value.dim() > 1 else row[:n]
            assert torch.equal(inside, value), name
        beyond = stack["slots"][device][n:]
        assert (beyond == -1).all() and (stack["slots"][device][:, tokens:] == -1).all()
        for name in ("lengths", "weight"):
            assert not stack[name][device][n:].any()


@pytest.mark.parametrize("private", [False, True])
def test_what_is_drawn_for_a_stack_is_what_the_device_draws_alone(private):
    level = ExampleLevel(noise_multiplier=1.0, delta=1e-5) if private else None
    own = LocalTrainer(
        population=PEOPLE,
        model=BILSTM,
        procedure=private_procedures(level, BILSTM, 0.1, 4)
        if level
        else procedures("sgd", BILSTM, 0.1),
        batch_size=4,
        local_epochs=2,
        local_steps=None,
        seed=7,
        privacy=level,
    )
    held = PEOPLE.held(4, 0, 7)
    drawn = list(own.drawn(len(held), device=4, round=3))
    batches = list(own.batches(held, device=4, round=3))
    assert len(drawn) == len(batches) == 10
    for (indices, size), batch in zip(drawn, batches, strict=True):
        # Private batches are filled up to whole physical ones, with what has no words.
        real = batch["record"][batch["lengths"] > 0]
        assert sorted(indices.tolist()) == sorted(real.tolist())
        assert size == float(batch["size"])


def test_a_part_of_a_stack_shares_its_memory():
    procedure = SGD(losses=BILSTM.losses, learning_rate=0.1, proximal_mu=0.2)
    sent = {name: p.detach() for name, p in BILSTM.named_parameters()}
    state = procedure.start(copies(sent, 3, torch.device("cpu")))
    batch = StackedBatches(HOLDINGS[:3]).batch([np.arange(1)] * 3, [1.0] * 3)
    state = procedure.step(state, batch)
    rest = part(state, 0, 2)
    assert len(rest["loss"]) == len(rest["anchor"]["intent_bias"]) == 2
    before = state["parameters"]["intent_bias"].detach().clone()
    procedure.step(rest, StackedBatches(HOLDINGS[:2]).batch([np.arange(1)] * 2, [1.0] * 2))
    after = state["parameters"]["intent_bias"].detach()
    assert torch.equal(after[2], before[2])
    assert not torch.equal(after[:2], before[:2])
