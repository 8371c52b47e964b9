"""The example runs as a user would run it."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_train.py"


@pytest.mark.timeout(600)
def test_two_workers_train_one_lambda(tmp_path):
    assert len(EXAMPLE.read_text().splitlines()) < 40
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "3"], cwd=tmp_path, capture_output=True, text=True, timeout=540, check=False
    )
    assert done.returncode == 0, done.stderr
    (last,) = (line for line in done.stdout.splitlines() if line.startswith("{'lambda': "))
    metrics, path = last.rsplit(" ", 1)
    first, second = ast.literal_eval(metrics)["lambda"]
    assert first == second != 0.0
    assert json.loads(Path(path, "lambda_state.json").read_text())["value"] == first
