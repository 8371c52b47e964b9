"""`lambda-grpo report --paired`: two evaluations of the same problems, problem by problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lambda_grpo.errors import UserError
from lambda_grpo.formatting import in_words, percent, percent_range
from lambda_grpo.report.evaluation_files import read_results, read_samples
from lambda_grpo.report.paired_statistics import PairedStatistics, compare_shares

LISTED = 12  # problems that the terminal shows


@dataclass(frozen=True)
class Side:
    """One of the two evaluations.

    Attributes:
        name: its model, or its file where both have the same model.
        objective: that the model was trained with; None if it isn't known.
        samples: per problem.
        ci95: 95 % interval of the accuracy, as `lambda-grpo eval` computed it.
        completion_length_mean: in tokens.
    """

    name: str
    file: str
    model: str
    objective: str | None
    samples: int
    accuracy: float
    ci95: tuple[float, float]
    completion_length_mean: float


@dataclass(frozen=True)
class ChangedProblem:
    """A problem with different shares of right samples. `problem`: its index; `id`: the data set's own."""

    problem: int
    id: Any
    first: float
    second: float


@dataclass(frozen=True)
class PairedEvaluations:
    """Two evaluations of the same problems.

    Attributes:
        task: as the first one calls it.
        statistics: the second minus the first.
        changed: in the order of the problems.
        settings: other settings in which the two differ, by name, each in words.
        verdict: the finding in a sentence.
        notes: what a reader should know besides, in sentences.
    """

    task: str
    first: Side
    second: Side
    statistics: PairedStatistics
    changed: list[ChangedProblem]
    settings: dict[str, tuple[str, str]]
    verdict: str
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str, str]]:
        """A small table: name, first, second."""
        first, second, found = self.first, self.second, self.statistics
        alone = "solved by this one alone" if found.mcnemar_p is not None else "more often right here (problems)"
        return [
            ("accuracy", percent(first.accuracy), percent(second.accuracy)),
            ("95 % interval", percent_range(first.ci95), percent_range(second.ci95)),
            (
                "mean length (tokens)",
                f"{first.completion_length_mean:.1f}",
                f"{second.completion_length_mean:.1f}",
            ),
            (alone, str(found.only_first), str(found.only_second)),
        ]

    def details(self) -> list[str]:
        """What the table leaves out, in lines."""
        found = self.statistics
        lines = [
            f"{found.both_right} problems right in both, {found.both_wrong} in neither"
            + (f", {found.as_often} equally often" if found.as_often else ""),
            f"Difference: {points(found.difference)} points, "
            + (
                f"no 95 % interval, because {found.no_interval}"
                if found.ci95 is None
                else f"95 % interval {_range(found.ci95)} ({found.interval})"
            ),
            f"McNemar's exact test: {found.no_mcnemar or f'p = {found.mcnemar_p:.2g}'}",
        ]
        for what, changed in (
            ("Better in the second", [one for one in self.changed if one.second > one.first]),
            ("Better in the first", [one for one in self.changed if one.second < one.first]),
        ):
            if changed:
                more = f", … ({len(changed)} in all: --json lists them)" if len(changed) > LISTED else ""
                lines.append(f"{what}: {', '.join(str(one.id) for one in changed[:LISTED])}{more}")
        return lines


def pair_evaluations(first: str, second: str) -> list[PairedEvaluations]:
    """Pair the finished results of `lambda-grpo eval` at two paths: single files, or directories by the tasks' names.

    Raises:
        UserError: nothing can be paired, or two results are of different problems.
    """
    found = [_finished(Path(path)) for path in (first, second)]
    if all(len(results) == 1 for results in found):
        ((one,), (other,)) = found
        return [pair_results(one, other)]
    by_task = [{result["task"]: result for result in results} for results in found]
    common = [task for task in by_task[0] if task in by_task[1]]
    if not common:
        named = " and ".join(
            f"{path} has {', '.join(tasks)}" for path, tasks in zip((first, second), by_task, strict=True)
        )
        raise UserError(f"no task in common: {named}")
    return [pair_results(by_task[0][task], by_task[1][task]) for task in common]


