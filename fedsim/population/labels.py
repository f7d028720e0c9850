"""Which intents and slots exist: the label inventory a model is sized for.

An inventory is declared, not read from private text: which labels occur on a device would leak.
A file without a declared inventory gets one from its own rows, and the record says so.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from fedsim.errors import ConfigError

OUTSIDE = "O"


@dataclass(frozen=True)
class Inventory:
    """Names of intents and slot types, in the order of their ids.

    Attributes:
      intents: names of the intents; id = position.
      slot_types: names of the slot types, without BIO prefixes.

    Example:
      >>> labels = Inventory(("play", "stop"), ("song",))
      >>> labels.slot_labels
      ('O', 'B-song', 'I-song')
      >>> labels.slot_ids["I-song"], labels.intent_ids["stop"]
      (2, 1)
    """

    intents: tuple[str, ...]
    slot_types: tuple[str, ...]

    @cached_property
    def slot_labels(self) -> tuple[str, ...]:
        """BIO labels: "O", then B- and I- of each slot type; id = position."""
        tags = (prefix + name for name in self.slot_types for prefix in ("B-", "I-"))
        return (OUTSIDE, *tags)

    @cached_property
    def intent_ids(self) -> dict[str, int]:
        """Intent name -> id."""
        return {name: i for i, name in enumerate(self.intents)}

    @cached_property
    def slot_ids(self) -> dict[str, int]:
        """BIO label -> id."""
        return {name: i for i, name in enumerate(self.slot_labels)}


def declared(corpus: str) -> Inventory:
    """The public inventory of a corpus that ships with fedsim: "massive" or "snips"."""
    name = f"inventories/{corpus}.json"
    text = resources.files("fedsim.population").joinpath(name).read_text("utf-8")
    return _parse(text, name)


def read_inventory(path: str | Path) -> Inventory:
    """Read a `--labels` file: a JSON object with the lists `intents` and `slots`.

    Raises:
      ConfigError: the file is missing or has another shape.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"labels file {path} does not exist; give the path of a JSON file with the lists "
            "intents and slots"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"labels file {path} cannot be read as UTF-8 text: {error}") from None
    return _parse(text, str(path))


def _parse(text: str, name: str) -> Inventory:
    wanted = 'expected {"intents": ["..."], "slots": ["..."]} with distinct names'
    try:
        value = json.loads(text)
        intents, slots = value["intents"], value["slots"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ConfigError(f"{name}: not a label inventory ({error!r}); {wanted}") from None
    for names in (intents, slots):
        if (
            not isinstance(names, list)
            or not all(isinstance(n, str) for n in names)
            or len(set(names)) < len(names)
        ):
            raise ConfigError(f"{name}: not a label inventory; {wanted}")
    if not intents:
        raise ConfigError(f"{name}: no intents; {wanted}")
    return Inventory(tuple(intents), tuple(slots))
