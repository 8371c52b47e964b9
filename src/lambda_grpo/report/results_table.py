"""A table of evaluations, models by tasks, as Markdown, LaTeX or HTML."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from lambda_grpo.errors import UserError
from lambda_grpo.report.evaluation_files import read_results
from lambda_grpo.suggestions import did_you_mean

FORMATS = {"markdown": "github", "latex": "latex_booktabs", "html": "html"}


def results_table(paths: Sequence[str], metric: str = "accuracy", format: str = "markdown") -> str:
    """The table of all finished results at `paths`.

    A row is a model, its training objective, the prompt template (with the number of worked examples) and the sampling;
    a cell is the metric in percent with its 95 % interval, or "–" if the result lacks it. If every row has every task,
    the last column is the mean over tasks. Unfinished results are left out, with a line on stderr.

    Args:
        paths: result files of `lambda-grpo eval`, directories of them, or run directories.
        metric: "accuracy", "avg@k", "pass@k" or "maj@k", if the results have it.

    Raises:
        UserError: a path doesn't exist, no result is finished or has the metric, or two have the same row and task.
    """
    found = {path: read_results(Path(path)) for path in paths}
    by_file = {result["file"]: result for read in found.values() for result in read}  # each file once
    results = [result for result in by_file.values() if result["finished"]]
    if not results:
        verb = "holds" if Path(paths[0]).is_dir() else "is"
        raise UserError(f"{paths[0]} {verb} no finished result of lambda-grpo eval")
    for path, read in found.items():
        if not read:
            print(f"left out: {path} holds no result of lambda-grpo eval", file=sys.stderr)
    for result in by_file.values():
        if not result["finished"]:
            print(f"left out: {result['file']} isn't finished: run its command again to resume it", file=sys.stderr)
    known = list(dict.fromkeys(name for result in results for name in result["metrics"]))
    if metric not in known:
        raise UserError(f"{results[0]['file']} has no {metric}: it has {', '.join(known)}{did_you_mean(metric, known)}")
    tasks = list(dict.fromkeys(result["task"] for result in results))
    rows: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for result in results:
        trained = result["trained"]
        label: tuple[str, ...] = (result["model"], trained["objective"] if trained else "–", *_setup(result))
        row = rows.setdefault(label, {})
        if result["task"] in row:
            raise UserError(
                f"{row[result['task']]['file']} and {result['file']} have the same model and task: leave one out"
            )
        row[result["task"]] = result
    estimates = {label: [_estimate(row.get(task), metric) for task in tasks] for label, row in rows.items()}
    is_complete = len(tasks) > 1 and all(None not in row for row in estimates.values())
    header = ["model", "objective", "template", "sampling", *(_title(task, rows.values()) for task in tasks)]
    body = []
    for label, row_estimates in estimates.items():
        cells = [_cell(estimate) for estimate in row_estimates]
        mean = [_mean([estimate for estimate in row_estimates if estimate is not None])] if is_complete else []
        label = tuple(name.replace("|", "\\|") for name in label) if format == "markdown" else label
        body.append([*label, *cells, *mean])
    return tabulate(
        body, [*header, *(["mean"] if is_complete else [])], tablefmt=FORMATS[format], disable_numparse=True
    )


def _title(task: str, rows: Any) -> str:
    """The task's name with the number of problems, and a note if only a part of a benchmark was evaluated."""
    found = [row[task] for row in rows if task in row]
    sizes = sorted({result["n"] for result in found})
    part = " part of it," if any(result["data"].get("whole") is False for result in found) else ""
    return f"{task} ({part.strip() + ' ' if part else ''}n = {', '.join(map(str, sizes))})"


def _estimate(result: Mapping[str, Any] | None, metric: str) -> Mapping[str, Any] | None:
    return None if result is None else result["metrics"].get(metric)


def _cell(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "–"
    low, high = estimate["ci95"]
    return f"{100 * estimate['value']:.1f} ({100 * low:.1f} – {100 * high:.1f})"


def _setup(result: Mapping[str, Any]) -> tuple[str, str]:
    """The prompt template and the sampling, in words."""
    shots, temperature = result["shots"], result["sampling"]["temperature"]
    template = result["template"]["name"] + (f", {shots['count']} shots" if shots else "")
    return template, "greedy" if temperature == 0 else f"T = {temperature:g}, {result['samples']} each"


def _mean(estimates: Sequence[Mapping[str, Any]]) -> str:
    """The mean over tasks, which are independent.

    Its interval is derived from theirs (MOVER: G. Y. Zou and A. Donner, Statistics in Medicine 27, 2008), so that it
    isn't empty when all answers are right.
    """
    value = math.fsum(estimate["value"] for estimate in estimates) / len(estimates)
    below, above = (
        math.sqrt(math.fsum((estimate["ci95"][end] - estimate["value"]) ** 2 for estimate in estimates))
        / len(estimates)
        for end in (0, 1)
    )
    return f"{100 * value:.1f} ({100 * (value - below):.1f} – {100 * (value + above):.1f})"
