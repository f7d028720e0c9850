"""What each row of a file or data set says: rows to utterances, with errors that name the line.

JSONL, CSV, Parquet and `datasets.Dataset` all become a `Table`, numbered rows of named fields;
`read` turns a table into utterances and checks every row.
"""

import csv
import difflib
import json
import math
import reprlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

from fedsim.errors import ConfigError, require
from fedsim.population.examples import Utterance
from fedsim.population.labels import OUTSIDE, Inventory

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
"""Kinds of files that can be read."""

SPLIT_NAMES = {
    "train": "train",
    "dev": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
}
"""What a split may be called in a file."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column plays which part; None is the column of the part's own name, where there is one.

    Attributes:
      user: who said it; absent or empty where that is not known.
      text: the utterance, split into tokens at whitespace; not read where there are tokens, unless
        it alone is named.
      tokens: a list of words, or words separated by whitespace.
      intent: name of the intent.
      slots: BIO labels, one a token, in a list or separated by whitespace; without them all "O".
      split: train, dev (or valid, validation) or test.
      order: whole numbers that increase in the order of collection.
    """

    user: str | None = None
    text: str | None = None
    tokens: str | None = None
    intent: str | None = None
    slots: str | None = None
    split: str | None = None
    order: str | None = None

    @classmethod
    def parse(cls, names: Mapping[str, str]) -> "Columns":
        """Read a mapping of parts to column names.

        Raises:
          ConfigError: a part that does not exist, with the nearest one that does.

        Example:
          >>> Columns.parse({"user": "worker", "intent": "label"}).intent
          'label'
          >>> Columns.parse({"usr": "worker"})
          Traceback (most recent call last):
          fedsim.errors.ConfigError: columns names the part 'usr' (did you mean 'user'?); ...
        """
        parts = [field.name for field in fields(cls)]
        for part, name in names.items():
            require(
                part in parts,
                f"columns names the part {part!r}{did_you_mean(part, parts)}; "
                f"expected some of {', '.join(parts)}",
            )
            require(
                isinstance(name, str) and name != "",
                f"columns gives {part} the name {name!r}; expected the name of a column",
            )
        return cls(**names)

    def name(self, part: str) -> str:
        """The column that plays a part."""
        return getattr(self, part) or part

    def names(self) -> set[str]:
        """All columns that may be read."""
        return {self.name(field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Numbered rows of named fields.

    Attributes:
      name: what errors call it: a path, or a data set's name.
      columns: names of its columns (JSONL: the fields of the first row).
      rows: pairs of a row's number, from 1, and its fields; read once.
      unit: what the numbers count, "line" or "row".
    """

    name: str
    columns: tuple[str, ...]
    rows: Iterable[tuple[int, Mapping[str, Any]]]
    unit: str = "line"

    def place(self, number: int) -> str:
        """A row as errors name it."""
        return f"{self.name}:{number}" if self.unit == "line" else f"{self.name}, row {number}"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The utterances of a table, and which parts it had.

    Attributes:
      utterances: one a row, in the order of rows. Without a split all are "train"; without an
        order each has its row's position.
      parts: parts that a column of the table plays.
    """

    utterances: list[Utterance]
    parts: frozenset[str]


def open_table(path: Path, columns: Columns) -> Table:
    """A JSONL, CSV or Parquet file as a table; rows are read when they are asked for.

    Raises:
      ConfigError: the file is missing, of another kind, empty or binary. Reading the rows raises
        it for malformed lines.
    """
    require(path.exists(), f"{path} does not exist; give the path of a JSONL, CSV or Parquet file")
    require(not path.is_dir(), f"{path} is a folder; give the path of a file inside it")
    suffix = path.suffix.lower()
    require(
        suffix in SUFFIXES,
        f"{path} ends in {suffix!r}; expected one of {', '.join(SUFFIXES)}",
    )
    if suffix == ".parquet":
        return _parquet(path, columns)
    return _peeked(path, _csv(path) if suffix == ".csv" else _jsonl(path))


def read(
    table: Table,
    columns: Columns = Columns(),
    inventory: Inventory | None = None,
    split: str | None = None,
    first: int = 0,
) -> Rows:
    """The utterances of a table, every row checked.

    Args:
      table: rows of fields.
      columns: which field plays which part.
      inventory: declared labels; a row with any other is refused. None accepts all.
      split: the split of all rows, in place of a column.
      first: position of the first row, where several tables are read one after the other.

    Raises:
      ConfigError: a column is missing or a row malformed; the message names the line.
    """
    used = _resolve(table, columns, split)
    parser = _Parser(table, used, inventory, split)
    utterances = []
    for position, (number, record) in enumerate(table.rows, first):
        try:
            utterances.append(parser.utterance(record, position))
        except ConfigError as error:
            raise ConfigError(f"{table.place(number)}: {error}") from None
    require(bool(utterances), f"{table.name} holds no rows; expected one utterance a {table.unit}")
    require(
        parser.seen_user or columns.user is None,
        f"{table.name} has no column {columns.user!r} for user{_found(table, used['user'])}",
    )
    parts = set(used) - (set() if parser.seen_user else {"user"}) | (
        set() if split is None else {"split"}
    )
    return Rows(utterances=utterances, parts=frozenset(parts))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A phrase that suggests the known word nearest to a wrong one; empty where none is near.

    Example:
      >>> did_you_mean("masive", ["home", "massive"])
      " (did you mean 'massive'?)"
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _found(table: Table, wrong: str) -> str:
    """The end of a sentence about a missing column."""
    shown = ", ".join(repr(name) for name in table.columns[:20])
    more = ", ..." if len(table.columns) > 20 else ""
    return (
        f"{did_you_mean(wrong, table.columns)}; found {shown}{more}; choose with columns PART=NAME"
    )


def _resolve(table: Table, columns: Columns, split: str | None) -> dict[str, str]:
    """Part -> column, for the parts that will be read; "user" is always among them."""
    used = {"user": columns.name("user")}
    for part in ("text", "tokens", "intent", "slots", "split", "order"):
        name = columns.name(part)
        if part == "split" and split is not None:
            continue
        if name in table.columns:
            used[part] = name
        elif getattr(columns, part) is not None:
            raise ConfigError(
                f"{table.name} has no column {name!r} for {part}{_found(table, name)}"
            )
    if columns.text is not None and columns.tokens is None:
        used.pop("tokens", None)  # whoever names the text wants it read
    for part, other in (("intent", "intent"), ("text", "tokens")):
        if part not in used and other not in used:
            wanted = " or ".join(repr(name) for name in dict.fromkeys((part, other)))
            raise ConfigError(f"{table.name} has no column {wanted}{_found(table, part)}")
    return used


class _Parser:
    """Turns the fields of a row into an utterance. Strings that recur are kept once."""

    def __init__(
        self,
        table: Table,
        used: Mapping[str, str],
        inventory: Inventory | None,
        split: str | None,
    ) -> None:
        self.seen_user = used["user"] in table.columns
        self._used = used
        # Parts that a later row must not bring along, since earlier rows went without.
        absent = {"tokens", "slots", "order", *(["split"] if split is None else [])}
        self._absent = sorted(absent - set(used) - set(table.columns))
        self._inventory = inventory
        self._split = split or "train"
        self._known_slots: dict[tuple[str, ...], tuple[str, ...]] = {}

    def utterance(self, record: Mapping[str, Any], position: int) -> Utterance:
        """One row; `ConfigError` without a place where it is malformed."""
        used = self._used
        try:
            if "tokens" in used:
                tokens = _words("tokens", record[used["tokens"]]) or ("",)
            else:
                tokens = _words("text", _text(record[used["text"]])) or ("",)
            slots = self._slots(record[used["slots"]], tokens) if "slots" in used else None
            intent = self._intent(record[used["intent"]])
            split = _split(record[used["split"]]) if "split" in used else self._split
            order = _order(record[used["order"]]) if "order" in used else position
        except KeyError as missing:
            raise ConfigError(
                f"no field {missing.args[0]!r}, which the first row has; "
                "give every row the same fields"
            ) from None
        for part in self._absent:
            if part in record:
                raise ConfigError(
                    f"a field {part!r}, which the first row does not have; "
                    "give every row the same fields"
                )
        if used["user"] in record:
            self.seen_user = True
        return Utterance(
            tokens=tokens,
            slots=slots or (OUTSIDE,) * len(tokens),
            intent=intent,
            user=_user(record.get(used["user"])),
            split=split,
            order=order,
        )

    def _slots(self, value: Any, tokens: tuple[str, ...]) -> tuple[str, ...]:
        slots = _words("slots", value)
        if not slots and tokens == ("",):
            return (OUTSIDE,)
        if len(slots) != len(tokens):
            counted = "tokens" if "tokens" in self._used else "words of the text"
            raise ConfigError(
                f"{len(slots)} slots for {len(tokens)} {counted}; expected one BIO label for each"
            )
        known = self._known_slots.get(slots)
        if known is None:
            _check_bio(slots, tokens, self._inventory)
            known = self._known_slots.setdefault(slots, slots)
        return known

    def _intent(self, value: Any) -> str:
        if isinstance(value, int):
            value = str(value)
        if not (isinstance(value, str) and value != ""):
            raise ConfigError(f"intent is {reprlib.repr(value)}; expected the name of an intent")
        if self._inventory is not None and value not in self._inventory.intent_ids:
            raise ConfigError(_undeclared("intent", value, self._inventory.intents))
        return sys.intern(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"text is {reprlib.repr(value)}; expected a string")
    return value


def _words(part: str, value: Any) -> tuple[str, ...]:
    words = value.split() if isinstance(value, str) else value
    if not (isinstance(words, list | tuple) and all(isinstance(word, str) for word in words)):
        raise ConfigError(
            f"{part} is {reprlib.repr(value)}; expected a list of strings, or strings separated "
            "by spaces"
        )
    return tuple(map(sys.intern, words))


def _check_bio(
    slots: tuple[str, ...], tokens: tuple[str, ...], inventory: Inventory | None
) -> None:
    before = OUTSIDE
    for i, label in enumerate(slots):
        where = f"slot {i + 1} (of token {reprlib.repr(tokens[i])}) is {reprlib.repr(label)}"
        if not (label == OUTSIDE or (label[:2] in ("B-", "I-") and len(label) > 2)):
            raise ConfigError(f"{where}; expected 'O', 'B-...' or 'I-...'")
        if label[0] == "I" and before[1:] != label[1:]:
            raise ConfigError(
                f"{where} after {before!r}; expected it to follow 'B{label[1:]}' or {label!r}: "
                f"begin a span with 'B{label[1:]}'"
            )
        if inventory is not None and label not in inventory.slot_ids:
            raise ConfigError(_undeclared("slot type", label[2:], inventory.slot_types))
        before = label


def _undeclared(kind: str, name: str, known: Sequence[str]) -> str:
    return (
        f"{kind} {reprlib.repr(name)} is not among the {len(known)} declared ones"
        f"{did_you_mean(name, known)}; correct it, or declare it in a labels file"
    )


def _split(value: Any) -> str:
    split = SPLIT_NAMES.get(value) if isinstance(value, str) else None
    if split is None:
        hint = did_you_mean(str(value).lower(), SPLIT_NAMES)
        raise ConfigError(
            f"split is {reprlib.repr(value)}{hint}; expected one of {', '.join(SPLIT_NAMES)}"
        )
    return split


def _order(value: Any) -> int:
    try:
        order = int(value)
        exact = isinstance(value, str) or order == value
    except (TypeError, ValueError, OverflowError):
        exact, order = False, 0
    if not (exact and abs(order) < 2**62):
        raise ConfigError(
            f"order is {reprlib.repr(value)}; expected a whole number of at most 18 digits"
        )
    return order


def _user(value: Any) -> str | None:
    if isinstance(value, str):
        return sys.intern(value) or None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # what a column of whole numbers with gaps becomes in data frames
    if not isinstance(value, int):
        raise ConfigError(
            f"user is {reprlib.repr(value)}; expected a string, a whole number, or null"
        )
    return str(value)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file."""
    try:
        with path.open("rb") as file:
            require(
                b"\0" not in file.peek(4096)[:4096],
                f"{path} is a binary file; expected UTF-8 text",
            )
            for number, line in enumerate(file, 1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ConfigError(
                        f"{path}:{number}: byte {error.object[error.start]:#04x} at column "
                        f"{error.start + 1} is not UTF-8; save the file as UTF-8 text"
                    ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _peeked(path: Path, rows: Iterator[tuple[int, dict[str, Any]]]) -> Table:
    """A table whose columns are the fields of its first row."""
    head = next(rows, None)
    if head is None:
        raise ConfigError(f"{path} holds no rows; expected one utterance a line")
    return Table(name=str(path), columns=tuple(head[1]), rows=chain([head], rows))


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path}:{number}: not JSON ({error}); expected one JSON object a line"
            ) from None
        if not isinstance(record, dict):
            raise ConfigError(
                f"{path}:{number}: {reprlib.repr(record)} is no JSON object; expected one a line"
            )
        yield number, record


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    limit = csv.field_size_limit(sys.maxsize)  # long utterances pass the default of 128 KiB
    reader = csv.reader(_lines(path), strict=True)
    header: list[str] = []
    line = 1
    try:
        for values in reader:
            if not header:
                header = values
                twice = sorted({name for name in header if header.count(name) > 1})
                require(not twice, f"{path}:{line}: two columns are called {twice}; rename one")
            elif values:
                if len(values) != len(header):
                    raise ConfigError(
                        f"{path}:{line}: {len(values)} fields, but the header has {len(header)}; "
                        "quote fields that hold commas"
                    )
                yield line, dict(zip(header, values, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(
            f"{path}:{line}: not CSV ({error}); quote fields and close quotes"
        ) from None
    finally:
        csv.field_size_limit(limit)


def _parquet(path: Path, columns: Columns) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _not_parquet(path, error) from None
    found = tuple(file.schema_arrow.names)
    wanted = [name for name in found if name in columns.names()]

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=8192, columns=wanted):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
        except (pa.ArrowException, OSError) as error:
            raise _not_parquet(path, error) from None

    return Table(name=str(path), columns=found, rows=rows(), unit="row")


def _not_parquet(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path} cannot be read as a Parquet file: {str(error).splitlines()[0]}")
