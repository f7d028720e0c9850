"""The DP-SGD experiment: one exact sum, honest and naive epsilons, and no run or step twice."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import experiments.dpsgd as experiment
from experiments import dpsgd_costs
from experiments.central import FILLED_TO, PRIVATE_BATCH_SIZE
from experiments.dpsgd import PRESETS, dpsgd, preset_options
from experiments.dpsgd_costs import exact_gradients, first_batch, step_costs
from experiments.dpsgd_rows import CENTRAL_RATES, Case, cases_of, rows_of
from experiments.options import RunOptions, check_options, model_of, population_of
from fedsim.errors import ConfigError
from fedsim.privacy import Gaussian, epsilon
from fedsim.report.dpsgd import EDP, GHOST, HOOKS, NAIVE, OURS, PLAIN, naive_epsilon
from fedsim.training import DPSGD

OPTIONS = RunOptions(
    corpus="home", devices=12, cohort=3, rounds=2, evaluate_every=2, clip_norm=1.0, workers=0
)
NOISE = {"flat": (0.5, 1.0), "edp-sgd": (0.5, 1.0)}
SIZE = replace(PRESETS["quick"], noise=NOISE, epochs=2, turns=1)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def case(setting, model="bilstm"):
    return Case(options=replace(OPTIONS, model=model), setting=setting, epochs=2)


@pytest.mark.parametrize("model", ["bilstm", "transformer"])
@pytest.mark.parametrize("setting", ["central", "federated"])
def test_exact_ways_give_one_sum_on_the_batches_that_are_trained(setting, model):
    """So accuracy need be trained for one of them alone."""
    here = case(setting, model)
    people = population_of(here.options)
    tagger = model_of(here.options, people)
    drawn = first_batch(here, people, tagger)
    own = {name: p.detach() for name, p in tagger.named_parameters()}
    ways = exact_gradients(tagger)
    assert set(ways) == {OURS, HOOKS, GHOST, NAIVE}
    sums = {way: compute(tagger.losses, own, drawn.real, 1.0)[0] for way, compute in ways.items()}
    for way in (HOOKS, GHOST, NAIVE):
        for name in own:
            torch.testing.assert_close(sums[way][name], sums[OURS][name], rtol=1e-4, atol=1e-5)
    # And it is what training adds up, whatever fills its batches up.
    procedure = DPSGD(
        losses=tagger.losses, learning_rate=1.0, clip_norm=1.0, noise_multiplier=0.0,
        physical_size=64,
    )  # fmt: skip
    after = procedure.finish(procedure.step(procedure.start(own), drawn.filled))
    for name, p in own.items():
        step = (p - after[name]) * drawn.filled["size"]
        torch.testing.assert_close(step, sums[NAIVE][name], rtol=1e-3, atol=1e-4)


def test_batches_are_those_of_the_experiment():
    people = population_of(OPTIONS)
    tagger = model_of(OPTIONS, people)
    central = first_batch(case("central"), people, tagger)
    assert central.size == PRIVATE_BATCH_SIZE
    assert len(central.filled["weight"]) % FILLED_TO == 0
    assert central.real["weight"].min() == 1
    device = first_batch(case("federated"), people, tagger)
    assert device.size == OPTIONS.batch_size
    assert 0 < len(device.real["weight"]) <= people.activity(0).max()


@pytest.mark.usefixtures("data_folder")
def test_rows_are_every_way_to_clip_at_every_noise_and_one_without():
    cases = cases_of(preset_options("paper"), epochs=3)
    assert [(c.options.corpus, c.setting, c.options.model) for c in cases][:4] == [
        ("snips", "central", "bilstm"), ("snips", "central", "transformer"),
        ("snips", "federated", "bilstm"), ("snips", "federated", "transformer"),
    ]  # fmt: skip
    assert len(cases) == 8
    rows = [row for c in cases for row in rows_of(c, NOISE)]
    cells = [row.cell(seed) for row in rows for seed in (0, 1)]
    assert len({cell.name for cell in cells}) == len(cells) == 8 * 5 * 2
    assert {cell.epochs for cell in cells} == {3, None}
    for cell in cells:
        check_options(cell.options)


def test_private_central_training_has_rates_of_its_own_unless_one_is_given():
    rates = {
        (setting, row.noise, given): row.cell(0).options.learning_rate
        for setting in ("central", "federated")
        for given in (None, 0.7)
        for row in rows_of(
            Case(options=replace(OPTIONS, clip_norm=2.0, learning_rate=given), setting=setting,
                 epochs=2),
            {"flat": (0.5,)},
        )
    }  # fmt: skip
    assert rates[("central", 0.5, None)] == CENTRAL_RATES["bilstm"] / 2
    assert {key for key, rate in rates.items() if rate is None} == {
        ("central", None, None), ("federated", None, None), ("federated", 0.5, None)
    }  # fmt: skip
    assert all(rate == 0.7 for (_, _, given), rate in rates.items() if given)


def test_a_given_corpus_or_model_is_the_only_one():
    assert [o.model for o in preset_options("paper", {"corpus": "home", "devices": 9})] == [
        "bilstm",
        "transformer",
    ]
    (one,) = preset_options("paper", {"corpus": "massive", "model": "bilstm"})
    assert (one.corpus, one.devices) == ("massive", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("dpsgd")


@pytest.fixture(scope="module")
def table(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(experiment.PRESETS, "quick", SIZE)
        yield dpsgd([OPTIONS], out=folder, processes=1)


def cells(table, key, setting, way):
    return [r[key] for r in table.rows if (r["setting"], r["way"]) == (setting, way)]


def test_every_way_has_costs_and_trained_ones_have_accuracy(table):
    for setting in ("central", "federated"):
        ways = [row["way"] for row in table.rows if row["setting"] == setting]
        assert ways == [PLAIN, OURS, OURS, EDP, EDP, HOOKS, GHOST, NAIVE]
    assert all(row["time"] > 0 and row["memory"] > 0 for row in table.rows)
    assert cells(table, "time", "central", PLAIN) == [1.0]
    for row in table.rows:
        trained = row["way"] in (PLAIN, OURS, EDP)
        assert (row["intent_accuracy"] is not None) == trained
        assert (row["epsilon"] is not None) == trained


def test_central_epsilons_are_those_of_their_steps(table):
    """eDP-SGD: half the noise, which falls by a tenth an epoch; read naively: neither."""
    examples = int(population_of(OPTIONS).counts.sum())
    steps, rate = -(-examples // PRIVATE_BATCH_SIZE), min(1, PRIVATE_BATCH_SIZE / examples)

    def of(*noises):
        each = [Gaussian(noise_multiplier=sigma, rate=rate, steps=steps) for sigma in noises]
        return pytest.approx(epsilon(each, 1e-5), rel=1e-3)

    assert cells(table, "epsilon", "central", OURS) == [of(0.5, 0.5), of(1.0, 1.0)]
    assert cells(table, "epsilon", "central", EDP) == [of(0.25, 0.225), of(0.5, 0.45)]
    assert cells(table, "epsilon_naive", "central", EDP) == [of(0.5, 0.5), of(1.0, 1.0)]
    assert cells(table, "epsilon_naive", "central", OURS) == [None, None]
    assert cells(table, "epsilon", "central", PLAIN) == [np.inf]


def test_on_devices_a_naive_reading_claims_what_exact_dp_sgd_pays(table):
    """The same cohorts take the same steps, at constant noise."""
    exact = cells(table, "epsilon", "federated", OURS)
    assert cells(table, "epsilon_naive", "federated", EDP) == [pytest.approx(e) for e in exact]
    honest = cells(table, "epsilon", "federated", EDP)
    assert all(e > 1.9 * other for e, other in zip(honest, exact, strict=True))


def test_an_exact_run_is_read_alike_by_everybody(folder, table):
    from fedsim.record import load_run

    for setting in ("central", "federated"):
        run = load_run(folder / "runs" / f"home-{setting}-bilstm-flat-0.5-seed0")
        wanted = run.rounds[-1]["example_epsilon_max"]
        assert naive_epsilon(run) == pytest.approx(wanted, rel=1e-9)


def test_notes_and_figures_are_of_the_rows(table):
    costs, central, federated = table.notes[:3]
    low, high = sorted(
        cells(table, "time", setting, NAIVE)[0] for setting in ("central", "federated")
    )
    assert f"naive loop {low:.2g}" in costs and f"{high:.2g} times its time" in costs
    assert f"{cells(table, 'epsilon', 'central', EDP)[1]:.3g}" in central
    assert f"{cells(table, 'epsilon_naive', 'federated', EDP)[1]:.3g}" in federated
    text = table.markdown()
    assert text.index("**home, central**") < text.index("**home, federated**")
    assert {"accuracy-over-epsilon", "time-by-method"} == table.figures().keys()
    assert len(table.figures()["time-by-method"].axes[0].patches) == 6


def test_nothing_is_run_or_measured_twice(folder, table, monkeypatch):
    def never(*_, **__):
        raise AssertionError("done before")

    monkeypatch.setitem(experiment.PRESETS, "quick", SIZE)
    monkeypatch.setattr(dpsgd_costs, "measured", never)
    monkeypatch.setattr("experiments.cells.execute", never)
    assert dpsgd([OPTIONS], out=folder, processes=1).csv() == table.csv()


def test_measurements_of_other_options_are_refused(folder, table):
    other = replace(case("central"), options=replace(OPTIONS, devices=13))
    with pytest.raises(ConfigError, match=r"'devices': 12.*wants.*'devices': 13.*remove that file"):
        step_costs(other, folder / "steps", turns=1)


def test_a_finished_run_of_other_clipping_or_noise_is_refused(folder, table):
    """Its folder is named after what was asked for, which a user may change."""
    from experiments.cells import finish

    exact, *_ = (row for row in rows_of(case("central"), NOISE) if row.noise == 0.5)
    cell = exact.cell(0)
    assert len(finish([cell], folder / "runs", 1)) == 1
    for change, says in (
        (
            {"options": replace(cell.options, clipping="edp-sgd")},
            "clipping=flat, but this experiment",
        ),
        ({"epochs": 3}, "epochs=2, but this experiment wants epochs=3"),
        ({"options": replace(cell.options, noise_multiplier=0.6)}, "noise_multiplier=0.5, but"),
        ({"options": replace(cell.options, dp="none", noise_multiplier=None)}, "dp=example, but"),
    ):
        with pytest.raises(ConfigError, match=says):
            finish([replace(cell, **change)], folder / "runs", 1)
