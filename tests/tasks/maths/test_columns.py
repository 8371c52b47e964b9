"""The columns of published files: small files with the same columns, and the real ones if they are available."""

import json
import os
import warnings
from collections import Counter
from pathlib import Path

import pytest

from lambda_grpo.errors import UserError, warn_once
from lambda_grpo.tasks.maths.benchmarks import BENCHMARKS, load_benchmark
from lambda_grpo.tasks.maths.problems import local_problems, worked_examples
from lambda_grpo.tasks.maths.training_sets import local_training_set
from lambda_grpo.training.data import task_dataset

DATA = os.environ.get("LAMBDA_GRPO_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="LAMBDA_GRPO_DATA names no folder of published files")


@pytest.fixture(autouse=True)
def _warnings_again():
    warn_once.cache_clear()


def write(folder, rows, name="some"):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


SHAPES = {
    "MATH: an answer beside its solution": (
        {"problem": "Find $1+1$.", "solution": r"So \boxed{3}.", "answer": "2"}, "Find $1+1$.", "2",
    ),
    "Minerva: the answer in the solution's box": (
        {"problem": "How wide?", "solution": r"\[ s=\boxed{1.6} \mathrm{~cm} \]", "type": "x", "idx": 4},
        "How wide?", "1.6",
    ),
    "OlympiadBench: a list, beside a list of solutions": (
        {"context": None, "question": "Find $x$.", "solution": [r"\boxed{9}"], "final_answer": ["$2$", "$-2$"]},
        "Find $x$.", "2, -2",
    ),
    "OlympiadBench: a question that needs its context": (
        {"context": "Let $a=2$.", "question": "Find $a+1$.", "final_answer": ["3"]}, "Let $a=2$. Find $a+1$.", "3",
    ),
    "AMC: a float that is whole": ({"problem": "A?", "answer": 27.0, "question": "A?"}, "A?", "27"),
    "a float that isn't": ({"question": "A?", "answer": 0.25}, "A?", "0.25"),
    "a list with an empty answer": ({"question": "A?", "answer": ["", 2.0]}, "A?", "2"),
    "GSM8K": ({"question": "A?", "answer": "It is 4.\n#### 4"}, "A?", "4"),
    "SVAMP: a body without its full stop": (
        {"Answer": 145.0, "Question": "How big is each?", "Body": "There are 290 in 2 groups", "ID": "chal-777"},
        "There are 290 in 2 groups. How big is each?", "145",
    ),
    "ASDiv": (
        {"body": "Ann has nine apples.", "question": "How many?", "answer": "9 (apples)", "formula": "9=9"},
        "Ann has nine apples. How many?", "9 (apples)",
    ),
    "MAWPS": ({"input": "How many ?", "target": 43.0}, "How many ?", "43"),
    "an empty column of answers beside a filled one": (
        {"question": "A?", "answer": "", "final_answer": "7"}, "A?", "7",
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_is_read_for_evaluation_and_for_training(shape, tmp_path):
    row, question, answer = SHAPES[shape]
    path = write(tmp_path, [row])
    for task in (local_problems(path), local_training_set(path)):
        assert [(task[i].prompt, task[i].answer) for i in range(len(task))] == [(question, answer)]


def test_columns_are_looked_for_in_all_rows(tmp_path):
    """The first row may lack a column that others have."""
    rows = [{"question": "A?", "answer": None, "id": None}, {"question": "B?", "final_answer": "2", "context": "C."}]
    with pytest.warns(UserWarning, match="1 of 2 problems have no reference answer"):
        task = local_problems(write(tmp_path, rows))
    assert [(task[i].prompt, task[i].answer, task[i].metadata["id"]) for i in (0, 1)] == [
        ("A?", None, 0), ("C. B?", "2", 1),
    ]  # fmt: skip


def test_given_columns_are_used(tmp_path):
    row = {"Body": "Two cats", "Question": "How many?", "story": {"text": "Three dogs!"}, "n": "3", "answer": "2"}
    path = write(tmp_path, [row])
    assert local_problems(path, question="Question")[0].prompt == "How many?"
    task = local_problems(path, question="story.text+Question", answer="n")
    assert (task[0].prompt, task[0].answer) == ("Three dogs! How many?", "3")
    task = local_training_set(path, question="story.text+Question", answer="n")
    assert (task[0].prompt, task[0].answer) == ("Three dogs! How many?", "3")
    for wrong in ("tale", "tale+Question", "Body+tale"):
        with pytest.raises(UserError, match="has no column tale: name the one with the questions"):
            local_problems(path, question=wrong)


def test_an_input_column_without_a_target_is_not_a_question(tmp_path):
    """Beside an instruction, `input` is the instruction's argument."""
    path = write(tmp_path, [{"instruction": "Add them.", "input": "1 and 2", "answer": "3"}])
    with pytest.raises(UserError, match="no column question or problem"):
        local_problems(path)
    rows = [{"problem": "A?", "input": "1 and 2", "target": "x", "answer": "3"}]  # known columns come first
    assert local_problems(write(tmp_path, rows))[0].prompt == "A?"


def test_a_benchmarks_columns_can_be_given(tmp_path):
    path = write(tmp_path, [{"task": "A?", "gold": "2", "answer": "3"}] * 40)
    task = load_benchmark("amc23", data=path, question="task", answer="gold")
    assert (task[0].prompt, task[0].answer, task.source["whole"]) == ("A?", "2", True)


def test_solutions_without_any_box_are_no_answers(tmp_path):
    path = write(tmp_path, [{"problem": "A?", "solution": "It is 5."}])
    with pytest.raises(UserError, match=r"no column answer .*--answer_column, it has problem, solution"):
        local_problems(path)


UNKNOWN = [
    {"question": "A?", "answer": "1"},
    {"question": "B?", "answer": ""},
    {"question": "C?", "answer": None},
    {"question": "D?", "answer": "4"},
]


def test_a_problem_without_a_reference_counts_as_wrong(tmp_path):
    with warnings.catch_warnings(record=True) as caught_warnings:
        warnings.simplefilter("always")
        task = local_problems(write(tmp_path, UNKNOWN))
    assert [str(warning.message) for warning in caught_warnings] == [
        "some: 2 of 4 problems have no reference answer (counted from 0: 1, 2). They count as wrong"
    ]
    assert (len(task), task.source["without_answer"]) == (4, 2)
    completions = [r"\boxed{1}", r"\boxed{}", r"\boxed{None}", r"\boxed{4}"]
    grades = task.grade_all(completions, [task[i] for i in range(4)])
    assert [grade.correct for grade in grades] == [True, False, False, True]
    assert task.grade_all([r"\boxed{7}"], [task[1]])[0].extracted == "7"  # it has an answer, which nobody can judge
    assert task_dataset(task, "test")["index"] == [0, 3]  # TRL's own evaluation is of those that can be judged


def test_problems_without_an_answer_are_not_trained_on(tmp_path):
    with pytest.warns(UserWarning, match="some: 2 of 4 rows have no question or no answer, and are left out"):
        task = local_training_set(write(tmp_path, UNKNOWN))
    assert [task[i].answer for i in range(len(task))] == ["1", "4"]
    assert task.source["incomplete"] == 2


def test_worked_examples_have_complete_questions():
    rows = [{"Body": "There are 4 in 2 groups", "Question": "How big is each?", "solution": "4/2 = 2"}]
    assert worked_examples("some", rows, 1) == [("There are 4 in 2 groups. How big is each?", "4/2 = 2")]


# file of each benchmark, and of some rows the beginning of the question, its end, and the answer
FILES = {
    "gsm8k": ("gsm8k_test", {0: ("Janet’s ducks lay 16 eggs", "at the farmers' market?", "18")}),
    "math500": ("math500", {0: ("Convert the point", r"2 \pi.$", r"\left( 3, \frac{\pi}{2} \right)")}),
    "minerva": ("minerva_math", {0: ("Each of the two Magellan", r"$45^{\prime \prime}$.", "1.6")}),
    "gaokao2023en": ("gaokao2023en", {2: ("Vectors", "", "-1"), 167: ("An entry in a grid", "", None)}),
    "olympiadbench": (
        "olympiadbench",
        {0: ("Xenia and Sergey", "the number Xenia thought of?", "2"), 1: ("Given a positive", "", r"\frac{1}{2 n+2}")},
    ),
    "college_math": ("college_math", {0: ("Simplify: $-10", "-5)$", "10-4 n"), 1: ("Solve", "", "(45,2),(-10,-9)")}),
    "aime24": ("aime24", {0: ("Every morning Aya", "in the coffee shop.", "204")}),
    "amc23": ("amc23", {0: ("Cities $A$ and $B$", "when they meet?", "27")}),
}


@needs_data
@pytest.mark.parametrize("name", FILES)
def test_a_published_benchmark_is_complete(name):
    file, rows = FILES[name]
    with warnings.catch_warnings(record=True) as caught_warnings:
        warnings.simplefilter("always")
        task = load_benchmark(name, data=str(Path(DATA, f"{file}.jsonl")))
    expected = [167, 192] if name == "gaokao2023en" else []
    assert [i for i in range(len(task)) if task[i].answer is None] == expected
    assert len(caught_warnings) == (name == "gaokao2023en")
    assert len(task) == BENCHMARKS[name].rows[0]
    assert task.source["whole"]
    for number, (beginning, end, answer) in rows.items():
        question = task[number].prompt.strip()
        assert question.startswith(beginning)
        assert question.endswith(end)
        assert task[number].answer == answer


WORD_PROBLEMS = {
    "mawps_addsub": (395, "Joan found 70 seashells", "43"),
    "mawps_multiarith": (600, "For Halloween Debby and her sister", "39"),
    "mawps_singleeq": (508, "Joan found 70 seashells", "43"),
    "mawps_singleop": (562, "If there are 7 bottle caps", "14"),
    "svamp": (1000, "There are 87 oranges and 290 bananas", "145"),
    "asdiv": (2215, "Seven red apples", "9 (apples)"),
    "gsm8k_train": (7473, "Natalia sold clips to 48", "72"),
}


@needs_data
@pytest.mark.parametrize("file", WORD_PROBLEMS)
def test_published_word_problems_are_a_task(file):
    rows, beginning, answer = WORD_PROBLEMS[file]
    path = str(Path(DATA, f"{file}.jsonl"))
    task, training = local_problems(path), local_training_set(path, size=100)
    assert len(task) == rows == training.source["rows"]
    for one in (task, training):
        assert one[0].prompt.startswith(beginning)
        assert one[0].answer == answer
    # without their stories many questions would be the same
    texts = Counter(task[i].prompt for i in range(len(task)))
    assert texts.most_common(1)[0][1] <= 5
