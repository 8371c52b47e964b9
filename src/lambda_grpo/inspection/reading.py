"""Columns of Parquet, Arrow, CSV and JSON Lines files, a batch of rows at a time."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from lambda_grpo.errors import UserError

BATCH = 2**18  # rows of numbers
TEXT_BATCH = 2**10  # rows with a text, of which each may be as long as a model's context
BLOCK = 2**22  # bytes of a CSV file, of which it holds some fifty; a row must fit into one
BUFFER = 2**20  # bytes of a Parquet column that are read at once
HEAD = 100  # rows of a JSON Lines file from which its columns are known


class SampleFile:
    """A file with rows.

    Args:
        path: ends in .parquet, .arrow, .feather, .csv, .jsonl or .ndjson.

    Attributes:
        columns: the names of its columns.
        numeric: those that hold numbers or booleans.
        booleans: those that hold booleans.

    Raises:
        UserError: it can't be read, as far as its head shows.
    """

    def __init__(self, path: Path):
        self.path = path
        self.is_json = path.suffix in (".jsonl", ".ndjson")
        try:
            schema = self._json_schema() if self.is_json else self._schema()
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error
        if not schema:
            raise UserError(f"{path} is empty: leave it out")
        self.columns = [field.name for field in schema]
        self.booleans = [field.name for field in schema if pa.types.is_boolean(field.type)]
        self.numeric = [field.name for field in schema if _is_number(field.type)]

    def batches(self, names: Sequence[str], numbers: Collection[str]) -> Iterator[pa.RecordBatch]:
        """Batches of rows with these columns, of which the file's other columns and rows need no memory.

        Args:
            numbers: those of the names whose values must be numbers.

        Raises:
            UserError: the file can't be read.
        """
        for name in names:
            if self.columns.count(name) > 1:
                raise UserError(f"{self.path} has {self.columns.count(name)} columns {name!r}: rename all but one")
        try:
            yield from self._json_batches(names, numbers) if self.is_json else self._batches(names, numbers)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def _schema(self) -> pa.Schema:
        match self.path.suffix:
            case ".parquet":
                return pa.parquet.read_schema(self.path)
            case ".csv":
                with self._csv() as reader:
                    return reader.schema
            case _:
                with self._arrow() as reader:
                    return reader.schema

    def _batches(self, names: Sequence[str], numbers: Collection[str]) -> Iterator[pa.RecordBatch]:
        match self.path.suffix:
            case ".parquet":
                with pa.parquet.ParquetFile(self.path, buffer_size=BUFFER, pre_buffer=False) as file:
                    yield from file.iter_batches(self._rows_at_once(names), columns=list(names))
            case ".csv":
                # what the first rows hold needn't be what the later ones hold
                types = {name: pa.string() for name in names if name not in numbers}
                types |= {name: pa.float64() for name in numbers if name in self.numeric and name not in self.booleans}
                with self._csv(include_columns=list(names), column_types=types) as file:
                    yield from file
            case _:
                with self._arrow(names) as reader:
                    is_stream = isinstance(reader, pa.ipc.RecordBatchStreamReader)
                    size = self._rows_at_once(names)
                    for batch in reader if is_stream else map(reader.get_batch, range(reader.num_record_batches)):
                        for start in range(0, len(batch), size):
                            yield batch.select(list(names)).slice(start, size)

    def _rows_at_once(self, names: Sequence[str]) -> int:
        return BATCH if set(names) <= set(self.numeric) else TEXT_BATCH

    def _csv(self, **convert: Any) -> Any:
        """With quoted texts of several lines."""
        return pa.csv.open_csv(
            self.path,
            read_options=pa.csv.ReadOptions(block_size=BLOCK),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(**convert),
        )

    def _arrow(self, names: Sequence[str] = ()) -> Any:
        """Arrow's file format, which Feather is too, or its stream, as datasets writes it, with these columns."""
        options = pa.ipc.IpcReadOptions(included_fields=[self.columns.index(name) for name in names] or None)
        source = pa.OSFile(str(self.path))
        try:
            return pa.ipc.open_file(source, options=options)
        except pa.ArrowInvalid:
            source.seek(0)
            return pa.ipc.open_stream(source, options=options)

    def _json_schema(self) -> list[pa.Field]:
        rows = [row for _, row in itertools.islice(self._json_rows(), HEAD)]
        names = dict.fromkeys(name for row in rows for name in row)
        kinds = {name: [row[name] for row in rows if row.get(name) is not None] for name in names}
        return [
            pa.field(name, pa.float64() if values and all(isinstance(v, int | float) for v in values) else pa.string())
            for name, values in kinds.items()
        ]

    def _json_batches(self, names: Sequence[str], numbers: Collection[str]) -> Iterator[pa.RecordBatch]:
        kinds = {name: _as_number if name in numbers else _as_text for name in names}
        types = [pa.float64() if name in numbers else pa.string() for name in names]
        values: list[list[Any]] = []
        for number, row in self._json_rows():
            try:
                values.append([kind(row.get(name)) for name, kind in kinds.items()])
            except ValueError as error:
                raise UserError(f"{self.path}, line {number}: {error}") from error
            if len(values) == TEXT_BATCH:
                yield _batch(values, names, types)
                values = []
        if values:
            yield _batch(values, names, types)

    def _json_rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Lines as objects, with their numbers. Python's parser: these files may hold NaN, which JSON itself lacks."""
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{self.path}, line {number} isn't JSON ({error}): repair or remove it") from error
                if not isinstance(row, dict):
                    raise UserError(f"{self.path}, line {number} must be a JSON object, with a name for each value")
                yield number, row

    def _unreadable(self, error: Exception) -> UserError:
        text = " ".join(str(error).split())
        return UserError(f"{self.path} can't be read ({text[:200]}): repair it, or leave it out")


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _batch(values: list[list[Any]], names: Sequence[str], types: list[pa.DataType]) -> pa.RecordBatch:
    columns = [pa.array(column, kind) for column, kind in zip(zip(*values, strict=True), types, strict=True)]
    return pa.record_batch(columns, names=list(names))


def _as_number(value: Any) -> float | None:
    """Raises ValueError where it isn't one."""
    try:
        return None if value is None else float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        raise ValueError(f"{json.dumps(value)[:40]} must be a number") from None


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
