"""A script with TRL's own trainer gets the run directory and the page by one line."""

import json
import re

import pytest
import torch
from trl import GRPOTrainer, SFTTrainer

from lambda_grpo.cli import main
from lambda_grpo.errors import UserError
from lambda_grpo.page import RunPage
from lambda_grpo.runs.directory import Run
from tests.invariant.injected_run import reward as hash_reward
from tests.trl.setup import config, logged, make_trainer, parameters, stock_config

SETTINGS = {"max_completion_length": 12, "lr_scheduler_type": "constant"}


def stock(folder, *, page=True, resume=None, reward=None, **settings):
    trainer = make_trainer(stock_config(folder, **{**SETTINGS, **settings}), GRPOTrainer, reward)
    if page:
        trainer.add_callback(RunPage(trainer))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo", "bnpo"])
def test_the_records_are_those_of_our_trainer(loss_type, tmp_path):
    stock(tmp_path / "stock", loss_type=loss_type)
    settings = {**SETTINGS, "objective": loss_type, "scale_rewards": "group", "epsilon_high": 0.2}
    make_trainer(config(tmp_path / "ours", sampler="trl", packing=False, **settings)).train()
    ours, theirs = Run(tmp_path / "ours"), Run(tmp_path / "stock")
    assert theirs.config()["objective"]["name"] == ours.config()["objective"]["name"] == loss_type
    assert len(theirs.metrics()) == 3
    for own, row in zip(ours.metrics(), theirs.metrics(), strict=True):
        assert own.keys() == row.keys()
        assert row["lambda"] is row["lambda_grad"] is None
        for key in set(row) - {"step_time", "lambda", "lambda_grad"}:
            assert row[key] == pytest.approx(own[key], rel=1e-4, abs=1e-5), key
    samples, expected = (run.completions(tokens=True) for run in (theirs, ours))
    assert samples.column_names == expected.column_names
    for row, own in zip(samples.to_pylist(), expected.to_pylist(), strict=True):
        for key in ("logprobs", "entropies", "advantage", "weight"):
            assert row.pop(key) == pytest.approx(own.pop(key), abs=1e-3), key
        assert row == own


def test_it_makes_a_page_and_changes_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    plain, recorded = stock(tmp_path / "plain", page=False), stock(out)
    theirs = parameters(plain)
    assert all(torch.equal(value, theirs[name]) for name, value in parameters(recorded).items())
    page = (out / "report.html").read_text()
    assert re.search(r"<h1[^>]*>\s*dapo", page)
    assert json.loads((out / "run.json").read_text())["resolved"]["training"]["loss_type"] == "dapo"
    assert main(["report", str(out)]) == 0
    assert main(["inspect", str(out)]) == 0


def test_the_share_of_clipped_tokens_is_trls(tmp_path):
    """At the last of three updates."""
    trainer = stock(tmp_path, num_iterations=3, gradient_accumulation_steps=1, reward=hash_reward)
    clipped = [value for row in Run(tmp_path).completions(tokens=True).to_pylist() for value in row["clipped"]]
    share = logged(trainer, "clip_ratio/region_mean")[2]
    assert 0 < share == pytest.approx(sum(clipped) / len(clipped), abs=1e-6)


def test_a_resumed_training_continues_its_records(tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 1}
    stock(tmp_path, **saved)
    before = Run(tmp_path).completions()
    stock(tmp_path, resume=str(tmp_path / "checkpoint-2"), **saved)
    assert [row["step"] for row in Run(tmp_path).metrics()] == [1, 2, 3]
    assert Run(tmp_path).completions()["completion"].equals(before["completion"])
    assert not (tmp_path / "earlier-1").exists()


def test_reward_functions_with_the_same_name(tmp_path):
    def functions():
        def score(completions, **_):
            return [1.0] * len(completions)

        first = score

        def score(completions, **_):
            return [float(len(text)) for text in completions]

        return [first, score]

    trainer = make_trainer(stock_config(tmp_path, **{**SETTINGS, "max_steps": 1}), GRPOTrainer, functions())
    trainer.add_callback(RunPage(trainer, record_tokens=0))
    trainer.train()
    for row in Run(tmp_path).completions(tokens=True).to_pylist():
        assert row["reward"] == row["reward/score_1"] + row["reward/score_2"] == 1 + len(row["completion"])
        assert "tokens" not in row


def test_other_trainers_are_refused(tmp_path):
    with pytest.raises(UserError, match="writes its run directory by itself"):
        RunPage(make_trainer(config(tmp_path)))
    with pytest.raises(UserError, match=r"of a trl\.GRPOTrainer, got SFTTrainer"):
        RunPage(object.__new__(SFTTrainer))
    changed = make_trainer(stock_config(tmp_path), GRPOTrainer)
    del changed._logs
    with pytest.raises(UserError, match=r"has no GRPOTrainer\._logs, which is read: install trl 1\.16\.0"):
        RunPage(changed)
