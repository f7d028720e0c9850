"""Who says what in a set without people, and what is held out of a set without splits.

Rows are dealt to devices by the partitioners of flwr-datasets, seeded. `quantity:A` is quantity
skew as in Li et al., "Federated Learning on Non-IID Data Silos: An Experimental Study", ICDE 2022,
https://arxiv.org/abs/2102.02079: shares of the rows from a symmetric Dirichlet(A) distribution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedsim.errors import ConfigError, did_you_mean, require
from fedsim.population.examples import Utterance
from fedsim.rng import stream

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

DEFAULT_DEVICES = 100
PARTITIONS = "iid, dirichlet:A, quantity:A or natural"
_KINDS = ("iid", "dirichlet", "quantity", "natural")


@dataclass(frozen=True, kw_only=True)
class Partition:
    """How training rows are dealt to devices.

    Attributes:
      kind: "iid" (equal parts at random), "dirichlet" (each intent in Dirichlet shares), "quantity"
        (parts of Dirichlet sizes, each a random sample) or "natural" (by the user column).
      skew: concentration of the Dirichlet distribution; small is uneven. 0 where there is none.

    Example:
      >>> Partition.parse("dirichlet:0.5")
      Partition(kind='dirichlet', skew=0.5)
    """

    kind: str
    skew: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Partition":
        """Read `iid`, `natural`, `dirichlet:A` or `quantity:A`.

        Raises:
          ConfigError: any other text.
        """
        kind, colon, number = text.partition(":")
        require(
            kind in _KINDS,
            f"partition is {text!r}{did_you_mean(kind, _KINDS)}; expected {PARTITIONS}",
        )
        skewed = kind in ("dirichlet", "quantity")
        try:
            skew = float(number) if colon else 0.0
        except ValueError:
            skew = -1.0
        valid = 1e-3 <= skew <= 1e6 if skewed else not colon
        require(
            valid,
            f"partition is {text!r}; expected {PARTITIONS}, with A between 0.001 (uneven) and "
            "1000000 (even)",
        )
        return cls(kind=kind, skew=skew)

    def __str__(self) -> str:
        return f"{self.kind}:{self.skew:g}" if self.skew else self.kind


def deal(
    rows: Sequence[Utterance], partition: Partition, devices: int | None, seed: int
) -> tuple[list[Utterance], str]:
    """Deal the training rows to devices; every device gets at least one.

    Args:
      rows: utterances; who said them is set aside. "natural" is not for here: it leaves rows alone.
      partition: how.
      devices: number of devices, default 100.
      seed: of the draws.

    Returns:
      The rows with devices as users of the training rows and nobody as user of the others, and a
      sentence for the record.

    Raises:
      ConfigError: there are more devices than training rows, or none.
    """
    devices = DEFAULT_DEVICES if devices is None else devices
    train = np.array([i for i, row in enumerate(rows) if row.split == "train"], np.int64)
    require(devices >= 1, f"devices is {devices}; choose 1 or more")
    require(
        devices <= len(train),
        f"devices is {devices}, but there are {len(train)} training rows to deal; "
        f"choose devices between 1 and {len(train)}",
    )
    owner, mended = _owners([rows[i].intent for i in train], partition, devices, seed)
    names = [f"device-{i}" for i in range(devices)]
    dealt = [row if row.user is None else row._replace(user=None) for row in rows]
    for i, device in zip(train.tolist(), owner.tolist(), strict=True):
        dealt[i] = dealt[i]._replace(user=names[device])
    sentence = f"training rows were dealt to {devices} devices by {partition}, seed {seed}"
    if mended:
        sentence += f"; {mended} that drew nothing got one row of the largest"
    return dealt, sentence


def seeded_split(rows: Sequence[Utterance], seed: int) -> list[Utterance]:
    """Split each person's rows 80/10/10 into train, dev and test.

    Of every ten consecutive rows of a person one is dev and one is test, at random places; every
    single row is train with probability 0.8. Rows added at the end change no earlier split.
    """
    people: dict[str | None, int] = {}
    person = np.array([people.setdefault(row.user, len(people)) for row in rows], np.int64)
    by_person = np.argsort(person, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(person))])[:-1]
    position = np.empty(len(rows), np.int64)
    position[by_person] = np.arange(len(rows)) - start[person[by_person]]
    ten_begins = by_person[start[person] + position // 10 * 10]
    draw = (stream(seed, "split").random(len(rows))[ten_begins] * 90).astype(np.int64)
    dev, test = draw // 9, draw % 9
    test += test >= dev
    place = position % 10
    split = np.select([place == dev, place == test], [1, 2], 0).tolist()
    names = ("train", "dev", "test")
    return [row._replace(split=names[s]) for row, s in zip(rows, split, strict=True)]


def _owners(
    intents: list[str], partition: Partition, devices: int, seed: int
) -> tuple[np.ndarray, int]:
    """Device of every row, shape (rows,), and how many devices drew none and were given one."""
    from datasets import Dataset

    draws = stream(seed, f"partition/{partition}")
    # Partitioners cut runs of rows; shuffled first, a run is a random sample.
    shuffled = draws.permutation(len(intents))
    partitioner = _partitioner(partition, len(intents), devices, draws)
    partitioner.dataset = Dataset.from_dict(
        {"row": shuffled, "intent": [intents[i] for i in shuffled]}
    )
    owner = np.empty(len(intents), np.int64)
    for device in range(devices):
        owner[np.asarray(partitioner.load_partition(device)["row"], np.int64)] = device
    sizes = np.bincount(owner, minlength=devices)
    empty = np.flatnonzero(sizes == 0).tolist()
    given = np.zeros(devices, np.int64)
    by_owner = np.argsort(owner, kind="stable")
    start = np.cumsum(sizes) - sizes
    for device in empty:
        largest = int((sizes - given).argmax())
        owner[by_owner[start[largest] + given[largest]]] = device
        given[largest] += 1
    return owner, len(empty)


def _partitioner(
    partition: Partition, rows: int, devices: int, draws: np.random.Generator
) -> "Partitioner":
    from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner, SizePartitioner

    if partition.kind == "iid":
        return IidPartitioner(num_partitions=devices)
    if partition.kind == "dirichlet":
        return DirichletPartitioner(
            num_partitions=devices,
            partition_by="intent",
            alpha=partition.skew,
            min_partition_size=0,
            shuffle=False,
            seed=int(draws.integers(2**31)),
        )
    if partition.kind == "quantity":
        return SizePartitioner(_sizes(rows, devices, partition.skew, draws))
    raise ConfigError("partition natural keeps the people of the data; it deals nothing")


def _sizes(rows: int, devices: int, skew: float, draws: np.random.Generator) -> list[int]:
    """One row each, and the rest in Dirichlet shares, rounded to the exact sum."""
    shares = draws.dirichlet(np.full(devices, skew)) * (rows - devices)
    edges = np.floor(np.cumsum(shares) + 0.5).astype(np.int64)
    edges[-1] = rows - devices
    return (1 + np.diff(edges, prepend=0)).tolist()
