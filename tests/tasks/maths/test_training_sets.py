"""Training problems, from files in the real schemas, loaded by `datasets`."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lambda_grpo.errors import UserError
from lambda_grpo.tasks.maths.training_sets import TRAINING_SETS, hub_training_set, load_training_set, local_training_set
from tests.tasks.maths.benchmark_files import DAPO, TRAINING_DATA_SETS, dapo_row, write_data_set

# The problems of the miniature files, with their answers
FOUND = {
    "gsm8k": [
        ("Ann has 3 bags of 4 apples. How many apples?", "12"),
        ("A book costs $1,500 and a pen $5. What do both cost?", "1,505"),
    ],
    "math": [("What is $2^3$?", "8"), ("What is half of $9$?", r"\frac{9}{2}")],
    "dapo_math_17k": [("Find $3 + 4$.", "7"), ("Solve $x + 1 = 3$ for $x$.", "2")],
}


def problems(task):
    return [(task[i].prompt, task[i].answer) for i in range(len(task))]


@pytest.mark.filterwarnings("ignore:math. some rows have no answer")
@pytest.mark.parametrize("name", TRAINING_SETS)
def test_each_problem_counts_once(name, hub):
    write_data_set(hub, TRAINING_SETS[name].data, 100, data_sets=TRAINING_DATA_SETS)
    task = load_training_set(name)
    assert problems(task) == FOUND[name]
    # of DAPO's four, one with two different answers is left out
    contradictory = 1 if name == "dapo_math_17k" else 0
    assert task.source["rows"] == 100
    assert task.source["duplicates"] == 98 - contradictory
    assert task.source["contradictory"] == contradictory
    assert task.source["incomplete"] == 0
    assert task.grade(rf"It is $\boxed{{{FOUND[name][0][1]}}}$.", task[0]) == 1.0


def test_a_missing_answer_is_taken_from_the_box_in_the_solution(hub):
    from lambda_grpo.errors import warn_once

    warn_once.cache_clear()
    write_data_set(hub, "rasbt/math_full_minus_math500", 2, data_sets=TRAINING_DATA_SETS)
    with pytest.warns(UserWarning, match="math: some rows have no answer in the column: it is taken from the box"):
        assert load_training_set("math")[1].answer == r"\frac{9}{2}"


def test_solutions_are_kept_for_error_correction(hub):
    write_data_set(hub, "openai/gsm8k", 2, data_sets=TRAINING_DATA_SETS)
    assert load_training_set("gsm8k")[0].solution == "There are 3*4=<<3*4=12>>12.\n#### 12"


def test_a_problem_without_dapos_instructions_is_unchanged_with_a_warning(hub):
    rows = [*DAPO[:1], {**dapo_row("", "5", "e"), "prompt": [{"content": "Find $2 + 3$.", "role": "user"}]}]
    write_data_set(hub, "BytedTsinghua-SIA/DAPO-Math-17k", 2, rows=rows, data_sets=TRAINING_DATA_SETS)
    with pytest.warns(UserWarning, match="not all problems are wrapped in template 'dapo'"):
        assert problems(load_training_set("dapo_math_17k")) == [("Find $3 + 4$.", "7"), ("Find $2 + 3$.", "5")]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_a_users_own_file_by_its_columns(kind, tmp_path):
    rows = [{"q": {"text": f"What is {i} + 1?"}, "gold": {"value": i + 1}, "other": None} for i in range(5)]
    path = tmp_path / f"sums.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = local_training_set(str(path), question="q.text", answer="gold.value", size=3)
    assert (task.name, problems(task)) == ("sums", [(f"What is {i} + 1?", str(i + 1)) for i in range(3)])


def test_the_last_user_turn_of_messages_is_the_problem(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"prompt": turns, "answer": 4}) + "\n")
    assert problems(local_training_set(str(path))) == [("What is 2 + 2?", "4")]


def test_any_data_set_by_its_columns(hub):
    (hub / "mine" / "sums").mkdir(parents=True)
    (hub / "mine" / "sums" / "train.jsonl").write_text('{"q": "What is 1 + 1?", "a": "2", "note": {"x": 1}}\n' * 3)
    task = hub_training_set("sums", "mine/sums", None, "train", question="q", answer="a")
    assert problems(task) == [("What is 1 + 1?", "2")]
    assert task.source["data"] == "mine/sums"


def test_incomplete_rows_are_left_out_with_a_warning(tmp_path):
    rows = [{"question": None, "answer": 1}, {"question": "A?", "answer": 2}, {"question": "A?", "answer": None}]
    path = tmp_path / "some.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"question": None, "answer": 5}]))
    with pytest.warns(UserWarning, match="some: 3 of 4 rows have no question or no answer, and are left out"):
        task = local_training_set(str(path))
    assert problems(task) == [("A?", "2")]
    assert {key: task.source[key] for key in ("rows", "incomplete", "duplicates", "contradictory")} == {
        "rows": 4, "incomplete": 3, "duplicates": 0, "contradictory": 0,
    }  # fmt: skip


def test_answers_that_the_grader_finds_equivalent_are_not_contradictory(tmp_path):
    answers = {"A?": ["1/2", "0.5", r"\frac{1}{2}"], "B?": ["7", "7.0"], "C?": ["1,000", "1000"], "D?": ["2", "3", "2"]}
    path = tmp_path / "some.jsonl"
    rows = [{"question": question, "answer": answer} for question, given in answers.items() for answer in given]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = local_training_set(str(path))
    assert problems(task) == [("A?", "1/2"), ("B?", "7"), ("C?", "1,000")]
    assert (task.source["duplicates"], task.source["contradictory"]) == (6, 1)


def test_a_byte_order_mark_is_ignored(tmp_path):
    path = tmp_path / "bom.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"question": "A?", "answer": 1}\r\n')
    assert problems(local_training_set(str(path))) == [("A?", "1")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "Q?", "answer": ""}], "no row has both a question and an answer in columns question and answer"),
        ([{"question": ["Q?"], "answer": "1"}], "no row has both a question and an answer"),
        ([{"question": "Q?", "answer": "", "solution": "We find 1."}], "no row has both a question and an answer"),
        (
            [{"question": "Q?", "answer": {"value": 1}}],
            r"must be text, a number .*, got {'value': 1}: name another column",
        ),
        ([{"question": "\ud800", "answer": "1"}], "half of a surrogate pair"),
        ([{"question": "Q?", "answer": str(i)} for i in range(2)], "has no problem with a unique answer"),
        ([{"frage": "Q?", "answer": "1"}], "has no column question or problem .* by --question_column, it has frage"),
    ],
    ids=str,
)
def test_unusable_files_are_refused_in_one_line(rows, message, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=message):
        local_training_set(str(path))
