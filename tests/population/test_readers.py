"""Claims about reading rows: what is accepted, and how every kind of bad row is answered."""

import csv
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import ConfigError
from fedsim.population.columns import Columns
from fedsim.population.examples import Utterance
from fedsim.population.labels import Inventory
from fedsim.population.readers import Rows, read
from fedsim.population.tables import open_table

GOOD = {"user": "u1", "tokens": ["wake", "me"], "slots": ["O", "B-who"], "intent": "alarm"}


def written(tmp_path, *rows):
    """A JSONL file of objects, or of lines as they are."""
    path = tmp_path / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def loaded(path, columns=None, inventory=None) -> Rows:
    named = Columns.parse(columns or {})
    return read(open_table(path, named.names()), named, inventory)


def refused(path, columns=None, inventory=None) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(path, columns, inventory)
    message = str(caught.value)
    assert "\n" not in message
    return message


TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=1, max_size=5)


@given(tokens=TEXTS, user=st.one_of(st.none(), st.text(st.characters(codec="utf-8"), min_size=1)))
def test_jsonl_keeps_any_words(tmp_path_factory, tokens, user):
    row = {"user": user, "tokens": tokens, "slots": ["O"] * len(tokens), "intent": "i", "order": 4}
    (utterance,) = loaded(written(tmp_path_factory.mktemp("rows"), row)).utterances
    assert utterance == Utterance(tuple(tokens), ("O",) * len(tokens), "i", user, "train", 4)


def test_one_content_reads_alike_from_jsonl_csv_and_parquet(tmp_path):
    rows = [
        {"user": f"u{i}", "text": text, "intent": "i", "slots": slots, "split": split, "order": i}
        for i, (text, slots, split) in enumerate(
            [
                ("wake me, please", "O B-who O", "train"),
                ("", "", "validation"),
                ("💡 مصباح", "B-x I-x", "test"),
                ('say "hi"\nnow', "O O O", "dev"),
                ("word " * 10_000, "B-a_rather_long_name " * 10_000, "train"),
            ]
        )
    ]
    jsonl = written(tmp_path, *rows)
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    first, second, third = (
        loaded(tmp_path / f"rows.{kind}") for kind in ("jsonl", "csv", "parquet")
    )
    assert first == second == third == loaded(jsonl)
    assert [len(row.tokens) for row in first.utterances] == [3, 1, 2, 3, 10_000]
    assert first.utterances[1][:2] == (("",), ("O",))
    assert [row.split for row in first.utterances] == ["train", "dev", "test", "dev", "train"]


def test_columns_may_have_any_names(tmp_path):
    row = {"who": 7, "said": "turn it off", "label": "off", "day": "3", "part": "valid"}
    names = {"user": "who", "text": "said", "intent": "label", "order": "day", "split": "part"}
    rows = loaded(written(tmp_path, row), names)
    assert rows.utterances == [
        Utterance(("turn", "it", "off"), ("O", "O", "O"), "off", "7", "dev", 3)
    ]
    assert rows.parts == {"user", "text", "intent", "order", "split"}


def test_a_text_that_was_named_is_read_though_there_are_tokens(tmp_path):
    path = written(tmp_path, {"text": "it's on", "tokens": ["it", "'s", "on"], "intent": "i"})
    assert loaded(path).utterances[0].tokens == ("it", "'s", "on")
    assert loaded(path, {"text": "text"}).utterances[0].tokens == ("it's", "on")


@pytest.mark.parametrize(
    ("user", "known_as"),
    [(None, None), ("", None), (12, "12"), (12.0, "12"), (float("nan"), None), (" a ", " a ")],
)
def test_users_may_be_strings_whole_numbers_or_unknown(tmp_path, user, known_as):
    (utterance,) = loaded(written(tmp_path, GOOD | {"user": user})).utterances
    assert utterance.user == known_as


def test_users_may_appear_in_later_rows_alone(tmp_path):
    nobody = {key: value for key, value in GOOD.items() if key != "user"}
    rows = loaded(written(tmp_path, nobody, GOOD))
    assert [row.user for row in rows.utterances] == [None, "u1"]
    assert "user" in rows.parts
    assert "user" not in loaded(written(tmp_path, nobody)).parts


