"""What the rows of a corpus make: who its devices are, which labels exist, what was assumed.

Whatever the data does not say (a split, an order, people, an inventory) is decided here, and a
sentence about it goes into the population's assumptions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedsim.errors import did_you_mean, require
from fedsim.population.arrays import ArraySource
from fedsim.population.examples import MAX_TOKENS, Utterance
from fedsim.population.labels import Inventory
from fedsim.population.partition import Partition, deal, seeded_split
from fedsim.population.population import Population
from fedsim.population.readers import Rows
from fedsim.population.vocabulary import CorpusVocabulary, HashedVocabulary, Vocabulary

VOCABULARIES = ("hashed", "corpus")
_MOST_LABELS = 2**15 - 1


@dataclass(frozen=True, kw_only=True)
class Dealing:
    """What the caller decides about people and words, as in `corpora.load`."""

    partition: str | None
    devices: int | None
    seed: int
    vocabulary: str


def assemble(
    name: str,
    rows: Rows,
    inventory: Inventory | None,
    dealing: Dealing,
    assumptions: Sequence[str] = (),
) -> Population:
    """Encode utterances once everything that the data did not say is decided.

    Args:
      name: what tables and errors call the population.
      rows: its utterances.
      inventory: declared labels, or None to read them from the rows.
      dealing: what the caller decided.
      assumptions: sentences for the record, before those made here.

    Raises:
      ConfigError: nobody would train, there are too many labels, or an option does not fit.
    """
    assumed = list(assumptions)
    utterances = rows.utterances
    if "split" not in rows.parts:
        utterances = seeded_split(utterances, dealing.seed)
        assumed.append(
            f"the data has no split: each person's rows were split 80/10/10, seed {dealing.seed}"
        )
    if "order" not in rows.parts:
        assumed.append("the data has no order: rows are taken to be in the order of collection")
    utterances, sentence = _with_people(name, utterances, "user" in rows.parts, dealing)
    assumed += sentence
    if inventory is None:
        inventory, sentence = _inventory_of(utterances)
        assumed += sentence
    _check_size(name, inventory)
    vocabulary, sentence = _vocabulary(dealing.vocabulary, utterances)
    assumed += sentence
    if all(row.split != "test" for row in utterances):
        assumed.append("there are no test rows, so nothing can be measured on them")
    source = ArraySource.build(utterances, inventory, vocabulary)
    if source.cut_tokens:
        assumed.append(f"utterances cut to {MAX_TOKENS} tokens: {source.cut_tokens}")
    return Population(
        name=name,
        source=source,
        inventory=inventory,
        vocabulary=vocabulary,
        assumptions=tuple(assumed),
    )


def _with_people(
    name: str, rows: list[Utterance], has_user: bool, dealing: Dealing
) -> tuple[list[Utterance], list[str]]:
    """The rows with devices as users, and what that assumes."""
    partition = None if dealing.partition is None else Partition.parse(dealing.partition)
    train = [row.user for row in rows if row.split == "train"]
    require(
        bool(train),
        f"none of the {len(rows)} rows of {name} is for training; expected some whose split is "
        "train, or, without a split, more rows or another seed",
    )
    if partition is not None and partition.kind != "natural":
        rows, sentence = deal(rows, partition, dealing.devices, dealing.seed)
        return rows, [sentence]
    require(
        has_user,
        f"{name} has no user column, so nobody could train; name it with columns user=NAME, or "
        "deal the rows to devices with partition iid, dirichlet:A or quantity:A",
    )
    require(
        dealing.devices is None,
        f"devices is {dealing.devices}, but {name} has people of its own; leave devices out, or "
        "deal the rows anew with partition iid, dirichlet:A or quantity:A",
    )
    unknown = train.count(None)
    require(
        unknown < len(train),
        f"{name} has {len(train)} training rows, none of them with a user, so nobody could train; "
        "fill the user column, or deal the rows with partition iid, dirichlet:A or quantity:A",
    )
    sentence = f"{unknown} training rows without a person train nowhere and were left out"
    return rows, [sentence] if unknown else []


def _inventory_of(rows: Sequence[Utterance]) -> tuple[Inventory, list[str]]:
    """The labels of all rows, sorted."""
    intents = {row.intent for row in rows}
    types = {label[2:] for slots in {row.slots for row in rows} for label in slots}
    types.discard("")  # what is left of "O"
    assumed = ["no label inventory was declared: it was read from all rows, held-out ones included"]
    trained = {row.intent for row in rows if row.split == "train"}
    if new := sorted(intents - trained):
        assumed.append(f"{len(new)} intents never occur in training rows, such as {new[0]!r}")
    return Inventory(tuple(sorted(intents)), tuple(sorted(types))), assumed


def _check_size(name: str, inventory: Inventory) -> None:
    intents, types = len(inventory.intents), len(inventory.slot_types)
    require(
        max(intents, len(inventory.slot_labels)) <= _MOST_LABELS,
        f"{name} has {intents} intents and {types} slot types; at most {_MOST_LABELS} "
        "labels are possible: choose the right columns, or a labels file with fewer",
    )


def check_vocabulary(kind: str) -> None:
    """Refuse any but a known kind of vocabulary."""
    require(
        kind in VOCABULARIES,
        f"vocabulary is {kind!r}{did_you_mean(kind, VOCABULARIES)}; expected hashed or corpus",
    )


def _vocabulary(kind: str, rows: Sequence[Utterance]) -> tuple[Vocabulary, list[str]]:
    check_vocabulary(kind)
    if kind == "hashed":
        return HashedVocabulary(), []
    said = (
        row.tokens[:MAX_TOKENS] for row in rows if row.split == "train" and row.user is not None
    )
    return CorpusVocabulary.build(said), ["the vocabulary was read from people's training text"]
