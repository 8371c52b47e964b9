"""A Python script with `LambdaGRPOTrainer` writes a run directory, for which `lambda-grpo report` makes a page."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_grpo.cli import main
from lambda_grpo.errors import warn_once
from lambda_grpo.models import resolve_model, training_info
from lambda_grpo.runs.directory import Run
from lambda_grpo.trl import LambdaGRPOTrainer
from tests.trl.setup import config, make_trainer, parameters

SETTINGS = {
    "objective": "lambda_grpo", "max_completion_length": 8, "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1, "save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "constant",
}  # fmt: skip
ROWS = 16  # of completions/, a step


def train(folder, resume=None, **settings):
    trainer = make_trainer(config(folder, **{**SETTINGS, **settings}))
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


def steps(folder):
    """Steps of metrics.jsonl, of completions/, and the numbers of its groups."""
    run = Run.open(folder)
    samples = run.completions()
    return [row["step"] for row in run.metrics()], samples["step"].to_pylist(), samples["group"].to_pylist()


def whole(count):
    return (
        list(range(1, count + 1)),
        [step for step in range(1, count + 1) for _ in range(ROWS)],
        [group for group in range(count * ROWS // 8) for _ in range(8)],
    )


def test_report_makes_a_page_of_it(tmp_path, capsys):
    out = tmp_path / "out"
    trainer = train(out)
    trainer.save_model()
    assert main(["report", str(out)]) == 0
    assert f"Report: {out / 'report.html'}" in capsys.readouterr().out.replace("\n", "")
    page = (out / "report.html").read_text()
    assert "<h1>lambda_grpo</h1>" in page
    assert '<p class="about">3 steps, model' in page
    assert "This run has no held-out evaluation." in page
    captions = re.findall(r"<figcaption>([^ <:,]+)", page)
    assert {"Completion", "Entropy", "λ", "f"} <= set(captions)
    assert "groups: those with differing rewards" in page
    assert steps(out) == whole(3)
    assert Run(out).config()["resolved"]["training"]["learning_rate"] == 1e-3

    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert all(torch.equal(value, parameters(trainer)[name]) for name, value in loaded.named_parameters())
    assert training_info(str(out))["step"] == 3
    assert main(["eval", "--model", str(out), "--task", "arithmetic", "--n", "4"]) == 0
    assert (out / "eval" / "arithmetic.json").exists()
    assert main(["train", "--output_dir", str(out), "--resume"]) == 2
    assert "was written by a Python script: resume it there with trainer.train(" in capsys.readouterr().err


def stop(*_):
    raise KeyboardInterrupt


def test_a_resumed_training_continues_its_records(tmp_path, monkeypatch):
    train(tmp_path / "whole", max_steps=4)
    out = tmp_path / "out"
    train(out)
    Run(out).log_metrics({"step": 3, "reward": 0.0})  # as of a step that was logged twice
    with monkeypatch.context() as patch:
        patch.setattr(LambdaGRPOTrainer, "_generate", stop)
        with pytest.raises(KeyboardInterrupt):
            train(out, out / "checkpoint-2")
    assert steps(out) == whole(2)
    assert resolve_model(str(out)) == str(out / "checkpoint-3")  # no final model yet
    train(out, out / "checkpoint-2", max_steps=4)
    assert steps(out) == whole(4)
    for key in ("reward", "loss", "lambda", "completion_length_mean"):
        assert [row[key] for row in Run(out).metrics()] == [row[key] for row in Run(tmp_path / "whole").metrics()]
    assert Run(out).completions().equals(Run(tmp_path / "whole").completions())
    assert not (out / "earlier-1").exists()


def test_another_training_in_the_same_folder_does_not_mix(tmp_path, recwarn):
    warn_once.cache_clear()
    out, other = tmp_path / "out", tmp_path / "other"
    first = train(out)
    before = (out / "metrics.jsonl").read_text()
    assert main(["report", str(out)]) == 0
    second = make_trainer(config(out, **{**SETTINGS, "max_steps": 2, "objective": "dapo"}))
    second.save_model()  # before it has trained: the records aren't its own
    assert "model_step" not in Run(out).config()
    second.train()
    assert steps(out) == whole(2)
    assert Run(out).config()["objective"]["name"] == "dapo"
    assert not (out / "report.html").exists()
    assert (out / "earlier-1" / "metrics.jsonl").read_text() == before
    assert main(["report", str(out), str(out / "earlier-1")]) == 0
    assert [f"they are in {out / 'earlier-1'} now" in str(one.message) for one in recwarn].count(True) == 1

    first.train()  # the same trainer once more
    assert steps(out) == whole(3)
    assert (out / "earlier-2").exists()

    train(other, seed=7)  # and a checkpoint of another folder's
    train(other, out / "checkpoint-2")
    metrics, samples, _ = steps(other)
    assert metrics == [1, 2, 3]
    assert [row["reward"] for row in Run(other).metrics()][:2] == [row["reward"] for row in Run(out).metrics()][:2]
    assert samples == [3] * ROWS  # the first two steps' lie where they were drawn
    assert len(Run(other / "earlier-1").metrics()) == 3


def test_records_can_be_switched_off(tmp_path, capsys):
    out = tmp_path / "out"
    train(out, save_run_records=False, max_steps=1)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "checkpoint-1"]
    capsys.readouterr()
    assert main(["report", str(out)]) == 2
    error = capsys.readouterr().err
    assert f"{out} is not a run directory: it has no run.json" in error
    assert error.count("\n") == 1
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "it doesn't exist" in capsys.readouterr().err
    assert main(["train", "--output_dir", str(tmp_path / "run"), "--save_run_records", "false"]) == 2
    assert "leave save_run_records out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_trls_own_samples_lie_beside_ours(tmp_path):
    out = tmp_path / "out"
    train(out, log_completions=True, max_steps=1)
    train(out, log_completions=True, max_steps=2)
    assert steps(out) == whole(2)
    assert {path.name for path in (out / "completions").glob("completions_*")} == {
        "completions_00001.parquet", "completions_00002.parquet",
    }  # fmt: skip


def test_an_adapter_lies_where_trl_leaves_it(tmp_path):
    from peft import LoraConfig

    trainer = make_trainer(
        config(tmp_path, **{**SETTINGS, "max_steps": 1}), peft_config=LoraConfig(r=2, target_modules=["q_proj"])
    )
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "adapter_config.json").is_file()
    assert not (tmp_path / "config.json").exists()
    assert training_info(str(tmp_path))["step"] == 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("1+2=", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = trainer.accelerator.unwrap_model(trainer.model)(input_ids=ids).logits
        assert torch.allclose(AutoModelForCausalLM.from_pretrained(tmp_path)(input_ids=ids).logits, expected, atol=1e-5)
