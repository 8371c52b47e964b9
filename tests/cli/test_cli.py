"""The program as a user meets it: a real process for what a process shows, `main` for the rest."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

from lambda_grpo.cli import main
from lambda_grpo.runs.directory import Run
from lambda_grpo.training.recipe import TaskConfig
from lambda_grpo.trl import LambdaGRPOConfig

ROOT = Path(__file__).parents[2]
QUICK = [
    "--max_steps", "3", "--eval_size", "32", "--per_device_train_batch_size", "16", "--max_completion_length", "40",
    "--save_steps", "1",
]  # fmt: skip
METRICS = {
    "step", "reward", "lambda", "lambda_grad", "entropy", "completion_length_mean", "weight_min", "weight_max",
    "step_time",
}  # fmt: skip


def program(*arguments, **settings):
    command = [sys.executable, "-m", "lambda_grpo.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)


def test_train_leaves_a_whole_run(tmp_path, capsys):
    assert main(["train", "--output_dir", str(tmp_path / "run"), *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "accuracy" in shown
    assert "95 % interval" in shown
    assert "nearly f = 1" in shown
    assert str(tmp_path / "run" / "report.html") in shown.replace("\n", "")

    run = Run.open(tmp_path / "run")
    config = run.config()
    assert config["objective"]["name"] == "lambda_grpo"
    assert config["resolved"]["training"]["learning_rate"] == 3e-4
    assert config["versions"]["trl"] is not None
    assert len(config["git_commit"].split("-")[0]) == 40
    metrics = run.metrics()
    assert [row["step"] for row in metrics] == [1, 2, 3]
    assert set(metrics[0]) >= METRICS
    assert all(isinstance(row["lambda"], float) for row in metrics)
    table = run.completions()
    assert set(table.column_names) == {
        "prompt", "completion", "answer", "reward", "reward/arithmetic", "advantage", "length", "weight", "group",
        "step",
    }  # fmt: skip
    assert table["step"].to_pylist() == [1] * 16 + [2] * 16 + [3] * 16
    for name in ("before", "after"):
        evaluation = run.evaluation(name)
        assert evaluation["task"] == "arithmetic"
        assert evaluation["n"] == 32
        assert evaluation["ci95"][0] < evaluation["accuracy"] < evaluation["ci95"][1]
        assert evaluation["completion_length_mean"] > 0
    assert [path.name for path in run.checkpoints()] == ["checkpoint-2", "checkpoint-3"]  # save_total_limit
    assert (run.path / "report.html").is_file()

    # the final model lies where TRL leaves it
    final, last = (dict(AutoModelForCausalLM.from_pretrained(path).named_parameters()) for path in (
        run.path, run.path / "checkpoint-3",
    ))  # fmt: skip
    assert all(torch.equal(value, last[name]) for name, value in final.items())
    assert AutoTokenizer.from_pretrained(run.path)("1+2=")["input_ids"]
    for name in ("generation_config.json", "lambda_state.json"):
        assert (run.path / name).read_text() == (run.path / "checkpoint-3" / name).read_text()
    assert "| arithmetic | after training (step 3) | 32 |" in (run.path / "README.md").read_text()


def test_an_objective_without_lambda_has_null_there(tmp_path):
    assert main(["train", str(ROOT / "recipes/grpo.yaml"), "--output_dir", str(tmp_path / "run"), *QUICK]) == 0
    run = Run.open(tmp_path / "run")
    assert set(run.metrics()[0]) >= METRICS
    assert run.metrics()[0]["lambda"] is None
    assert run.metrics()[0]["weight_max"] > 1.0  # GRPO favours tokens of short answers
    assert "λ" not in {row[0] for row in _summary(run).rows}


def _summary(run):
    from lambda_grpo.report.summary import summarise

    return summarise(run)


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("recipes/*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_runs(recipe, tmp_path):
    assert main(["train", str(recipe), "--output_dir", str(tmp_path / "run"), *QUICK]) == 0
    assert Run.open(tmp_path / "run").config()["objective"]["name"] == recipe.stem


def test_recipes_differ_only_in_their_objective_lines():
    for recipe in ROOT.glob("recipes/*.yaml"):
        assert yaml.safe_load(recipe.read_text()) == {"base": "demo", "objective": recipe.stem}


def test_lora_from_the_command_line(tmp_path):
    lora = ["--use_peft", "--lora_r", "4", "--lora_dropout", "0", "--lora_target_modules", "q_proj", "v_proj"]
    assert main(["train", "--output_dir", str(tmp_path / "run"), *lora, *QUICK]) == 0
    for folder in (tmp_path / "run", tmp_path / "run/checkpoint-3"):
        assert (folder / "adapter_config.json").is_file()
    assert main(["eval", "--model", str(tmp_path / "run"), "--task", "arithmetic", "--n", "8"]) == 0


def test_a_reasoning_gym_task_trains(tmp_path):
    assert main(["train", "--task", "chain_sum", "--output_dir", str(tmp_path / "run"), *QUICK]) == 0
    run = Run.open(tmp_path / "run")
    assert run.evaluation("after")["task"] == "chain_sum"


def test_a_trl_configuration_needs_only_another_command(tmp_path, monkeypatch):
    """dataset_name and reward_funcs, as `trl grpo` reads them, on files of the real format."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    rows = [{"prompt": f"{i}+{i}=", "solution": str(2 * i % 10)} for i in range(8)]
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "my_rewards.py").write_text(
        "def ends_right(completions, solution, **_):\n"
        "    return [float(c.endswith(s)) for c, s in zip(completions, solution)]\n"
    )
    (tmp_path / "trl.yaml").write_text(
        "model_name_or_path: builtin\ndataset_name: ./data\nreward_funcs: [my_rewards.ends_right]\n"
        "use_cpu: true\nbf16: false\nnum_generations: 4\nper_device_train_batch_size: 8\nmax_steps: 2\n"
        "max_completion_length: 16\nreport_to: none\nlogging_steps: 1\nloss_type: grpo\nenv:\n  SOME_VARIABLE: yes\n"
    )
    assert main(["train", "trl.yaml", "--output_dir", "run"]) == 0
    run = Run.open("run")
    assert run.config()["objective"]["name"] == "grpo"
    assert len(run.metrics()) == 2
    assert run.evaluation("before") is None
    assert os.environ.pop("SOME_VARIABLE") == "True"


