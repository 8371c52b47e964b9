"""The samples of a run, or of any logs, for a page: the numbers of all, and the whole of those that are shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lambda_grpo.inspection import Inspection, Samples
from lambda_grpo.objective import group_advantages
from lambda_grpo.runs.directory import Run, grade_column

Array = np.ndarray[Any, Any]
NUMBERS = ("step", "group", "reward", "advantage", "length", "weight")
GRADE = "grade"  # of a whole sample that is read


@dataclass(frozen=True)
class RunSamples:
    """N samples in order of step and group.

    step, group, length: (N,) int64. reward: (N,) float64, NaN where a sample wasn't scored. grade: (N,) likewise, the
    task's own, without the weights and penalties that the reward may have. advantage, weight: (N,) float64, as the run
    used them. read: the whole samples with these row numbers, in their order.
    """

    step: Array
    group: Array
    reward: Array
    grade: Array
    advantage: Array
    length: Array
    weight: Array
    read: Callable[[Array], list[dict[str, Any]]]

    def __len__(self) -> int:
        return len(self.step)

    @cached_property
    def group_start(self) -> Array:
        """(P + 1,) where each group begins; the last entry is N."""
        return np.concatenate([[0], np.flatnonzero(np.diff(self.group)) + 1, [len(self)]])

    @cached_property
    def step_start(self) -> Array:
        """(S + 1,) where each step begins; the last entry is N."""
        return np.concatenate([[0], np.flatnonzero(np.diff(self.step)) + 1, [len(self)]])

    @cached_property
    def steps(self) -> Array:
        """(S,) the numbers of the steps."""
        return self.step[self.step_start[:-1]]

    @cached_property
    def is_graded(self) -> bool:
        """Whether grades have values other than 0 and 1, so that no sample is simply right or wrong."""
        scored = self.grade[~np.isnan(self.grade)]
        return bool(((scored != 0) & (scored != 1)).any())

    @cached_property
    def has_penalties(self) -> bool:
        """Whether rewards aren't the grades: they have weights, penalties, or several parts."""
        return not np.array_equal(self.reward, self.grade, equal_nan=True)

    @cached_property
    def mass(self) -> Array:
        """(N,) f · |A| · |o|, as the run had it."""
        mass: Array = self.weight * np.abs(self.advantage) * self.length
        return mass

    def by_step(self, values: Array) -> Array:
        """(S,) sums over the samples of each step."""
        sums: Array = np.add.reduceat(values, self.step_start[:-1])
        return sums

    def numbers(self) -> Samples:
        """As the samples of an inspection."""
        return Samples(
            self.length.astype(np.float64), self.reward, self.group_start, self.step_start, self.steps, {}, {}
        )


def read_run_samples(run: Run) -> RunSamples | None:
    """The samples that a run has recorded; None if there are none yet."""
    files = sorted(run.path.glob("completions/step-*.parquet"))
    own = grade_column(pq.read_schema(files[0]).names, run.config().get("data", {}).get("name")) if files else "reward"
    names = dict.fromkeys([*NUMBERS, own])
    tables = [pq.read_table(file, columns=list(names)) for file in files]
    sizes = [len(table) for table in tables]
    if sum(sizes) == 0:
        return None
    merged = pa.concat_tables(tables, promote_options="permissive")
    columns = {
        name: merged[column].cast(pa.float64()).to_numpy(zero_copy_only=False)
        for name, column in {"reward": "reward", "grade": own, "advantage": "advantage", "weight": "weight"}.items()
    } | {name: merged[name].cast(pa.int64()).to_numpy() for name in ("step", "group", "length")}
    order = np.lexsort((columns["group"], columns["step"]))
    file = np.repeat(np.arange(len(files)), sizes)[order]
    place = np.concatenate([np.arange(size) for size in sizes])[order]

    def read(rows: Array) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for number in np.unique(file[rows]):
            of_file = rows[file[rows] == number]
            table = pq.read_table(files[number]).take(pa.array(place[of_file]))
            whole = ({**sample, GRADE: sample[own]} for sample in table.to_pylist())
            found |= dict(zip(of_file.tolist(), whole, strict=True))
        return [found[row] for row in rows.tolist()]

    return RunSamples(**{name: values[order] for name, values in columns.items()}, read=read)


def logged_samples(inspection: Inspection) -> RunSamples:
    """The samples of an inspection, with GRPO's advantages and f = 1, since their objective isn't known."""
    samples = inspection.samples
    group = samples.group_index
    advantage = group_advantages(torch.from_numpy(samples.reward), torch.from_numpy(group))
    step = np.repeat(samples.steps, np.diff(samples.step_start))

    def read(rows: Array) -> list[dict[str, Any]]:
        return [
            {
                "prompt": prompt or "",
                "completion": completion or "",
                "answer": None,
                "reward": (reward := None if np.isnan(samples.reward[row]) else float(samples.reward[row])),
                GRADE: reward,
                "advantage": float(advantage[row]),
                "length": int(samples.length[row]),
                "group": int(group[row]),
                "step": int(step[row]),
            }
            for row, (prompt, completion) in zip(rows.tolist(), inspection.texts(rows), strict=True)
        ]

    return RunSamples(
        step=step,
        group=group,
        reward=samples.reward,
        grade=samples.reward,
        advantage=advantage.numpy(),
        length=samples.length.astype(np.int64),
        weight=np.ones(len(samples)),
        read=read,
    )
