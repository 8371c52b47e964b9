"""The grader on published files: each reference as its own answer, and completions with their authors' verdicts."""

import json
import os
from pathlib import Path

import pytest

from lambda_grpo.grading import grade_math
from lambda_grpo.grading.extraction import reference_answer

DATA = os.environ.get("LAMBDA_GRPO_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="LAMBDA_GRPO_DATA names no folder of published files")

# The column that holds the reference
BENCHMARKS = {
    "gsm8k_test": "answer", "math500": "answer", "minerva_math": "solution", "gaokao2023en": "answer",
    "olympiadbench": "final_answer", "college_math": "answer", "aime24": "answer", "amc23": "answer",
}  # fmt: skip


def rows(name):
    text = (Path(DATA) / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("form", [r"Thus we get $\boxed{{{}}}$.", "The answer is {}."])
def test_every_reference_is_a_right_answer_to_itself(name, form):
    given = [row[BENCHMARKS[name]] for row in rows(name)]
    answers = [", ".join(one) if isinstance(one, list) else str(one) for one in given]
    answers = [one for one in answers if reference_answer(one)]
    expected = [reference_answer(one) if name in ("gsm8k_test", "minerva_math") else one for one in answers]
    completions = [form.format(one) for one in expected]
    grades = grade_math(completions, answers, batch_seconds=600)
    assert [answer for answer, grade in zip(answers, grades, strict=True) if not grade.correct] == []


def test_real_completions_of_math_have_their_authors_verdicts():
    """One of them is wrong: 10{,}000 is 10000."""
    cases = rows("math_completions")
    grades = grade_math([row["completion"] for row in cases], [row["answer"] for row in cases], batch_seconds=600)
    differing = [row["answer"] for row, grade in zip(cases, grades, strict=True) if grade.correct != row["verdict"]]
    assert differing == ["10{,}000"]


@pytest.mark.parametrize("model", ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"])
def test_real_completions_of_gsm8k_have_their_authors_verdicts(model):
    cases = rows("gsm8k_example_model_solutions")
    completions = [row[model]["solution"] for row in cases]
    grades = grade_math(completions, [row["ground_truth"] for row in cases], batch_seconds=600)
    expected = [row[model]["is_correct"] for row in cases]
    differing = [
        text for text, grade, right in zip(completions, grades, expected, strict=True) if grade.correct != right
    ]
    assert differing == []
