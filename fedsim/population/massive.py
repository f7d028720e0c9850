"""The two NLU corpora known by name: where MASSIVE and SNIPS lie, and how their files read.

MASSIVE: FitzGerald et al., "MASSIVE: A 1M-Example Multilingual Natural Language Understanding
Dataset with 51 Typologically-Diverse Languages", https://arxiv.org/abs/2204.08582. SNIPS: Coucke et
al., "Snips Voice Platform", https://arxiv.org/abs/1805.10190.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError, require
from fedsim.population.labels import Inventory
from fedsim.population.readers import Rows, read, read_splits
from fedsim.population.tables import Table, open_table

_MASSIVE_PLACES = tuple(
    folder + name
    for folder in ("", "massive_en_us/", "data/", "1.1/data/")
    for name in ("utterances.jsonl", "en-US.jsonl")
)
_SNIPS_PLACES = ("train.jsonl", "snips/train.jsonl")
_MARK = re.compile(r"\[\s*([^\[\]:]+?)\s*:([^\[\]]*)\]")


def read_massive(data: str | Path | None, inventory: Inventory) -> tuple[Rows, list[str]]:
    """MASSIVE English, from the shared file or from the published `en-US.jsonl`.

    Returns:
      The utterances, and what had to be assumed about them.

    Raises:
      ConfigError: the file is nowhere to be found, or malformed.
    """
    path = _find(
        data,
        _MASSIVE_PLACES,
        "massive",
        "download MASSIVE 1.1 from https://amazon-massive-nlu-dataset.s3.amazonaws.com/"
        "amazon-massive-dataset-1.1.tar.gz, unpack it, and",
    )
    table = open_table(path)
    if "annot_utt" not in table.columns:
        return read(table, inventory=inventory), []
    return read(published(table), inventory=inventory), [
        "worker 0 is nobody in particular: its utterances are scattered over the whole collection",
        "the published file has no times: ids, which run by scenario, stand for the order of "
        "collection",
    ]


def read_snips(data: str | Path | None, inventory: Inventory) -> Rows:
    """SNIPS: `train.jsonl`, `valid.jsonl` and `test.jsonl` of one folder, one after the other."""
    first = _find(
        data,
        _SNIPS_PLACES,
        "snips",
        "write https://github.com/sonos/nlu-benchmark (2017-06-custom-intent-engines) as "
        "train.jsonl, valid.jsonl and test.jsonl with the fields intent, tokens and slots, and",
    )
    tables = {
        name: open_table(first.with_name(f"{name}.jsonl")) for name in ("train", "valid", "test")
    }
    return read_splits(tables, inventory=inventory)


def published(table: Table) -> Table:
    """A published MASSIVE table, under the names that `read` expects."""
    needed = ("id", "partition", "intent", "annot_utt", "worker_id")
    missing = [name for name in needed if name not in table.columns]
    require(
        not missing,
        f"{table.name} has annot_utt but not {', '.join(missing)}; expected the fields of a file "
        "as MASSIVE 1.1 publishes it",
    )

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, record in table.rows:
            try:
                tokens, slots = parse_annotated(record["annot_utt"])
                yield (
                    number,
                    {
                        "user": None if str(record["worker_id"]) == "0" else record["worker_id"],
                        "tokens": tokens,
                        "slots": slots,
                        "intent": record["intent"],
                        "split": record["partition"],
                        "order": record["id"],
                    },
                )
            except KeyError as missing:
                raise ConfigError(
                    f"{table.place(number)}: no field {missing.args[0]!r}, which every row of a "
                    "MASSIVE file has"
                ) from None
            except ConfigError as error:
                raise ConfigError(f"{table.place(number)}: {error}") from None

    columns = ("user", "tokens", "slots", "intent", "split", "order")
    return Table(name=table.name, columns=columns, rows=rows(), unit=table.unit)


def parse_annotated(text: str) -> tuple[list[str], list[str]]:
    """Tokens and BIO labels of an utterance with `[slot : value]` marks.

    Raises:
      ConfigError: brackets that are no such mark.

    Example:
      >>> parse_annotated("wake me at [time : five am]")
      (['wake', 'me', 'at', 'five', 'am'], ['O', 'O', 'O', 'B-time', 'I-time'])
    """
    require(isinstance(text, str), f"annot_utt is {text!r}; expected a string")
    tokens: list[str] = []
    slots: list[str] = []
    end = 0
    for mark in _MARK.finditer(text):
        plain, value = text[end : mark.start()].split(), mark[2].split()
        tokens += plain + value
        slots += ["O"] * len(plain)
        slots += [("I-" if i else "B-") + mark[1] for i in range(len(value))]
        end = mark.end()
    plain = text[end:].split()
    if any(bracket in token for token in tokens + plain for bracket in "[]"):
        raise ConfigError(
            f"annot_utt is {text!r}; expected brackets only in marks like [slot : value]"
        )
    return tokens + plain, slots + ["O"] * len(plain)


def _find(data: str | Path | None, places: tuple[str, ...], corpus: str, get: str) -> Path:
    """The first of `places` under the data folder, or the file that was named itself."""
    roots = [Path(data)] if data is not None else _default_roots()
    for root in roots:
        if root.is_file():
            require(
                corpus != "snips",
                f"data is the file {root}; for snips give the folder with train.jsonl, valid.jsonl "
                "and test.jsonl",
            )
            return root
        for place in places:
            if (root / place).is_file():
                return root / place
    looked = " and ".join(str(root) for root in roots)
    raise ConfigError(
        f"corpus {corpus}: no {' or '.join(sorted({Path(p).name for p in places}))} found in "
        f"{looked}; {get} name its folder with data (--data), or in FEDSIM_DATA"
    )


def _default_roots() -> list[Path]:
    """$FEDSIM_DATA where it is set; else `../shared/data` beside the code or the work folder."""
    if named := os.environ.get("FEDSIM_DATA"):
        return [Path(named)]
    beside = [Path(__file__).resolve().parents[3], Path.cwd().parent]
    return [folder / "shared" / "data" for folder in dict.fromkeys(beside)]
