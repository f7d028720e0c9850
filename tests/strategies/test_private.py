"""Any server optimizer steps on the private mean update, and on nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    Krum,
    QFedAvg,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import NLUClient
from fedsim import ConfigError, Population, Simulation, Static
from fedsim.engine.cohort import CohortGrid
from fedsim.engine.flower import quiet, task_identity, to_parameters, to_record
from fedsim.models import BiLSTMTagger
from fedsim.privacy import Gaussian, epsilon
from fedsim.privacy.release import AdaptiveClipping, DeviceLevel
from strategies import (
    ActivitySelection,
    PrivateAggregation,
    PublicScale,
    Selective,
    UniformSelection,
)

PEOPLE = Population.load("home", devices=12)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4)
BEFORE = {name: p.detach().numpy().copy() for name, p in MODEL.named_parameters()}
SIZE = sum(p.size for p in BEFORE.values())
ACTIVITY = PEOPLE.activity()
HOLDERS = np.flatnonzero(ACTIVITY)


def shifting_app(step=0.01, broken=()) -> ClientApp:
    """Adds `step` x device to every parameter; `broken` devices raise or send NaN."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_id in broken and context.node_id % 2:
            raise ValueError("broken")
        shift = np.float32(np.nan if context.node_id in broken else step * context.node_id)
        arrays = {n: Array(a.numpy() + shift) for n, a in message.content["arrays"].items()}
        # What it says of itself must not matter.
        metrics = MetricRecord({"num-examples": 10**9, "train_loss": 1.0})
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


def simulate(strategy, client=None, rounds=1, policy=None, **options):
    policy = policy or UniformSelection(cohort=len(HOLDERS))
    return Simulation(
        population=PEOPLE,
        model=MODEL,
        client=client or shifting_app(),
        strategy=Selective(strategy, policy, **options),
        schedule=Static(rounds=rounds),
        workers=0,
    ).run(progress=False)


def moved(run) -> np.ndarray:
    """How far each parameter has moved, in one array."""
    return np.concatenate([(run.parameters[n].numpy() - p).ravel() for n, p in BEFORE.items()])


LOOSE = DeviceLevel(clip_norm=1e6, noise_multiplier=0.0)


def test_without_noise_and_clipping_it_is_the_plain_average_over_the_expected_weights():
    private = simulate(PrivateAggregation(FedAvg(), LOOSE))
    plain = simulate(FedAvg(), weighting="equal")
    np.testing.assert_allclose(moved(private), moved(plain), atol=1e-6)


def test_half_the_devices_drawn_still_divide_by_the_expected_number():
    policy = UniformSelection(cohort=len(HOLDERS) / 2)
    run = simulate(PrivateAggregation(FedAvg(), LOOSE), policy=policy)
    drawn = run.cohorts["drawn"]
    assert 0 < len(drawn) != len(HOLDERS) / 2
    np.testing.assert_allclose(moved(run), 0.01 * drawn.sum() / (len(HOLDERS) / 2), atol=1e-6)


def test_every_update_is_clipped_before_it_is_weighed():
    clipped = replace(LOOSE, clip_norm=0.02)
    run = simulate(PrivateAggregation(FedAvg(), clipped), weighting="examples")
    held = ACTIVITY[HOLDERS] / ACTIVITY.max()
    norms = 0.01 * HOLDERS * np.sqrt(SIZE)
    each = np.where(norms > 0, np.minimum(norms, 0.02), 0) / np.sqrt(SIZE)
    np.testing.assert_allclose(moved(run), (held * each).sum() / held.sum(), atol=2e-7)


@pytest.mark.parametrize("optimizer", [FedAvg, FedAdam, lambda: FedAvgM(server_momentum=0.9)])
def test_optimizer_steps_as_if_one_device_had_sent_the_mean(optimizer):
    """The oracle: the optimizer alone, and one device whose model is the mean."""
    private = simulate(PrivateAggregation(optimizer(), LOOSE), rounds=3)
    mean = float(HOLDERS.mean())
    app = shifting_app(step=0.01 * mean / HOLDERS[1])

    class One:
        cohort, label, natural_weighting = 1, "one", "equal"

        def rates(self, activity):
            return (np.arange(len(activity)) == HOLDERS[1]).astype(float)

    alone = simulate(optimizer(), client=app, policy=One(), rounds=3)
    np.testing.assert_allclose(moved(private), moved(alone), atol=2e-6)


