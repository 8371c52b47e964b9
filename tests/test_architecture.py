"""Imports point one way, the public names stay, and what should be light is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lambda_grpo

SOURCE = Path(lambda_grpo.__file__).parent

# What each part may import of the package, beside itself, `errors` and `suggestions`.
ALLOWED = {
    "errors": set(),
    "suggestions": set(),
    "objective": {"imports"},
    "lambda_state": set(),
    "imports": set(),
    "validation": set(),
    "tasks": {"imports", "parallel"},
    "runs": set(),
    "training_signal": set(),
    "checkpoints": set(),
    "base_policy": {"tasks"},
    "models": {"runs"},
    "model_card": {"percent", "runs", "wording"},
    "wording": set(),
    "percent": set(),
    "evaluation": {"model_card", "models", "positions", "rollout", "runs", "tasks"},
    "compiled": set(),
    "architectures": set(),
    "positions": {"architectures"},
    "rollout": {"architectures", "compiled"},
    "packing": {"architectures", "compiled"},
    "backends": {
        "architectures", "checkpoints", "lambda_state", "model_card", "models", "objective", "packing", "positions",
        "rollout", "runs", "tasks", "training_signal", "wording",
    },
    "report": {"percent", "runs", "training_signal"},
    "bench": {"bench_grading", "bench_steps", "objective"},
    "bench_grading": {"tasks"},
    "bench_study": {"models", "parallel", "recipe", "tasks", "training", "training_data"},
    "parallel": set(),
    "preload": {"training"},
    "bench_decode": {"bench_steps", "rollout"},
    "bench_steps": {"backends", "base_policy"},
    "recipe": {"backends", "validation"},
    "resume": {"models", "recipe", "runs"},
    "training_callbacks": {"runs"},
    "training_data": {"models", "recipe", "runs", "tasks", "trl_data"},
    "trl_data": {"imports", "tasks"},
    "training": {
        "backends", "evaluation", "model_card", "models", "recipe", "report", "resume", "runs", "training_callbacks",
        "training_data", "trl_data",
    },
    "comparison": {"backends", "objective", "parallel", "recipe", "runs", "training"},
    "cli_help": set(),
    "cli_stop": set(),
    "doctor": {"backends", "compiled", "parallel"},
    "cli": {
        "bench", "cli_help", "cli_stop", "comparison", "doctor", "evaluation", "models", "percent", "report", "runs",
        "tasks", "training",
    },
    "__init__": {"lambda_state", "objective"},
}  # fmt: skip


def part_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        imported |= {name.split(".")[1] for name in names if name.startswith("lambda_grpo.")}
    assert imported <= ALLOWED[part_of(path)] | {part_of(path), "errors", "suggestions"}


def modules_after(code):
    """What a fresh interpreter has imported."""
    script = f"{code}\nimport sys; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return {name.split(".")[0] for name in output.split("\n")[-2].split()}


def test_the_base_package_needs_torch_alone():
    loaded = modules_after("from lambda_grpo import *")
    assert "torch" in loaded
    assert not loaded & {"transformers", "trl", "datasets", "accelerate", "scipy", "matplotlib", "jinja2", "pyarrow"}


def test_help_and_a_wrong_word_need_nothing_heavy():
    loaded = modules_after("from lambda_grpo.cli import main; assert main(['trian']) == 2")
    assert not loaded & {"torch", "transformers", "trl", "numpy"}


def test_public_names():
    assert set(lambda_grpo.__all__) == {
        "PRESETS", "LambdaState", "Objective", "PolicyLoss", "__version__", "effective_responses", "group_advantages",
        "implied_lambda", "lambda_penalty", "loss_normalizer", "policy_loss", "response_weights",
    }  # fmt: skip
    assert all(hasattr(lambda_grpo, name) for name in lambda_grpo.__all__)
    assert {"grpo", "dapo", "dr_grpo", "lambda_grpo", "lambda_grpo_paper"} <= set(lambda_grpo.PRESETS)
    with pytest.raises(AttributeError):
        _ = lambda_grpo.no_such_name


def test_files_can_be_read_in_one_sitting():
    assert {path.name: n for path in SOURCE.rglob("*.py") if (n := len(path.read_text().split("\n"))) > 400} == {}
