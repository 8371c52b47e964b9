"""Columns of Parquet, Arrow, CSV and JSON Lines files, a batch of rows at a time."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from lambda_grpo.errors import UserError

BATCH = 2**18  # rows
HEAD = 100  # rows of a JSON Lines file from which its columns are known


class SampleFile:
    """A file with rows.

    Args:
        path: ends in .parquet, .arrow, .feather, .csv, .jsonl or .ndjson.

    Attributes:
        columns: the names of its columns.
        numeric: those that hold numbers or booleans.

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
        self.numeric = [field.name for field in schema if _is_number(field.type)]

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Batches of rows with these columns. Raises UserError where the file can't be read."""
        try:
            yield from self._json_batches(names) if self.is_json else self._batches(names)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def _schema(self) -> pa.Schema:
        match self.path.suffix:
            case ".parquet":
                return pa.parquet.read_schema(self.path)
            case ".csv":
                with pa.csv.open_csv(self.path) as reader:
                    return reader.schema
            case _:
                with self._arrow() as reader:
                    return reader.schema

    def _batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        match self.path.suffix:
            case ".parquet":
                with pa.parquet.ParquetFile(self.path) as file:
                    yield from file.iter_batches(BATCH, columns=list(names))
            case ".csv":
                options = pa.csv.ConvertOptions(include_columns=list(names))
                with pa.csv.open_csv(self.path, convert_options=options) as reader:
                    yield from reader
            case _:
                with self._arrow() as reader:
                    is_stream = isinstance(reader, pa.ipc.RecordBatchStreamReader)
                    for batch in reader if is_stream else map(reader.get_batch, range(reader.num_record_batches)):
                        yield batch.select(list(names))

    def _arrow(self) -> Any:
        """Arrow's file format, which Feather is too, or its stream, as datasets writes it."""
        try:
            return pa.ipc.open_file(self.path)
        except pa.ArrowInvalid:
            return pa.ipc.open_stream(self.path)

    def _json_schema(self) -> list[pa.Field]:
        rows = list(itertools.islice(self._json_rows(), HEAD))
        names = dict.fromkeys(name for row in rows for name in row)
        kinds = {name: [row[name] for row in rows if row.get(name) is not None] for name in names}
        return [
            pa.field(name, pa.float64() if values and all(isinstance(v, int | float) for v in values) else pa.string())
            for name, values in kinds.items()
        ]

    def _json_batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        rows = self._json_rows()
        while chunk := list(itertools.islice(rows, BATCH)):
            columns = []
            for name in names:
                values = [row.get(name) for row in chunk]
                is_text = any(isinstance(value, str | list | dict) for value in values)
                columns.append(pa.array(map(_as_text, values), pa.string()) if is_text else pa.array(values))
            yield pa.record_batch(columns, names=list(names))

    def _json_rows(self) -> Iterator[dict[str, Any]]:
        """Lines as objects. Python's parser: these files may hold NaN, which JSON itself lacks."""
        with open(self.path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{self.path}, line {number} isn't JSON ({error}): mend or remove it") from error
                if not isinstance(row, dict):
                    raise UserError(f"{self.path}, line {number} must be a JSON object, with a name for each value")
                yield row

    def _unreadable(self, error: Exception) -> UserError:
        text = " ".join(str(error).split())
        return UserError(f"{self.path} can't be read ({text[:200]}): it may be cut short; remove it, or write it anew")


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
