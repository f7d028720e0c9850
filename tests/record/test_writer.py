"""A run's folder holds exactly what was promised, in standard JSON, or nothing at all."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg

from clients import NLUClient
from fedsim import ConfigError, Population, Simulation, Static
from fedsim.models import BiLSTMTagger
from fedsim.plan import Failure, FinishedRound
from fedsim.record import Writer, load_run, model_sha256
from fedsim.record.encoding import encoded
from fedsim.record.writer import COLUMNS
from strategies import ActivitySelection, Selective

ROOT = Path(__file__).resolve().parents[2]

PEOPLE = Population.load("home", devices=8)

FILES = {
    "config.json",
    "start.json",
    "rounds.jsonl",
    "cohorts.npz",
    "devices.npz",
    "model.safetensors",
    "summary.json",
}


def simulate(out=None, **changes):
    return Simulation(
        population=PEOPLE,
        model=BiLSTMTagger.sized_for(PEOPLE, embedding=4, hidden=4),
        client=NLUClient(),
        strategy=Selective(FedAvg(), ActivitySelection(cohort=3, cap=0.8)),
        schedule=Static(rounds=3),
        workers=0,
        **{"evaluate_every": 2, **changes},
    ).run(out, recipe={"corpus": "home"})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run in memory, and its folder."""
    folder = tmp_path_factory.mktemp("record") / "run"
    return simulate(folder), folder


