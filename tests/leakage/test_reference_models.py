"""Reference models: runs under coins and seeds of their own, each trained once."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, FedAvgM

from clients import NLUClient
from fedsim import ConfigError, Continual, Population, Simulation, Static
from fedsim.leakage.panels import example_panel
from fedsim.leakage.reference_models import fingerprint, train_reference_models
from fedsim.leakage.signals import SignalLog, others_of, panel_examples, signals_of
from fedsim.models import BiLSTMTagger
from fedsim.probes import Due
from fedsim.record import load_run
from fedsim.round import Round
from strategies import ActivitySelection, Selective, UniformSelection

PEOPLE = Population.load("home", devices=8)
MODEL = BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4)
PANEL = example_panel(PEOPLE, seed=5, size=60)
LOG = SignalLog(
    model=MODEL,
    panel=panel_examples(PANEL, PEOPLE),
    others=others_of(PEOPLE, 5),
    due=Due(every=1),
)


def attacked(**changes):
    fields = {
        "population": PANEL.applied(PEOPLE),
        "model": MODEL,
        "client": NLUClient(),
        "strategy": Selective(FedAvg(), ActivitySelection(cohort=3)),
        "schedule": Static(rounds=2),
        "seed": 5,
        "workers": 0,
    }
    return Simulation(**{**fields, **changes})


def trained(simulation=None, folder=None, models=3):
    return train_reference_models(
        simulation or attacked(),
        panel=PANEL,
        population=PEOPLE,
        log=LOG,
        models=models,
        folder=folder,
        progress=False,
    )


@pytest.fixture
def rounds_run(monkeypatch):
    """Counts rounds; one may be named at whose start the process is interrupted."""
    run, whole = {"rounds": 0, "interrupted_at": None}, Round.__call__

    def counted(self, round, parameters):
        if run["rounds"] == run["interrupted_at"]:
            raise KeyboardInterrupt
        run["rounds"] += 1
        return whole(self, round, parameters)

    monkeypatch.setattr(Round, "__call__", counted)
    return run


def test_what_they_say_is_what_runs_under_redrawn_coins_say(tmp_path):
    references = trained(folder=tmp_path)
    assert len(references) == 3 and references.rounds.tolist() == [1, 2]
    seeds = {}
    for path in tmp_path.iterdir():
        record = load_run(path)
        seeds[record.start["fingerprint"]] = record.config["seed"]
    for number in (1, 2, 3):
        coins = PANEL.redrawn(5, number)
        people = coins.applied(PEOPLE)
        seed = seeds.pop(people.cut(1).fingerprint)
        alone = attacked(population=people, seed=seed).run(progress=False)
        said = signals_of(MODEL, LOG.panel)(alone.model)
        assert np.array_equal(references.panel[number - 1, 1], said)
        assert np.array_equal(references.out[number - 1], ~coins.included)


def test_seeds_are_their_own_and_the_untrained_model_is_not(tmp_path):
    trained(folder=tmp_path)
    own = attacked().run(progress=False)
    records = [load_run(path) for path in tmp_path.iterdir()]
    assert len({5, *(record.config["seed"] for record in records)}) == 4
    assert {record.start["model_sha256"] for record in records} == {own.start["model_sha256"]}
    for record in records:
        drawn = (record.cohorts["drawn"].tolist(), record.cohorts["drawn_offsets"].tolist())
        assert drawn != (own.cohorts["drawn"].tolist(), own.cohorts["drawn_offsets"].tolist())


def test_a_folder_changes_nothing_but_what_is_kept(tmp_path):
    kept, forgotten = trained(folder=tmp_path), trained()
    assert np.array_equal(kept.panel, forgotten.panel)
    assert np.array_equal(kept.others, forgotten.others)


def test_none_is_trained_twice(tmp_path, rounds_run):
    first = trained(folder=tmp_path)
    assert rounds_run["rounds"] == 6
    again = trained(folder=tmp_path)
    more = trained(folder=tmp_path, models=4)
    assert rounds_run["rounds"] == 8
    assert np.array_equal(first.panel, again.panel)
    assert np.array_equal(first.panel, more.panel[:3])


def test_after_an_interrupt_the_finished_ones_are_kept_and_the_others_go_on(tmp_path, rounds_run):
    rounds_run["interrupted_at"] = 3
    with pytest.raises(KeyboardInterrupt):
        trained(folder=tmp_path)
    rounds_run["interrupted_at"] = None
    references = trained(folder=tmp_path)
    assert rounds_run["rounds"] == 6
    assert np.array_equal(references.panel, trained().panel)


CHANGES = [
    {"client": NLUClient(local_epochs=2)},
    {"strategy": Selective(FedAvgM(), ActivitySelection(cohort=3))},
    {"strategy": Selective(FedAvg(), UniformSelection(cohort=3))},
    {"schedule": Continual(periods=2, rounds=2)},
    {"population": PANEL.redrawn(5, 1).applied(PEOPLE)},
    {"model": BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4, seed=1)},
    {"seed": 6},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: next(iter(changes)))
def test_whatever_changes_a_model_changes_its_fingerprint(changes):
    assert fingerprint(attacked(**changes), LOG) != fingerprint(attacked(), LOG)


def test_what_changes_no_model_changes_no_fingerprint():
    same = attacked(workers=2, evaluate_every=1, checkpoint_every=3, probes=[lambda _: {}])
    assert fingerprint(same, LOG) == fingerprint(attacked(), LOG)
    later = SignalLog(model=MODEL, panel=LOG.panel, others=LOG.others, due=Due(every=4))
    assert fingerprint(attacked(), later) != fingerprint(attacked(), LOG)


def test_one_reference_model_is_refused():
    with pytest.raises(ConfigError, match="models is 1"):
        trained(models=1)


def test_an_app_that_nothing_describes_is_not_kept_on_disk(tmp_path):
    with pytest.raises(ConfigError, match="leave the folder of reference models out"):
        trained(replace(attacked(), client=ClientApp()), folder=tmp_path)
    assert not any(tmp_path.iterdir())
