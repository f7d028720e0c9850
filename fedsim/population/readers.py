"""What each row of a file or data set says: rows to utterances, with errors that name the line.

Every value of every row is checked: words, BIO labels, intent, user, split and order.
"""

import math
import reprlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.errors import ConfigError, did_you_mean, require
from fedsim.population.columns import OWN_NAMES, Columns, found_instead, resolve
from fedsim.population.examples import Utterance
from fedsim.population.labels import OUTSIDE, Inventory
from fedsim.population.tables import Table

SPLIT_NAMES = {
    "train": "train",
    "dev": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
}
"""What a split may be called in a file."""


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


def read(
    table: Table,
    columns: Columns = OWN_NAMES,
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
    used = resolve(table, columns, split)
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
        f"{table.name} has no column {columns.user!r} for user{found_instead(table, used['user'])}",
    )
    parts = set(used) - (set() if parser.seen_user else {"user"}) | (
        set() if split is None else {"split"}
    )
    return Rows(utterances=utterances, parts=frozenset(parts))


def read_splits(
    tables: Mapping[str, Table], columns: Columns = OWN_NAMES, inventory: Inventory | None = None
) -> Rows:
    """The utterances of one table a split, one table after the other.

    Args:
      tables: by split, under any of SPLIT_NAMES.
      columns: which field plays which part, in all of them.
      inventory: as in `read`.

    Raises:
      ConfigError: as in `read`.
    """
    utterances: list[Utterance] = []
    parts = frozenset[str]()
    for split, table in tables.items():
        rows = read(table, columns, inventory, SPLIT_NAMES[split], first=len(utterances))
        utterances += rows.utterances
        parts |= rows.parts
    return Rows(utterances=utterances, parts=parts)


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
            _name("slots", " ".join(slots))
            known = self._known_slots.setdefault(slots, slots)
        return known

    def _intent(self, value: Any) -> str:
        if isinstance(value, int):
            value = str(value)
        if not (isinstance(value, str) and value != ""):
            raise ConfigError(f"intent is {reprlib.repr(value)}; expected the name of an intent")
        if self._inventory is not None and value not in self._inventory.intent_ids:
            raise ConfigError(_undeclared("intent", value, self._inventory.intents))
        return sys.intern(_name("intent", value))


def _name(part: str, value: str) -> str:
    """A name that the record can write; texts may hold anything."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{part} is {reprlib.repr(value)}, which holds {value[error.start]!r}, half of a "
            "surrogate pair; write the whole character"
        ) from None
    return value


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
        return sys.intern(_name("user", value)) or None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # what a column of whole numbers with gaps becomes in data frames
    if not isinstance(value, int):
        raise ConfigError(
            f"user is {reprlib.repr(value)}; expected a string, a whole number, or null"
        )
    return str(value)
