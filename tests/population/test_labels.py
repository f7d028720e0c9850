"""Claims about label inventories."""

import json

import pytest

from fedsim.errors import ConfigError
from fedsim.population.labels import Inventory, declared, read_inventory


@pytest.mark.parametrize(("corpus", "intents", "slots"), [("massive", 60, 55), ("snips", 7, 39)])
def test_declared_inventories_have_the_published_sizes(corpus, intents, slots):
    inventory = declared(corpus)
    assert (len(inventory.intents), len(inventory.slot_types)) == (intents, slots)
    assert len(inventory.slot_labels) == 1 + 2 * slots


def test_ids_are_positions():
    inventory = Inventory(("stop", "play"), ("song", "artist"))
    assert [inventory.intent_ids[name] for name in inventory.intents] == [0, 1]
    assert [inventory.slot_ids[name] for name in inventory.slot_labels] == list(range(5))
    assert inventory.slot_ids["O"] == 0


def test_a_labels_file_keeps_its_order(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"intents": ["z", "a"], "slots": ["y", "b"]}), "utf-8")
    assert read_inventory(path) == Inventory(("z", "a"), ("y", "b"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"intents": ["a"]}',
        '{"intents": [], "slots": []}',
        '{"intents": ["a", "a"], "slots": []}',
        '{"intents": "a", "slots": []}',
        '{"intents": [1], "slots": []}',
        '{"intents": ["a"], "slots": {"b": 1}}',
    ],
)
def test_any_other_shape_is_refused_by_file_name(tmp_path, text):
    path = tmp_path / "labels.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"labels\.json.*expected"):
        read_inventory(path)


def test_a_missing_binary_or_foldered_labels_file_is_refused(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    for name in ("absent.json", "binary.json", "."):
        with pytest.raises(ConfigError, match="labels file"):
            read_inventory(tmp_path / name)
