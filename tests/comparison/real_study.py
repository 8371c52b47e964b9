"""A small study with real runs."""

import json
import os
import sys
import time

import yaml

STUDY = {
    "base": "demo", "objectives": ["dapo", "lambda_grpo"], "seeds": 2, "more_rates": 0, "max_steps": 3,
    "per_device_train_batch_size": 32, "max_completion_length": 24, "task_size": 256, "eval_size": 64, "save_steps": 1,
}  # fmt: skip
RUNS = 2 * 3 * 2


def write_study(folder, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, **settings}))
    return str(folder / "study.yaml")


def command(study, out):
    return [sys.executable, "-m", "lambda_grpo.cli", "compare", study, "--output_dir", str(out)]


def finished(out):
    return sorted(path.parents[1] for path in out.glob("runs/*/*/*/eval/after.json"))


def results(out):
    return json.loads((out / "results.json").read_text())


def kill(process, out):
    """Kill the program of a study. Its runs end with it."""
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while _of_study(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _of_study(out)


def _of_study(out):
    """Processes that have a file of the study open."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue  # gone, or not ours
        if any(link.startswith(str(out)) for link in links):
            found.append(pid)
    return found
