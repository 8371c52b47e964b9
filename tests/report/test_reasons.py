"""Why a sample is right or wrong: sentences about real verdicts of the grader, and about any record at all."""

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo.cli import main
from lambda_grpo.grading import grade_math
from lambda_grpo.report.reasons import verdict_reason

TABLE = [
    (r"So \boxed{5}.", "5", True, "The answer 5 is the reference."),
    (r"So \boxed{ x + 1 }.", "$x+1$", True, "The answer x + 1 is the reference."),
    (r"\boxed{1,234.50}", "1234.5", True, "The answer 1,234.50 is the same number as the reference 1234.5."),
    (r"\boxed{\frac{2}{4}}", "0.5", True, r"The answer \frac{2}{4} is the same number as the reference 0.5."),
    (r"\boxed{1+x}", "x+1", True, "The grader found the answer 1+x equivalent to the reference x+1."),
    (r"\boxed{7}", "5", False, "The answer read is 7, the reference 5."),
    ("I don't know.", "5", False, "No answer was found that could be compared with the reference."),
    (r"\boxed{7}", "", False, "The answer read is 7, but there is no reference answer."),
]


def record(grade, answer, *, ended=True):
    return {
        "extracted": grade.extracted, "answer": answer, "score": grade.score, "correct": grade.correct,
        "timed_out": grade.timed_out, "ended": ended,
    }  # fmt: skip


def test_verdicts_of_the_grader():
    completions, answers, verdicts, reasons = zip(*TABLE, strict=True)
    grades = grade_math(completions, answers, allow_empty=True)
    assert tuple(grade.correct for grade in grades) == verdicts
    found = [
        verdict_reason(record(grade, answer), extracts=True) for grade, answer in zip(grades, answers, strict=True)
    ]
    assert tuple(found) == reasons
    cut = verdict_reason(record(grades[-2], "5", ended=False), extracts=True)
    assert cut == f"{TABLE[-2][3]} The completion was cut off at the token limit."


def test_a_timeout_is_said_before_all_else():
    (grade,) = grade_math([r"\boxed{\sum_{k=1}^{10^9} \sin(k!)}"], ["3"], seconds=0.02)
    assert grade.timed_out
    assert verdict_reason(record(grade, "3"), extracts=True).startswith("Grading it took more time or memory")


def test_a_task_that_extracts_nothing():
    sample = {
        "extracted": None, "answer": "x", "score": 0.25, "correct": False, "timed_out": False, "ended": True,
    }  # fmt: skip
    found = verdict_reason(sample, extracts=False)
    assert found == "The task's grader gave 0.25; it doesn't say which answer it read."
    partly = verdict_reason({**sample, "extracted": "y"}, extracts=True)
    assert partly == "The answer read is y, the reference x; the score is 0.25."


@pytest.mark.parametrize("answer", ["9" * 1_000_000, "1e999999999", "1/0", "1," * 100_000, "\\frac{" * 10_000])
def test_hostile_answers_are_quick(answer):
    sample = {"extracted": answer, "answer": "9", "score": 1.0, "correct": True, "timed_out": False, "ended": True}
    started = time.monotonic()
    assert len(verdict_reason(sample, extracts=True)) < 200
    assert time.monotonic() - started < 1


@given(
    st.fixed_dictionaries(
        {
            "extracted": st.none() | st.text() | st.from_regex(r"-?[0-9.,/]{1,9}", fullmatch=True),
            "answer": st.none() | st.text() | st.from_regex(r"-?[0-9.,/]{1,9}", fullmatch=True),
            "score": st.sampled_from([0.0, 0.3, 1.0]), "timed_out": st.booleans(), "ended": st.booleans(),
        }
    ),
    st.booleans(),
)  # fmt: skip
def test_every_record_has_a_reason_on_one_line(sample, extracts):
    found = verdict_reason({**sample, "correct": sample["score"] == 1}, extracts=extracts)
    assert found == " ".join(found.split())
    assert found.endswith(".")
    assert ("cut off at the token limit" in found) >= (not sample["ended"])


def test_the_samples_of_a_real_evaluation(tmp_path):
    assert main(["eval", "--model", "builtin", "--task", "arithmetic", "--n", "16", "--output_dir", str(tmp_path)]) == 0
    samples = [json.loads(line) for line in (tmp_path / "arithmetic.samples.jsonl").read_text().splitlines()]
    for sample in samples:
        found = verdict_reason(sample, extracts=True)
        right = f"The answer {sample['answer']} is the reference."
        assert (found == right) == sample["correct"]
        assert sample["correct"] or re.match(r"The answer read is \d, the reference \d\.|No answer was found", found)
