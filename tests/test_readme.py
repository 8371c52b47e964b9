"""The README: short enough to be read, and what it shows runs."""

import itertools
import re
import shlex
import sys
from pathlib import Path

import datasets
import pytest
import torch

from lambda_grpo import PRESETS, response_weights
from lambda_grpo.cli import main
from lambda_grpo.objective import get_objective
from lambda_grpo.runs.directory import Run
from lambda_grpo.trl import LambdaGRPOConfig
from tests.evaluation.tiny_models import save_model

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"`(lambda-grpo [^`]+)`", README)


def test_it_is_read_in_one_sitting():
    assert len((ROOT / "README.md").read_bytes()) <= 8192


def test_objectives_are_counted():
    assert f"GRPO, DAPO, Dr. GRPO and {len(PRESETS) - 3} other objectives" in README.replace("\n", " ")
    assert f"all {len(PRESETS)} objectives" in README


def test_the_example_in_trl_trains(tmp_path, monkeypatch):
    """As it stands, but for the size: a tiny model and two problems, in the columns of the data set that it names."""
    (example,) = [block for block in PYTHON if "LambdaGRPOTrainer" in block]
    assert len(example.splitlines()) <= 13
    prompts = [[{"role": "user", "content": f"What is {n} + 30?"}] for n in (12, 13)]
    problems = datasets.Dataset.from_dict({"prompt": prompts, "solution": ["$42$", "$43$"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: problems)
    monkeypatch.chdir(tmp_path)
    small = {
        "num_generations": 2, "per_device_train_batch_size": 2, "max_steps": 1, "max_completion_length": 4,
        "logging_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
    }  # fmt: skip
    monkeypatch.setattr(
        "lambda_grpo.trl.LambdaGRPOConfig", lambda **settings: LambdaGRPOConfig(**{**settings, **small})
    )
    model = save_model(tmp_path / "model")
    names = {}
    exec(example.replace("Qwen/Qwen2.5-0.5B-Instruct", model), names)
    assert {"lambda", "lambda_grad", "loss"} <= {key for row in names["trainer"].state.log_history for key in row}
    assert Run.open("out").config()["objective"]["name"] == "lambda_grpo"
    assert main(["report", "out"]) == 0


def test_the_objective_of_ones_own(tmp_path, monkeypatch):
    (own,) = [block for block in PYTHON if "class Longer" in block]
    assert len(list(filter(None, own.splitlines()))) <= 6
    (tmp_path / "my_file.py").write_text(own)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_file", raising=False)
    (name,) = set(re.findall(r"my_file:\w+", README))
    short, long = response_weights(torch.tensor([1, 3]), torch.tensor([0, 0]), get_objective(name), 1.0).tolist()
    assert short < long


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split()[:2]))
def test_a_command_is_one(command, capsys):
    """Each option is one that its command's help has, and each objective and task has that name."""
    _, name, *rest = shlex.split(command)
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option, value in itertools.pairwise([*rest, ""]):
        if not option.startswith("--"):
            continue
        assert re.search(rf"\b{option.removeprefix('--')}\b", shown), option
        if option.startswith("--objective"):
            assert set(value.split(",")) <= set(PRESETS)
        if option == "--task":
            assert value in shown


def test_verls_settings_are_the_recipes():
    (line,) = re.findall(r"main_ppo … (.*)\\\n +(.*)$", README, re.MULTILINE)
    recipe = (ROOT / "recipes/verl_lambda_grpo.sh").read_text().replace('"$OBJECTIVE"', "lambda_grpo").split()
    for setting in " ".join(line).split():
        assert setting in recipe


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_figure_is_the_scripts(theme, monkeypatch):
    """All of its words and numbers, and what its alternative text says; places may differ between Matplotlibs."""
    monkeypatch.syspath_prepend(ROOT / "docs/figures")
    import weights as figure

    def words(svg):
        return re.findall(r">([^<>\s][^<>]*)</(?:text|tspan)>", svg)

    committed = (ROOT / f"docs/figures/weights-{theme}.svg").read_text()
    assert words(committed) == words(figure.draw(figure.THEMES[theme]))
    assert {"2.00", "0.67", "short answer (100 tokens)", "λ-GRPO: learned"} <= set(words(committed))
    assert figure.weights("grpo") == pytest.approx([2.0, 2 / 3])
    assert figure.weights("dapo") == figure.weights("dr_grpo") == figure.weights("lambda_grpo", 0.0) == [1.0, 1.0]
    assert figure.weights("lambda_grpo", -10.0)[0] > 1.8
    assert figure.weights("lambda_grpo", 10.0)[1] > 1.8
