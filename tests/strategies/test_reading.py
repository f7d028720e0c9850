"""Rates and noise that follow releases are held within a budget, and private signals end claims."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAdam, FedAvg, QFedAvg
from reading import HighestLosses, NoiseByMovement, UniformUntilItSlows, flat

from clients import NLUClient
from fedsim import ConfigError, Continual, Population, Simulation, Static
from fedsim.leakage import Leakage, device_panel, example_panel
from fedsim.models import BiLSTMTagger
from fedsim.privacy import ExampleLevel, Gaussian, epsilon
from fedsim.privacy.release import AdaptiveClipping, DeviceLevel
from strategies import ActivitySelection, PrivateAggregation, Selective, UniformSelection

PEOPLE = Population.load("home", devices=16)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4)
ACTIVITY = PEOPLE.activity()
BUDGETED = DeviceLevel(clip_norm=0.5, noise_multiplier=1.0, delta=5e-4, device_budget=6.0)
UNBUDGETED = replace(BUDGETED, device_budget=None)
EXAMPLES = example_panel(PEOPLE, seed=0, size=30)
SETTLING = UniformUntilItSlows(cohort=5, slow=0.72)
CLAIMS = ("epsilon_max", "epsilon_median", "epsilon_participation_max", "epsilon_server_max")


def adam():
    """Its steps become smaller, and with them the model's movement."""
    return FedAdam(eta=0.01)


def simulate(policy, level=BUDGETED, noise=None, inner=adam, draw="poisson", **changes):
    fields = {
        "population": PEOPLE,
        "model": MODEL,
        "client": NLUClient(local_steps=1),
        "schedule": Static(rounds=10),
        "workers": 0,
    }
    if policy is not None:
        strategy = inner() if level is None else PrivateAggregation(inner(), level, noise)
        fields["strategy"] = Selective(strategy, policy, draw=draw)
    return Simulation(**{**fields, **changes}).run(progress=False)


def rates_by_round(run) -> np.ndarray:
    since = np.append(run.cohorts["rates_round"], len(run.rounds) + 1)
    return np.repeat(run.cohorts["rates"], np.diff(since), axis=0)


@pytest.fixture(scope="module")
def settled():
    return simulate(SETTLING)


def test_rates_follow_what_was_released_and_a_filter_stops_who_cannot_pay(settled):
    """An oracle of one loop: what each device was charged, by the rates it had."""
    rates = rates_by_round(settled)
    uniform = UniformSelection(cohort=5).rates(ACTIVITY)
    active = ActivitySelection(cohort=5).rates(ACTIVITY)
    turned = int(np.flatnonzero((rates != np.where(rates > 0, uniform, 0)).any(axis=1))[0])
    assert 1 < turned < 10
    for round, own in enumerate(rates):
        full = uniform if round < turned else active
        np.testing.assert_array_equal(own, np.where(own > 0, full, 0.0))
    assert ((rates[-1] == 0) & (active > 0)).any(), "nobody had to sit out"
    assert (rates[-1] > 0).any()
    spent = [
        epsilon([Gaussian(noise_multiplier=1.0, rate=q) for q in rates[:, d] if q > 0], 5e-4)
        for d in range(16)
    ]
    assert 1.0 < max(spent) <= 6.0


def test_the_budget_is_the_claim_from_the_first_round_on(settled):
    for line in settled.rounds:
        assert [line[name] for name in CLAIMS] == [6.0, 6.0, np.inf, np.inf]
    shares = [line["figures"]["privacy/budget_spent_max"] for line in settled.rounds]
    assert 0 < shares[0] < shares[-1] <= 1
    assert settled.start["privacy"]["filter_order"] > 1
    assert settled.files["ledger"]["budget_spent"].max() == shares[-1]


def test_tables_and_record_say_under_what(settled):
    (said,) = [note for note in settled.start["assumptions"] if "Renyi filter" in note]
    assert "keeps every device within an epsilon of 6: that budget is the claim" in said
    assert f"order {settled.start['privacy']['filter_order']:g}" in said
    assert said in settled.table().markdown()


