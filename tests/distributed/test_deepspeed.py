"""Under DeepSpeed training has the trajectory of one plain process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lambda_grpo.runs.directory import Run
from tests.invariant.ranks import torchrun

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-5
MOVES = {"lambda": 1e-2, "policy": 1e-3}  # at least, on the way
PARTS = {2: "optim_states", 3: "model_states"}  # what only this stage and the later ones keep in parts


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return {name: tmp_path_factory.mktemp("run") for name in ("plain", "zero")}


@pytest.fixture(scope="module")
def trajectories(out):
    torchrun(1, "trajectory_run", out["plain"], "grpo", "lambda_grpo", "saved")
    torchrun(2, "deepspeed_run", out["zero"], folder="distributed")
    found = {name: torch.load(directory / "found.pt") for name, directory in out.items()}
    for directory in out.values():
        (directory / "found.pt").unlink()  # large
    return found


def difference(ours, theirs):
    return (ours - theirs).abs().max().item()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("key", ["lambda", "policy"])
@pytest.mark.parametrize("name", ["grpo", "lambda_grpo", "saved"])
@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_take_the_way_of_one(stage, name, key, trajectories):
    way, one = trajectories["zero"][name, stage][key], trajectories["plain"][name][key]
    moved = difference(one, one[0])
    assert moved == 0 if (name, key) == ("grpo", "lambda") else moved > MOVES[key]
    print(f"{name}, ZeRO-{stage}: {key} {difference(way, one):.1e}, moved {moved:.1e}")
    assert len(way) == len(one) == 1 + 5
    assert difference(way, one) < TOLERANCE


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", [2, 3])
def test_they_go_on_from_their_checkpoint_to_the_bit(stage, trajectories, out):
    found = trajectories["zero"]
    checkpoint = out["zero"] / f"saved{stage}" / "checkpoint-3"
    assert list(checkpoint.glob(f"global_step3/*_rank_1_*{PARTS[stage]}.pt"))
    assert json.loads((checkpoint / "lambda_state.json").read_text())["value"] == found["saved", stage]["lambda"][3]
    for key in ("lambda", "policy"):
        whole = found["saved", stage][key]
        assert difference(whole[3:], whole[3]) > MOVES[key]
        assert torch.equal(found["resumed", stage][key], whole[3:])


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "part"), [("zero2", PARTS[2]), ("zero3", PARTS[3])])
def test_accelerate_launches_the_program_with_the_configuration(name, part, tmp_path):
    """As docs/reproduce.md has it, on two processes of a CPU."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch",
        "--config_file", str(ROOT / f"recipes/accelerate/{name}.yaml"), "--num_processes", "2",
        "--mixed_precision", "no", "--module", "lambda_grpo.cli", "train", "--output_dir", "run", "--use_cpu",
        "--bf16", "false", "--max_steps", "2", "--per_device_train_batch_size", "16",
        "--gradient_accumulation_steps", "1",
    ]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    run = Run.open(tmp_path / "run")
    assert run.completions()["step"].to_pylist() == [1] * 32 + [2] * 32  # of two processes
    assert run.metrics()[1]["lambda"] != 0.0
    assert list(run.path.glob(f"checkpoint-2/global_step2/*_rank_1_*{part}.pt"))
    assert (run.path / "checkpoint-2" / "lambda_state.json").is_file()
    assert (run.path / "checkpoint-2" / "model.safetensors").is_file()
    evaluations = {path.name for path in run.path.glob("eval/*.json")}
    assert evaluations == (set() if name == "zero3" else {"before.json", "after.json"})  # ZeRO-3 spreads the weights
