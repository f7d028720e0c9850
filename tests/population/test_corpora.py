"""Claims about the populations that names, files and data sets stand for."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from flwr_datasets.partitioner import NaturalIdPartitioner

from fedsim.errors import ConfigError
from fedsim.population import Population
from fedsim.population.examples import UNKNOWN

PEOPLE = [
    {"user": user, "text": f"word{i} here", "intent": f"i{i % 2}", "slots": "O B-place"}
    for i, user in enumerate(["ann", "bo"] * 20)
]


# Sets without people


def test_a_file_without_people_needs_a_partition(tmp_path, written, refused):
    rows = [{"text": "a b", "intent": f"i{i % 3}"} for i in range(50)]
    path = written(tmp_path / "rows.jsonl", rows)
    message = refused(path)
    assert "rows.jsonl has no user column" in message
    assert "user=NAME" in message and "iid, dirichlet:A or quantity:A" in message
    assert "no user column" in refused(path, partition="natural")
    people = Population.load(path, partition="dirichlet:0.5", devices=4)
    assert people.devices == 4
    assert people.activity().sum() == 40


def test_a_file_in_which_nobody_trains_is_refused(tmp_path, written, refused):
    rows = [PEOPLE[0] | {"user": None, "split": "train"}, PEOPLE[0] | {"split": "test"}]
    message = refused(written(tmp_path / "rows.jsonl", rows))
    assert "rows.jsonl has 1 training rows, none of them with a user" in message


@pytest.mark.parametrize("partition", [None, "iid"])
def test_a_file_without_training_rows_is_refused(tmp_path, partition, written, refused):
    path = written(tmp_path / "rows.jsonl", [row | {"split": "test"} for row in PEOPLE])
    assert "none of the 40 rows of rows.jsonl is for training" in refused(path, partition=partition)


def test_devices_are_refused_where_the_data_has_people(tmp_path, written, refused):
    path = written(tmp_path / "rows.jsonl", PEOPLE)
    assert "devices is 7, but rows.jsonl has people of its own" in refused(path, devices=7)
    assert Population.load(path, partition="iid", devices=7).devices == 7


def test_natural_is_the_partition_that_flower_makes(tmp_path, written):
    path = written(tmp_path / "rows.jsonl", [row | {"split": "train"} for row in PEOPLE])
    people = Population.load(path, partition="natural")
    oracle = NaturalIdPartitioner(partition_by="user")
    oracle.dataset = Dataset.from_list(PEOPLE)
    assert people.devices == oracle.num_partitions
    for i, name in oracle.partition_id_to_natural_id.items():
        device = list(people.source.names()).index(name)
        words = [word for text in oracle.load_partition(i)["text"] for word in text.split()]
        expected = people.vocabulary.encode(words)
        assert people.train(device).token_ids.tolist() == expected.tolist()


# Files


def test_a_file_with_a_split_and_declared_labels_assumes_little(tmp_path, written):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"intents": ["i1", "i0", "never"], "slots": ["place"]}), "utf-8")
    rows = [row | {"split": "train", "order": -i} for i, row in enumerate(PEOPLE)]
    rows[3]["split"] = "test"
    people = Population.load(written(tmp_path / "rows.jsonl", rows), labels=labels)
    assert people.inventory.intents == ("i1", "i0", "never")
    assert people.assumptions == ()
    assert people.activity().tolist() == [19, 20], "bo comes first: orders are negative"
    first_word = people.vocabulary.encode([rows[39]["text"].split()[0]])[0]
    assert people.train(0).token_ids[0].tolist() == first_word.tolist()


def test_what_the_data_did_not_say_stands_in_the_assumptions(tmp_path, written):
    rows = [*PEOPLE, PEOPLE[0] | {"text": "x " * 10_000, "slots": "O " * 10_000}]
    path = written(tmp_path / "rows.jsonl", rows)
    people = Population.load(path, vocabulary="corpus", seed=5)
    text = "; ".join(people.assumptions)
    assert "split 80/10/10, seed 5" in text
    assert "rows are taken to be in the order of collection" in text
    assert "read from all rows, held-out ones included" in text
    assert "vocabulary was read from people's training text" in text
    assert "utterances cut to 128 tokens: 1" in text
    assert people.inventory.slot_types == ("place",)


def test_labels_of_held_out_rows_are_known_and_told_of(tmp_path, written, refused):
    rows = [row | {"split": "train"} for row in PEOPLE]
    rows.append(PEOPLE[0] | {"split": "test", "intent": "surprise"})
    path = written(tmp_path / "rows.jsonl", rows)
    people = Population.load(path)
    assert "surprise" in people.inventory.intents
    assert any("1 intents never occur in training rows" in text for text in people.assumptions)
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"intents": ["i0", "i1"], "slots": ["place"]}), "utf-8")
    assert "rows.jsonl:41: intent 'surprise' is not among the 2" in refused(path, labels=labels)


def test_a_set_without_test_rows_says_so(tmp_path, written):
    rows = [row | {"split": "train"} for row in PEOPLE]
    people = Population.load(written(tmp_path / "rows.jsonl", rows))
    assert any("no test rows" in text for text in people.assumptions)
    assert len(people.test) == 0


def test_corpus_vocabulary_reads_training_rows_of_people_only(tmp_path, written):
    rows = [
        {"user": "a", "text": "seen", "intent": "i", "split": "train"},
        {"user": None, "text": "nobody", "intent": "i", "split": "train"},
        {"user": "a", "text": "later", "intent": "i", "split": "test"},
    ]
    people = Population.load(written(tmp_path / "rows.jsonl", rows), vocabulary="corpus")
    assert people.vocabulary.words == ("seen",)
    assert people.test.token_ids.tolist() == [[1]]


def test_too_many_labels_ask_for_the_right_column(tmp_path, written, refused):
    rows = [{"user": "a", "text": "x", "intent": f"i{i}"} for i in range(33_000)]
    message = refused(written(tmp_path / "rows.jsonl", rows))
    assert "33000 intents" in message and "right columns" in message


def test_too_many_declared_labels_are_refused(tmp_path, written, refused):
    labels = tmp_path / "labels.json"
    names = [f"i{i}" for i in range(33_000)]
    labels.write_text(json.dumps({"intents": names, "slots": ["place"]}), "utf-8")
    path = written(tmp_path / "rows.jsonl", PEOPLE)
    assert "33000 intents" in refused(path, labels=labels)


def test_hwu64_reads_as_a_file_whose_people_are_partly_unknown(data_folder):
    people = Population.load(data_folder / "hwu64" / "utterances.jsonl")
    assert people.devices > 500
    total = people.activity().sum() + len(people.dev) + len(people.test)
    assert total < 9889
    assert (len(people.inventory.intents), len(people.inventory.slot_types)) == (64, 54)
    assert 0.09 < len(people.test) / 9889 < 0.11
    assert any("without a person train nowhere" in text for text in people.assumptions)


# Names


def test_home_takes_a_number_of_devices():
    assert Population.load("home", devices=12).devices == 12
    assert Population.load("home", devices=12).name == "home"


@pytest.mark.parametrize(
    ("option", "value"),
    [("partition", "iid"), ("columns", {"user": "u"}), ("vocabulary", "corpus")],
)
def test_home_refuses_what_makes_no_sense_for_it(option, value, refused):
    message = refused("home", **{option: value})
    assert option in message and "home is generated" in message


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("masive", "corpus is 'masive' .did you mean 'massive'.*home, massive, snips, the path"),
        ("zzz", "corpus is 'zzz'; expected home, massive, snips"),
        ("no/such/file.jsonl", "no/such/file.jsonl does not exist"),
        ("a/b/c", "corpus is 'a/b/c'; expected"),
        ("x" * 5000, "corpus is 'xxx.*; expected home, massive, snips"),
    ],
)
def test_an_unknown_name_is_answered_with_known_ones(corpus, message):
    with pytest.raises(ConfigError, match=message):
        Population.load(corpus)


def test_a_hub_name_is_loaded_and_its_failure_is_one_sentence(monkeypatch, refused):
    sets = DatasetDict(
        {
            "train": Dataset.from_list(PEOPLE[:30]),
            "validation": Dataset.from_list(PEOPLE[30:35]),
            "test": Dataset.from_list(PEOPLE[35:]),
        }
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.load_dataset", {"owner/name": sets}.__getitem__)
    people = Population.load("owner/name")
    assert (people.activity().sum(), len(people.dev), len(people.test)) == (30, 5, 5)
    assert people.name == "owner/name"
    assert "corpus 'owner/other' is no file here and cannot be loaded" in refused("owner/other")


def test_a_hub_that_is_not_reached_is_asked_once(monkeypatch, refused):
    def unreachable(hub, name, timeout):
        raise OSError(f"no way to {name}")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    monkeypatch.setattr("datasets.load_dataset", lambda name: pytest.fail("asked again"))
    message = refused("owner/name")
    assert "cannot be loaded from the hub (no way to owner/name)" in message
    assert "HF_HUB_OFFLINE=1" in message


def test_an_unknown_vocabulary_is_answered_with_the_nearest(tmp_path, written, refused):
    path = written(tmp_path / "rows.jsonl", PEOPLE)
    assert "did you mean 'hashed'" in refused(path, vocabulary="hash")


def test_columns_of_massive_cannot_be_renamed(refused):
    assert "columns of massive are known" in refused("massive", columns={"user": "worker"})


# Data sets


def test_class_labels_are_read_as_their_names():
    features = Features(
        {
            "worker": Value("int64"),
            "words": List(Value("string")),
            "tags": List(ClassLabel(names=["O", "B-room", "I-room"])),
            "label": ClassLabel(names=["on", "off"]),
            "split": Value("string"),
        }
    )
    rows = {
        "worker": [3, 3, None],
        "words": [["hall", "lamp"], ["stop"], []],
        "tags": [[1, 2], [0], []],
        "label": [1, 0, 1],
        "split": ["train", "test", "validation"],
    }
    dataset = Dataset.from_dict(rows, features=features)
    people = Population.from_dataset(
        dataset, user="worker", tokens="words", slots="tags", intent="label", name="tiny"
    )
    assert people.name == "tiny"
    assert list(people.source.names()) == ["3"]
    assert people.inventory.intents == ("off", "on")
    assert people.inventory.slot_labels == ("O", "B-room", "I-room")
    assert people.train(0).slots.tolist() == [1, 2]
    assert people.test.intents.tolist() == [1]
    assert people.dev.device.tolist() == [UNKNOWN]


def test_a_data_set_reads_like_the_file_with_the_same_rows(tmp_path, written):
    path = written(tmp_path / "rows.jsonl", PEOPLE)
    from_file = Population.load(path, seed=2)
    from_rows = Population.from_dataset(Dataset.from_list(PEOPLE), seed=2)
    assert from_file.fingerprint == from_rows.fingerprint


def test_bad_rows_of_a_data_set_are_named_by_number():
    rows = [PEOPLE[0], PEOPLE[1] | {"slots": "O"}]
    with pytest.raises(ConfigError, match="dataset, row 2: 1 slots for 2 words of the text"):
        Population.from_dataset(Dataset.from_list(rows))
    unlabelled = Dataset.from_dict({"user": ["a"], "text": ["x"], "intent": [-1]}).cast_column(
        "intent", ClassLabel(names=["on"])
    )
    with pytest.raises(ConfigError, match="dataset, row 1: intent is None"):
        Population.from_dataset(unlabelled)
    with pytest.raises(ConfigError, match="dataset holds no rows"):
        Population.from_dataset(Dataset.from_list(PEOPLE).select([]))
    with pytest.raises(ConfigError, match=r"dataset is a list; expected a datasets\.Dataset"):
        Population.from_dataset(PEOPLE)


def test_the_same_file_and_seed_give_the_same_population(tmp_path, written):
    path = written(tmp_path / "rows.jsonl", PEOPLE)
    prints = [
        Population.load(path, partition="quantity:1", devices=5, seed=seed).fingerprint
        for seed in (1, 1, 2)
    ]
    assert prints[0] == prints[1] != prints[2]
    assert np.array_equal(Population.load(path).counts, Population.load(path).counts)
