"""The model card: in the places where a model is, and true."""

import json

import pytest
from huggingface_hub import ModelCard

from lambda_grpo.backends.trl_trainer import LAMBDA_STATE_FILE
from lambda_grpo.cli import main
from lambda_grpo.model_card import SHOWN
from tests.backends.trl_setup import config, logged, make_trainer


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
    trainer = make_trainer(config(tmp_path, objective="lambda_grpo", max_completion_length=4, max_steps=2 * SHOWN))
    trainer.train()
    trainer.create_model_card("mine", "someone/sums", ["a-tag"])
    card = (tmp_path / "README.md").read_text()
    steps = [int(row[0]) for row in rows_under(card, "λ")]
    assert (steps[0], steps[-1], len(steps)) == (1, 2 * SHOWN, SHOWN)
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


def test_several_lambdas_are_all_in_the_card(tmp_path):
    args = config(tmp_path, objective="daro", num_generations=4, lambda_lr=1.0, max_steps=2, max_completion_length=16)
    trainer = make_trainer(args)
    trainer.train()
    trainer.create_model_card()
    values = ", ".join(f"{value:+.4f}" for value in trainer.lambda_state.value)
    assert f"**λ = {values}**" in (tmp_path / "README.md").read_text()
    assert len(logged(trainer, "lambda")) == 2


@pytest.mark.parametrize("lora", [[], ["--use_peft", "--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj"]])
def test_a_runs_card_has_its_evaluations(lora, tmp_path):
    run = tmp_path / "run"
    quick = ["--max_steps", "2", "--eval_size", "16", "--max_completion_length", "16", "--save_steps", "1"]
    assert main(["train", "--output_dir", str(run), *quick, *lora]) == 0
    before, after = (json.loads((run / f"eval/{name}.json").read_text()) for name in ("before", "after"))
    for folder in (".", "checkpoint-1", "checkpoint-2"):
        card = (run / folder / "README.md").read_text()
        shown = rows_under(card, "Evaluation")
        assert [row[:4] for row in shown] == [
            ["arithmetic", f"{name} training", "16", f"{100 * result['accuracy']:.1f} %"]
            for name, result in (("before", before), ("after", after))
        ]
        assert dict(rows_under(card, "Training")).get("LoRA") == ("rank 4, alpha 32" if lora else None)
    assert main(["eval", "--model", str(run), "--task", "arithmetic", "--n", "8"]) == 0
    result = json.loads((run / "eval/arithmetic.json").read_text())
    for folder in (".", "checkpoint-2"):
        shown = rows_under((run / folder / "README.md").read_text(), "Evaluation")
        assert [row[1] for row in shown] == ["before training", "after training", "step 2"]
        assert shown[2][3] == f"{100 * result['accuracy']:.1f} %"
