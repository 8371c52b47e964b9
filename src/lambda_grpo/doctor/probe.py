"""Imports in separate processes, so that a package that prints, crashes or hangs is reported in one line."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable

from lambda_grpo.doctor.packages import PLUGIN, Facts
from lambda_grpo.verl.versions import TRAINER

MARK = "lambda-grpo doctor: "  # marks the result in the output, which may also have text that an import prints
LIMIT = 300  # seconds for an import, since a cluster's file system may be slow


def probe(name: str) -> None:
    """Import a part and print the result. Called in the process that `run_probe` starts."""
    work = {"devices": _devices, "verl": _verl, "trl": lambda: _imported("lambda_grpo.trl.trainer")}
    print(f"\n{MARK}{json.dumps(_attempt(work.get(name, lambda: _imported(name))))}", flush=True)


def _attempt(work: Callable[[], Facts]) -> Facts:
    try:
        return work()
    except Exception as error:  # whatever the package raises is reported
        chain = [error, error.__cause__] if error.__cause__ else [error]
        return {"error": "; ".join(f"{type(e).__name__}: {next(iter(str(e).strip().splitlines()), '')}" for e in chain)}


def _imported(module: str) -> Facts:
    importlib.import_module(module)
    return {}


def _verl() -> Facts:
    importlib.import_module("verl")  # loads the plug-ins, without reporting one that fails
    if TRAINER in importlib.import_module("verl.trainer.ppo.v1.trainer_base").TRAINER_REGISTRY:
        return {"registered": True}
    return {"registered": False, "plugin_error": _attempt(lambda: _imported(PLUGIN)).get("error")}


def _devices() -> Facts:
    import torch

    from lambda_grpo.fast.native import CannotCompileError, library

    with warnings.catch_warnings(record=True) as caught:  # for example that the driver is too old
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [torch.cuda.get_device_properties(i) for i in range(count)]
    builds = {"ROCm": torch.version.hip, "CUDA": torch.version.cuda}
    uncompiled = None
    try:
        library()
    except CannotCompileError as error:
        uncompiled = str(error).splitlines()[0]
    return {
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
        "built_for": next((f"{name} {version}" for name, version in builds.items() if version), None),
        "warning": str(caught[0].message).strip().splitlines()[0] if caught else None,
        "mps": torch.backends.mps.is_available(),
        "compiler": shutil.which(os.environ.get("CC", "cc")),
        "compiled_error": uncompiled,
    }


def run_probe(name: str) -> Facts:
    """The result of `probe` in a fresh process, or the error."""
    # -P and this process's path: import what the other commands do, not modules of the working directory
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    command = [sys.executable, "-P", "-c", f"from lambda_grpo.doctor.probe import probe; probe({name!r})"]
    try:
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=LIMIT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"takes longer than {LIMIT} s"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(MARK):
            found: Facts = json.loads(line.removeprefix(MARK))
            return found
    last = next(reversed(done.stderr.strip().splitlines()), "without a message")
    return {"error": f"ends Python with exit code {done.returncode}: {last}"}
