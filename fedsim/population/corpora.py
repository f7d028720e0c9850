"""Which population a name stands for: built-in corpora, files, hub names and data sets.

`load` and `from_dataset` find the rows, decide who said them and what is held out, and record as
assumptions whatever the data did not say.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedsim.errors import ConfigError, did_you_mean, require
from fedsim.population.assembly import Dealing, assemble, check_vocabulary
from fedsim.population.columns import Columns
from fedsim.population.labels import Inventory, declared, read_inventory
from fedsim.population.massive import read_massive, read_snips
from fedsim.population.population import Population
from fedsim.population.readers import SPLIT_NAMES, read, read_splits
from fedsim.population.tables import SUFFIXES, dataset_table, open_table

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

CORPORA = ("home", "massive", "snips")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


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
      columns: part -> column, for files and hub names; parts are those of `columns.Columns`.
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
    dealing = Dealing(partition=partition, devices=devices, seed=seed, vocabulary=vocabulary)
    if corpus in ("massive", "snips"):
        require(
            columns is None,
            f"columns is set, but the columns of {corpus} are known; leave it out, or give the "
            "path of the file as corpus",
        )
        inventory = inventory or declared(corpus)
        if corpus == "massive":
            rows, assumptions = read_massive(data, inventory)
            return assemble("massive", rows, inventory, dealing, assumptions)
        dealing = replace(dealing, partition=partition or "iid")
        return assemble("snips", read_snips(data, inventory), inventory, dealing)
    named = Columns.parse(columns or {})
    path = Path(corpus)
    if os.path.exists(path) or path.suffix.lower() in SUFFIXES:
        rows = read(open_table(path, named.names()), named, inventory)
        return assemble(path.name, rows, inventory, dealing)
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
        there is one; what they hold is said in `columns.Columns`.
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
    dealing = Dealing(partition=partition, devices=devices, seed=seed, vocabulary=vocabulary)
    return _from_tables(name, dataset, columns, inventory, dealing)


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
    check_vocabulary(vocabulary)
    require(
        vocabulary == "hashed",
        "vocabulary is 'corpus', but home is generated and has no text to read; choose hashed",
    )
    return home(devices=1000 if devices is None else devices, seed=seed)


def _from_tables(
    name: str, dataset: Any, columns: Columns, inventory: Inventory | None, dealing: Dealing
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
        table = dataset_table(dataset, name, columns.names())
        return assemble(name, read(table, columns, inventory), inventory, dealing)
    tables = {}
    for key, part in dataset.items():
        require(
            key in SPLIT_NAMES,
            f"{name} has a split called {key!r}; expected some of {', '.join(SPLIT_NAMES)}",
        )
        tables[key] = dataset_table(part, f"{name}/{key}", columns.names())
    return assemble(name, read_splits(tables, columns, inventory), inventory, dealing)


def _hub(name: str) -> "Dataset | DatasetDict":
    """A data set of the hub."""
    require(
        _HUB_NAME.fullmatch(name) is not None,
        f"corpus is {name!r}{did_you_mean(name, CORPORA)}; expected {', '.join(CORPORA)}, the path "
        "of a JSONL, CSV or Parquet file, or a hub name like owner/name",
    )
    from datasets import load_dataset
    from huggingface_hub import HfApi, constants

    try:
        if not constants.HF_HUB_OFFLINE:
            HfApi().dataset_info(name, timeout=10)  # load_dataset alone retries for half a minute
        return load_dataset(name)
    except Exception as error:  # the hub client raises errors of many libraries
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"corpus {name!r} is no file here and cannot be loaded from the hub ({reason}); check "
            "the name and the network, set HF_HUB_OFFLINE=1 to use a copy fetched before, or give "
            "the path of a file"
        ) from None
