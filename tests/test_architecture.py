"""Imports point one way, the public names stay, and what should be light is light."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lambda_grpo

SOURCE = Path(lambda_grpo.__file__).parent

# What each part of the package may import of the others. A part is a folder or a file of the package's root.
ALLOWED = {
    "errors": set(),
    "distributed": set(),
    "suggestions": set(),
    "files": set(),
    "machine": set(),
    "disk": {"errors"},
    "formatting": set(),
    "parallel": set(),
    "import_paths": {"errors", "suggestions"},
    "options": {"suggestions"},
    "objective": {"errors", "files", "formatting", "import_paths", "options", "suggestions"},
    "fast": {"errors", "files"},
    "grading": {"distributed", "errors", "parallel"},
    "runs": {"errors", "files", "formatting"},
    "tasks": {"errors", "grading", "import_paths", "suggestions"},
    "models": {"errors", "files", "runs", "suggestions", "tasks"},
    "trl": {"distributed", "errors", "fast", "models", "objective", "options", "runs", "suggestions"},
    "verl": {"errors", "objective", "options", "suggestions"},
    "evaluation": {"errors", "fast", "files", "models", "options", "runs", "suggestions", "tasks"},
    "report": {"errors", "files", "formatting", "inspection", "objective", "options", "runs", "suggestions"},
    "training": {
        "disk", "distributed", "errors", "evaluation", "fast", "files", "formatting", "import_paths", "models",
        "options", "report", "runs", "suggestions", "tasks", "trl",
    },
    "page": {"report", "trl"},
    "inspection": {"errors", "formatting", "models", "objective", "suggestions"},
    "comparison": {
        "disk", "errors", "files", "formatting", "machine", "objective", "options", "parallel", "runs", "suggestions",
        "training", "trl",
    },
    "bench": {"fast", "grading", "models", "objective", "parallel", "tasks", "training", "trl"},
    "doctor": {"fast", "parallel", "verl"},
    "cli": {
        "bench", "comparison", "disk", "distributed", "doctor", "errors", "evaluation", "formatting", "inspection",
        "options", "report", "suggestions", "training",
    },
    "": {"objective"},
}  # fmt: skip


def module_name(path):
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCE.rglob("*.py")}


def imported_modules(name):
    """The package's modules that one imports anywhere in its code, for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {one if one in MODULES else node.module for one in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("import_module", "_import"):
            found |= {node.args[0].value} if isinstance(node.args[0], ast.Constant) else set()
    return {one for one in found if one.split(".")[0] == SOURCE.name} - {name}


def part_of(name):
    return [*name.split("."), ""][1]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_one_way(name):
    imported = imported_modules(name)
    assert imported <= MODULES.keys()
    parts = {part_of(one) for one in imported} - {"", part_of(name)}
    assert parts <= ALLOWED[part_of(name)]


def test_no_part_is_allowed_what_it_does_not_use():
    used = {part: set() for part in ALLOWED}
    for name in MODULES:
        used[part_of(name)] |= {part_of(one) for one in imported_modules(name)} - {"", part_of(name)}
    assert used == ALLOWED


def test_modules_have_no_cycles():
    graph = {name: imported_modules(name) for name in MODULES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError with the modules of the cycle


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
        "PRESETS", "LambdaState", "Objective", "PolicyLoss", "__version__", "effective_sample_size", "group_advantages",
        "implied_lambda", "lambda_penalty", "loss_normalizer", "policy_loss", "response_weights",
    }  # fmt: skip
    assert all(hasattr(lambda_grpo, name) for name in lambda_grpo.__all__)
    assert {"grpo", "dapo", "dr_grpo", "lambda_grpo", "lambda_grpo_paper"} <= set(lambda_grpo.PRESETS)
    with pytest.raises(AttributeError):
        _ = lambda_grpo.no_such_name


def test_files_can_be_read_in_one_sitting():
    assert {path.name: n for path in SOURCE.rglob("*.py") if (n := len(path.read_text().split("\n"))) > 400} == {}