@pytest.mark.parametrize("panel", [device_panel(PEOPLE, seed=0, size=8), EXAMPLES])
def test_an_audit_is_held_against_the_budget_at_its_own_delta_or_against_nothing(panel):
    """A budget says nothing of one device's data replaced, which a coin about an example does."""
    schedule = Static(rounds=3)
    probe = Leakage(panel=panel, population=PEOPLE, model=MODEL, schedule=schedule)
    people = panel.applied(PEOPLE)
    run = simulate(SETTLING, population=people, schedule=schedule, probes=[probe])
    comparison = run.start["probes"]["Leakage"]["notes"][1]
    line = run.rounds[-1]
    if panel is EXAMPLES:
        assert line["epsilon_claim_at_delta_audit"] == np.inf
        assert "no claim of this run may be compared" in comparison
        return
    order = run.start["privacy"]["filter_order"]
    moved = np.log(line["delta"] / line["delta_audit"]) / (order - 1)
    assert line["epsilon_claim_at_delta_audit"] == pytest.approx(6.0 + moved)
    assert "the device-level epsilon (a device becomes null)" in comparison


def test_it_is_the_same_under_any_number_of_workers(settled):
    for workers in (1, 2):
        other = simulate(SETTLING, workers=workers)
        assert other.summary["model_sha256"] == settled.summary["model_sha256"]
        np.testing.assert_array_equal(rates_by_round(other), rates_by_round(settled))


def test_devices_trained_many_at_a_time_are_drawn_alike(settled):
    """Models agree but for rounding, so the threshold must not be near."""
    other = simulate(SETTLING, engine="batched", device="cpu")
    np.testing.assert_array_equal(rates_by_round(other), rates_by_round(settled))
    np.testing.assert_allclose(flat(other.parameters), flat(settled.parameters), atol=1e-4)


def test_one_policy_object_serves_many_runs(settled):
    assert not SETTLING.settled
    assert simulate(SETTLING).summary["model_sha256"] == settled.summary["model_sha256"]


def test_a_fixed_size_draw_spends_more():
    level = replace(BUDGETED, device_budget=40.0)
    spent = {
        draw: simulate(SETTLING, level, draw=draw).files["ledger"]["budget_spent"].max()
        for draw in ("poisson", "fixed")
    }
    assert spent["poisson"] < 0.5 * spent["fixed"]


def test_noise_may_follow_releases_too():
    noise = NoiseByMovement(sigma=1.0, slow=0.8)
    adaptive = replace(BUDGETED, adaptive=AdaptiveClipping())
    run = simulate(UniformSelection(cohort=5), adaptive, noise)
    sigmas = [line["figures"]["privacy/noise_multiplier"] for line in run.rounds]
    assert sigmas[:2] == [1.0, 1.0]
    assert sigmas[-1] > 1.25
    assert run.summary["epsilon_max"] == 6.0
    assert noise.factor == 1.0


class Impatient(NoiseByMovement):
    """Another value each time it is asked."""

    def noise_multiplier(self, round):
        if round > 1:
            self.factor *= 1.25
        return super().noise_multiplier(round)


def test_noise_is_asked_for_once_a_round():
    """Who can pay is decided at the noise that is added, and at no other."""
    run = simulate(UniformSelection(cohort=5), noise=Impatient(sigma=1.0, slow=0.0))
    sigmas = [line["figures"]["privacy/noise_multiplier"] for line in run.rounds]
    np.testing.assert_allclose(sigmas, 1.25 ** np.arange(10))


def test_without_device_level_privacy_rates_may_follow_releases_and_nothing_is_claimed():
    run = simulate(replace(SETTLING, slow=1e6), None)
    assert len(run.cohorts["rates"]) == 2
    assert run.summary["epsilon_max"] == np.inf


