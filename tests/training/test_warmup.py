"""`lambda-grpo warmup`, on the built-in policies."""

import json

import pytest
from transformers import AutoTokenizer

from lambda_grpo.cli import main
from lambda_grpo.evaluation import Sampling, evaluate
from lambda_grpo.models import BUILTIN, BUILTIN_LLAMA, load_model, resolve_model
from lambda_grpo.tasks import load_task
from lambda_grpo.training.warmup import RECORD, WarmupConfig, solved_problems

FAST = ["--max_steps", "3", "--per_device_train_batch_size", "4", "--learning_rate", "1e-3"]
ROWS = [{"question": f"What is {a}+1?", "solution": f"{a}+1={a + 1}", "answer": str(a + 1)} for a in range(12)]


@pytest.fixture
def problems(tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    return file


def solved(problems, **settings):
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(BUILTIN))
    config = WarmupConfig(tasks=[str(problems)], template="qa", **settings)
    return solved_problems(config, tokenizer, seed=0)


def test_it_leaves_a_model_to_train(problems, tmp_path, capsys):
    output = tmp_path / "warm"
    command = ["warmup", "--model_name_or_path", BUILTIN, "--tasks", str(problems), "--template", "qa", *FAST]
    assert main([*command, "--output_dir", str(output)]) == 0
    assert f"Model: {output}" in capsys.readouterr().out
    record = json.loads((output / RECORD).read_text())
    assert record["model"] == BUILTIN
    assert sum(record["problems"][str(problems)].values()) == len(ROWS)
    assert record["training"]["learning_rate"] == 1e-3
    assert record["settings"]["styles"] == ["worked", "answer"]
    assert record["log"][-1]["step"] == 3
    assert record["versions"]["trl"]
    model, _ = load_model(str(output))
    before, _ = load_model(resolve_model(BUILTIN))
    assert any((a != b).any() for a, b in zip(model.parameters(), before.parameters(), strict=True))
    assert main([*command, "--output_dir", str(output)]) == 2  # it would be overwritten
    assert "is not empty" in capsys.readouterr().err


def test_it_teaches(tmp_path):
    """A task that the model can't do at all before: this policy knows letters and no sums."""
    output = tmp_path / "warm"
    settings = ["--max_steps", "60", "--per_device_train_batch_size", "32", "--learning_rate", "2e-3"]
    command = ["warmup", "--model_name_or_path", BUILTIN_LLAMA, "--tasks", "arithmetic", "--ending", "#{answer}"]
    assert main([*command, *settings, "--output_dir", str(output)]) == 0
    task = load_task("arithmetic", "test", size=100)
    after = evaluate(*load_model(str(output)), task, Sampling(32)).accuracy
    before = evaluate(*load_model(resolve_model(BUILTIN_LLAMA)), task, Sampling(32)).accuracy
    assert before == 0.0
    assert after > 0.1


def test_styles_are_mixed_by_their_seed(problems):
    rows, counts = solved(problems)
    assert set(counts[str(problems)]) == {"worked", "answer"}
    for row, problem in zip(rows, ROWS, strict=True):
        assert row["prompt"] == f"Question: {problem['question']}\nAnswer:"
        worked = f" {problem['solution']}\n#### {problem['answer']}"
        assert row["completion"] in (worked, f" #### {problem['answer']}")
    assert rows.to_list() == solved(problems)[0].to_list()
    assert set(solved(problems, styles=["answer"])[1][str(problems)]) == {"answer"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "name the model to warm up"),
        (["--model_name_or_path", "builtin"], "name problems with solutions"),
        (["--model_name_or_path", "builtin", "--tasks", "PROBLEMS"], "name the folder for the model"),
        (["--model_name_or_path", "builtin", "--tasks", "NO_SOLUTIONS", "--output_dir", "OUT"], "no worked solutions"),
        (["--model_name_or_path", "builtin", "--tasks", "nonesuch", "--output_dir", "OUT"], "unknown task 'nonesuch'"),
        (["--tasks", "gsm8k", "--styles", "wrked"], "wrked"),
        (["--tasks", "gsm8k", "--task_size", "0"], "at least 1"),
        (["--learning_rat", "1"], 'did you mean "--learning_rate"'),
    ],
)
def test_bad_input_is_one_line(given, told, problems, tmp_path, capsys):
    (tmp_path / "bare.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    places = {"PROBLEMS": problems, "NO_SOLUTIONS": tmp_path / "bare.jsonl", "OUT": tmp_path / "out"}
    assert main(["warmup", *(str(places.get(word, word)) for word in given)]) == 2
    message = capsys.readouterr().err.strip()
    assert told in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()
