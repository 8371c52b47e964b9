"""The page of an evaluation, and of two evaluations of the same problems side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lambda_grpo.errors import UserError
from lambda_grpo.files import write_text
from lambda_grpo.formatting import counted, in_words, percent, percent_range
from lambda_grpo.report.evaluation_files import read_results, read_samples
from lambda_grpo.report.paired_evaluations import PairedEvaluations
from lambda_grpo.report.reasons import verdict_reason
from lambda_grpo.report.rendering import render
from lambda_grpo.report.sample_viewer import CHARACTERS, SampleViewer, conversation, cut, pack, size_of, text_limit

PROBLEMS = 2000  # on a page


def write_evaluation_reports(path: Path) -> list[Path]:
    """Write TASK.html beside each finished result of `lambda-grpo eval` at a path, and return the pages' paths.

    Raises:
        UserError: there is no finished result, or its samples can't be read.
    """
    results = [result for result in read_results(path) if result["finished"]]
    if not results:
        raise UserError(f"{path} has no finished result of lambda-grpo eval: run its command again to resume it")
    return [_write(result) for result in results]


def write_paired_report(pair: PairedEvaluations, page: Path) -> Path:
    """Write the page of two evaluations side by side, and return its path."""
    first, second = (read_results(Path(side.file))[0] for side in (pair.first, pair.second))
    names = {one.problem: one for one in pair.changed}
    groups = []
    for (problem, ours), theirs in zip(read_samples(first).items(), read_samples(second).values(), strict=True):
        change = names.get(problem)
        named = [("first", first, ours), ("second", second, theirs)]
        limit = text_limit(len(ours) + len(theirs))
        groups.append(
            {
                **_group(problem, ours, limit),
                "samples": [
                    {**_sample(sample, result, limit), "label": label}
                    for label, result, samples in named
                    for sample in samples
                ],
                "change": "same" if change is None else "gained" if change.second > change.first else "lost",
            }
        )
    groups.sort(key=lambda group: group["change"] == "same")  # what changed comes first
    viewer = _viewer(groups, changes=True)
    text = render(
        "evaluation.html.j2",
        parts=_parts(viewer),
        title=f"{pair.second.name} against {pair.first.name} on {pair.task}",
        about=f"{pair.statistics.n} problems. First: {pair.first.name}. Second: {pair.second.name}.",
        verdict=[pair.verdict, *pair.notes],
        header=("", "first", "second"),
        rows=pair.rows(),
        lines=pair.details(),
        viewer=viewer,
        settings=[(f"{side}: {name}", value) for side, result in (("first", first), ("second", second))
                  for name, value in _settings(result)],
        made_with=second,
    )  # fmt: skip
    return write_text(page, text)


def _write(result: Mapping[str, Any]) -> Path:
    limit = text_limit(result["samples"])
    viewer = _viewer(
        [
            {**_group(problem, samples, limit), "samples": [_sample(one, result, limit) for one in samples]}
            for problem, samples in read_samples(result).items()
        ]
    )
    figures = [(name, percent(one["value"]), percent_range(one["ci95"])) for name, one in result["metrics"].items()]
    unanswered = "" if result["unanswered"] is None else f"; {percent(result['unanswered'])} without an answer"
    text = render(
        "evaluation.html.j2",
        parts=_parts(viewer),
        title=f"{result['model']} on {result['task']}",
        about=f"{counted(result['n'], 'problem')}, {counted(result['samples'], 'sample')} each",
        verdict=[
            f"{percent(result['accuracy'])} right (95 % interval {percent_range(result['ci95'])}).",
            f"{result['completion_length_mean']:.1f} tokens on average; {percent(result['truncated'])} truncated at "
            f"the limit{unanswered}; {result['timed_out']} graded wrong after a timeout.",
        ],
        header=("metric", "value", "95 % interval"),
        rows=figures,
        lines=[],
        viewer=viewer,
        settings=_settings(result),
        made_with=result,
    )
    return write_text(Path(result["file"]).with_suffix(".html"), text)


def _parts(viewer: SampleViewer) -> tuple[str, ...]:
    return ("samples", "maths") if viewer.has_maths else ("samples",)


def _viewer(groups: Sequence[dict[str, Any]], *, changes: bool = False) -> SampleViewer:
    """As many problems as fit, those of two evaluations that changed first, otherwise evenly spaced."""
    size = sum(map(_size, groups))
    count = min(len(groups), PROBLEMS, max(1, int(len(groups) * CHARACTERS / max(size, 1))))
    chosen = range(count) if changes else np.unique(np.linspace(0, len(groups) - 1, count).round().astype(int)).tolist()
    shown = [groups[index] for index in chosen]
    return pack({"kind": "evaluation", "graded": False, "changes": changes, "groups": shown}, total=len(groups))


def _size(group: Mapping[str, Any]) -> int:
    return size_of(str(group["prompt"]), *(str(sample["text"]) for sample in group["samples"]))


def _group(problem: int, samples: Sequence[Mapping[str, Any]], limit: int) -> dict[str, Any]:
    first = samples[0]
    return {
        "id": problem,
        "name": str(first["id"]),
        "prompt": conversation(first["prompt"], limit),
        "answer": None if first["answer"] is None else cut(str(first["answer"]), limit),
    }


def _sample(sample: Mapping[str, Any], result: Mapping[str, Any], limit: int) -> dict[str, Any]:
    extracted = sample["extracted"]
    return {
        "text": conversation(sample["completion"], limit),
        "grade": float(sample["correct"]),
        "length": sample["length"],
        "facts": [
            ["extracted", "–" if extracted is None else cut(extracted, limit)],
            ["why", verdict_reason(sample, extracts=result["unanswered"] is not None)],
        ],
    }


def _settings(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = ("model", "path", "weights", "trained", "data", "engine", "template", "shots", "sampling", "seed")
    return [(name, in_words(result[name])) for name in names if result.get(name) is not None]
