"""The README's promise, as `make demo` keeps it."""

import json
import subprocess
import sys
from pathlib import Path


def test_the_demonstration_raises_accuracy_by_15_points(tmp_path):
    program = Path(sys.executable).with_name("lambda-grpo")
    done = subprocess.run([program, "train"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    before, after = (json.loads((run / "eval" / f"{name}.json").read_text()) for name in ("before", "after"))
    assert before["n"] == after["n"] >= 500
    assert after["accuracy"] - before["accuracy"] >= 0.15
    assert after["ci95"][0] > before["ci95"][1]
    assert "the two 95 % intervals don't overlap" in " ".join(done.stdout.split())
    assert json.loads((run / "checkpoint-60" / "lambda_state.json").read_text())["value"] != 0.0
    assert "Warning" not in done.stderr