def strict(text: str):
    """Parse standard JSON: no NaN, no Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no standard JSON")

    return json.loads(text, parse_constant=refuse)


def finished_round(**changes) -> FinishedRound:
    nobody = np.zeros(0, np.int64)
    fields = {
        "round": 1,
        "period": 0,
        "last": True,
        "plan": None,
        "cohort": nobody,
        "arrived": nobody,
        "examples": 0,
        "failures": (),
        "train_loss": None,
        "parameters": {},
        "score": lambda: None,
    }
    return FinishedRound(**{**fields, **changes})


def test_a_run_leaves_exactly_these_files(written):
    _, folder = written
    assert {path.name for path in folder.iterdir()} == FILES


def test_every_line_has_the_promised_keys_in_their_order(written):
    _, folder = written
    lines = [strict(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [[*COLUMNS, "figures"]] * 3
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert all("/" in key for line in lines for key in line["figures"])


def test_without_privacy_every_claim_is_the_string_inf(written):
    _, folder = written
    line = strict((folder / "rounds.jsonl").read_text().splitlines()[0])
    claims = [line[key] for key in COLUMNS if "epsilon" in key and "audit" not in key]
    assert claims == ["inf"] * 6
    assert line["privacy_unit"] == "none"


def test_what_was_not_measured_is_null_and_the_last_round_always_is(written):
    _, folder = written
    lines = [strict(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    measured = [line["intent_accuracy"] is not None for line in lines]
    assert measured == [False, True, True]
    assert lines[0]["mia_auc"] is None


@pytest.mark.parametrize("name", ["config.json", "start.json", "summary.json"])
def test_json_files_are_standard(written, name):
    assert strict((written[1] / name).read_text())


def test_the_config_says_what_was_run(written):
    config = strict((written[1] / "config.json").read_text())
    assert config["weighting"] == "equal"
    assert config["selection_label"] == "activity, cap 0.8"
    assert config["recipe"] == {"corpus": "home"}
    simulation = config["simulation"]
    assert simulation["strategy"]["policy"] == {
        "class": "ActivitySelection",
        "cohort": 3,
        "power": 1.0,
        "cap": 0.8,
    }
    assert simulation["model"]["class"] == "BiLSTMTagger"
    assert simulation["model"]["shapes"]["lstm_hh"] == [2, 16, 4]
    assert config["environment"]["flwr"]


def test_cohorts_and_rates_can_be_read_back_round_by_round(written):
    run, _ = written
    drawn, offsets = run.cohorts["drawn"], run.cohorts["drawn_offsets"]
    sizes = np.diff(offsets).tolist()
    assert sizes == [line["cohort_size"] for line in run.rounds]
    assert len(drawn) == offsets[-1]
    # The activity never changed, so the rates stand there once.
    assert run.cohorts["rates"].shape == (1, 8)
    assert run.cohorts["rates_round"].tolist() == [1]


def test_device_names_are_hashed(written):
    run, _ = written
    assert run.devices["names"].dtype == np.uint64
    assert len(set(run.devices["names"].tolist())) == 8
    assert run.devices["activity"].tolist() == [PEOPLE.activity().tolist()]


def test_the_summary_holds_last_figures_hash_rounds_seconds_and_seed(written):
    run, folder = written
    summary = strict((folder / "summary.json").read_text())
    assert summary["intent_accuracy"] == run.rounds[-1]["intent_accuracy"]
    assert summary["model_sha256"] == model_sha256(run.model)
    assert (summary["rounds"], summary["seed"]) == (3, 0)
    assert summary["seconds"] > 0


def test_config_is_there_before_anything_is_computed(tmp_path, monkeypatch):
    seen = []

    def cut(*_):
        seen.extend(path.name for path in (tmp_path / "run").iterdir())
        raise ConfigError("stop here")

    monkeypatch.setattr(Population, "cut", cut)
    with pytest.raises(ConfigError, match="stop here"):
        simulate(tmp_path / "run")
    assert seen == ["config.json"]
    assert list(tmp_path.iterdir()) == []


def test_the_hash_does_not_depend_on_the_order_of_names():
    a, b = torch.arange(3.0), torch.ones(2, 2)
    assert model_sha256({"a": a, "b": b}) == model_sha256({"b": b, "a": a})
    assert model_sha256({"a": a, "b": b}) != model_sha256({"a": a, "b": b + 1})
    assert model_sha256({"a": a}) != model_sha256({"c": a})
    assert model_sha256({"a": b.T}) == model_sha256({"a": b.T.contiguous()})


def test_numpy_figures_and_infinities_become_standard_json():
    figures = {
        "a": np.float32(0.5),
        "b": np.int64(3),
        "c": float("-inf"),
        "nested": {"probe/x": np.float64("nan"), "probe/y": [np.inf, (1,)]},
        "flags": np.array([True, False]),
    }
    assert strict(json.dumps(encoded(figures))) == {
        "a": 0.5,
        "b": 3,
        "c": "-inf",
        "nested": {"probe/x": "nan", "probe/y": ["inf", [1]]},
        "flags": [True, False],
    }


def test_failures_are_one_line_each(tmp_path):
    writer = Writer(tmp_path)
    failures = (Failure(2, "train", "ValueError: é"), Failure(5, "missing", "no reply"))
    line = writer.round(finished_round(failures=failures, cohort=np.array([2, 5])), 0.1, {})
    assert line["failures"] == 2
    lines = [strict(one) for one in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert lines == [
        {"round": 1, "device": 2, "stage": "train", "error": "ValueError: é"},
        {"round": 1, "device": 5, "stage": "missing", "error": "no reply"},
    ]


def test_rates_stand_there_once_per_change(tmp_path):
    from fedsim.plan import Plan

    writer = Writer(None)
    nobody = np.zeros(0, np.int64)
    for round, rate in enumerate([0.1, 0.1, 0.2, 0.1], start=1):
        plan = Plan(
            round=round,
            period=0,
            seed=0,
            cohort=nobody,
            examples=nobody,
            weights=np.zeros(0),
            rates=np.full(3, rate),
            device_weights=np.ones(3),
            draw="poisson",
        )
        writer.round(finished_round(round=round, plan=plan), 0.1, {})
    cohorts = writer.finish({}, {}, {})
    assert cohorts["rates_round"].tolist() == [1, 3, 4]
    assert cohorts["rates"][:, 0].tolist() == [0.1, 0.2, 0.1]


class TestOutputFolder:
    def test_one_that_holds_a_run_is_refused(self, written):
        with pytest.raises(ConfigError, match=r"holds a run already; choose another one"):
            simulate(written[1])
        assert {path.name for path in written[1].iterdir()} == FILES

    def test_one_that_holds_anything_else_is_refused_and_left_alone(self, tmp_path):
        (tmp_path / ".hidden").write_text("mine")
        with pytest.raises(ConfigError, match="is not empty; choose another one"):
            Writer(tmp_path)
        assert (tmp_path / ".hidden").read_text() == "mine"

    def test_a_file_is_refused(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(ConfigError, match="is a file; choose another one"):
            Writer(tmp_path / "file")
        with pytest.raises(ConfigError, match="cannot be used: Not a directory"):
            Writer(tmp_path / "file" / "below")

    def test_one_that_cannot_be_written_is_refused(self, tmp_path, monkeypatch):
        def denied(*_, **__):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", denied)
        with pytest.raises(ConfigError, match="cannot be used: Permission denied; choose another"):
            Writer(tmp_path / "new")

    def test_one_that_cannot_be_looked_into_is_refused(self, tmp_path, monkeypatch):
        def denied(*_, **__):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "iterdir", denied)
        with pytest.raises(ConfigError, match="cannot be used: Permission denied; choose another"):
            Writer(tmp_path)

    def test_discarding_removes_what_was_created_parents_included(self, tmp_path):
        writer = Writer(tmp_path / "a" / "b")
        writer.config({"rounds": 1})
        writer.discard()
        assert list(tmp_path.iterdir()) == []

    def test_discarding_keeps_a_folder_that_was_there(self, tmp_path):
        writer = Writer(tmp_path)
        writer.config({"rounds": 1})
        writer.discard()
        assert list(tmp_path.iterdir()) == []

    def test_discarding_spares_a_run_beside_it(self, tmp_path):
        first, second = Writer(tmp_path / "runs" / "one"), Writer(tmp_path / "runs" / "two")
        second.config({"rounds": 1})
        first.discard()
        assert [path.name for path in (tmp_path / "runs").iterdir()] == ["two"]

    def test_a_run_that_has_rounds_is_not_discarded(self, tmp_path):
        writer = Writer(tmp_path / "run")
        writer.round(finished_round(), 0.1, {})
        writer.discard()
        assert (tmp_path / "run" / "rounds.jsonl").is_file()


class TestFullDisk:
    @pytest.fixture
    def full(self, monkeypatch):
        """Fail every write from now on to files of the given name."""

        def fill(name: str):
            opened = Path.open

            def no_room(path, mode="r", *rest, **options):
                if name in path.name and mode[0] in "wa":
                    raise OSError(errno.ENOSPC, "No space left on device")
                return opened(path, mode, *rest, **options)

            monkeypatch.setattr(Path, "open", no_room)

        return fill

    @pytest.mark.parametrize("name", ["config.json", "start.json", "devices.npz", "rounds.jsonl"])
    def test_before_the_first_round_is_written_nothing_is_left(self, tmp_path, full, name):
        full(name)
        with pytest.raises(ConfigError, match=f"{name} cannot be written: No space left on device"):
            simulate(tmp_path / "run")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["cohorts.npz", "model.safetensors", "summary.json"])
    def test_at_the_end_no_half_file_is_left_and_the_run_is_not_finished(
        self, tmp_path, full, name
    ):
        full(name)
        with pytest.raises(ConfigError, match=f"{name} cannot be written: No space left on device"):
            simulate(tmp_path / "run")
        assert not (tmp_path / "run" / name).exists()
        assert not list((tmp_path / "run").glob(".*"))
        assert len((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()) == 3
        with pytest.raises(ConfigError, match="holds no finished run"):
            load_run(tmp_path / "run")

    def test_in_the_middle_the_rounds_so_far_stay(self, tmp_path, full):
        def fill_up(finished):
            if finished.round == 2:
                full("rounds.jsonl")
            return {}

        with pytest.raises(ConfigError, match=r"rounds\.jsonl cannot be written: No space left"):
            simulate(tmp_path / "run", probes=[fill_up])
        assert len((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()) == 1


def test_a_disk_that_fills_in_the_middle_of_a_line_leaves_whole_lines(tmp_path):
    """The system may write a part and report success; a limit on file sizes does just that."""
    script = f"""
import resource, signal
from clients import NLUClient
from fedsim import ConfigError, Population, Simulation, Static
from fedsim.models import BiLSTMTagger
from flwr.serverapp.strategy import FedAvg
from strategies import Selective, UniformSelection

people = Population.load("home", devices=4)
model = BiLSTMTagger(rows=people.vocabulary.rows, intents=40, slot_labels=60, embedding=2, hidden=2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
try:
    Simulation(population=people, model=model, client=NLUClient(), workers=0,
               strategy=Selective(FedAvg(), UniformSelection(cohort=2)),
               schedule=Static(rounds=60), checkpoint_every=100).run({str(tmp_path / "out")!r})
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert "rounds.jsonl cannot be written" in done.stdout, done.stderr
    text = (tmp_path / "out" / "rounds.jsonl").read_text()
    assert text.endswith("\n")
    assert [strict(line)["round"] for line in text.splitlines()] == list(
        range(1, text.count("\n") + 1)
    )
