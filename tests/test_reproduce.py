"""The path of docs/reproduce.md without a GPU: each arm from the data set to the table, on a tiny model."""

import json
from pathlib import Path

import pytest

from lambda_grpo.cli import main
from lambda_grpo.evaluation.run import BENCHMARKS
from lambda_grpo.models import resolve_model
from lambda_grpo.runs.directory import Run
from tests.evaluation.tiny_models import write_jsonl
from tests.maths_policy import SUMS, save_maths_policy
from tests.tasks.maths.benchmark_files import TRAINING_DATA_SETS, write_data_set
from tests.training.test_recipes import ARMS

RECIPES = Path(__file__).parents[1] / "recipes"
# One of them stands in MATH-500, too, and one shares its words with an AIME problem.
LONG = "Ann, Ben and Cem share 12 apples so that each of them gets the same number of apples. How many"
MATH = [
    *({"problem": question, "answer": answer, "level": "Level 1", "solution": ""} for question, answer in SUMS),
    {"problem": LONG + " does Ann get?", "answer": "4", "level": "Level 1", "solution": ""},
]
MATH500 = [{"problem": question.replace("What is", "Find"), "answer": answer} for question, answer in SUMS[1:]]
TINY = [
    "--use_vllm", "false", "--use_cpu", "--bf16", "false", "--gradient_checkpointing", "false", "--max_steps", "2",
    "--max_completion_length", "24", "--per_device_train_batch_size", "64", "--gradient_accumulation_steps", "1",
    "--learning_rate", "3e-3", "--save_steps", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_maths_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def data_sets(hub):
    """All that the recipes load from the hub, with as many rows as there."""
    write_data_set(hub, "rasbt/math_full_minus_math500", len(MATH), rows=MATH, data_sets=TRAINING_DATA_SETS)
    for name, benchmark in BENCHMARKS.items():
        rows = None
        if name == "math500":
            rows = [{"problem": SUMS[0][0], "answer": SUMS[0][1]}, *MATH500]
        elif name == "aime24":
            rows = [{"problem": LONG + " are left over?", "answer": "0"}]
        write_data_set(hub, benchmark.data[0], benchmark.rows[0], rows=rows)
    return hub


@pytest.mark.usefixtures("data_sets")
def test_each_arm_from_the_data_to_the_table(policy, capsys):
    for arm in ARMS:
        recipes = [f"{RECIPES}/models/qwen2.5-1.5b.yaml", f"{RECIPES}/hardware/one_gpu.yaml", f"{RECIPES}/{arm}.yaml"]
        command = ["train", *recipes, "--model_name_or_path", policy, "--output_dir", f"runs/{arm}", *TINY]
        assert main(command) == 0
        shown = capsys.readouterr()
        assert "math500: 1 the same, 0 more share 13 words in a row" in shown.err
        assert "aime24: 0 the same, 1 more share 13 words in a row" in shown.err
        run = Run.open(f"runs/{arm}")
        _check_run(run, arm)
        evaluate = ["eval", "--model", f"runs/{arm}", "--task", "math500", "--n", "60", "--temperature", "1"]
        assert main([*evaluate, "--samples", "2", "--max_completion_length", "24"]) == 0
        result = json.loads((run.path / "eval/math500.json").read_text())
        assert result["template"]["name"] == "question_answer"  # the one that was trained with
        assert result["trained"]["step"] == 2
        for folder in (run.path, Path(resolve_model(f"runs/{arm}"))):
            card = (folder / "README.md").read_text()
            assert f"| math500 | step 2 | 60 | {100 * result['accuracy']:.1f} % |" in card
            assert "type: HuggingFaceH4/MATH-500" in card  # as the hub reads it
    capsys.readouterr()
    assert main(["report", "--table", *(f"runs/{arm}" for arm in ARMS)]) == 0
    header, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert "math500 (part of it, n = 60)" in header
    assert [row.split("|")[2].strip() for row in rows] == ARMS
    assert all("–" in row.split("|")[-2] for row in rows)  # an interval each


def _check_run(run, arm):
    data = run.config()["data"]
    assert (data["name"], data["problems"], data["source"]["rows"]) == ("math", len(MATH), len(MATH))
    assert [(found["task"], found["exact"], found["shared"]) for found in data["overlaps"]] == [
        (name, int(name == "math500"), int(name == "aime24")) for name in BENCHMARKS
    ]
    pairs = {found["task"]: found["pairs"] for found in json.loads((run.path / "overlap.json").read_text())["overlaps"]}
    assert pairs["math500"][0]["training_problem"] == SUMS[0][0]
    metrics, samples = run.metrics(), run.completions()
    assert [row["step"] for row in metrics] == [1, 2]
    assert len(set(samples["reward"].to_pylist())) > 1  # something to learn from
    assert all(prompt.startswith("Question:\n") for prompt in samples["prompt"].to_pylist())
    if arm == "lambda_grpo":
        assert metrics[0]["lambda"] == 0.0 != metrics[1]["lambda"]
    else:
        assert metrics[0]["lambda"] is None
    assert [path.name for path in run.checkpoints()] == ["checkpoint-1", "checkpoint-2"]
    card = (run.path / "checkpoint-2" / "README.md").read_text()
    assert f"| objective | {arm} |" in card
    assert "| in test sets | " in card
    assert ("**λ = " in card) == (arm == "lambda_grpo")


def test_the_path_learns(policy, tmp_path, capsys):
    """25 steps on the sums, as the recipes put them: of right answers to a third of them, twice as many."""
    sums = write_jsonl(tmp_path / "sums.jsonl", [{"problem": question, "answer": answer} for question, answer in SUMS])
    recipes = [f"{RECIPES}/models/qwen2.5-1.5b.yaml", f"{RECIPES}/hardware/one_gpu.yaml", f"{RECIPES}/lambda_grpo.yaml"]
    options = ["--model_name_or_path", policy, "--task", str(sums), "--check_overlap", "none", *TINY]
    more = ["--max_steps", "25", "--per_device_train_batch_size", "120", "--save_steps", "25"]
    run = tmp_path / "run"
    assert main(["train", *recipes, *options, *more, "--learning_rate", "2e-3", "--output_dir", str(run)]) == 0
    capsys.readouterr()
    accuracy = []
    for model, template in ((policy, ["--template", "question_answer"]), (str(run), [])):
        evaluate = ["eval", "--model", model, "--task", str(sums), "--samples", "16", "--temperature", "1", *template]
        assert (
            main([*evaluate, "--max_completion_length", "24", "--output_dir", str(tmp_path / model[-3:]), "--json"])
            == 0
        )
        accuracy.append(json.loads(capsys.readouterr().out)["accuracy"])
    assert accuracy[0] < 0.5
    assert accuracy[1] > accuracy[0] + 0.2


@pytest.mark.usefixtures("data_sets")
def test_overlap_is_removed_where_that_is_asked_for(policy, capsys):
    files = [f"{RECIPES}/models/qwen2.5-1.5b-instruct.yaml", f"{RECIPES}/hardware/one_gpu.yaml"]
    options = ["--remove_overlap", "--model_name_or_path", policy, "--output_dir", "runs/removed", *TINY]
    assert main(["train", *files, "--objective", "lambda_grpo", *options]) == 0
    assert "Training problems that are in test sets (removed)" in capsys.readouterr().err
    run = Run.open("runs/removed")
    assert run.config()["data"]["problems"] == len(MATH) - 2
    prompts = set(run.completions()["prompt"].to_pylist())
    assert not any(SUMS[0][0] in prompt or "Ann" in prompt for prompt in prompts)
    # a chat: the system's turn and the user's, by the model's own template
    assert all(json.loads(prompt)[0]["role"] == "system" for prompt in prompts)
