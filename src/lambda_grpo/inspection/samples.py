"""The samples of a run as arrays, in order of step and group, and what was left out of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
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

LONGEST, GREATEST = 1e9, 1e100  # tokens, and a reward: what is beyond is no measurement, and its squares overflow
FIRST_NUMBER = -(2**62)  # of group ids that are texts: below any that is a number itself


@dataclass(frozen=True)
class Samples:
    """N samples in P groups of S steps, in order.

    length: (N,) float64 tokens.
    reward: (N,) float64, NaN where a sample wasn't scored.
    group_start, step_start: (P + 1,) and (S + 1,) where each begins, as row numbers; the last entry is N.
    steps: (S,) their numbers.
    left_out: counts of rows that aren't here, by reason.
    columns: what was read as what, by file.
    order: (N,) which of the rows that were kept each one is, as they were read; None where that is their order.
    """

    length: Array
    reward: Array
    group_start: Array
    step_start: Array
    steps: Array
    left_out: dict[str, int] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    order: Array | None = None

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
        paths: run directories or files. Where their steps are the same numbers they are different runs, one after the
            other, and numbered on; otherwise parts of one run.
        given: columns that the user named, see `parse_columns`.
        tokenizer: makes, for a path, what counts the tokens of texts; called where a file has no column of lengths.
        progress: wraps the files while they are read; total is their number of bytes.

    Raises:
        UserError: a file can't be read, lacks a column, or no row is left.
    """
    collected = _Collected()
    for _ in _read(collected, paths, given, tokenizer, progress):
        pass
    return collected.sorted()


def read_texts(
    paths: Sequence[Path], given: dict[str, Any], samples: Samples, rows: Array
) -> list[tuple[str | None, str | None]]:
    """The prompt and the completion of some samples, None where the files have no such column.

    Args:
        paths, given: those that `read_samples` read the samples from; the files haven't changed since.
        rows: (n,) row numbers of `samples`, in any order.
    """
    wanted = rows if samples.order is None else samples.order[rows]
    found: dict[int, tuple[str | None, str | None]] = {}
    first, in_order = 0, np.sort(wanted)
    for batch, columns, is_used in _read(_Collected(), paths, given, lambda _: _no_lengths, texts=True):
        kept = np.flatnonzero(is_used)
        here = in_order[np.searchsorted(in_order, first) : np.searchsorted(in_order, first + len(kept))]
        taken = batch.take(pa.array(kept[here - first]))
        texts = [
            [None if value is None else _readable(value) for value in taken.column(name).to_pylist()]
            if name
            else [None] * len(here)
            for name in (columns.prompt, columns.text)
        ]
        found |= dict(zip(here.tolist(), zip(*texts, strict=True), strict=True))
        first += len(kept)
    return [found[row] for row in wanted.tolist()]


def _read(
    collected: _Collected,
    paths: Sequence[Path],
    given: dict[str, Any],
    tokenizer: Callable[[Path], Tokenizer],
    progress: Callable[[Iterable[Path], int], Iterable[Path]] = lambda files, total: files,
    *,
    texts: bool = False,
) -> Iterator[tuple[pa.RecordBatch, Columns, Array]]:
    """Add all files to `collected`; yields each batch with its columns and (n,) which of its rows were kept.

    texts: whether batches also hold the columns of the prompts and completions.
    """
    source = {file: path for path in paths for file in sample_files(path)}
    total = sum(file.stat().st_size for file in source)
    counters: dict[Path, Tokenizer] = {}
    steps_of: dict[Path, tuple[Path, str | None]] = {}  # the first file of each path, and its column of steps
    for file in progress(list(source), total):
        sample_file = SampleFile(file)
        columns = find_columns(file, sample_file.columns, sample_file.numeric, given)
        collected.columns[str(file)] = columns.described()
        path = source[file]
        other = steps_of.setdefault(path, (file, columns.step))
        if (columns.step is None) != (other[1] is None):
            lacking, having = (file, other[0]) if columns.step is None else (other[0], file)
            raise UserError(f"{lacking} has no column of steps, but {having} has: read them as paths of their own")
        if not columns.length and path not in counters:
            counters[path] = tokenizer(path)
        numbers = [name for name in (columns.length, *columns.reward, columns.step) if name]
        also = [name for name in (columns.prompt, columns.text) if name and texts]
        for batch in sample_file.batches(list(dict.fromkeys([*columns.names, *also])), numbers):
            yield batch, columns, collected.add(paths.index(path), file, batch, columns, counters.get(path))


