"""Which page a directory has: that of a run, of a study, or of each evaluation."""

from __future__ import annotations

import json
from pathlib import Path

from lambda_grpo.errors import UserError
from lambda_grpo.report.evaluation_page import write_evaluation_reports
from lambda_grpo.report.run_page import render_report, write_report
from lambda_grpo.report.study_page import render_study_report, write_study_report
from lambda_grpo.runs.directory import Run, is_run
from lambda_grpo.runs.study_record import StudyRecord


def write_pages(path: Path) -> list[Path]:
    """Write the pages of what is at a path, and return the pages' paths.

    Raises:
        UserError: there is no run, study or finished result of an evaluation.
    """
    if is_study(path):
        return [write_study_report(_study_record(path), path)]
    if not is_run(path) and (path.is_file() or any(path.glob("*.samples.jsonl"))):
        return write_evaluation_reports(path)
    return [write_report(Run.open(path))]


def render_page(directory: Path) -> str | None:
    """The page of a run or a study, also while it is in progress; None where there is neither."""
    if is_study(directory):
        return render_study_report(_study_record(directory))
    return render_report(Run(directory)) if is_run(directory) else None


def is_study(directory: Path) -> bool:
    """Whether a study has written its results there."""
    return _results(directory).is_file()


def _study_record(directory: Path) -> StudyRecord:
    file = _results(directory)
    try:
        record: StudyRecord = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} can't be read ({error}): run lambda-grpo compare again") from error
    if missing := StudyRecord.__required_keys__ - record.keys():
        names = ", ".join(sorted(missing))
        raise UserError(f"{file} lacks {names}, as those of earlier versions do: run lambda-grpo compare again")
    return record


def _results(directory: Path) -> Path:
    return directory / "results.json"
