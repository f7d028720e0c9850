"""Where rows come from: JSONL, CSV and Parquet files and `datasets.Dataset`, all as one `Table`.

What the fields of a row mean is not decided here; that a file is what its name says, is.
"""

import csv
import json
import os
import reprlib
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import ConfigError, require

if TYPE_CHECKING:
    from datasets import Dataset


SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
"""Kinds of files that can be read."""


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


def open_table(path: Path, only: Collection[str] | None = None) -> Table:
    """A JSONL, CSV or Parquet file as a table; rows are read when they are asked for.

    Args:
      path: the file; its suffix says of which kind it is.
      only: columns that will be wanted, which spares reading the others of a Parquet file; None is
        all.

    Raises:
      ConfigError: the file is missing, of another kind, empty or binary. Reading the rows raises
        it for malformed lines.
    """
    # Unlike Path.exists, this has an answer for names that no file can have.
    require(
        os.path.exists(path),
        f"{path} does not exist; give the path of a JSONL, CSV or Parquet file",
    )
    require(not path.is_dir(), f"{path} is a folder; give the path of a file inside it")
    suffix = path.suffix.lower()
    require(
        suffix in SUFFIXES,
        f"{path} ends in {suffix!r}; expected one of {', '.join(SUFFIXES)}",
    )
    if suffix == ".parquet":
        return _parquet(path, only)
    return _peeked(path, _csv(path) if suffix == ".csv" else _jsonl(path))


def dataset_table(dataset: "Dataset", name: str, only: Collection[str]) -> Table:
    """Columns of a `datasets.Dataset` as a table; class labels become their names."""
    found = tuple(dataset.column_names)
    wanted = [column for column in found if column in only]
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
                _check_distinct(header, f"{path}:{line}")
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


def _check_distinct(names: Sequence[str], place: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"{place}: two columns are called {twice}; rename one")


def _parquet(path: Path, only: Collection[str] | None) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _not_parquet(path, error) from None
    found = tuple(file.schema_arrow.names)
    _check_distinct(found, str(path))
    wanted = [name for name in found if only is None or name in only]

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=8192, columns=wanted):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _not_parquet(path, error) from None

    return Table(name=str(path), columns=found, rows=rows(), unit="row")


def _not_parquet(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path} cannot be read as a Parquet file: {str(error).splitlines()[0]}")