def test_what_fails_counts_as_the_zero_vector_and_the_denominator_stays():
    broken = HOLDERS[2:6].tolist()
    run = simulate(PrivateAggregation(FedAvg(), LOOSE), client=shifting_app(broken=broken))
    assert run.rounds[0]["failures"] == len(broken)
    others = np.setdiff1d(HOLDERS, broken)
    np.testing.assert_allclose(moved(run), 0.01 * others.sum() / len(HOLDERS), atol=1e-6)


NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=True)
REPLY = st.none() | st.lists(NUMBERS, min_size=3, max_size=3)
"""What a device replies with; None is no reply at all."""


@settings(max_examples=50, deadline=None)
@given(
    adjacency=st.sampled_from(["zero-out", "add-remove"]),
    weighting=st.sampled_from(["equal", "examples", "inverse-rate"]),
    held=st.lists(st.integers(0, 60), min_size=4, max_size=4),
    replies=st.lists(REPLY, min_size=4, max_size=4),
    cap=st.sampled_from([0.3, 1.0]),
    chosen=st.integers(0, 3),
)
def test_no_device_moves_the_released_model_further_than_its_event_states(
    adjacency, weighting, held, replies, cap, chosen
):
    """One device's content is gone, or the whole device is: replies may be lost or not finite, and
    weights above the public bound. The noise is the same in both worlds, and drops out."""
    public = {"weight_cap": cap, "denominator": 3.0, "example_cap": 40, "smallest_rate": 0.5}
    level = DeviceLevel(
        clip_norm=0.7,
        noise_multiplier=1.0,
        delta=1e-3,
        adjacency=adjacency,
        **public if adjacency == "add-remove" else {},
    )

    def released(activity, said):
        policy = UniformSelection(cohort=4)
        if adjacency == "add-remove":
            policy = PublicScale(policy=policy, scale=1.0)
        selective = Selective(PrivateAggregation(FedAvg(), level), policy, weighting=weighting)
        selective.prepare([activity], [1])
        plan = selective.plan(1, 0, activity, seed=0)
        sent = to_record({"w": torch.zeros(3, dtype=torch.float64)})
        with quiet(), task_identity():
            asked = selective.configure_train(1, sent, ConfigRecord(), CohortGrid(None, plan))
            came = []
            for message in asked:
                update = said[message.metadata.dst_node_id]
                if update is not None:
                    arrays = to_record({"w": torch.tensor(update, dtype=torch.float64)})
                    content = RecordDict({"arrays": arrays, "metrics": MetricRecord()})
                    came.append(Message(content, reply_to=message))
            model, _ = selective.aggregate_train(1, came)
        return plan, to_parameters(model)["w"].numpy()

    here = np.array(held)
    plan, one = released(here, replies)
    gone = [None if device == chosen else said for device, said in enumerate(replies)]
    there = np.where(np.arange(4) == chosen, 0, here) if adjacency == "add-remove" else here
    other_plan, other = released(there, gone)
    release = plan.mechanism
    assert other_plan.mechanism == release
    planned = release.event(plan.rates, plan.device_weights, independent=True)
    allowed = release.sensitivity * planned.weights[chosen] * (held[chosen] > 0)
    moved = np.linalg.norm(one - other) * release.denominator
    # Rounding grows with the whole, which is noise of the size of the sensitivity.
    assert moved <= allowed + 1e-12
    assert planned.noise == level.noise_multiplier


def test_round_in_which_everybody_fails_is_noised_all_the_same():
    noisy = DeviceLevel(clip_norm=1.0, noise_multiplier=2.0)
    app = shifting_app(broken=HOLDERS.tolist())
    shift = moved(simulate(PrivateAggregation(FedAvg(), noisy), client=app))
    # The standard deviation of that many draws is within 6 standard errors of the truth.
    assert shift.std() == pytest.approx(2.0 / len(HOLDERS), rel=6 / np.sqrt(2 * SIZE))


def test_noise_differs_between_rounds_and_seeds_and_not_between_workers():
    noisy = PrivateAggregation(FedAvg(), DeviceLevel(noise_multiplier=1.0))

    def shift(rounds, seed, workers):
        simulation = Simulation(
            population=PEOPLE,
            model=MODEL,
            client=shifting_app(step=0.0),
            strategy=Selective(noisy, UniformSelection(cohort=3)),
            schedule=Static(rounds=rounds),
            seed=seed,
            workers=workers,
        )
        return moved(simulation.run(progress=False))

    first = shift(1, 0, 0)
    second = shift(2, 0, 0) - first
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(SIZE)
    assert abs(np.corrcoef(first, shift(1, 1, 0))[0, 1]) < 5 / np.sqrt(SIZE)
    np.testing.assert_array_equal(first, shift(1, 0, 2))


