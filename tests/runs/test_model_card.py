"""The model card: in every folder with a model, and correct."""

import itertools
import json
import re

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from lambda_grpo.cli import main
from lambda_grpo.models import resolve_model
from lambda_grpo.objective.lambda_file import LAMBDA_STATE_FILE
from lambda_grpo.runs.directory import Run
from lambda_grpo.runs.model_card import MAX_LAMBDA_STEPS, update_cards
from lambda_grpo.tasks.arithmetic import Arithmetic
from tests.evaluation.tiny_models import write_jsonl
from tests.trl.setup import config, logged, make_trainer


def rows_under(card, heading):
    """The cells of the table under a heading, without its own header."""
    lines = card.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    return table[2:]


def test_a_card_is_saved_with_each_model(tmp_path):
    args = config(tmp_path, objective="lambda_grpo", lambda_lr=5.0, save_strategy="steps", save_steps=1, max_steps=3)
    trainer = make_trainer(args)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    logs = [row for row in trainer.state.log_history if "lambda" in row]
    for folder, step in (("checkpoint-1", 1), ("checkpoint-3", 3), (".", 3), ("final", 3)):
        card = (tmp_path / folder / "README.md").read_text()
        shown = rows_under(card, "λ")
        assert [row[:3] for row in shown] == [
            [str(row["step"]), f"{row['lambda']:+.4f}", f"{row['lambda_grad']:+.2e}"] for row in logs[:step]
        ]
        objective = dict(rows_under(card, "Objective"))
        assert objective["objective"] == "lambda_grpo"
        assert float(objective["r"]) == 1 / 9
        assert dict(rows_under(card, "Training"))["seed"] == "3"
        assert "from the base model\n**builtin (a small policy that lambda-grpo brings)**, with the objective" in card
        assert dict(rows_under(card, "Versions"))["trl"] == "1.16.0"
        assert dict(rows_under(card, "Data"))["rows"] == "64"
        assert "Not evaluated." in card
        if folder != ".":
            value = json.loads((tmp_path / folder / LAMBDA_STATE_FILE).read_text())["value"]
            assert f"After step {step}: **λ = {value:+.4f}**" in card
    loaded = ModelCard.load(tmp_path / "final" / "README.md")  # as the hub reads it
    assert loaded.data.library_name == "transformers"
    assert "lambda-grpo" in loaded.data.tags
    assert "@misc{wang2025lambdagrpo," in loaded.text


def test_a_long_trajectory_is_shown_from_its_first_step_to_its_last(tmp_path):
    trainer = make_trainer(
        config(tmp_path, objective="lambda_grpo", max_completion_length=4, max_steps=2 * MAX_LAMBDA_STEPS)
    )
    trainer.train()
    trainer.create_model_card("mine", "someone/sums", ["a-tag"])
    card = (tmp_path / "README.md").read_text()
    steps = [int(row[0]) for row in rows_under(card, "λ")]
    assert (steps[0], steps[-1], len(steps)) == (1, 2 * MAX_LAMBDA_STEPS, MAX_LAMBDA_STEPS)
    assert sorted(set(steps)) == steps
    data = ModelCard(card).data
    assert (data.model_name, data.datasets) == ("mine", ["someone/sums"])
    assert "a-tag" in data.tags


def test_an_objective_without_lambda_has_none_in_its_card(tmp_path):
    trainer = make_trainer(config(tmp_path, objective="grpo", max_steps=1, max_completion_length=4))
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    card = (tmp_path / "final" / "README.md").read_text()
    assert "## λ" not in card
    assert "r" not in dict(rows_under(card, "Objective"))
    assert not (tmp_path / "final" / LAMBDA_STATE_FILE).exists()


@pytest.mark.parametrize("objective", ["dapo_full", "edge_grpo", "gmpo", "grpo_lambda_tail"])
def test_a_card_names_its_base_and_holds_nothing_as_python_writes_it(objective, tmp_path):
    trainer = make_trainer(config(tmp_path / "run", objective=objective, max_steps=1, max_completion_length=4))
    base = "org/model" if objective == "gmpo" else str(tmp_path)
    trainer.accelerator.unwrap_model(trainer.model).config._name_or_path = base  # as from_pretrained leaves it
    trainer.train()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"from the base model\n**{base}**, with" in card
    assert ModelCard(card).data.base_model == ("org/model" if objective == "gmpo" else None)  # of the hub alone
    _check_holds_no_reprs(card)


def _check_holds_no_reprs(card):
    """No `Clip(level='token')`, no quotes, no None or True, no objects."""
    cells = [cell for heading in ("Objective", "Data", "Training") for row in rows_under(card, heading) for cell in row]
    assert len(cells) > 20
    assert [cell for cell in cells if re.search(r"=|'(?!s )|\bNone\b|\bTrue\b|\bFalse\b|<|\[", cell)] == []


def test_several_lambdas_are_all_in_the_card(tmp_path):
    args = config(tmp_path, objective="daro", num_generations=4, lambda_lr=1.0, max_steps=2, max_completion_length=16)
    trainer = make_trainer(args)
    trainer.train()
    trainer.create_model_card()
    values = ", ".join(f"{value:+.4f}" for value in trainer.lambda_state.value)
    assert f"**λ = {values}**" in (tmp_path / "README.md").read_text()
    assert len(logged(trainer, "lambda")) == 2


