"""On any number of processes, and after a stop, training has the same trajectory; if the ranks' λ differ, it ends."""

import json
import re
import subprocess

import pytest
import torch

from lambda_grpo.trl.callbacks import LAMBDA_CHECK_STEPS
from tests.invariant.ranks import fork_ranks, torchrun

TOLERANCE = 1e-5
MOVES = {"lambda": 1e-2, "policy": 1e-3}  # at least, on the way
OBJECTIVES = ["grpo", "lambda_grpo", "lambda_grpo_paper"]
PROCESSES = {1: ["saved"], 2: ["saved", "saved_adam"], 4: []}  # and what is resumed from there


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    """By number of processes and run. "from 1" is two processes that resume from the checkpoint of one."""
    out = {name: tmp_path_factory.mktemp("run") for name in (*PROCESSES, "resumed")}
    for processes, saved in PROCESSES.items():
        fork_ranks(processes, "trajectory_run", out[processes], *OBJECTIVES, *saved)
    resumed = {
        f"{name}={out[processes]}/{name}/checkpoint-3": (f"from {processes}", name)
        for processes, saved in PROCESSES.items()
        for name in saved
    }
    fork_ranks(2, "trajectory_run", out["resumed"], *resumed)
    found = {name: torch.load(directory / "found.pt") for name, directory in out.items()}
    for directory in out.values():
        (directory / "found.pt").unlink()  # large
    for run, way in found.pop("resumed").items():
        written, name = resumed[run]
        found.setdefault(written, {})[name] = way
    return found


def difference(ours, theirs):
    return (ours - theirs).abs().max().item()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("key", ["lambda", "policy"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_any_number_of_processes_takes_the_same_way(name, key, trajectories):
    one = trajectories[1][name][key]
    moved = difference(one, one[0])
    assert moved == 0 if (name, key) == ("grpo", "lambda") else moved > MOVES[key]
    for processes in (2, 4):
        way = trajectories[processes][name][key]
        print(f"{name}, {processes} processes: {key} {difference(way, one):.1e}, moved {moved:.1e}")
        assert len(way) == len(one) == 1 + 5
        assert difference(way, one) < TOLERANCE


@pytest.mark.timeout(900)
@pytest.mark.parametrize("key", ["lambda", "policy"])
@pytest.mark.parametrize("name", ["saved", "saved_adam"])
def test_two_processes_go_on_from_their_checkpoint_to_the_bit(name, key, trajectories):
    whole, resumed = trajectories[2][name][key], trajectories["from 2"][name][key]
    assert difference(whole[3:], whole[3]) > MOVES[key]
    assert torch.equal(resumed, whole[3:])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("key", ["lambda", "policy"])
def test_two_processes_go_on_from_the_checkpoint_of_one(key, trajectories):
    resumed, one = trajectories["from 1"]["saved"][key], trajectories[1]["saved"][key]
    assert torch.equal(resumed[0], one[3])
    assert difference(resumed, one[3:]) < TOLERANCE


@pytest.mark.timeout(900)
def test_ranks_with_different_lambda_end_the_training(tmp_path):
    """They are compared after the first step of a training, also of a resumed one, and every so many steps on."""
    with pytest.raises(subprocess.CalledProcessError):
        torchrun(2, "drifting_run", tmp_path)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    assert LAMBDA_CHECK_STEPS == 20
    assert ranks[0]["compared"] == [[1, 21], [11, 31]]
    start = "λ isn't the same on all ranks after step 21: "
    one = re.fullmatch(re.escape(start) + r"(\S+) on rank 0, (\S+) on rank 1", ranks[0]["lambda_grpo"])
    assert 0 < abs(float(one[1]) - float(one[2])) < 2e-12
    several = re.fullmatch(re.escape(start) + r"(\[.+\]) on rank 0, (\[.+\]) on rank 1", ranks[0]["daro"])
    ours, theirs = (json.loads(value) for value in several.groups())
    assert len(ours) > 1
    assert ours[:-1] == theirs[:-1]
    assert 0 < abs(ours[-1] - theirs[-1]) < 2e-12
