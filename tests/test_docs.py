"""Names in the documentation exist."""

import importlib.util
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
PACKAGE = ROOT / "src/lambda_grpo"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
OBJECTIVE = (ROOT / "docs" / "objective.md").read_text()


def test_every_preset_has_a_row():
    rows = re.findall(
        r"^\| `(\w+)`", OBJECTIVE.split("## The methods")[1].split("### Writing your own")[0], re.MULTILINE
    )
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


def tree():
    """Every path of the tree in docs/architecture.md, folders with a slash at their end, and what is said of it."""
    (block,) = re.findall(r"^## The tree$.*?^```\n(.*?)^```$", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    folders, entries = [], []
    for line in block.splitlines():
        indent, name, about = re.fullmatch(r"((?:  )*)(\S+) {2,}(\S.*)", line).groups()
        folders = folders[: len(indent) // 2]
        entries.append(("".join(folders) + name, about))
        if name.endswith("/"):
            folders.append(name)
    return entries


def test_the_tree_has_every_source_file_once():
    """A folder stands for its __init__.py; the built-in models' folders for all of their files."""
    paths = [path for path, _ in tree()]
    weights = ["src/lambda_grpo/models/builtin/llama/", "src/lambda_grpo/models/builtin/qwen2/"]
    found = set(weights)
    for path in PACKAGE.rglob("*"):
        name = path.relative_to(ROOT).as_posix()
        if path.is_file() and "__pycache__" not in name and not name.startswith(tuple(weights)):
            found.add(f"{path.parent.relative_to(ROOT).as_posix()}/" if path.name == "__init__.py" else name)
    named = {path for path in paths if path.startswith("src/")}
    elsewhere = [path for path in paths if not path.startswith("src/")]
    problems = {
        "missing": sorted(found - named),
        "no such file": sorted(path for path in named - found if not any(one.startswith(path) for one in found))
        + [path for path in elsewhere if not (ROOT / path).exists()],
        "more than once": sorted({path for path in paths if paths.count(path) > 1}),
    }
    assert {what: which for what, which in problems.items() if which} == {}, "docs/architecture.md, The tree"


def test_the_tree_is_in_columns():
    (block,) = re.findall(r"^## The tree$.*?^```\n(.*?)^```$", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    assert {re.match(r" *\S+ +", line).end() for line in block.splitlines()} == {32}


def headings(page):
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|srcset|href)=\"([^\"]+)\"", text)
    for link in links:
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs/architecture.md"], ids=lambda page: page.name)
def test_paths_and_names_exist(page):
    """Paths in backticks or in the diagram, from the repository's root, the package's, or the page's folder."""
    text = page.read_text()
    for path in re.findall(r"[`>](\w[\w.]*/[\w./]*)(?=[`<\",])", text):
        assert any((base / path).exists() for base in (ROOT, PACKAGE, page.parent)), path
    for module in re.findall(r"(?:from|import) (lambda_grpo[\w.]*)", text):
        assert importlib.util.find_spec(module), module
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    for name in re.findall(r"`([A-Z][A-Za-z]*[a-z][A-Za-z]*|[A-Z]+_[A-Z_]+)`", text):
        assert re.search(rf"\b{name}\b", source), name


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