@pytest.mark.parametrize("inner", [FedAvg, adam])
def test_a_policy_that_reads_losses_runs_and_every_epsilon_is_infinite(inner):
    policy = HighestLosses(cohort=5)
    run = simulate(policy, UNBUDGETED, inner=inner)
    assert len(run.cohorts["rates"]) == 10, "rates did not follow the losses"
    assert policy.losses == {}
    for line in run.rounds:
        assert {line[name] for name in CLAIMS} == {np.inf}
        assert line["figures"]["privacy/noise_multiplier"] == 1.0
    assert np.isinf(run.files["ledger"]["epsilon"]).all()
    (said,) = [note for note in run.start["assumptions"] if "private signals" in note]
    assert said in run.table().markdown()


def test_noise_that_reads_private_signals_ends_every_claim():
    noise = NoiseByMovement(sigma=1.0, slow=20.0)
    noise.reads = "private"
    run = simulate(UniformSelection(cohort=5), UNBUDGETED, noise)
    assert {run.rounds[0][name] for name in CLAIMS} == {np.inf}


@pytest.mark.parametrize(
    ("policy", "level"),
    [
        (SETTLING, BUDGETED),
        (HighestLosses(cohort=5), UNBUDGETED),
        (replace(SETTLING, slow=1e6), None),
        (HighestLosses(cohort=5), None),
    ],
)
def test_examples_are_claimed_nothing_where_who_comes_follows_from_them(policy, level):
    client = NLUClient(local_steps=1, privacy=ExampleLevel(noise_multiplier=1.0, delta=5e-4))
    run = simulate(policy, level, client=client, schedule=Static(rounds=3))
    for line in run.rounds:
        assert line["example_epsilon_max"] == line["example_epsilon_median"] == np.inf
        assert line["epsilon_max"] == (6.0 if level is BUDGETED else np.inf)
    assert np.isinf(run.files["ledger"]["example_epsilon_bound"]).all()
    assert any("no realised cost is a claim" in note for note in run.start["assumptions"])


@pytest.mark.parametrize("policy", [SETTLING, HighestLosses(cohort=5)])
def test_no_target_for_examples_can_be_kept_where_who_comes_follows_from_them(policy):
    privacy = ExampleLevel(epsilon=8.0, delta=5e-4, max_participations=3)
    client = NLUClient(local_steps=1, privacy=privacy)
    with pytest.raises(ConfigError, match=r"epsilon is 8\.0 at example level, but rates or noise"):
        simulate(policy, None, client=client)


class Nosy(FedAvg):
    """Chooses devices itself."""

    def configure_train(self, server_round, arrays, config, grid):
        return list(super().configure_train(server_round, arrays, config, grid))[: 3 + server_round]


def test_a_strategy_that_chooses_devices_itself_says_by_what_before_examples_are_claimed():
    client = NLUClient(local_steps=1, privacy=ExampleLevel(noise_multiplier=1.0, delta=5e-4))
    alone = {"client": client, "schedule": Static(rounds=2)}
    with pytest.raises(ConfigError, match=r"Nosy chooses devices .* declare .*'private'"):
        simulate(None, strategy=Nosy(fraction_evaluate=0.0), **alone)
    claimed = {}
    for reads in ("activity", "private"):
        strategy = Nosy(fraction_evaluate=0.0)
        strategy.reads = reads
        claimed[reads] = simulate(None, strategy=strategy, **alone).summary["example_epsilon_max"]
    assert claimed["activity"] < claimed["private"] == np.inf
    strategy.reads = "losses"
    with pytest.raises(ConfigError, match="reads of Nosy is 'losses'; choose one of"):
        simulate(None, strategy=strategy, **alone)
    own = simulate(None, strategy=FedAvg(fraction_evaluate=0.0), **alone)
    assert own.summary["example_epsilon_max"] < np.inf


