"""Claims about files as tables: what is accepted, and how every kind of broken file is answered."""

import csv
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedsim.errors import ConfigError
from fedsim.population.tables import open_table

GOOD = {"user": "u1", "text": "wake me", "intent": "alarm"}


def rows_of(path):
    """Numbers and fields of all rows."""
    return list(open_table(path).rows)


def refused(path) -> str:
    with pytest.raises(ConfigError) as caught:
        rows_of(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n  \n")
    assert rows_of(path) == [(1, GOOD)]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.json"])
def test_missing_empty_binary_and_foldered_files_are_each_one_sentence(tmp_path, name):
    path = tmp_path / name
    assert f"{path} does not exist" in refused(path)
    path.write_bytes(b"")
    assert re.search("holds no rows|cannot be read as a Parquet file", refused(path))
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" * 100)
    assert re.search("binary file|cannot be read as a Parquet file", refused(path))
    path.unlink()
    path.mkdir()
    assert "is a folder" in refused(path)


def test_bytes_that_are_not_utf8_are_named_by_line_and_column(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"user": "\xe9"}\n')
    assert "rows.jsonl:2: byte 0xe9 at column 11 is not UTF-8" in refused(path)


def test_other_kinds_of_files_are_refused(tmp_path):
    path = tmp_path / "rows.tsv"
    path.touch()
    assert "expected one of .jsonl, .json, .csv, .parquet" in refused(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,text,intent\na,b\n", r"rows\.csv:2: 2 fields, but the header has 3"),
        ("user,text,intent\n\na,b,c,d\n", r"rows\.csv:3: 4 fields"),
        ('user,text,intent\na,"x\ny",i\nb\n', r"rows\.csv:4: 1 fields"),
        ('user,text,intent\na,b,"c\n', r"rows\.csv:2: not CSV"),
        ("user,text,user,intent\n", r"rows\.csv:1: two columns are called \['user'\]"),
        ("user,text,intent\n", "holds no rows"),
    ],
)
def test_bad_csv_is_named_by_line(tmp_path, text, message):
    path = tmp_path / "rows.csv"
    path.write_text(text, "utf-8")
    found = refused(path)
    assert re.search(message, found), found


def test_reading_csv_leaves_the_field_limit_as_it_was(tmp_path):
    before = csv.field_size_limit()
    path = tmp_path / "rows.csv"
    path.write_text("text,intent\na,b\n", "utf-8")
    rows_of(path)
    assert csv.field_size_limit() == before


def test_rows_know_their_lines_and_their_file_knows_its_columns(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('text,intent\n\n"a\nb",c\nd,e\n', "utf-8")
    table = open_table(path)
    assert table.columns == ("text", "intent")
    assert list(table.rows) == [
        (3, {"text": "a\nb", "intent": "c"}),
        (5, {"text": "d", "intent": "e"}),
    ]
    assert table.place(3) == f"{path}:3"


def test_parquet_files_are_read_in_part_where_only_some_columns_are_wanted(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD]), path)
    table = open_table(path, {"text", "tokens"})
    assert table.columns == ("user", "text", "intent")
    assert list(table.rows) == [(1, {"text": "wake me"})]
    assert rows_of(path) == [(1, GOOD)]


def test_a_cut_parquet_file_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD]), path)
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{path} cannot be read as a Parquet file" in refused(path)


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    offsets, data = pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    broken = pa.Array.from_buffers(pa.string(), 1, [None, offsets, data])
    pq.write_table(pa.table({"text": broken, "intent": ["i"]}), path)
    assert f"{path} cannot be read as a Parquet file" in refused(path)


def test_two_parquet_columns_of_one_name_are_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    columns = [pa.array(["a"]), pa.array(["b"])]
    pq.write_table(pa.table(columns, names=["user", "user"]), path)
    assert "two columns are called ['user']; rename one" in refused(path)


@pytest.mark.parametrize("stem", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_does_not_exist(tmp_path, stem):
    assert "does not exist" in refused(tmp_path / f"{stem}.jsonl")