def test_auto_weighting_is_equal():
    wrapped = Selective(
        PrivateAggregation(FedAvg(), DeviceLevel(noise_multiplier=1.0)), UniformSelection(cohort=3)
    )
    assert wrapped.weighting == "equal"


def test_inverse_rates_are_bounded_by_the_smallest_rate():
    wrapped = Selective(
        PrivateAggregation(FedAvg(), DeviceLevel(noise_multiplier=1.0)),
        ActivitySelection(cohort=3),
        weighting="inverse-rate",
    )
    plan = wrapped.plan(1, 0, ACTIVITY, 0)
    held = ACTIVITY > 0
    raw = ACTIVITY[held] / plan.rates[held]
    ours = plan.device_weights[held]
    assert ours.max() <= 1
    np.testing.assert_allclose(ours / ours.max(), raw / raw.max())
    assert plan.mechanism.largest_weight == ours.max()


def test_training_on_devices_goes_through_it():
    noisy = DeviceLevel(clip_norm=0.5, noise_multiplier=0.2, adaptive=AdaptiveClipping())
    run = simulate(PrivateAggregation(FedAdam(eta=0.01), noisy), client=NLUClient(), rounds=2)
    assert np.isfinite(moved(run)).all() and moved(run).any()


def test_noise_on_the_clip_bits_alone_does_not_carry_the_clip_norm_away():
    """Bits this loud would else move it by a factor of e to the 10,000 a round."""
    loud = DeviceLevel(
        clip_norm=0.5, noise_multiplier=0.1, adaptive=AdaptiveClipping(bit_noise=1e6)
    )
    run = simulate(PrivateAggregation(FedAvg(), loud), rounds=4)
    norms = [line["figures"]["privacy/clip_norm"] for line in run.rounds]
    steps = np.abs(np.diff(np.log(norms)))
    np.testing.assert_allclose(steps, 0.2, rtol=1e-9)


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        (FedMedian, "FedMedian compares devices"),
        (Krum, "Krum compares devices"),
        (lambda: QFedAvg(client_learning_rate=1.0), "QFedAvg compares devices"),
        (
            lambda: DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 2),
            "noise that no ledger would know of",
        ),
        (lambda: Selective(FedAvg(), UniformSelection(cohort=2)), "the order is"),
        (lambda: PrivateAggregation(FedAvg(), DeviceLevel(noise_multiplier=1.0)), "the order is"),
    ],
)
def test_what_cannot_go_inside_is_refused(strategy, says):
    with pytest.raises(ConfigError, match=says):
        PrivateAggregation(strategy(), DeviceLevel(noise_multiplier=1.0))


def test_without_a_plan_it_is_refused():
    with pytest.raises(ConfigError, match=r"wrap it in Selective"):
        Simulation(
            population=PEOPLE,
            model=MODEL,
            client=shifting_app(),
            strategy=PrivateAggregation(FedAvg(), DeviceLevel(noise_multiplier=1.0)),
            schedule=Static(rounds=1),
        ).run(progress=False)


def test_target_epsilon_is_what_the_worst_device_has_spent_at_the_end():
    private = DeviceLevel(epsilon=3.0, delta=1e-3)
    run = simulate(
        PrivateAggregation(FedAvg(), private), rounds=6, policy=ActivitySelection(cohort=4)
    )
    assert 0.99 * 3.0 <= run.summary["epsilon_max"] <= 3.0
    assert run.start["privacy"]["noise_multiplier"] > 0
    first = run.rounds[0]
    assert first["epsilon_median"] <= first["epsilon_max"] < run.summary["epsilon_max"]


def test_ledger_prices_the_draw_that_was_made_and_no_coin_where_cohorts_are_fixed():
    private = DeviceLevel(noise_multiplier=2.0, delta=1e-3)
    policy = UniformSelection(cohort=4)
    coins = simulate(PrivateAggregation(FedAvg(), private), rounds=5, policy=policy)
    fixed = simulate(PrivateAggregation(FedAvg(), private), rounds=5, policy=policy, draw="fixed")
    step = Gaussian(noise_multiplier=2.0)
    rate = 4 / len(HOLDERS)
    assert coins.summary["epsilon_max"] == pytest.approx(
        epsilon([step.sampled(rate).times(5)], 1e-3), rel=0.01
    )
    assert fixed.summary["epsilon_max"] == pytest.approx(epsilon([step.times(5)], 1e-3), rel=1e-3)