@pytest.mark.parametrize("selective", [False, True])
def test_weights_by_losses_are_refused_where_examples_are_protected(selective):
    client = NLUClient(local_steps=1, privacy=ExampleLevel(noise_multiplier=1.0, delta=5e-4))
    strategy = QFedAvg(client_learning_rate=1.0)
    if selective:
        strategy = Selective(strategy, UniformSelection(cohort=5))
    with pytest.raises(ConfigError, match="QFedAvg weighs devices by their training losses"):
        simulate(None, strategy=strategy, client=client)


def test_examples_are_claimed_as_ever_where_it_does_not():
    client = NLUClient(local_steps=1, privacy=ExampleLevel(noise_multiplier=1.0, delta=5e-4))
    run = simulate(UniformSelection(cohort=5), None, client=client, schedule=Static(rounds=3))
    assert run.summary["example_epsilon_max"] < 20


class Moody(UniformSelection):
    """Changes its mind at the second period, and does not say so."""

    times = 0

    def rates(self, activity):
        object.__setattr__(self, "times", self.times + 1)
        return super().rates(activity) * (0.5 if self.times > 6 else 1.0)


class Turncoat(UniformSelection):
    """Declares activity until the run has begun, and follows something else after."""

    asked = 0
    now: str

    @property
    def reads(self):
        return "activity" if self.asked < 4 else self.now

    def rates(self, activity):
        object.__setattr__(self, "asked", self.asked + 1)
        return super().rates(activity) * (1.0 if self.asked < 4 else 0.5)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize("now", ["releases", "private"])
@pytest.mark.parametrize("protected", ["devices", "examples"])
def test_what_a_policy_reads_may_not_change_once_claims_rest_on_it(protected, now):
    """Else its rates would be free, and still charged as if they had been announced."""
    changes = {"schedule": Continual(periods=2, rounds=6)}
    level = UNBUDGETED
    if protected == "examples":
        level = None
        privacy = ExampleLevel(noise_multiplier=1.0, delta=5e-4)
        changes["client"] = NLUClient(local_steps=1, privacy=privacy)
    policy = Turncoat(cohort=4)
    object.__setattr__(policy, "now", now)
    with pytest.raises(ConfigError, match=f"reads of Turncoat was 'activity' .* now '{now}'"):
        simulate(policy, level, **changes)


class InPlace(HighestLosses):
    """Keeps its rates in one array, and writes into the one it is given."""

    def rates(self, activity):
        fresh = super().rates(activity)
        if not hasattr(self, "_kept"):
            self._kept = fresh
        self._kept[:] = fresh
        activity[:] = 1
        return self._kept


def test_what_a_policy_writes_into_its_arrays_changes_no_record():
    straight, inplace = simulate(HighestLosses(cohort=5), None), simulate(InPlace(cohort=5), None)
    assert inplace.summary["model_sha256"] == straight.summary["model_sha256"]
    np.testing.assert_array_equal(inplace.cohorts["rates"], straight.cohorts["rates"])
    examples = [[line["cohort_examples"] for line in run.rounds] for run in (straight, inplace)]
    assert examples[0] == examples[1]


@pytest.mark.parametrize("protected", ["devices", "examples"])
def test_undeclared_rates_that_change_are_refused_with_both_declarations(protected):
    changes = {"schedule": Continual(periods=3, rounds=6)}
    level = UNBUDGETED
    if protected == "examples":
        level = None
        privacy = ExampleLevel(noise_multiplier=1.0, delta=5e-4)
        changes["client"] = NLUClient(local_steps=1, privacy=privacy)
    with pytest.raises(ConfigError, match=r"(?s)Moody gives other.*'releases'.*'private'"):
        simulate(Moody(cohort=4), level, **changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"device_budget": None}, "set device_budget to the epsilon that no device may exceed"),
        ({"epsilon": 3.0, "noise_multiplier": None}, "and the target as device_budget"),
        ({"run_budget": 3.0}, "run_budget is 3.0, but rates or noise follow releases"),
        ({"noise_multiplier": 0.0}, "noise_multiplier is 0, so nothing that is released"),
        ({"filter_order": 1.05}, "order 1.05 leaves nothing"),
        ({"device_budget": 0.01, "delta": 1e-9}, "no Renyi order leaves anything"),
        ({"device_budget": 1.0, "noise_multiplier": 0.1}, "a single round would exceed"),
        (
            {"adjacency": "add-remove", "weight_cap": 1.0, "denominator": 5.0},
            "nothing shows that they then depend on no other device's data",
        ),
    ],
)
def test_what_no_filter_could_keep_is_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        simulate(SETTLING, replace(BUDGETED, **change))


