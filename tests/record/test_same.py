"""What differs between two runs is named, and what changes no result is not."""

from pathlib import Path

import pytest

from fedsim import ConfigError
from fedsim.record.same import check_same

FILE = Path("run/config.json")


def test_equal_contents_pass_whatever_became_of_them_in_json():
    check_same(FILE, {"shape": [2, 3], "rate": "inf"}, {"shape": (2, 3), "rate": float("inf")})


def test_what_changes_no_result_may_differ():
    there = {"workers": 1, "data": "a", "checkpoint_every": 1, "simulation": {"workers": 1}}
    check_same(FILE, there, {"workers": 2, "data": "b", "simulation": {}})


def test_fields_are_named_with_both_values():
    with pytest.raises(ConfigError) as error:
        check_same(FILE, {"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "d": None, "c": 2})
    assert str(error.value) == (
        "run/config.json is of another run: a.b (1 there, 3 now); "
        "restore what began it, or run into another folder"
    )


def test_of_many_the_first_are_named_and_the_others_counted():
    with pytest.raises(ConfigError, match=r"f \(5 there, absent now\) and 3 more; restore"):
        check_same(FILE, {letter: k for k, letter in enumerate("abcdefghi")}, {})
