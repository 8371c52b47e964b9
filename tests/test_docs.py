"""What the documentation names exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lambda_grpo import PRESETS, implied_lambda

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OBJECTIVE = (ROOT / "docs" / "objective.md").read_text()


def test_every_preset_has_a_row():
    rows = re.findall(r"^\| `(\w+)`", OBJECTIVE.split("## The methods")[1].split("### One's own")[0], re.MULTILINE)
    assert rows == list(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_row_says_what_the_preset_is(name):
    (row,) = re.findall(rf"^\| `{name}`.*$", OBJECTIVE, re.MULTILINE)
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    objective = PRESETS[name]
    assert cells[3] == objective.normalizer
    advantage = {"group": "/std of the group", "batch": "/std of the batch", "none": "no division"}
    least = "" if objective.advantage_min is None else f", at least −{-objective.advantage_min}"
    assert cells[6] == advantage[objective.advantage_scale] + least


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_and_files_that_a_page_names_exist(page):
    text = page.read_text()
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in tests, name
    for path in re.findall(r"`((?:src|tests|examples|docs|recipes|studies)/[\w./]+\w)`", text):
        assert (ROOT / path).exists(), path


def test_the_implied_lambda_that_the_page_prints():
    (printed,) = re.findall(r'"grpo"\)\n    (-[\d.]+)', OBJECTIVE)
    found = implied_lambda(torch.tensor([1, 3]), torch.tensor([0, 0]), "grpo")
    assert str(found) == printed


def test_the_estimates_of_the_page_are_the_scripts():
    found = subprocess.run(
        [sys.executable, ROOT / "docs/gpu_hours.py"], capture_output=True, text=True, check=True
    ).stdout
    page = (ROOT / "docs/reproduce.md").read_text()
    for table in found.strip().split("\n\n"):
        assert table in page


def test_the_estimates_are_of_the_recipes():
    maths = yaml.safe_load((ROOT / "recipes/models/maths.yaml").read_text())
    script = (ROOT / "docs/gpu_hours.py").read_text()
    (line,) = re.findall(r"^STEPS, COMPLETIONS, LONGEST = (.*?)  #", script, re.MULTILINE)
    assert line == f"{maths['max_steps']}, {128 * maths['num_generations']}, {maths['max_completion_length']}"
