"""Which population a name stands for: built-in corpora, files, hub names and data sets.

`load` and `from_dataset` find the rows, decide who said them and what is held out, and record as
assumptions whatever the data did not say.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedsim.errors import ConfigError, require
from fedsim.population.arrays import ArraySource
from fedsim.population.examples import MAX_TOKENS, Utterance
from fedsim.population.labels import Inventory, declared, read_inventory
from fedsim.population.massive import read_massive, read_snips
from fedsim.population.partition import Partition, deal, seeded_split
from fedsim.population.population import Population
from fedsim.population.readers import (
    SPLIT_NAMES,
    SUFFIXES,
    Columns,
    Rows,
    Table,
    did_you_mean,
    open_table,
    read,
)
from fedsim.population.vocabulary import CorpusVocabulary, HashedVocabulary, Vocabulary

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

CORPORA = ("home", "massive", "snips")
VOCABULARIES = ("hashed", "corpus")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_MOST_LABELS = 2**15 - 1


def load(
    corpus: str | Path,
    data: str | Path | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    partition: str | None = None,
    labels: str | Path | None = None,
    devices: int | None = None,
    seed: int = 0,
    vocabulary: Literal["hashed", "corpus"] = "hashed",
) -> Population:
    """A population by the name of its corpus.

    Args:
      corpus: "home" (generated), "massive", "snips", the path of a JSONL, CSV or Parquet file, or
        the hub name (owner/name) of a data set.
      data: where "massive" and "snips" lie: a folder of data folders, one data folder, or a file;
        default `$FEDSIM_DATA`, then `../shared/data`.
      columns: part -> column, for files and hub names; parts are those of `readers.Columns`.
      partition: "iid", "dirichlet:A", "quantity:A" or "natural": how training rows are dealt to
        devices; needed where nobody is known to have said them ("snips": "iid").
      labels: file that declares the label inventory; default: the corpus's own, or, for files,
        every label of the data, which the record states.
      devices: number of devices of "home" (default 1000) and of a partition (default 100).
      seed: of a partition, of a split that the data lacks, and of "home".
      vocabulary: "hashed", or "corpus": the words of the training text, which the record states.

    Raises:
      ConfigError: the data is missing or malformed, or an option does not fit the corpus.
    """
    inventory = None if labels is None else read_inventory(labels)
    if corpus == "home":
        return _home(columns, partition, labels, devices, seed, vocabulary)
    dealing = _Dealing(partition=partition, devices=devices, seed=seed, vocabulary=vocabulary)
    if corpus in ("massive", "snips"):
        require(
            columns is None,
            f"columns is set, but the columns of {corpus} are known; leave it out, or give the "
            "path of the file as corpus",
        )
        inventory = inventory or declared(corpus)
        if corpus == "massive":
            rows, assumptions = read_massive(data, inventory)
            return _population("massive", rows, inventory, dealing, assumptions)
        dealing = replace(dealing, partition=partition or "iid")
        return _population("snips", read_snips(data, inventory), inventory, dealing)
    named = Columns.parse(columns or {})
    path = Path(corpus)
    if path.exists() or path.suffix.lower() in SUFFIXES:
        rows = read(open_table(path, named), named, inventory)
        return _population(path.name, rows, inventory, dealing)
    return _from_tables(str(corpus), _hub(str(corpus)), named, inventory, dealing)


def from_dataset(
    dataset: "Dataset | DatasetDict",
    *,
    user: str | None = None,
    text: str | None = None,
    tokens: str | None = None,
    intent: str = "intent",
    slots: str | None = None,
    split: str | None = None,
    order: str | None = None,
    labels: str | Path | None = None,
    partition: str | None = None,
    devices: int | None = None,
    seed: int = 0,
    vocabulary: Literal["hashed", "corpus"] = "hashed",
    name: str = "dataset",
) -> Population:
    """A population from a `datasets.Dataset`, or from a dict of them by split.

    Args:
      dataset: rows of utterances; class labels are read as their names.
      user: column of who said it. Like the next ones, None is the column of this very name, where
        there is one; what they hold is said in `readers.Columns`.
      text: column of texts.
      tokens: column of lists of words; texts are not read where there is one.
      intent: column of intents.
      slots: column of lists of BIO labels.
      split: column of splits.
      order: column of whole numbers that increase in the order of collection.
      labels: as in `load`.
      partition: as in `load`.
      devices: as in `load`.
      seed: as in `load`.
      vocabulary: as in `load`.
      name: what tables and errors call the population.

    Raises:
      ConfigError: a column is missing, a row malformed, or an option does not fit.

    Example:
      >>> from datasets import Dataset
      >>> said = Dataset.from_dict({
      ...     "who": ["ann", "ann", "bo"], "text": ["lights on", "lights off", "stop"],
      ...     "intent": ["on", "off", "off"], "split": ["train", "test", "train"]})
      >>> people = from_dataset(said, user="who")
      >>> people.devices, people.activity(period=0).tolist(), people.inventory.intents
      (2, [1, 1], ('off', 'on'))
    """
    inventory = None if labels is None else read_inventory(labels)
    columns = Columns(
        user=user, text=text, tokens=tokens, intent=intent, slots=slots, split=split, order=order
    )
    dealing = _Dealing(partition=partition, devices=devices, seed=seed, vocabulary=vocabulary)
    return _from_tables(name, dataset, columns, inventory, dealing)


@dataclass(frozen=True, kw_only=True)
class _Dealing:
    """What the caller decides about people and words; see `load`."""

    partition: str | None
    devices: int | None
    seed: int
    vocabulary: str


def _home(
    columns: Mapping[str, str] | None,
    partition: str | None,
    labels: str | Path | None,
    devices: int | None,
    seed: int,
    vocabulary: str,
) -> Population:
    from fedsim.population.home import home

    for option, value in (("columns", columns), ("partition", partition), ("labels", labels)):
        require(
            value is None,
            f"{option} is {value!r}, but home is generated with people and labels of its own; "
            f"leave {option} out",
        )
    _check_vocabulary(vocabulary)
    require(
        vocabulary == "hashed",
        "vocabulary is 'corpus', but home is generated and has no text to read; choose hashed",
    )
    return home(devices=1000 if devices is None else devices, seed=seed)


def _from_tables(
    name: str, dataset: Any, columns: Columns, inventory: Inventory | None, dealing: _Dealing
) -> Population:
    """A population from a `Dataset` or a `DatasetDict`."""
    from datasets import Dataset, DatasetDict

    require(
        isinstance(dataset, Dataset | DatasetDict),
        f"{name} is a {type(dataset).__name__}; expected a datasets.Dataset or a DatasetDict "
        "(load it without streaming)",
    )
    if isinstance(dataset, DatasetDict) and len(dataset) == 1:
        (dataset,) = dataset.values()
    if isinstance(dataset, Dataset):
        table = _table(dataset, columns, name)
        return _population(name, read(table, columns, inventory), inventory, dealing)
    utterances: list[Utterance] = []
    parts = frozenset[str]()
    for key, part in dataset.items():
        require(
            key in SPLIT_NAMES,
            f"{name} has a split called {key!r}; expected some of {', '.join(SPLIT_NAMES)}",
        )
        table = _table(part, columns, f"{name}/{key}")
        rows = read(table, columns, inventory, split=SPLIT_NAMES[key], first=len(utterances))
        utterances += rows.utterances
        parts |= rows.parts
    rows = Rows(utterances=utterances, parts=parts)
    return _population(name, rows, inventory, dealing)


def _hub(name: str) -> "Dataset | DatasetDict":
    """A data set of the hub."""
    require(
        _HUB_NAME.fullmatch(name) is not None,
        f"corpus is {name!r}{did_you_mean(name, CORPORA)}; expected {', '.join(CORPORA)}, the path "
        "of a JSONL, CSV or Parquet file, or a hub name like owner/name",
    )
    from datasets import load_dataset

    try:
        return load_dataset(name)
    except Exception as error:  # the hub client raises errors of many libraries
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"corpus {name!r} is no file here and cannot be loaded from the hub ({reason}); check "
            "the name and the network, or give the path of a file"
        ) from None


def _population(
    name: str,
    rows: Rows,
    inventory: Inventory | None,
    dealing: _Dealing,
    assumptions: Sequence[str] = (),
) -> Population:
    """Encode utterances once everything that the data did not say is decided."""
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
        inventory, sentence = _inventory_of(name, utterances)
        assumed += sentence
    vocabulary, sentence = _vocabulary(dealing.vocabulary, utterances)
    assumed += sentence
    if all(row.split != "test" for row in utterances):
        assumed.append("there are no test rows, so nothing can be measured on them")
    source = ArraySource.build(utterances, inventory, vocabulary)
    if source.cut_tokens:
        assumed.append(f"{source.cut_tokens} utterances were cut to {MAX_TOKENS} tokens")
    return Population(
        name=name,
        source=source,
        inventory=inventory,
        vocabulary=vocabulary,
        assumptions=tuple(assumed),
    )


def _with_people(
    name: str, rows: list[Utterance], has_user: bool, dealing: _Dealing
) -> tuple[list[Utterance], list[str]]:
    """The rows with devices as users, and what that assumes."""
    partition = None if dealing.partition is None else Partition.parse(dealing.partition)
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
    train = [row.user for row in rows if row.split == "train"]
    unknown = train.count(None)
    require(
        unknown < len(train),
        f"{name} has {len(train)} training rows, none of them with a user, so nobody could train; "
        "fill the user column, or deal the rows with partition iid, dirichlet:A or quantity:A",
    )
    sentence = f"{unknown} training rows without a person train nowhere and were left out"
    return rows, [sentence] if unknown else []


def _inventory_of(name: str, rows: Sequence[Utterance]) -> tuple[Inventory, list[str]]:
    """The labels of all rows, sorted."""
    intents = {row.intent for row in rows}
    types = {label[2:] for slots in {row.slots for row in rows} for label in slots}
    types.discard("")  # what is left of "O"
    most = max(len(intents), 2 * len(types) + 1)
    require(
        most <= _MOST_LABELS,
        f"{name} has {len(intents)} intents and {len(types)} slot types; at most {_MOST_LABELS} "
        "labels are possible: choose the right columns",
    )
    assumed = ["no label inventory was declared: it was read from all rows, held-out ones included"]
    trained = {row.intent for row in rows if row.split == "train"}
    if new := sorted(intents - trained):
        assumed.append(f"{len(new)} intents never occur in training rows, such as {new[0]!r}")
    return Inventory(tuple(sorted(intents)), tuple(sorted(types))), assumed


def _check_vocabulary(kind: str) -> None:
    require(
        kind in VOCABULARIES,
        f"vocabulary is {kind!r}{did_you_mean(kind, VOCABULARIES)}; expected hashed or corpus",
    )


def _vocabulary(kind: str, rows: Sequence[Utterance]) -> tuple[Vocabulary, list[str]]:
    _check_vocabulary(kind)
    if kind == "hashed":
        return HashedVocabulary(), []
    said = (
        row.tokens[:MAX_TOKENS] for row in rows if row.split == "train" and row.user is not None
    )
    return CorpusVocabulary.build(said), ["the vocabulary was read from people's training text"]


def _table(dataset: "Dataset", columns: Columns, name: str) -> Table:
    """A `datasets.Dataset` as a table; class labels become their names."""
    found = tuple(dataset.column_names)
    wanted = [column for column in found if column in columns.names()]
    classes = {column: _class_names(dataset.features[column]) for column in wanted}

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        for batch in dataset.select_columns(wanted).with_format(None).iter(batch_size=1000):
            named = (_named(batch[column], classes[column]) for column in wanted)
            for values in zip(*named, strict=True):
                number += 1
                yield number, dict(zip(wanted, values, strict=True))

    return Table(name=name, columns=found, rows=rows(), unit="row")


def _class_names(feature: Any) -> Sequence[str] | None:
    """Names of a column of class labels, or of lists of them; None for other columns."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def _named(value: Any, names: Sequence[str] | None) -> Any:
    """Class labels as their names, in lists of any depth; None where a label is missing."""
    if names is None:
        return value
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if value is not None and value >= 0 else None
