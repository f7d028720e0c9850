"""Claims about the two corpora known by name, MASSIVE and SNIPS."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import ConfigError
from fedsim.population import Population
from fedsim.population.examples import UNKNOWN, UNSEEN
from fedsim.population.massive import parse_annotated


def arrays(examples) -> list[list]:
    """Everything in a set of examples."""
    names = ("token_ids", "slots", "offsets", "intents", "device", "period", "null")
    return [getattr(examples, name).tolist() for name in names]


# MASSIVE


@pytest.fixture(scope="module")
def massive(data_folder) -> Population:
    return Population.load("massive", data_folder)


def test_massive_trains_the_612_people_with_training_rows(massive):
    assert massive.devices == 612
    assert massive.activity().sum() == 10_217
    assert massive.activity().min() >= 1
    assert (len(massive.inventory.intents), len(massive.inventory.slot_types)) == (60, 55)


def test_massive_keeps_every_held_out_row(massive):
    assert (len(massive.dev), len(massive.test)) == (1830, 2671)
    assert (massive.test.device == UNKNOWN).sum() == 36
    assert (massive.dev.device == UNKNOWN).sum() == 30
    assert (massive.test.device == UNSEEN).any(), "nine people never train"


def test_massive_says_which_rows_it_left_out(massive):
    assert any("162 training rows without a person" in text for text in massive.assumptions)


@pytest.mark.parametrize("by", ["device", "clock"])
def test_activity_over_five_periods_sums_to_that_of_one(massive, by):
    cut = massive.cut(periods=5, by=by)
    assert sum(cut.activity(period) for period in range(5)).tolist() == massive.activity().tolist()
    sizes = cut.counts.sum(axis=0)
    assert sizes.min() > 0.8 * sizes.max()


def test_by_clock_nine_in_ten_people_fall_into_one_period(massive):
    alone = ((massive.cut(periods=5, by="clock").counts > 0).sum(axis=1) == 1).mean()
    assert 0.85 < alone < 0.95
    assert ((massive.cut(periods=5, by="device").counts > 0).sum(axis=1) == 1).mean() < 0.2


def test_massive_reads_the_same_however_its_place_is_given(massive, data_folder, monkeypatch):
    monkeypatch.setenv("FEDSIM_DATA", str(data_folder))
    folder = data_folder / "massive_en_us"
    for data in (None, folder, str(folder / "utterances.jsonl")):
        assert Population.load("massive", data).fingerprint == massive.fingerprint


def test_published_massive_reads_to_the_same_arrays(data_folder, tmp_path, written):
    with (data_folder / "massive_en_us" / "utterances.jsonl").open(encoding="utf-8") as file:
        shared = [json.loads(line) for line in file][:1500]
    # Times are not published: the order of ids has to be the order here too.
    shared.sort(key=lambda row: row["id"])
    shared = [row | {"order": i} for i, row in enumerate(shared)]
    published = [
        {
            "id": str(row["id"]),
            "locale": "en-US",
            "partition": row["split"],
            "scenario": row["scenario"],
            "intent": row["intent"],
            "utt": row["text"],
            "annot_utt": annotated(row["tokens"], row["slots"]),
            "worker_id": "0" if row["user"] is None else row["user"],
        }
        for row in shared
    ]
    assert any("[" in row["annot_utt"] for row in published)
    (tmp_path / "1.1" / "data").mkdir(parents=True)
    written(tmp_path / "1.1" / "data" / "en-US.jsonl", published)
    written(tmp_path / "utterances.jsonl", shared)
    first = Population.load("massive", tmp_path / "1.1")
    second = Population.load("massive", tmp_path / "utterances.jsonl")
    assert Population.load("massive", tmp_path / "1.1" / "data").fingerprint == first.fingerprint
    assert first.source.names() == second.source.names()
    assert first.counts.tolist() == second.counts.tolist()
    assert arrays(first.test) == arrays(second.test)
    assert arrays(first.train(3)) == arrays(second.train(3))
    assert any("ids" in text for text in first.assumptions)
    assert any("worker 0" in text for text in first.assumptions)


def annotated(tokens: list[str], slots: list[str]) -> str:
    """The published way to write tokens with slots."""
    words = []
    for i, (token, slot) in enumerate(zip(tokens, slots, strict=True)):
        ends = slot != "O" and (i + 1 == len(slots) or slots[i + 1][0] != "I")
        begin = f"[{slot[2:]} : " if slot[0] == "B" else ""
        words.append(begin + token + ("]" if ends else ""))
    return " ".join(words)


def test_a_bad_published_row_is_named_by_line(tmp_path, written, refused):
    row = {
        "id": "1",
        "partition": "train",
        "intent": "alarm_set",
        "annot_utt": "at [time : five]",
        "worker_id": "4",
    }
    path = tmp_path / "en-US.jsonl"
    for change, message in (
        ({"annot_utt": "at [time five]"}, "en-US.jsonl:2: annot_utt is"),
        ({"annot_utt": "at [tme : five]"}, "en-US.jsonl:2: slot type 'tme' is not among the 55"),
        ({"intent": "alarm_st"}, "en-US.jsonl:2: intent 'alarm_st' is not among the 60"),
        ({"partition": "eval"}, "en-US.jsonl:2: split is 'eval'"),
    ):
        assert message in refused("massive", written(path, [row, row | change]))
    short = {key: value for key, value in row.items() if key != "worker_id"}
    assert "en-US.jsonl:2: no field 'worker_id'" in refused("massive", written(path, [row, short]))
    assert "annot_utt but not worker_id" in refused("massive", written(path, [short]))


@pytest.mark.parametrize("corpus", ["massive", "snips"])
def test_missing_data_says_where_to_get_it_and_where_to_put_it(
    corpus, tmp_path, monkeypatch, refused
):
    message = refused(corpus, tmp_path)
    assert str(tmp_path) in message and "https://" in message
    assert "--data" in message and "FEDSIM_DATA" in message
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path / "elsewhere"))
    assert str(tmp_path / "elsewhere") in refused(corpus)


@st.composite
def labelled(draw):
    """Tokens without brackets and BIO labels of spans between them."""
    tokens, slots = [], []
    for _ in range(draw(st.integers(0, 5))):
        words = draw(st.lists(st.sampled_from(["five", "am", "o'clock", "☕", "a:b"]), min_size=1))
        slot = draw(st.sampled_from([None, "time", "date"]))
        tokens += words
        slots += ["O" if slot is None else ("I-" if i else "B-") + slot for i in range(len(words))]
    return tokens, slots


@given(pair=labelled())
def test_annotated_text_reads_back_as_it_was_written(pair):
    assert parse_annotated(annotated(*pair)) == pair


@pytest.mark.parametrize("text", ["at [time five]", "at [time : five", "five]", "[a : [b : c]]", 3])
def test_brackets_that_are_no_mark_are_refused(text):
    with pytest.raises(ConfigError, match="annot_utt is"):
        parse_annotated(text)


# SNIPS


def test_snips_is_dealt_to_a_hundred_devices(data_folder):
    people = Population.load("snips", data_folder)
    assert people.devices == 100
    assert people.activity().sum() == 13_084
    assert (len(people.dev), len(people.test)) == (700, 630)
    assert (people.test.device == UNKNOWN).all()
    assert people.inventory.intents[0] == "AddToPlaylist"
    assert any("dealt to 100 devices by iid, seed 0" in text for text in people.assumptions)
    assert not any("split" in text for text in people.assumptions)


def test_snips_may_be_dealt_otherwise(data_folder, refused):
    people = Population.load("snips", data_folder / "snips", partition="quantity:0.5", devices=30)
    assert people.devices == 30
    assert people.activity().max() > 3 * people.activity().mean()
    assert "snips give the folder" in refused("snips", data_folder / "snips" / "train.jsonl")
