import gc
import os
from importlib.util import find_spec
from multiprocessing import forkserver

# Before any Hugging Face import: nothing is downloaded, and the tests share two cores.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRL_EXPERIMENTAL_SILENCE="1", OMP_NUM_THREADS="1")
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # as the program does

import pytest
import torch
from hypothesis import settings

# They have environments of their own: `make test-cluster`, as trl and verl can't share one, and `make test-distributed`
NEEDS = {"verl": "verl", "distributed": "deepspeed"}
collect_ignore = [folder for folder, package in NEEDS.items() if not find_spec(package)]

torch.set_num_threads(1)
settings.register_profile("default", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("default")

# Whichever test starts the fork server: what any of them runs in its processes needn't be imported there again.
PRELOAD = ("lambda_grpo.grading.judge", "lambda_grpo.training.preload")
set_preload = forkserver.set_forkserver_preload
forkserver.set_forkserver_preload = lambda names: set_preload([*names, *PRELOAD])


def pytest_collection_finish():
    """The Trainer collects garbage whenever it trains: what imports have left needn't be looked through each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_leftover_presets():
    """A test may add a preset of its own; the next one mustn't see it."""
    from lambda_grpo import PRESETS

    before = dict(PRESETS)
    yield
    PRESETS.clear()
    PRESETS.update(before)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A working directory in which data sets lie as folders of their names."""
    import datasets

    monkeypatch.chdir(tmp_path)
    # Its cache goes by relative path and time of change, in which two tests may agree.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path