def test_devices_retire_before_their_budget_and_nobody_elses_rate_reacts():
    private = DeviceLevel(noise_multiplier=1.0, delta=1e-3, device_budget=4.0)
    policy = ActivitySelection(cohort=4)
    run = simulate(PrivateAggregation(FedAvg(), private), rounds=12, policy=policy)
    assert run.summary["epsilon_max"] <= 4.0
    rates = run.cohorts["rates"]
    assert len(rates) > 1, "nobody retired"
    for later in rates:
        np.testing.assert_array_equal(later[later > 0], rates[0][later > 0])


def test_retirement_of_the_heaviest_makes_no_other_device_dearer():
    """Without it the noise would be made for smaller weights, and light devices pay for that."""
    private = DeviceLevel(noise_multiplier=1.0, delta=1e-3, device_budget=4.0)
    selective = Selective(
        PrivateAggregation(FedAvg(), private), UniformSelection(cohort=6), weighting="examples"
    )
    selective.prepare([ACTIVITY], [12])
    before, budgeted = None, selective.strategy
    for round in range(1, 13):
        plan = selective.plan(round, 0, ACTIVITY, seed=0)
        event = plan.mechanism.event(plan.rates, plan.device_weights, independent=True)
        before = event.weights if before is None else before
        np.testing.assert_array_equal(event.weights, before)
        budgeted.ledger.charge(event, plan.cohort)
    assert plan.rates[ACTIVITY.argmax()] == 0 < plan.rates.max(), "nobody retired, or everybody"
    assert budgeted.ledger.epsilons(np.arange(len(ACTIVITY))).max() <= 4.0


def test_a_policy_whose_rates_depend_on_what_was_released_is_refused():
    """The ledger adds up what was fixed in advance; such rates would need a filter."""

    class Reacting(UniformSelection):
        factor = 1.0

        def rates(self, activity):
            return self.factor * super().rates(activity)

    second = np.where(ACTIVITY > 0, ACTIVITY + 1, 0)
    policy = Reacting(cohort=4)
    private = PrivateAggregation(FedAvg(), DeviceLevel(noise_multiplier=1.0, delta=1e-3))
    selective = Selective(private, policy)
    selective.prepare([ACTIVITY, second], [2, 2])
    selective.plan(1, 0, ACTIVITY, seed=0)
    object.__setattr__(policy, "factor", 0.5)
    with pytest.raises(ConfigError, match="Reacting gives other rates for the same activity"):
        selective.plan(3, 1, second, seed=0)


def test_activity_that_was_not_announced_is_refused():
    """Else whoever reports activity could let it depend on what was released."""
    private = PrivateAggregation(FedAvg(), DeviceLevel(noise_multiplier=1.0, delta=1e-3))
    selective = Selective(private, UniformSelection(cohort=4))
    selective.prepare([ACTIVITY], [2])
    selective.plan(1, 0, ACTIVITY, seed=0)
    with pytest.raises(ConfigError, match="that of no period that was announced"):
        selective.plan(2, 0, ACTIVITY + 1, seed=0)


def test_run_stops_before_its_budget_is_exceeded():
    def rounds_run(budget):
        private = DeviceLevel(noise_multiplier=1.0, delta=1e-3, run_budget=budget)
        return simulate(PrivateAggregation(FedAvg(), private), rounds=12)

    run = rounds_run(12.0)
    assert 0 < len(run.rounds) < 12
    assert run.summary["epsilon_max"] <= 12.0
    longer = simulate(
        PrivateAggregation(FedAvg(), DeviceLevel(noise_multiplier=1.0, delta=1e-3)),
        rounds=len(run.rounds) + 1,
    )
    assert longer.summary["epsilon_max"] > 12.0
    assert any("after round" in note for note in run.start["assumptions"])
    with pytest.raises(ConfigError, match="which the first round exceeds"):
        rounds_run(0.01)


def test_under_add_remove_the_claim_is_at_the_public_cap():
    private = DeviceLevel(
        noise_multiplier=1.0, delta=1e-3, adjacency="add-remove", weight_cap=1.0, denominator=4.0
    )
    policy = PublicScale(policy=ActivitySelection(cohort=4, cap=0.3), scale=0.001)
    run = simulate(PrivateAggregation(FedAvg(), private), rounds=5, policy=policy)
    assert run.cohorts["rates"].max() < 0.3
    expected = epsilon([Gaussian(noise_multiplier=1.0).sampled(0.3).times(5)], 1e-3)
    assert run.summary["epsilon_max"] == pytest.approx(expected, rel=0.01)
    with pytest.raises(ConfigError, match=r"give --scale and --cap, or in a script PublicScale\("):
        simulate(PrivateAggregation(FedAvg(), private))


