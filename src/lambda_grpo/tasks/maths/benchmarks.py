"""Eight maths benchmarks: their data sets and numbers of rows.

They are the default eight of SimpleRL-Zoo's evaluation (arXiv 2503.18892). A data set with another number of rows is
another version of the benchmark, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lambda_grpo.errors import UserError, warn_once
from lambda_grpo.tasks.maths.columns import find_columns
from lambda_grpo.tasks.maths.problems import (
    MathProblems,
    is_file_of_problems,
    load_split,
    read_rows,
    worked_examples,
)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on the hub.

    Attributes:
        title: its name in tables.
        data: ids of the data sets that hold it; the first one is the default.
        split, config: of each of these data sets.
        rows: the allowed numbers of rows: several if its sources differ.
        shots: the split of the first data set with worked examples for few-shot prompts; None if there is none.
    """

    title: str
    data: tuple[str, ...]
    split: tuple[str, ...]
    rows: tuple[int, ...]
    config: tuple[str | None, ...] = (None, None)
    shots: str | None = None


BENCHMARKS: dict[str, Benchmark] = {
    "gsm8k": Benchmark("GSM8K", ("openai/gsm8k",), ("test",), (1319,), ("main",), shots="train"),
    "math500": Benchmark("MATH-500", ("HuggingFaceH4/MATH-500",), ("test",), (500,)),
    "minerva": Benchmark("Minerva", ("math-ai/minervamath",), ("test",), (272,)),
    "gaokao2023en": Benchmark("Gaokao 2023 (en)", ("MARIO-Math-Reasoning/Gaokao2023-Math-En",), ("train",), (385,)),
    "olympiadbench": Benchmark(
        "OlympiadBench",
        ("math-ai/olympiadbench", "Hothan/OlympiadBench"),
        ("test", "train"),
        (675, 674),  # both are in use for it
        (None, "OE_TO_maths_en_COMP"),
    ),
    "college_math": Benchmark("College Math", ("di-zhang-fdu/College_Math_Test",), ("test",), (2818,)),
    "aime24": Benchmark("AIME 2024", ("HuggingFaceH4/aime_2024", "Maxwell-Jia/AIME_2024"), ("train", "train"), (30,)),
    "amc23": Benchmark("AMC 2023", ("math-ai/amc23",), ("test",), (40,)),
}


def load_benchmark(
    name: str,
    *,
    data: str | None = None,
    size: int | None = None,
    question: str | None = None,
    answer: str | None = None,
) -> MathProblems:
    """The problems of a benchmark.

    Args:
        name: a key of BENCHMARKS.
        data: another of its data sets, or a local file. A local file may hold only some of the rows; this is recorded
            in the result, with one warning.
        size: how many problems, from the first; by default all.
        question, answer: column names; by default the first known name found.

    Raises:
        UserError: it can't be loaded, or it isn't that benchmark.
    """
    benchmark = BENCHMARKS[name]
    chosen = data or benchmark.data[0]
    if chosen in benchmark.data:
        rows, source = _from_hub(benchmark, benchmark.data.index(chosen))
        if len(rows) not in benchmark.rows:
            raise UserError(
                f"{chosen} has {len(rows)} rows, {benchmark.title} has {_numbers(benchmark)}: this is another version "
                "of the data set, or another data set. To evaluate on it anyway, save it as a file for --task"
            )
    else:
        if not is_file_of_problems(chosen):
            raise UserError(f"{benchmark.title} is {' or '.join(benchmark.data)} or a local file, not {chosen!r}")
        rows, source = read_rows(chosen), {"data": chosen}
        if len(rows) not in benchmark.rows:
            warn_once(
                f"{chosen} has {len(rows)} rows, {benchmark.title} has {_numbers(benchmark)}: this is a part of the "
                "benchmark"
            )
    columns = find_columns(chosen, rows, question, answer)
    whole = len(rows) in benchmark.rows and (size is None or size >= len(rows))
    return MathProblems(name, rows[:size], columns, {**source, "rows": len(rows), "whole": whole})


def load_shots(name: str, count: int) -> list[tuple[str, str]]:
    """Worked examples from a benchmark's own training split. Raises UserError if it has none."""
    benchmark = BENCHMARKS.get(name)
    if benchmark is None or benchmark.shots is None:
        raise UserError(f"{name} has no training split: name a file of worked examples by --shots_data")
    data, config = benchmark.data[0], benchmark.config[0]
    return worked_examples(data, list(load_split(data, data, config, split=benchmark.shots)), count)


def _from_hub(benchmark: Benchmark, number: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    data, config, split = benchmark.data[number], benchmark.config[number], benchmark.split[number]
    loaded = load_split(data, data, config, split=split)
    files = sorted(loaded.info.download_checksums or {})  # URLs that contain the data set's commit
    return list(loaded), {"data": data, "config": config, "split": split, "files": files}


def _numbers(benchmark: Benchmark) -> str:
    return " or ".join(map(str, benchmark.rows))