def pair_results(first: Mapping[str, Any], second: Mapping[str, Any]) -> PairedEvaluations:
    """Pair two finished results, as `read_results` gives them.

    Raises:
        UserError: they are of different problems, or the samples of one can't be read.
    """
    if first["data"].get("digest") != second["data"].get("digest"):
        raise UserError(
            f"{first['file']} and {second['file']} are of different problems ({_problems(first)}; {_problems(second)})"
            ": evaluate both with the same --task, --n and --data"
        )
    by_problem = read_samples(first)
    shares, other_shares = _right_shares(by_problem), _right_shares(read_samples(second))
    one_sample = first["samples"] == second["samples"] == 1
    statistics = compare_shares(shares, other_shares, one_sample=one_sample)
    changed = [
        ChangedProblem(problem, by_problem[problem][0]["id"], share, other)
        for problem, (share, other) in enumerate(zip(shares, other_shares, strict=True))
        if share != other
    ]
    same_model = first["model"] == second["model"]
    one, other = (_side(result, result["file" if same_model else "model"]) for result in (first, second))
    settings = _different_settings(first, second)
    return PairedEvaluations(
        task=first["task"],
        first=one,
        second=other,
        statistics=statistics,
        changed=changed,
        settings=settings,
        verdict=_verdict(first["task"], one, other, statistics),
        notes=_notes(statistics, settings, same_model=same_model),
    )


def _finished(path: Path) -> list[dict[str, Any]]:
    results = read_results(path)
    finished = [result for result in results if result["finished"]]
    if not finished:
        unfinished = f": {results[0]['file']} isn't finished, run its command again to resume it" if results else ""
        raise UserError(f"{path} has no finished result of lambda-grpo eval{unfinished}")
    return finished


def _right_shares(by_problem: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[float]:
    """The share of each problem's samples that are right."""
    return [sum(sample["correct"] for sample in samples) / len(samples) for samples in by_problem.values()]


def _problems(result: Mapping[str, Any]) -> str:
    return f"{result['n']} of {result['task']}, digest {str(result['data'].get('digest'))[:8]}"


def _side(result: Mapping[str, Any], name: str) -> Side:
    low, high = result["ci95"]
    return Side(
        name=name,
        file=result["file"],
        model=result["model"],
        objective=(result["trained"] or {}).get("objective"),
        samples=result["samples"],
        accuracy=result["accuracy"],
        ci95=(low, high),
        completion_length_mean=result["completion_length_mean"],
    )


def _different_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The settings in which two results differ, by name, each in words."""
    flat = [
        {
            "template": result["template"]["name"],
            "options of the template": result["template"].get("options"),
            "worked examples": (result["shots"] or {}).get("count", 0),
            "samples": result["samples"],
            "engine": result.get("engine"),
            **{name.replace("_", " "): value for name, value in result["sampling"].items()},
        }
        for result in (first, second)
    ]
    names = dict.fromkeys(name for settings in flat for name in settings)
    pairs = {name: (flat[0].get(name), flat[1].get(name)) for name in names}
    return {name: (in_words(one), in_words(other)) for name, (one, other) in pairs.items() if one != other}


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def _range(ci95: tuple[float, float]) -> str:
    return f"{points(ci95[0])} to {points(ci95[1])}"


def _verdict(task: str, first: Side, second: Side, found: PairedStatistics) -> str:
    interval = "no interval" if found.ci95 is None else f"95 % interval {_range(found.ci95)}"
    figures = (
        f"{percent(second.accuracy)} against {percent(first.accuracy)} of {found.n} problems, "
        f"{points(found.difference)} points ({interval})"
    )
    if not found.is_clear:
        return f"No clear difference in accuracy between {second.name} and {first.name} on {task}: {figures}."
    comparative = "higher" if found.difference > 0 else "lower"
    return f"The accuracy of {second.name} on {task} is {comparative} than that of {first.name}: {figures}."


def _notes(found: PairedStatistics, settings: Mapping[str, tuple[str, str]], *, same_model: bool) -> list[str]:
    notes = []
    if found.ci95 is not None and found.mcnemar_p is not None:
        excludes_zero = not found.ci95[0] <= 0 <= found.ci95[1]
        if excludes_zero != found.is_clear:
            notes.append(
                f"The interval and McNemar's exact test (p = {found.mcnemar_p:.3f}) disagree about no difference; the "
                "verdict is the test's."
            )
    if settings:
        named = "; ".join(f"{name} ({one} / {other})" for name, (one, other) in settings.items())
        notes.append(f"They also differ in other settings, which may be the cause: {named}.")
    if not same_model:
        notes.append("This compares two models on these problems, not the methods that trained them.")
    return notes
