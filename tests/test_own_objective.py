"""A user-defined objective, by its import path, wherever a preset's name is accepted."""

import json
import subprocess
import sys

import pytest
import torch
import yaml

from lambda_grpo import PRESETS, response_weights
from lambda_grpo.cli import main
from lambda_grpo.comparison import read_study
from lambda_grpo.errors import UserError
from lambda_grpo.objective import get_objective
from lambda_grpo.runs.directory import Run
from tests.trl.setup import config

MODULE = """
from lambda_grpo.objective import Objective, Preference

class Longest(Preference):
    learnable = True

    def __call__(self, groups, lambda_):
        return groups.softmax(lambda_ * groups.standardised_length)

def longest(groups, lambda_):
    return groups.max(groups.lengths)

class Fixed(Longest):
    learnable = False

LONGEST = Objective("longest", Longest())
SAME_NAME = Objective("longest", Fixed(), normalizer="group")
TAKEN_NAME = Objective("dapo", Fixed())
TWICE = 2
"""
QUICK = {
    "max_steps": 2, "eval_size": 8, "per_device_train_batch_size": 16, "max_completion_length": 8, "save_steps": 1,
}  # fmt: skip
BAD = [
    ("my_objectives:LONGST", "module 'my_objectives' has no 'LONGST' (did you mean \"LONGEST\"?)"),
    ("my_objektives:LONGEST", "no module 'my_objektives' in the working directory or installed"),
    ("my_objectives:TWICE", "'TWICE' is a int, it must be a lambda_grpo.Objective, as in TWICE = Objective("),
    ("my_objectives:longest", "'longest' is a function, it must be a lambda_grpo.Objective"),
    ("my_objectives:Objective", "'Objective' is a class, it must be a lambda_grpo.Objective"),
    ("my_objectives.py:LONGEST", "no module 'my_objectives.py' in"),
    ("./my_objectives:LONGEST", "need a module as `import` takes it (a file my_file.py is my_file)"),
    ("my_objectives:", "need a module as `import` takes it"),
    (":LONGEST", "need a module as `import` takes it"),
    ("longest", "unknown objective 'longest': use one of grpo"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_objectives", raising=False)
    (tmp_path / "my_objectives.py").write_text(MODULE)
    return tmp_path


def test_a_name_is_a_preset_or_an_import_path(folder):
    found = get_objective("my_objectives:LONGEST")
    assert found is get_objective(found) is sys.modules["my_objectives"].LONGEST
    assert config(folder, objective="my_objectives:LONGEST").resolve_objective().name == "longest"
    weights = response_weights(torch.tensor([1, 3]), torch.tensor([0, 0]), "my_objectives:LONGEST", 1.0)
    assert weights.tolist() == pytest.approx([2 / (1 + 7.389056), 2 * 7.389056 / (1 + 7.389056)], rel=1e-5)  # z = ∓1
    assert "longest" not in PRESETS


@pytest.mark.parametrize(("name", "message"), BAD, ids=[name for name, _ in BAD])
def test_what_is_wrong_with_it_is_one_line_and_nothing_is_written(folder, name, message, capsys):
    for command in (["train", "--objective", name], ["compare", "--objectives", f"dapo,{name}", "--seeds", "1"]):
        assert main([*command, "--output_dir", "out"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len([line for line in error.splitlines() if line.startswith("lambda-grpo: error: ")]) == 1
    with pytest.raises(UserError) as caught:
        get_objective(name)
    assert message in str(caught.value)
    assert not (folder / "out").exists()


def test_what_the_module_itself_raises_is_its_authors_to_see(folder):
    (folder / "my_objectives.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        get_objective("my_objectives:LONGEST")


def test_the_value_itself_cannot_be_saved_with_a_model(folder):
    with pytest.raises(ValueError, match="give objective='my_file:NAME'"):
        config(folder, objective=get_objective("my_objectives:LONGEST"))


def test_a_run_of_it_is_recorded_and_resumed(folder, capsys):
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"base": "demo", "objective": "my_objectives:LONGEST", **QUICK}))
    assert main(["train", "recipe.yaml", "--output_dir", "run"]) == 0
    shown = capsys.readouterr().out
    assert "longest, 2 steps" in shown
    assert main(["train", "--output_dir", "run", "--resume", "--objective", "my_objectives:SAME_NAME"]) == 2
    assert (
        "was trained with objective 'my_objectives:LONGEST', not 'my_objectives:SAME_NAME'" in capsys.readouterr().err
    )
    assert main(["train", "--output_dir", "run", "--resume", "--max_steps", "3"]) == 0
    run = Run.open("run")
    assert run.config()["objective"]["name"] == "longest"
    assert run.config()["recipe"]["objective"] == "my_objectives:LONGEST"
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    assert all(row["lambda"] is not None for row in run.metrics())
    card = (run.path / "README.md").read_text()
    assert "| objective | longest |" in card
    assert "| its import path | my_objectives:LONGEST |" in card
    assert "<h1>longest on arithmetic</h1>" in (run.path / "report.html").read_text()
    assert main(["eval", "--model", "run", "--task", "arithmetic", "--n", "4"]) == 0
    assert json.loads((run.path / "eval/arithmetic.json").read_text())["trained"]["objective"] == "longest"


@pytest.mark.timeout(600)
def test_a_study_calls_it_by_its_own_name(folder):
    (folder / "study.yaml").write_text(yaml.safe_dump({"base": "demo", **QUICK, "max_steps": 1, "task_size": 64}))
    command = [sys.executable, "-m", "lambda_grpo.cli", "compare", "study.yaml", "--output_dir", "out"]
    options = ["--objectives", "dapo,my_objectives:LONGEST", "--seeds", "1", "--learning_rates", "3e-4"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "out/results.json").read_text())
    assert found["failures"] == []
    assert [run["objective"] for run in found["runs"]] == ["dapo", "longest"]
    assert found["study"]["objectives"]["longest"] == {"objective": "my_objectives:LONGEST"}
    assert "longest" in done.stdout
    assert [path.name for path in (folder / "out/runs/arithmetic").iterdir() if path.is_dir()].count("longest") == 1
    assert list((folder / "out").rglob("*.safetensors")) == []  # keep_checkpoints is false


def test_names_of_arms_stay_apart(folder):
    def arms(objectives, **options):
        study = read_study(None, {"objectives": objectives, **options}, ["--max_steps", "1"])
        return list(study.arms), study.against

    path = "my_objectives"
    assert arms(["dapo", f"{path}:LONGEST"], against=f"{path}:LONGEST") == (["dapo", "longest"], "longest")
    assert arms(["dapo", f"{path}:LONGEST"], against="longest") == (["dapo", "longest"], "longest")
    both = [f"{path}:LONGEST", f"{path}:SAME_NAME"]
    assert arms(both) == (both, both[0])
    assert arms(["grpo", f"{path}:TAKEN_NAME"]) == (["grpo", f"{path}:TAKEN_NAME"], "grpo")
    assert arms({f"{path}:LONGEST": None, "mine": {"objective": f"{path}:LONGEST"}})[0] == ["longest", "mine"]
    assert arms({f"{path}:LONGEST": {"lambda_lr": 1.0}, "longest": {"objective": "dapo"}})[0] == [
        f"{path}:LONGEST", "longest",
    ]  # fmt: skip