BAD_ROWS = {
    "not json": ("{", "not JSON .* expected one JSON object a line"),
    "an array": ("[1, 2]", r"\[1, 2\] is no JSON object"),
    "deep nesting": ("[" * 100_000, "not JSON"),
    "a huge number": ('{"intent": ' + "9" * 5000 + "}", "not JSON"),
    "field missing": ({"tokens": ["a", "b"], "slots": ["O", "O"]}, "no field 'intent'"),
    "too few slots": (GOOD | {"slots": ["O"]}, "1 slots for 2 tokens; expected one BIO label"),
    "too many slots": (GOOD | {"slots": ["O"] * 3}, "3 slots for 2 tokens"),
    "no slots": (GOOD | {"slots": []}, "0 slots for 2 tokens"),
    "null slots": (GOOD | {"slots": None}, "slots is None; expected a list of strings"),
    "inside at the start": (
        GOOD | {"slots": ["I-who", "O"]},
        r"slot 1 \(of token 'wake'\) is 'I-who' after 'O'; .* begin a span with 'B-who'",
    ),
    "inside after another": (GOOD | {"slots": ["B-when", "I-who"]}, "'I-who' after 'B-when'"),
    "no bio": (GOOD | {"slots": ["O", "who"]}, "is 'who'; expected 'O', 'B-...' or 'I-...'"),
    "bare prefix": (GOOD | {"slots": ["O", "B-"]}, "is 'B-'; expected"),
    "empty slot": (GOOD | {"slots": ["O", ""]}, "is ''; expected"),
    "number among tokens": (GOOD | {"tokens": ["a", 3]}, r"tokens is \['a', 3\]; expected a list"),
    "tokens in an object": (GOOD | {"tokens": {"a": 1}}, "tokens is .* expected a list"),
    "empty intent": (GOOD | {"intent": ""}, "intent is ''; expected the name"),
    "null intent": (GOOD | {"intent": None}, "intent is None; expected the name"),
    "user in a list": (GOOD | {"user": ["a"]}, r"user is \['a'\]; expected a string"),
    "user of 1.5": (GOOD | {"user": 1.5}, "user is 1.5; expected"),
    "a late field": (GOOD | {"split": "train"}, "a field 'split', which the first row does not"),
}


@pytest.mark.parametrize(("row", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, row, message):
    found = refused(written(tmp_path, GOOD, "", row))
    assert re.search(rf"rows\.jsonl:3: .*{message}", found), found


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("split", "trian", "split is 'trian' .did you mean 'train'"),
        ("split", "Train", "split is 'Train' .did you mean 'train'"),
        ("split", None, "split is None; expected one of train, dev, valid, validation, test"),
        ("order", "soon", "order is 'soon'; expected a whole number"),
        ("order", 1.5, "order is 1.5"),
        ("order", None, "order is None"),
        ("order", 10**30, "order is 1000"),
        ("order", float("inf"), "order is inf"),
    ],
)
def test_a_bad_split_or_order_is_named_by_file_and_line(tmp_path, field, value, message):
    first = GOOD | {"split": "train", "order": 0}
    found = refused(written(tmp_path, first, first | {field: value}))
    assert re.search(rf"rows\.jsonl:2: {message}", found), found


def test_text_must_be_text(tmp_path):
    path = written(tmp_path, {"text": None, "intent": "i"})
    assert "rows.jsonl:1: text is None; expected a string" in refused(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GOOD | {"intent": "alram"}, "intent 'alram' .* 2 declared ones .did you mean 'alarm'"),
        (
            GOOD | {"slots": ["O", "B-hwo"]},
            "slot type 'hwo' .* 1 declared ones .did you mean 'who'",
        ),
    ],
)
def test_an_undeclared_label_is_named_with_the_nearest_declared_one(tmp_path, row, message):
    labels = Inventory(("alarm", "lights"), ("who",))
    found = refused(written(tmp_path, GOOD, row), inventory=labels)
    assert re.search(rf"rows\.jsonl:2: {message}.*labels file", found), found


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"intent": "intnt"}, "no column 'intnt' for intent .did you mean 'intent'.*found 'user'"),
        ({"user": "usr"}, "no column 'usr' for user .did you mean 'user'"),
        ({"text": "utt"}, "no column 'utt' for text"),
        ({"speaker": "user"}, "part 'speaker'.*expected some of user, text, tokens, intent"),
        ({"user": ""}, "expected the name of a column"),
    ],
)
def test_a_wrong_column_is_answered_with_those_found(tmp_path, columns, message):
    found = refused(written(tmp_path, GOOD), columns)
    assert re.search(message, found), found


def test_rows_without_intent_or_words_are_refused(tmp_path):
    assert "no column 'intent'" in refused(written(tmp_path, {"text": "a"}))
    assert "no column 'text' or 'tokens'" in refused(written(tmp_path, {"intent": "a"}))


def test_parquet_rows_are_named_by_number(tmp_path):
    rows = [GOOD, GOOD | {"slots": ["O"]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert "rows.parquet, row 2: 1 slots" in refused(tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    "field", [{"user": "\ud800"}, {"intent": "\ud800"}, {"slots": ["O", "B-\ud800"]}]
)
def test_names_are_whole_characters_and_texts_need_not_be(tmp_path, field):
    (part,) = field
    found = refused(written(tmp_path, GOOD, GOOD | field))
    assert f"rows.jsonl:2: {part} is" in found and "half of a surrogate pair" in found
    loaded(written(tmp_path, GOOD | {"tokens": ["\ud800", "me"]}))
