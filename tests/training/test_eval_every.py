"""Evaluations during training change nothing of it, and what they record survives a stop."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_grpo.cli import main
from lambda_grpo.evaluation import Sampling, evaluate
from lambda_grpo.models import load_model, resolve_model
from lambda_grpo.runs.directory import Run
from lambda_grpo.runs.record import HeldOutRecord
from lambda_grpo.tasks import load_task
from lambda_grpo.trl import LambdaGRPOTrainer
from tests.invariant.ranks import fork_ranks
from tests.schemas import assert_follows

QUICK = [
    "--max_steps", "4", "--save_steps", "2", "--eval_size", "8", "--per_device_train_batch_size", "16",
    "--max_completion_length", "16", "--save_total_limit", "20", "--per_device_eval_batch_size", "5",
    "--learning_rate", "3e-3",
]  # fmt: skip
TIMES = {"step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second"}  # of the clock
FIELDS = ["step", "num_tokens", "generated_tokens", "n", "accuracy", "ci95", "score_mean", "completion_length_mean",
          "verdicts"]  # fmt: skip


class Drawing:
    """Arithmetic, whose grader draws from all random numbers there are: half of the right answers count half."""

    name = "drawing"

    def __init__(self, split, size, seed):
        self.task = load_task("arithmetic", split, size=size, seed=seed)

    def __len__(self):
        return len(self.task)

    def __getitem__(self, index):
        return self.task[index]

    def grade(self, completion, example):
        draw = (random.random() + np.random.random() + float(torch.rand(()))) % 1
        return self.task.grade(completion, example) * (1.0 if draw < 0.5 else 0.5)


def train(path, *settings):
    assert main(["train", "--output_dir", str(path), *QUICK, *settings]) == 0
    return Run.open(path)


def trained_alike(run, other):
    """All of a training but its clock: policies, optimisers, λ and random states of its checkpoints, records."""
    assert [path.name for path in run.checkpoints()] == [path.name for path in other.checkpoints()]
    for ours, theirs in zip(run.checkpoints(), other.checkpoints(), strict=True):
        names = {path.name for path in ours.iterdir()} - {"trainer_state.json", "training_args.bin", "README.md"}
        assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= names
        for name in names:
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert without_times(run.metrics()) == without_times(other.metrics())
    assert run.completions(tokens=True).equals(other.completions(tokens=True))
    weights, expected = (load_file(one.path / "model.safetensors") for one in (run, other))
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


def without_times(rows):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    return train(tmp_path_factory.mktemp("evaluated") / "run", "--eval_every", "1")


@pytest.fixture
def run(evaluated, tmp_path):
    shutil.copytree(evaluated.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.fixture(scope="module")
def dropping(tmp_path_factory):
    """A policy with dropout, which an evaluation has to switch off and on again."""
    path = tmp_path_factory.mktemp("dropping")
    model = AutoModelForCausalLM.from_pretrained(resolve_model("builtin"))
    model.config.attention_dropout = 0.3
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(resolve_model("builtin")).save_pretrained(path)
    return str(path)


def test_the_training_is_the_same_bit_by_bit(evaluated, tmp_path):
    plain = train(tmp_path / "plain")
    trained_alike(evaluated, plain)
    assert not (plain.path / "eval/during.jsonl").exists()
    assert evaluated.evaluation("before") == plain.evaluation("before")
    assert evaluated.evaluation("after") == plain.evaluation("after")
    assert [record["step"] for record in plain.evaluations()] == [0, 4]


@pytest.mark.parametrize(
    "settings",
    [
        ["--sampler", "trl", "--packing", "false"],
        ["--num_iterations", "2", "--steps_per_generation", "2", "--gradient_accumulation_steps", "1"],
        ["--objective", "dapo_full", "--task", f"{__name__}:Drawing"],
    ],
    ids=["TRL's sampler and dropout", "within generated batches", "a grader that draws"],
)
def test_so_it_is_in_other_ways_of_training(settings, dropping, tmp_path):
    if "trl" in settings:
        settings = [*settings, "--model_name_or_path", dropping]
    evaluated, plain = train(tmp_path / "1", *settings, "--eval_every", "1"), train(tmp_path / "0", *settings)
    assert len(evaluated.evaluations()) == 5
    trained_alike(evaluated, plain)
    assert evaluated.evaluation("after") == plain.evaluation("after")


def test_a_line_says_what_the_policy_of_its_step_did_and_what_it_cost(evaluated):
    records = evaluated.evaluations()
    assert [record["step"] for record in records] == [0, 1, 2, 3, 4]
    assert [list(record) for record in records] == [FIELDS] * 5
    lines = (evaluated.path / "eval/during.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert_follows(HeldOutRecord, line)
    held_out = load_task("arithmetic", "test", size=8)
    for record in (records[2], records[4]):
        model = load_model(str(evaluated.path / f"checkpoint-{record['step']}"))
        found = evaluate(*model, held_out, Sampling(16), batch_size=5)
        assert record["verdicts"] == found.verdicts
        assert record["accuracy"] == found.accuracy == found.verdicts.count("1") / 8
        assert record["score_mean"] == found.score_mean
        assert record["completion_length_mean"] == found.completion_length_mean
    assert len({record["verdicts"] for record in records}) > 1
    samples, metrics = evaluated.completions(), {row["step"]: row for row in evaluated.metrics()}
    for record in records:
        lengths = zip(samples["step"].to_pylist(), samples["length"].to_pylist(), strict=True)
        assert record["generated_tokens"] == sum(length for step, length in lengths if step <= record["step"])
        if record["step"] > 0:
            for name in ("num_tokens", "generated_tokens"):
                assert record[name] == metrics[record["step"]][name]
    assert records[0]["num_tokens"] == 0


def test_what_lambda_grpo_eval_writes_is_as_before(run):
    """A result and its samples: the verdicts are there with each sample."""
    command = ["eval", "--model", str(run.path), "--task", "arithmetic", "--n", "8", "--temperature", "1"]
    assert main([*command, "--max_completion_length", "16", "--batch_size", "5"]) == 0
    result = json.loads((run.path / "eval/arithmetic.json").read_text())
    assert not {"verdicts", "num_tokens", "generated_tokens", "step"} & result.keys()
    lines = (run.path / "eval/arithmetic.samples.jsonl").read_text().splitlines()
    assert run.evaluation("after")["verdicts"] == "".join(str(int(json.loads(line)["correct"])) for line in lines)


def test_the_last_step_is_evaluated_after_training_alone(tmp_path):
    run = train(tmp_path / "run", "--eval_every", "2")
    assert [record["step"] for record in run.evaluations_during()] == [2]


def test_a_resumed_run_has_each_line_once(run, evaluated):
    """As after a kill while a line was written, two steps behind the last checkpoint that is whole."""
    shutil.rmtree(run.path / "checkpoint-4")
    during = run.path / "eval/during.jsonl"
    whole = during.read_text()
    during.write_text(whole + whole.splitlines()[-1][:50])
    assert [record["step"] for record in run.evaluations_during()] == [1, 2, 3]  # a reader while it is written
    assert main(["train", "--output_dir", str(run.path), "--resume"]) == 0
    assert during.read_text() == whole
    assert run.evaluations() == evaluated.evaluations()
    trained_alike(run, evaluated)


def test_a_kill_between_a_line_and_its_checkpoint(tmp_path, evaluated, monkeypatch):
    def stop(self, *_):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return save(self, *_)

    save = LambdaGRPOTrainer._save_checkpoint
    settings = ["--max_steps", "5", "--eval_every", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(LambdaGRPOTrainer, "_save_checkpoint", stop)
        assert main(["train", "--output_dir", str(tmp_path / "run"), *QUICK, *settings]) == 130
    run = Run.open(tmp_path / "run")
    assert [record["step"] for record in run.evaluations_during()] == [1, 2, 3, 4]
    assert main(["train", "--output_dir", str(run.path), "--resume"]) == 0
    records = run.evaluations()
    assert [record["step"] for record in records] == [0, 1, 2, 3, 4, 5]
    assert records[:4] == evaluated.evaluations()[:4]
    assert records[4] == evaluated.evaluations()[4]  # there of the last step


def test_a_longer_run_has_a_line_where_it_had_ended(tmp_path, evaluated):
    run = train(tmp_path / "run", "--max_steps", "2", "--eval_every", "1")
    assert [record["step"] for record in run.evaluations_during()] == [1]
    assert main(["train", "--output_dir", str(run.path), "--resume", "--max_steps", "4"]) == 0
    assert run.evaluations() == evaluated.evaluations()
    trained_alike(run, evaluated)


def test_another_training_in_the_same_folder_takes_no_lines_over(run):
    assert (run.archive_records() / "eval/during.jsonl").exists()
    assert run.evaluations() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--eval_every", "2", "--eval_size", "0"], "eval_every needs held-out problems: set eval_size above 0"),
        (["--eval_every", "-1"], "eval_every must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_is_refused(settings, message, tmp_path, capsys):
    assert main(["train", "--output_dir", str(tmp_path / "run"), *QUICK, *settings]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_weights_that_are_spread_over_processes_are_refused(tmp_path, capsys, monkeypatch):
    def spread(self, *args, **kwargs):
        create(self, *args, **kwargs)
        self.is_fsdp_enabled = True

    create = LambdaGRPOTrainer.__init__
    monkeypatch.setattr(LambdaGRPOTrainer, "__init__", spread)
    assert main(["train", "--output_dir", str(tmp_path / "run"), *QUICK, "--eval_every", "2"]) == 2
    assert "eval_every evaluates in the training's processes, over which FSDP" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(900)
def test_several_processes_write_each_line_once_and_count_together(tmp_path):
    fork_ranks(2, "recipe_run", tmp_path, "--output_dir", tmp_path / "run", *QUICK, "--eval_every", "1")
    run = Run.open(tmp_path / "run")
    records, samples = run.evaluations(), run.completions()
    assert [record["step"] for record in records] == [0, 1, 2, 3, 4]
    assert len(samples) == 4 * 2 * 16
    assert records[-1]["generated_tokens"] == sum(samples["length"].to_pylist())
    model = load_model(str(run.path / "checkpoint-2"))
    found = evaluate(*model, load_task("arithmetic", "test", size=8), Sampling(16), batch_size=5)
    assert records[2]["verdicts"] == found.verdicts
