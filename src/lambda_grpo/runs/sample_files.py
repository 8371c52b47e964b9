"""The files of completions/: one Parquet table for each step, with columns of single tokens where they are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Of each generated token of a sample, in order; null for a sample whose tokens aren't recorded.
# tokens: texts, which joined are the completion. logprobs: of the policy that generated, at the training's temperature.
# entropies: of the next token's distribution, in nats. clipped: by the surrogate, at the last update with this sample.
# token_weights: f, where an objective weighs the tokens of a response differently.
TOKEN_COLUMNS = {
    "tokens": "string", "logprobs": "float", "entropies": "float", "clipped": "bool", "token_weights": "float",
}  # fmt: skip


def step_of(path: Path) -> int:
    """The step for which a file's samples were generated."""
    return int(path.stem.removeprefix("step-"))


def write_table(table: Any, path: Path) -> None:
    """Write a pyarrow Table, so that a reader never sees half a file."""
    import pyarrow.parquet as pq

    partial = path.with_suffix(".partial")
    try:
        pq.write_table(table, partial)
        partial.replace(path)
    except OSError:  # such as a full disk
        partial.unlink(missing_ok=True)
        raise


def read_table(path: Path, *, tokens: bool) -> Any:
    """A file as a pyarrow Table, with or without `TOKEN_COLUMNS`."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if tokens or name not in TOKEN_COLUMNS]
        return file.read(names)


def with_tokens(table: Any, columns: Mapping[str, list[Any]]) -> Any:
    """A table with values of single tokens for its last rows; see `Run.log_tokens`."""
    import pyarrow as pa

    for name, new in columns.items():
        kind = pa.list_(pa.type_for_alias(TOKEN_COLUMNS[name]))
        is_there = name in table.column_names
        if is_there and all(value is None for value in new):
            continue
        values = table[name].to_pylist() if is_there else [None] * len(table)
        for row, value in enumerate(new, len(values) - len(new)):
            if value is not None and (values[row] is None or name == "clipped"):
                values[row] = value
        column = pa.array(values, kind)
        place = table.column_names.index(name) if is_there else None
        table = table.append_column(name, column) if place is None else table.set_column(place, name, column)
    return table