@pytest.mark.parametrize(
    "lora", [[], ["--use_peft", "--lora_r", "4", "--lora_dropout", "0", "--lora_target_modules", "q_proj", "v_proj"]]
)
def test_a_runs_card_has_its_evaluations(lora, tmp_path):
    run = tmp_path / "run"
    quick = ["--max_steps", "2", "--eval_size", "16", "--max_completion_length", "16", "--save_steps", "1"]
    assert main(["train", "--output_dir", str(run), *quick, *lora]) == 0
    before, after = (json.loads((run / f"eval/{name}.json").read_text()) for name in ("before", "after"))
    for folder in (".", "checkpoint-1", "checkpoint-2"):
        card = (run / folder / "README.md").read_text()
        shown = rows_under(card, "Evaluation")
        assert [row[:4] for row in shown] == [
            ["arithmetic", of, "16", f"{100 * result['accuracy']:.1f} %"]
            for of, result in (("before training", before), ("after training (step 2)", after))
        ]
        assert dict(rows_under(card, "Training")).get("LoRA") == ("rank 4, alpha 32" if lora else None)
        assert "from the base model\n**builtin (" in card
        assert ("It is an adapter" in card) == bool(lora)
        assert ModelCard(card).data.library_name == ("peft" if lora else "transformers")
        _check_holds_no_reprs(card)
    assert main(["eval", "--model", str(run), "--task", "arithmetic", "--n", "8"]) == 0
    result = json.loads((run / "eval/arithmetic.json").read_text())
    for folder in (".", "checkpoint-2"):
        shown = rows_under((run / folder / "README.md").read_text(), "Evaluation")
        assert [row[1] for row in shown] == ["before training", "after training (step 2)", "step 2"]
        assert shown[2][3] == f"{100 * result['accuracy']:.1f} %"


def test_a_card_has_the_results_of_its_own_model_for_the_hub(tmp_path):
    """model-index is of one model; the table in the text says of each row which model it is of."""
    run, file = tmp_path / "run", write_jsonl(tmp_path / "sums.jsonl", [{"question": "1+1=", "answer": "2"}] * 4)
    assert main(["train", "--output_dir", str(run), "--max_steps", "2", "--eval_size", "0", "--save_steps", "1",
                 "--per_device_train_batch_size", "16", "--max_completion_length", "8"]) == 0  # fmt: skip
    evaluate = ["eval", "--task", str(file), "--max_completion_length", "8", "--output_dir", str(run / "eval")]
    assert main([*evaluate, "--model", str(run)]) == 0
    (run / "eval" / "sums.json").rename(run / "eval" / "of_2.json")
    (run / "eval" / "sums.samples.jsonl").unlink()
    assert main([*evaluate, "--model", "builtin"]) == 0  # another model, in the same place
    (run / "eval" / "broken.json").write_text("{broken")
    (run / "eval" / "list.json").write_text("[1, 2]")
    (run / "checkpoint-1" / "README.md").write_text("# My own\n")
    update_cards(Run(run))
    for folder in (".", "checkpoint-2"):
        data = ModelCard.load(run / folder / "README.md").data
        assert [(result.dataset_type, result.metric_type) for result in data.eval_results] == [(str(file), "accuracy")]
        shown = rows_under((run / folder / "README.md").read_text(), "Evaluation")
        assert sorted(row[1] for row in shown) == ["builtin", "step 2"]
    assert (run / "checkpoint-1" / "README.md").read_text() == "# My own\n"


def test_a_card_that_cannot_be_read_stays_as_it_is(tmp_path):
    run = tmp_path / "run"
    assert main(["train", "--output_dir", str(run), "--max_steps", "1", "--eval_size", "0",
                 "--per_device_train_batch_size", "16", "--max_completion_length", "8"]) == 0  # fmt: skip
    broken = "---\nmodel_name: [\n---\n" + (run / "README.md").read_text().split("---\n", 2)[2]
    (run / "README.md").write_text(broken)
    with pytest.warns(UserWarning, match="README.md can't be read and is left unchanged"):
        update_cards(Run(run))
    assert (run / "README.md").read_text() == broken


def test_the_best_policy_is_the_runs_and_its_card_says_so(tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(Arithmetic, "grade", _falling())
    best = ["--eval_strategy", "steps", "--eval_steps", "1", "--save_steps", "1", "--load_best_model_at_end",
            "--metric_for_best_model", "eval_reward", "--greater_is_better", "true",
            "--save_total_limit", "5"]  # fmt: skip
    assert main(["train", "--output_dir", str(run), "--max_steps", "3", "--eval_size", "16", "--lambda_lr", "5",
                 "--per_device_train_batch_size", "16", "--max_completion_length", "8", *best]) == 0  # fmt: skip
    assert resolve_model(str(run)) == str(run)
    weights = [load_file(folder / "model.safetensors") for folder in (run, run / "checkpoint-1")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert Run(run).evaluation("after")["step"] == 1
    card = (run / "README.md").read_text()
    assert "after training (step 1)" in card
    assert main(["eval", "--model", str(run), "--task", "arithmetic", "--n", "4"]) == 0
    assert json.loads((run / "eval/arithmetic.json").read_text())["trained"]["step"] == 1
    (run / "eval/after.json").unlink()  # as after a kill at the end
    assert main(["train", "--output_dir", str(run), "--resume"]) == 0
    assert Run(run).evaluation("after")["step"] == 1
    again = load_file(run / "model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in weights[0].items())


def _falling():
    """A grader that gets stricter: the first policy is the best one."""
    calls = itertools.count()
    return lambda self, completion, example: max(0.0, 1.0 - next(calls) / 300)