def test_delta_as_large_as_one_device_is_refused():
    with pytest.raises(ConfigError, match=r"delta is 0\.1, but 12 devices are protected"):
        simulate(PrivateAggregation(FedAvg(), DeviceLevel(noise_multiplier=1.0, delta=0.1)))


def test_no_noise_is_no_privacy():
    run = simulate(PrivateAggregation(FedAvg(), LOOSE))
    assert run.summary["epsilon_max"] == run.summary["epsilon_participation_max"] == np.inf


ADD_REMOVE = DeviceLevel(
    noise_multiplier=1.0,
    delta=1e-3,
    adjacency="add-remove",
    weight_cap=0.5,
    denominator=4.0,
    example_cap=1,
)


def test_draws_that_compare_devices_are_refused_where_devices_may_join():
    public = PublicScale(policy=UniformSelection(cohort=4), scale=0.4)
    with pytest.raises(ConfigError, match="draw is of fixed size under adjacency 'add-remove'"):
        simulate(PrivateAggregation(FedAvg(), ADD_REMOVE), policy=public, draw="fixed")


@pytest.mark.parametrize("weighting", ["equal", "examples"])
def test_weights_above_the_public_bound_count_as_the_bound(weighting):
    """A refusal would depend on who is there."""
    public = PublicScale(policy=UniformSelection(cohort=4), scale=0.4)
    selective = Selective(PrivateAggregation(FedAvg(), ADD_REMOVE), public, weighting=weighting)
    selective.prepare([ACTIVITY], [1])
    plan = selective.plan(1, 0, ACTIVITY, seed=0)
    assert plan.mechanism.largest_weight == 0.5
    assert plan.device_weights[HOLDERS].tolist() == [0.5] * len(HOLDERS)


def test_a_device_that_sat_out_comes_again_where_a_later_period_costs_it_less():
    private = DeviceLevel(noise_multiplier=1.0, delta=1e-3, device_budget=6.0)
    selective = Selective(PrivateAggregation(FedAvg(), private), ActivitySelection(cohort=4))
    heavy = int(ACTIVITY.argmax())
    lighter = np.where(np.arange(len(ACTIVITY)) == heavy, 1, ACTIVITY)
    selective.prepare([ACTIVITY, lighter], [12, 12])
    came = []
    for round, activity in enumerate([ACTIVITY] * 12 + [lighter] * 12, start=1):
        plan = selective.plan(round, int(round > 12), activity, seed=0)
        event = plan.mechanism.event(plan.rates, plan.device_weights, independent=True)
        selective.strategy.ledger.charge(event, plan.cohort)
        came.append(bool(plan.rates[heavy] > 0))
    assert came[0] and not came[11] and came[12]
    assert selective.strategy.ledger.figures()["epsilon_max"] <= 6.0


def test_a_budget_that_not_even_one_round_keeps_is_refused():
    private = DeviceLevel(noise_multiplier=1.0, delta=1e-3, device_budget=1e-4)
    with pytest.raises(ConfigError, match="a single round would exceed for every device"):
        simulate(PrivateAggregation(FedAvg(), private))


def test_a_run_whose_devices_keep_its_budget_goes_on_to_its_end():
    """Without their own budgets it stops early: the heaviest would exceed the run's."""
    policy = ActivitySelection(cohort=4)
    both = DeviceLevel(noise_multiplier=1.0, delta=1e-3, device_budget=4.0, run_budget=4.0)
    run = simulate(PrivateAggregation(FedAvg(), both), rounds=12, policy=policy)
    assert len(run.rounds) == 12 and run.summary["epsilon_max"] <= 4.0
    alone = replace(both, device_budget=None)
    assert len(simulate(PrivateAggregation(FedAvg(), alone), rounds=12, policy=policy).rounds) < 12


def test_secure_noise_is_never_the_same_twice_and_the_record_says_so():
    def once(secure_noise):
        private = DeviceLevel(noise_multiplier=1.0, delta=1e-3, secure_noise=secure_noise)
        return simulate(PrivateAggregation(FedAvg(), private))

    first, second = once(True), once(True)
    assert first.summary["model_sha256"] != second.summary["model_sha256"]
    assert any("cannot be reproduced" in note for note in first.start["assumptions"])
    seeded = once(False)
    assert seeded.summary["model_sha256"] == once(False).summary["model_sha256"]
    assert not any("cannot be reproduced" in note for note in seeded.start["assumptions"])
