"""Which column of a table plays which part: who said it, the words, and what they mean.

A file may call its columns anything. `Columns` names them; `resolve` says which of them will be
read, or what is missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from fedsim.errors import ConfigError, did_you_mean, require
from fedsim.population.tables import Table


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


OWN_NAMES = Columns()
"""Every part is played by the column of its own name."""


def resolve(table: Table, columns: Columns, split: str | None) -> dict[str, str]:
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
                f"{table.name} has no column {name!r} for {part}{found_instead(table, name)}"
            )
    if columns.text is not None and columns.tokens is None:
        used.pop("tokens", None)  # whoever names the text wants it read
    for part, other in (("intent", "intent"), ("text", "tokens")):
        if part not in used and other not in used:
            wanted = " or ".join(repr(name) for name in dict.fromkeys((part, other)))
            raise ConfigError(f"{table.name} has no column {wanted}{found_instead(table, part)}")
    return used


def found_instead(table: Table, wrong: str) -> str:
    """The end of a sentence about a missing column."""
    shown = ", ".join(repr(name) for name in table.columns[:20]) or "no columns"
    more = ", ..." if len(table.columns) > 20 else ""
    return (
        f"{did_you_mean(wrong, table.columns)}; found {shown}{more}; choose with columns PART=NAME"
    )
