"""Wrong words are refused in one sentence; what the parser takes is let through."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from experiments.arguments import check_arguments
from fedsim import ConfigError


@dataclass(kw_only=True)
class Command:
    name: Annotated[Literal["one", "two"], "given without a name"]
    kind: Literal["red", "green"] = "red"
    shade: Literal["dark", "light"] | None = None
    how_many: int | None = None
    rate: float = 1.0
    out: Path | None = None
    loud: bool = False


@pytest.mark.parametrize(
    "arguments",
    [
        "one",
        "two --kind green --how-many 3",
        "--rate=-1e-3 one",
        "one --how_many 1_000",
        "one --help --nonsense",
        "one --shade None --out some/where --rate nan",
        "one --how-many -1",
        "--loud one",
        "one --kind red --loud",
        "one --no-loud --kind red",
    ],
)
def test_right_words_pass(arguments):
    check_arguments(Command, arguments.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "name is missing; choose one of one, two"),
        ("tow", "name is 'tow' (did you mean 'two'?); choose one of one, two"),
        ("one more", "'more' is no option; options look like --name value"),
        ("one --knid red", "unknown option --knid (did you mean '--kind'?); see --help"),
        ("one --kind gren", "--kind is 'gren' (did you mean 'green'?); choose one of red, green"),
        ("one --kind None", "--kind is 'None'"),
        ("one --shade=lihgt", "--shade is 'lihgt' (did you mean 'light'?); choose one of dark"),
        ("one --how-many 1.5", "--how-many is '1.5'; expected a whole number"),
        ("one --rate fast", "--rate is 'fast'; expected a number"),
        ("one --out", "--out has no value; write one after it"),
        ("one --out --kind red", "--out has no value"),
        ("one --loud=yes", "--loud is a switch and takes no value; leave out '=yes'"),
        ("one --loud yes", "'yes' is no option"),
        ("one --no-kind red", "unknown option --no-kind"),
        ("one --name two", "unknown option --name"),
    ],
)
def test_wrong_words_are_named_with_the_nearest_right_one(arguments, sentence):
    with pytest.raises(ConfigError) as refused:
        check_arguments(Command, arguments.split())
    assert str(refused.value).startswith(sentence)
