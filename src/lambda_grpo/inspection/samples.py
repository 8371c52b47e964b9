"""The samples of a run as arrays, in order of step and group, and what was left out of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from lambda_grpo.errors import UserError
from lambda_grpo.inspection.formats import Columns, find_columns, sample_files
from lambda_grpo.inspection.reading import SampleFile

Array = np.ndarray[Any, Any]
Tokenizer = Callable[[list[str]], list[int]]  # numbers of tokens


@dataclass(frozen=True)
class Samples:
    """N samples in P groups of S steps, in order.

    length: (N,) float64 tokens.
    reward: (N,) float64, NaN where a sample wasn't scored.
    group_start, step_start: (P + 1,) and (S + 1,) where each begins, as row numbers; the last entry is N.
    steps: (S,) their numbers.
    left_out: counts of rows that aren't here, by reason.
    columns: what was read as what, by file.
    """

    length: Array
    reward: Array
    group_start: Array
    step_start: Array
    steps: Array
    left_out: dict[str, int] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.length)

    @cached_property
    def group_size(self) -> Array:
        """(P,)."""
        return np.diff(self.group_start)

    @cached_property
    def group_index(self) -> Array:
        """(N,) the group of each sample."""
        return np.repeat(np.arange(len(self.group_size)), self.group_size)

    def part(self, first: int, last: int) -> Samples:
        """Steps `first` .. `last` - 1."""
        start, end = self.step_start[first], self.step_start[last]
        groups = np.searchsorted(self.group_start, [start, end])
        return Samples(
            self.length[start:end],
            self.reward[start:end],
            self.group_start[groups[0] : groups[1] + 1] - start,
            self.step_start[first : last + 1] - start,
            self.steps[first:last],
        )


def read_samples(
    paths: Sequence[Path],
    given: dict[str, Any],
    tokenizer: Callable[[Path], Tokenizer],
    progress: Callable[[Iterable[Path], int], Iterable[Path]] = lambda files, total: files,
) -> Samples:
    """Read all samples of runs and files.

    Args:
        paths: run directories or files. Groups and steps of different paths are different ones.
        given: columns that the user named, see `parse_columns`.
        tokenizer: makes, for a path, what counts the tokens of texts; called where a file has no column of lengths.
        progress: wraps the files while they are read; total is their number of bytes.

    Raises:
        UserError: a file can't be read, lacks a column, or no row is left.
    """
    collected = _Collected()
    source = {file: path for path in paths for file in sample_files(path)}
    total = sum(file.stat().st_size for file in source)
    counters: dict[Path, Tokenizer] = {}
    for file in progress(list(source), total):
        sample_file = SampleFile(file)
        columns = find_columns(file, sample_file.columns, sample_file.numeric, given)
        collected.columns[str(file)] = columns.described()
        path = source[file]
        if not columns.length and path not in counters:
            counters[path] = tokenizer(path)
        for batch in sample_file.batches(columns.names):
            collected.add(paths.index(path), file, batch, columns, counters.get(path))
    return collected.sorted()


class _Collected:
    """Rows as they are read, without those that can't be used."""

    def __init__(self) -> None:
        self.parts: list[tuple[Array, Array, Array, Array]] = []  # lengths, rewards, keys of groups, steps
        self.numbers: dict[tuple[int, Any], int] = {}
        self.left_out: dict[str, int] = {}
        self.columns: dict[str, str] = {}

    def add(
        self, source: int, file: Path, batch: pa.RecordBatch, columns: Columns, count_tokens: Tokenizer | None
    ) -> None:
        if columns.length:
            length = _numbers(batch, columns.length, file)
        else:
            assert count_tokens is not None
            texts = [_text(value) for value in batch.column(columns.text).to_pylist()]
            length = np.asarray(count_tokens(texts), dtype=np.float64)
        reward = np.sum([_numbers(batch, name, file) for name in columns.reward], axis=0)
        step = _numbers(batch, columns.step, file) if columns.step else np.zeros(len(batch))
        key = self._keys(source, batch.column(columns.group or columns.prompt))
        is_used = np.ones(len(batch), dtype=bool)
        for reason, is_wrong in (
            ("without a length", np.isnan(length)),
            ("with a negative or infinite length", (length < 0) | np.isinf(length)),
            ("with an infinite reward", np.isinf(reward)),
            ("without a step", ~np.isfinite(step)),
            ("without a group", key < 0),
        ):
            found = int((is_wrong & is_used).sum())
            if found:
                self.left_out[reason] = self.left_out.get(reason, 0) + found
                is_used &= ~is_wrong
        step = np.where(np.isfinite(step), step, 0).astype(np.int64)
        self.parts.append((length[is_used], reward[is_used], key[is_used], step[is_used]))

    def _keys(self, source: int, column: pa.Array) -> Array:
        """(n,) a number for each different value of a source's column, -1 where there is none."""
        if pa.types.is_null(column.type):
            return np.full(len(column), -1)
        if pa.types.is_nested(column.type):
            column = pa.array([_text(value) for value in column.to_pylist()])
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        numbers = [
            self.numbers.setdefault((source, value if isinstance(value, int) else hash(value)), len(self.numbers))
            for value in encoded.dictionary.to_pylist()
        ]
        if not numbers:
            return np.full(len(column), -1)
        index = pa.compute.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
        return np.where(index < 0, -1, np.asarray(numbers)[index])

    def sorted(self) -> Samples:
        if sum(len(lengths) for lengths, *_ in self.parts) == 0:
            reasons = "".join(f"; {count} {reason}" for reason, count in self.left_out.items())
            raise UserError(f"no sample is left to inspect{reasons}: give files with a length and a reward in each row")
        length, reward, key, step = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        steps, step_index = np.unique(step, return_inverse=True)
        order_key = step_index * np.int64(len(self.numbers)) + key
        if (order_key[1:] < order_key[:-1]).any():
            order = np.argsort(order_key, kind="stable")
            length, reward, order_key, step_index = (one[order] for one in (length, reward, order_key, step_index))
        return Samples(length, reward, _starts(order_key), _starts(step_index), steps, self.left_out, self.columns)


def _starts(keys: Array) -> Array:
    """Where each run of equal keys begins, and the number of keys."""
    return np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1, [len(keys)]])


def _numbers(batch: pa.RecordBatch, name: str | None, file: Path) -> Array:
    """A column as float64, NaN where there is no value."""
    column = batch.column(name)
    try:
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        raise UserError(f"{file}: the column {name} must hold numbers ({str(error).splitlines()[0]})") from error


def _text(value: Any) -> str:
    """A completion as text: a conversation's contents, one after another."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "".join(_text(one.get("content")) if isinstance(one, dict) else _text(one) for one in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
