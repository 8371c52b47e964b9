"""Each benchmark, from files in its real schema, loaded by `datasets`."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lambda_grpo.errors import UserError
from lambda_grpo.grading import GradingError
from lambda_grpo.grading import grade as graders
from lambda_grpo.grading.pool import Pool
from lambda_grpo.tasks import load_task
from lambda_grpo.tasks.maths.benchmarks import BENCHMARKS, load_benchmark, load_shots
from lambda_grpo.tasks.maths.problems import local_problems
from tests.tasks.maths.benchmark_files import DATA_SETS, GSM8K, write_data_set

FIRST = {
    "gsm8k": ("12", r"So there are \boxed{12} apples."),
    "math500": (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3, \pi/2)}"),
    "minerva": ("6e8", r"\boxed{6 \times 10^8 \text{ m}}"),
    "gaokao2023en": ("B", r"The answer is \boxed{(B)}"),
    "olympiadbench": ("2, -2", r"\boxed{-2, 2}"),
    "college_math": (r"-3 \sqrt{2}", r"\boxed{-3\sqrt{2}}"),
    "aime24": ("001", r"\boxed{1}"),
    "amc23": ("27.0", r"\boxed{27}"),
}
FACTS = {  # rows, as the field counts them
    "gsm8k": 1319, "math500": 500, "minerva": 272, "gaokao2023en": 385, "olympiadbench": 675, "college_math": 2818,
    "aime24": 30, "amc23": 40,
}  # fmt: skip


def test_there_are_eight_with_known_sizes():
    assert {name: benchmark.rows[0] for name, benchmark in BENCHMARKS.items()} == FACTS
    assert {data for benchmark in BENCHMARKS.values() for data in benchmark.data} == set(DATA_SETS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_is_loaded_and_graded(name, hub):
    benchmark = BENCHMARKS[name]
    write_data_set(hub, benchmark.data[0], benchmark.rows[0])
    task = load_benchmark(name)
    assert (task.name, len(task)) == (name, benchmark.rows[0])
    answer, right = FIRST[name]
    assert task[0].answer == answer
    assert [grade.correct for grade in task.grade_all([right, r"\boxed{77}"], [task[0]] * 2)] == [True, False]
    assert task.source["whole"] is True
    assert task.source["data"] == benchmark.data[0]
    assert len(load_benchmark(name, size=7)) == 7


@pytest.mark.parametrize(("name", "data", "answer"), [("olympiadbench", 1, "2"), ("aime24", 1, "204")])
def test_the_other_data_sets_of_a_benchmark(name, data, answer, hub):
    write_data_set(hub, BENCHMARKS[name].data[data], BENCHMARKS[name].rows[-1])
    task = load_benchmark(name, data=BENCHMARKS[name].data[data])
    assert task[0].answer == answer
    assert task[0].metadata["id"] in (1606, "2024-I-1")


def test_another_number_of_rows_is_another_benchmark(hub):
    write_data_set(hub, "math-ai/amc23", 41)
    with pytest.raises(UserError, match=r"math-ai/amc23 has 41 rows, AMC 2023 has 40: this is another version of the"):
        load_benchmark("amc23")


def test_a_missing_or_a_different_data_set_is_refused(hub):
    with pytest.raises(UserError, match="can't load openai/gsm8k"):
        load_benchmark("gsm8k")
    with pytest.raises(UserError, match="MATH-500 is HuggingFaceH4/MATH-500 or a local file, not 'someone/math'"):
        load_benchmark("math500", data="someone/math")
    with pytest.raises(UserError, match=r"no file nowhere\.jsonl"):
        load_benchmark("math500", data="nowhere.jsonl")


def test_a_local_file_with_a_part_of_the_rows_is_accepted_with_a_warning(hub):
    (hub / "part.jsonl").write_text(json.dumps(DATA_SETS["openai/gsm8k"][3][0]) + "\n")
    with pytest.warns(UserWarning, match=r"part\.jsonl has 1 rows, GSM8K has 1319: this is a part of"):
        task = load_benchmark("gsm8k", data="part.jsonl")
    assert task.source == {"data": "part.jsonl", "rows": 1, "whole": False}


ROWS = [
    {"my_question": "What is 1+1?", "my_answer": 2, "id": "a"},
    {"my_question": "And 2+2?", "my_answer": 4, "id": "b"},
]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_a_users_own_file(kind, tmp_path):
    path = tmp_path / f"mine.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) if kind == "jsonl" else json.dumps(ROWS))
    task = local_problems(str(path), size=None, question="my_question", answer="my_answer")
    assert [(task[i].prompt, task[i].answer, task[i].metadata["id"]) for i in range(2)] == [
        ("What is 1+1?", "2", "a"), ("And 2+2?", "4", "b"),
    ]  # fmt: skip
    assert task.name == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "bad.jsonl holds no problems"),
        ("{not json\n", "can't read .*bad.jsonl"),
        ("[1, 2]", "bad.jsonl holds no problems: need a mapping with question and answer for each"),
        (json.dumps({"text": "?", "answer": "1"}), "no column question or problem.*name the one with the questions by"),
        (json.dumps({"question": "?", "label": "1"}), "no column answer .*--answer_column, it has question, label"),
        (json.dumps({"question": "?", "answer": ""}), "bad, row 0: need a question and an answer, got '\\?' and ''"),
        (json.dumps({"question": "?", "answer": None}), "got '\\?' and None"),
        (json.dumps({"question": "?", "answer": []}), r"got '\?' and \[\]"),
    ],
)
def test_bad_files_are_one_line(content, message, tmp_path):
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        local_problems(str(tmp_path / "bad.jsonl"), size=None, question=None, answer=None)
    assert "\n" not in str(caught.value)


def test_a_benchmark_is_not_for_training():
    with pytest.raises(UserError, match="task 'gsm8k' is a benchmark, for lambda-grpo eval"):
        load_task("gsm8k", size=8)


def test_worked_examples_are_from_the_training_split(hub):
    write_data_set(hub, "openai/gsm8k", 3, split="train")
    assert load_shots("gsm8k", 1) == [(GSM8K[0]["question"], GSM8K[0]["answer"])]
    with pytest.raises(UserError, match="--shots 4 needs as many worked examples, openai/gsm8k has 3"):
        load_shots("gsm8k", 4)
    with pytest.raises(UserError, match="math500 has no training split"):
        load_shots("math500", 4)


def test_a_failing_grader_names_the_problems(hub, monkeypatch):
    write_data_set(hub, "HuggingFaceH4/MATH-500", 500)
    task = load_benchmark("math500")
    monkeypatch.setattr(graders, "_pool", lambda: Pool("tests.grading.grader_calls", "fail_on_seven", workers=2))
    with pytest.raises(GradingError, match="the grader failed on completion 1") as caught:
        task.grade_all([r"\boxed{5}", r"\boxed{7}"], [task[0], task[1]])
    assert caught.value.__notes__ == ["This is problem test/algebra/2.json of task 'math500'."]
