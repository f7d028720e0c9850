"""What tests of files and corpora share: writing rows, and reading the sentence of a refusal."""

import json

import pytest

from fedsim.errors import ConfigError
from fedsim.population import Population


@pytest.fixture(scope="session")
def written():
    """`written(path, rows)` writes a JSONL file and returns its path."""

    def write(path, rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def refused():
    """`refused(...)` is the one sentence with which `Population.load(...)` is refused."""

    def refuse(*args, **options) -> str:
        with pytest.raises(ConfigError) as caught:
            Population.load(*args, **options)
        message = str(caught.value)
        assert "\n" not in message
        return message

    return refuse