@pytest.mark.parametrize("name", ["device_budget", "run_budget", "epsilon", "filter_order"])
def test_no_budget_can_be_kept_where_private_signals_are_read(name):
    sigma = None if name == "epsilon" else 1.0
    level = replace(UNBUDGETED, **{"noise_multiplier": sigma, name: 8.0})
    with pytest.raises(ConfigError, match=f"{name} is 8.0, but rates or noise follow private"):
        simulate(HighestLosses(cohort=5), level)


def test_an_order_is_refused_where_nothing_is_filtered():
    with pytest.raises(ConfigError, match=r"filter_order is 8\.0, which is used only"):
        simulate(UniformSelection(cohort=5), replace(BUDGETED, filter_order=8.0))
    with pytest.raises(ConfigError, match=r"order is 7\.3; choose one of"):
        replace(BUDGETED, filter_order=7.3)


class Declared(UniformSelection):
    """Stateless, and says so."""

    reads = "activity"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"reads": "losses"}, "reads of Broken is 'losses'; choose one of"),
        ({"reads": "releases"}, r"has no released\(round, parameters\)"),
        ({"released": print}, r"has released\(\) and reads 'activity'; declare reads = 'releases'"),
        (
            {"replied": print, "released": print, "reads": "releases"},
            r"has replied\(\) and reads 'releases'; declare reads = 'private'",
        ),
        ({"reads": "private"}, r"give it state_dict\(\) and load_state_dict\(\)"),
    ],
)
def test_policies_that_say_one_thing_and_do_another_are_refused(names, says):
    Selective(FedAvg(), Declared(cohort=2))
    with pytest.raises(ConfigError, match=says):
        Selective(FedAvg(), type("Broken", (UniformSelection,), names)(cohort=2))


class Remembering:
    """Has a state, and is told nothing."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_noise_that_cannot_be_is_refused():
    noise = NoiseByMovement(sigma=2.0, slow=1.0)
    with pytest.raises(ConfigError, match=r"noise_multiplier is 1\.0, and NoiseByMovement"):
        PrivateAggregation(FedAvg(), BUDGETED, noise)
    fixed = replace(BUDGETED, adaptive=AdaptiveClipping(bit_noise=3.0))
    with pytest.raises(ConfigError, match="leave bit_noise out"):
        PrivateAggregation(FedAvg(), fixed, replace(noise, sigma=1.0))

    class Forgetful:
        def noise_multiplier(self, round):
            return 1.0

        def released(self, round, parameters):
            pass

    with pytest.raises(ConfigError, match=r"Forgetful remembers .* give it state_dict\(\)"):
        PrivateAggregation(FedAvg(), BUDGETED, Forgetful())
    with pytest.raises(ConfigError, match=r"Remembering has no released\(round, parameters\)"):
        PrivateAggregation(FedAvg(), BUDGETED, Remembering())
    noise.reads = "losses"
    with pytest.raises(ConfigError, match="reads of NoiseByMovement is 'losses'; choose one of"):
        PrivateAggregation(FedAvg(), BUDGETED, noise)

    class Silent(NoiseByMovement):
        def noise_multiplier(self, round):
            return 1.0 if round == 1 else 0.0

    with pytest.raises(ConfigError, match=r"noise_multiplier\(2\) of Silent is 0.0"):
        simulate(UniformSelection(cohort=5), noise=Silent(sigma=1.0, slow=1.0))
