"""The solutions that a warm-up writes: they are graded right, and say nothing that a data set's marks say."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo.grading import grade_math
from lambda_grpo.tasks.arithmetic import Arithmetic
from lambda_grpo.tasks.base import Example
from lambda_grpo.tasks.maths.solutions import write_solution
from lambda_grpo.tasks.maths.training_sets import local_training_set

ENDING = "\n#### {answer}"
GSM8K = (
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether.\n#### 72"
)
DATA = os.environ.get("LAMBDA_GRPO_DATA")


@pytest.mark.parametrize(
    ("example", "style", "ending", "written"),
    [
        (
            Example("?", "72", solution=GSM8K),
            "worked",
            ENDING,
            "Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips altogether.\n#### 72",
        ),
        (Example("?", "72", solution=GSM8K), "answer", ENDING, "#### 72"),
        (Example("?", "9 (apples)", solution="7+2=9"), "worked", ENDING, "7+2=9\n#### 9"),
        (Example("?", "9 (apples)", solution="7+2=9"), "answer", " So {answer}.", "So 9."),
        (Example("?", "43"), "worked", ENDING, "#### 43"),
        (Example("?", "4", solution="3+8=1,1+3=4#4"), "worked", "#{answer}", "3+8=1,1+3=4#4"),
        (Example("?", "(1, 2)", solution="x"), "worked", " {answer}", "x (1, 2)"),  # no unit
        (Example("?", "f(2)", solution="x"), "answer", "{answer}", "f(2)"),
        (Example("?", r"\frac{1}{2}", solution="x"), "answer", "{answer}", r"\frac{1}{2}"),
    ],
)
def test_a_solution_is_written_in_a_style(example, style, ending, written):
    assert write_solution(example, style, ending) == written


@given(answer=st.integers(-(10**6), 10**6), work=st.text(st.characters(codec="ascii", exclude_characters="#\\<>")))
def test_any_solution_is_graded_right(answer, work):
    example = Example("?", str(answer), solution=work)
    assert write_solution(example, "worked", ENDING).endswith(f"#### {answer}")


def test_those_of_a_task_are_its_own():
    task = Arithmetic(size=20)
    for i in range(20):
        assert write_solution(task[i], "worked", "#{answer}") == task[i].solution
        assert task.grade(write_solution(task[i], "answer", "#{answer}"), task[i]) == 1.0


@pytest.mark.skipif(DATA is None, reason="no folder of data sets")
@pytest.mark.parametrize("name", ["gsm8k_train", "asdiv"])
def test_real_problems_have_solutions_that_are_graded_right(name):
    task = local_training_set(str(Path(DATA) / f"{name}.jsonl"), size=400)
    examples = [task[i] for i in range(len(task))]
    for style in ("worked", "answer"):
        written = [write_solution(one, style, ENDING) for one in examples]
        assert not any("<<" in text or text.count("####") != 1 for text in written)
        if name == "gsm8k_train":
            assert all(grade.score == 1.0 for grade in grade_math(written, [one.answer for one in examples]))
        else:  # the reference has its unit
            assert all("(" not in text.rpartition("####")[2] for text, one in zip(written, examples, strict=True))