def test_the_process_shows_no_traceback_and_no_warning(tmp_path):
    done = program("train", "--task", "nonesuch", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("lambda-grpo: error: unknown task 'nonesuch'")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [[], ["train"], ["compare"], ["eval"], ["report"]])
def test_help_fits_one_screen(command):
    done = program(*command, "--help", env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 40
    assert max(map(len, done.stdout.splitlines())) <= 90


def test_the_help_names_every_key_that_is_added():
    text = program("train", "--help").stdout
    added = {field.name for kind in (LambdaGRPOConfig, TaskConfig) for field in fields(kind)}
    added -= {field.name for field in fields(GRPOConfig)}
    assert len(added) > 25
    for key in added:
        assert re.search(rf"\b{key}\b", text), key


def test_a_run_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").touch()
    assert main(["train", "--output_dir", str(tmp_path / "run")]) == 2
    assert "is not empty: add --resume to continue this run" in capsys.readouterr().err


def test_eval_prints_json(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "--model", "builtin", "--task", "arithmetic", "--n", "40", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 40
    assert found["ci95"][0] < found["accuracy"] < found["ci95"][1]
    assert main(["eval", "--model", "builtin", "--task", "arithmetic", "--n", "40"]) == 0
    assert f"{100 * found['accuracy']:.1f} %" in capsys.readouterr().out


def test_killed_in_the_middle_and_resumed_is_the_same_run(tmp_path):
    """A real kill, at no particular place, and a checkpoint that was cut short."""
    settings = ["--lambda_init", "0.5", *QUICK, "--max_steps", "8", "--save_total_limit", "20", "--eval_every", "1"]
    assert main(["train", "--output_dir", str(tmp_path / "whole"), *settings]) == 0

    command = [sys.executable, "-m", "lambda_grpo.cli", "train", "--output_dir", str(tmp_path / "cut"), *settings]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not Run(tmp_path / "cut").checkpoints() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = Run.open(tmp_path / "cut")
    last = run.checkpoints()[-1]
    assert last.name != "checkpoint-8"
    torn = run.path / f"checkpoint-{int(last.name.removeprefix('checkpoint-')) + 1}"
    torn.mkdir(exist_ok=True)
    (torn / "trainer_state.json").write_text('{"global_step"')
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "rew')
    with open(run.path / "eval" / "during.jsonl", "a") as file:
        file.write('{"step": 7, "num_')

    assert main(["train", "--output_dir", str(tmp_path / "cut"), "--resume"]) == 0
    whole = Run.open(tmp_path / "whole")
    assert [row["step"] for row in run.metrics()] == list(range(1, 9))
    for key in ("lambda", "lambda_grad", "reward", "loss", "entropy", "completion_length_mean"):
        assert [row[key] for row in run.metrics()] == [row[key] for row in whole.metrics()], key
    assert run.evaluations() == whole.evaluations()
    assert [record["step"] for record in run.evaluations()] == list(range(9))
    assert run.evaluation("after") == whole.evaluation("after")
    assert run.completions().equals(whole.completions())


def test_resume_after_the_last_step_trains_no_further(tmp_path):
    """As after a kill during the closing evaluation."""
    assert main(["train", "--output_dir", str(tmp_path / "run"), *QUICK]) == 0
    run = Run.open(tmp_path / "run")
    after, metrics = run.evaluation("after"), run.metrics()
    model = {path.name: path.read_bytes() for path in run.path.iterdir() if path.suffix in (".json", ".safetensors")}
    (run.path / "eval" / "after.json").unlink()
    run.write_config({key: value for key, value in run.config().items() if key != "model_step"})
    for name in ("config.json", "model.safetensors", "lambda_state.json"):
        (run.path / name).unlink()
    assert main(["train", "--output_dir", str(run.path), "--resume"]) == 0
    assert run.evaluation("after") == after
    assert run.metrics() == metrics
    for name in ("config.json", "model.safetensors", "lambda_state.json"):
        assert (run.path / name).read_bytes() == model[name]
    assert "After step 3: **λ = " in (run.path / "README.md").read_text()
    assert run.checkpoints()[-1].name == "checkpoint-3"

    # a longer run from there, in another spelling of the key, is what the run directory says from then on
    assert main(["train", "--output_dir", str(run.path), "--resume", "--max-steps", "4"]) == 0
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4]
    assert run.config()["recipe"]["max_steps"] == 4
    groups = run.completions()["group"].to_pylist()
    assert groups == sorted(groups)
    assert len(set(groups)) == 8


def test_evaluation_during_training_grades_the_held_out_rows(tmp_path):
    settings = ["--eval_strategy", "steps", "--eval_steps", "2", "--per_device_eval_batch_size", "16", *QUICK]
    assert main(["train", "--output_dir", str(tmp_path / "run"), *settings]) == 0
    assert [row["step"] for row in Run.open(tmp_path / "run").metrics()] == [1, 2, 3]


def test_several_generations_for_one_step_are_all_kept(tmp_path):
    settings = ["--gradient_accumulation_steps", "4", "--steps_per_generation", "1", *QUICK]
    assert main(["train", "--output_dir", str(tmp_path / "run"), *settings]) == 0
    table = Run.open(tmp_path / "run").completions()
    assert table["step"].to_pylist() == [step for step in (1, 2, 3) for _ in range(64)]
    assert len(set(table["group"].to_pylist())) == 3 * 64 / 8


def test_a_step_that_could_not_be_scored_goes_by(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"prompt": "1+1="}\n' * 8)
    (tmp_path / "no_verdict.py").write_text("def none(completions, **_):\n    return [None] * len(completions)\n")
    (tmp_path / "trl.yaml").write_text(
        "dataset_name: json\nreward_funcs: [no_verdict.none]\nuse_cpu: true\nbf16: false\nnum_generations: 4\n"
        "per_device_train_batch_size: 8\nmax_steps: 1\nlogging_steps: 1\nmax_completion_length: 8\nreport_to: none\n"
    )
    (tmp_path / "set").mkdir()
    (tmp_path / "data.jsonl").rename(tmp_path / "set" / "train.jsonl")
    assert main(["train", "trl.yaml", "--dataset_name", "./set", "--output_dir", "run"]) == 0
    run = Run.open("run")
    assert run.metrics()[0]["reward"] is None
    assert run.completions()["reward"].to_pylist() == [None] * 8


def test_secrets_stay_out_of_the_run_directory(tmp_path):
    assert main(["train", "--output_dir", str(tmp_path / "run"), "--hub_token", "hf_secret", *QUICK]) == 0
    assert "hf_secret" not in (tmp_path / "run" / "run.json").read_text()


# ray_train needs Ray: tests/distributed
EXAMPLES = sorted(path for path in ROOT.glob("examples/*.py") if path.stem != "ray_train")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples(example, tmp_path):
    assert len(example.read_text().splitlines()) < 80
    arguments = {
        "own_loop": ["3"],
        "own_objective": ["--output_dir", "run", "--max_steps", "8", "--eval_size", "8"],
        "own_task": ["--output_dir", "run", "--max_steps", "25", "--eval_size", "200"],
    }[example.stem]
    command = [sys.executable, str(example), *arguments]
    path = filter(None, (str(example.parent), os.environ.get("PYTHONPATH")))
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(path)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = [float(value) for value in re.findall(r"λ ([+-][\d.]+)", done.stdout)]
    if example.stem == "own_loop":
        assert len(shown) == 3
        return
    assert (tmp_path / "run" / "report.html").is_file()
    if example.stem == "own_objective":
        assert len(shown) == 8
        assert max(map(abs, shown)) > 0.01
    else:  # from 22 % to 48 % and more with three seeds
        before, after = (Run(tmp_path / "run").evaluation(name)["accuracy"] for name in ("before", "after"))
        assert before > 0.1
        assert after > before + 0.1


def test_the_example_objective_passes_its_own_test():
    example = str(ROOT / "examples" / "own_objective.py")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", example], capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout


def test_bench_measures_ratios_of_pairs(capsys):
    names = ["group_stage", "lambda_overhead_loss", "lambda_overhead_stages"]
    assert main(["bench", *names, "--pairs", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert (row["pairs"], row["ci95"]) == (2, None)
        assert 0 < row["ratio_min"] <= row["ratio_median"] <= row["ratio_max"]
    assert main(["bench", "lambda_overhead_loss", "--pairs", "6"]) == 0
    assert "the loss stage of λ-GRPO" in capsys.readouterr().out
    for wrong, message in (
        (["speed"], "no benchmark 'speed': use some of group_stage"),
        (["--pairs", "0"], "at least 1"),
    ):
        assert main(["bench", *wrong]) == 2
        assert message in capsys.readouterr().err


def test_samples_are_readable_while_a_run_goes_on(tmp_path):
    run = Run(tmp_path / "run")
    columns = {"prompt": ["a"], "reward": [None]}
    run.log_completions(1, columns)
    run.log_completions(2, {"prompt": ["b"], "reward": [1.0]})
    assert run.completions()["reward"].to_pylist() == [None, 1.0]
    assert not list(run.path.glob("completions/*.partial"))
    assert pq.read_table(run.path / "completions/step-00000002.parquet").num_rows == 1


def test_samples_of_an_older_version_and_of_other_functions_are_read_together(tmp_path):
    """A part has a column for each reward function that the run had then."""
    run = Run(tmp_path / "run")
    run.log_completions(1, {"prompt": ["a"], "reward": [0.5]})
    run.log_completions(2, {"prompt": ["b"], "reward": [None], "reward/f_1": [None]})
    run.log_completions(2, {"prompt": ["c"], "reward": [1.5], "reward/f_1": [1.0], "reward/f_2": [0.5]})
    table = run.completions()
    assert table["reward"].to_pylist() == [0.5, None, 1.5]
    assert table["reward/f_1"].to_pylist() == [None, None, 1.0]
    assert table["reward/f_2"].to_pylist() == [None, None, 0.5]