class _Collected:
    """Rows as they are read, without those that can't be used."""

    def __init__(self) -> None:
        self.batches: list[list[Array]] = [[], [], [], []]  # of lengths, rewards, steps, keys of groups
        self.sources: list[int] = []  # of each batch
        self.numbers: dict[int, int] = {}  # of group ids that are texts, by their hashes
        self.left_out: dict[str, int] = {}
        self.columns: dict[str, str] = {}

    def add(
        self, source: int, file: Path, batch: pa.RecordBatch, columns: Columns, count_tokens: Tokenizer | None
    ) -> Array:
        """Add a batch; returns (n,) which of its rows are kept."""
        if columns.length:
            length = _numbers(batch, columns.length, file)
        else:
            assert count_tokens is not None
            texts = [_text(value) for value in batch.column(columns.text).to_pylist()]
            length = np.asarray(count_tokens(texts), dtype=np.float64)
        reward = np.sum([_numbers(batch, name, file) for name in columns.reward], axis=0)
        step = _numbers(batch, columns.step, file) if columns.step else np.zeros(len(batch))
        key, has_no_group = self._keys(batch.column(columns.group or columns.prompt))
        has_no_step = ~(np.abs(step) < 2**53)
        step = np.where(has_no_step, 0, step)
        if (step != np.floor(step)).any():
            raise UserError(f"{file}: the column {columns.step} must hold whole numbers, the steps")
        is_used = np.ones(len(batch), dtype=bool)
        for reason, is_wrong in (
            ("without a length", np.isnan(length)),
            ("with a length below 0 or above 1e9", (length < 0) | (length > LONGEST)),
            ("with a reward beyond ±1e100", np.abs(reward) > GREATEST),
            ("without a step", has_no_step),
            ("without a group", has_no_group),
        ):
            found = int((is_wrong & is_used).sum())
            if found:
                self.left_out[reason] = self.left_out.get(reason, 0) + found
                is_used &= ~is_wrong
        if not is_used.any():
            return is_used
        self.sources.append(source)
        for kept, values in zip(self.batches, (length, reward, step.astype(np.int64), key), strict=True):
            kept.append(values if is_used.all() else values[is_used])
        return is_used

    def _keys(self, column: pa.Array) -> tuple[Array, Array]:
        """(n,) a number for each different value, the same in all batches, and (n,) whether there is none."""
        has_none = column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
        if pa.types.is_integer(column.type):
            return column.cast(pa.int64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False), has_none
        if pa.types.is_nested(column.type):
            column = pa.array([_text(value) for value in column.to_pylist()])
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        numbers = [
            self.numbers.setdefault(hash(value), FIRST_NUMBER + len(self.numbers))
            for value in encoded.dictionary.to_pylist()
        ]
        index = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        return np.array([*numbers, 0])[index], has_none

    def sorted(self) -> Samples:
        """All rows in order of step and group."""
        if not self.sources:
            reasons = "".join(f"; {count} {reason}" for reason, count in self.left_out.items())
            raise UserError(f"no sample is left to inspect{reasons}: give files with a length and a reward in each row")
        _number_on(self.batches[2], self.sources)
        columns = []
        for batches in self.batches:
            columns.append(np.concatenate(batches))
            batches.clear()  # each column is in memory once
        step, key = columns[2:]
        order = None
        later, same = step[1:] > step[:-1], step[1:] == step[:-1]
        if not (later | (same & (key[1:] >= key[:-1]))).all():
            order = np.lexsort((key, step))
            for number in range(len(columns)):
                columns[number] = columns[number][order]
        length, reward, step, key = columns
        is_new_step = step[1:] != step[:-1]
        step_start = _starts(is_new_step)
        group_start = _starts(is_new_step | (key[1:] != key[:-1]))
        return Samples(
            length, reward, group_start, step_start, step[step_start[:-1]], self.left_out, self.columns, order
        )


def _number_on(batches: list[Array], sources: Sequence[int]) -> None:
    """Where paths have steps in common, they are different runs: number the steps of each on from those of the last."""
    ranges: dict[int, tuple[int, int]] = {}
    for source, step in zip(sources, batches, strict=True):
        low, high = ranges.get(source, (step.min(), step.max()))
        ranges[source] = min(low, int(step.min())), max(high, int(step.max()))
    in_order = sorted(ranges.values())
    if all(one[1] < other[0] for one, other in itertools.pairwise(in_order)):
        return  # parts of one run
    offsets, end = {}, None
    for source, (low, high) in ranges.items():
        offsets[source] = 0 if end is None else end + 1 - low
        end = high + offsets[source]
    for source, step in zip(sources, batches, strict=True):
        step += offsets[source]


def _starts(is_new: Array) -> Array:
    """Where each run of equal keys begins, of (N - 1,) whether a row differs from the one before, and N."""
    return np.concatenate([[0], np.flatnonzero(is_new) + 1, [len(is_new) + 1]])


def _numbers(batch: pa.RecordBatch, name: str | None, file: Path) -> Array:
    """A column as float64, NaN where there is no value."""
    column = batch.column(name)
    try:
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        raise UserError(f"{file}: the column {name} must hold numbers ({str(error).splitlines()[0]})") from error


def _no_lengths(texts: list[str]) -> list[int]:
    """In place of a tokenizer where only the texts are wanted."""
    return [0] * len(texts)


def _readable(value: Any) -> str:
    """A prompt or completion for readers: a conversation as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _text(value: Any) -> str:
    """A completion as text: a conversation's contents, one after another."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "".join(_text(one.get("content")) if isinstance(one, dict) else _text(one) for one in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
