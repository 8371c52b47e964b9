"""A ratio is only worth something if both sides do the same work."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo import group_advantages, loss_normalizer, response_weights
from lambda_grpo.bench import benchmarks, training_steps, workloads
from lambda_grpo.bench import decode as bench_decode
from lambda_grpo.bench.benchmarks import BENCHMARKS, plain_group_stage
from lambda_grpo.bench.measurement import Benchmark, timed
from lambda_grpo.objective import Groups
from tests.fast.models import make_model

ROWS = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(1, 500), st.integers(0, 3)), min_size=1, max_size=30)


@given(ROWS, st.floats(-3, 3))
def test_the_plain_loop_does_what_the_group_stage_does(rows, lam):
    rewards, lengths, ids = (torch.tensor(column) for column in zip(*rows, strict=True))
    advantages, weights, total = plain_group_stage(rows, lam)
    assert group_advantages(rewards.double(), ids).tolist() == pytest.approx(advantages, abs=1e-9)
    assert response_weights(lengths, ids, "lambda_grpo", lam).tolist() == pytest.approx(weights, rel=1e-9)
    assert loss_normalizer(lengths, ids, "lambda_grpo")[0].item() == total


def test_groups_of_uneven_sizes_are_no_rows():
    _, lengths, group_ids = benchmarks._responses()
    assert Groups.of(lengths, group_ids).index is None
    assert Groups.of(lengths[:-1], group_ids[:-1]).index is not None


def test_pairs_alternate_and_the_ratio_is_the_peers_time_over_ours():
    order = []
    slow = torch.randn(600, 600)

    def make():
        return timed(lambda: order.append("ours"), lambda: (order.append("peer"), [slow @ slow for _ in range(5)]))

    found = Benchmark("x", "nothing against products", 6, make).measure()
    assert order == ["ours", "peer"] + ["ours", "peer", "peer", "ours"] * 3
    assert found.pairs == 6
    assert found.ratio_min > 1
    assert found.ci95[0] == found.ratio_min  # of six, the interval of a median is all of them
    assert found.seconds["peer"]["step"] > found.seconds["ours"]["step"]


def test_the_names_that_others_rely_on_are_there():
    names = {
        "step_short", "step_long", "step_prompt", "generate_short", "generate_long", "lambda_overhead",
        "study_throughput", "step_real", "generate_real", "step_real_long",
    }  # fmt: skip
    assert names <= BENCHMARKS.keys()


@pytest.mark.parametrize(
    "name", ["step_short", "step_long", "step_prompt", "step_short_one_process", "lambda_overhead"]
)
def test_every_step_runs(name, monkeypatch):
    """Two steps of each side; no time is asserted."""
    for workload in ("short", "long", "prompt"):
        fewer = replace(workloads.WORKLOADS[workload], warmup_steps=0, steps=2)
        monkeypatch.setitem(workloads.WORKLOADS, workload, fewer)
    measurement = BENCHMARKS[name].measure(1)
    assert measurement.pairs == 1
    assert measurement.matrix_gflops > 0
    assert min(measurement.of_matrix_rate.values()) > 0
    for seconds in measurement.seconds.values():
        phases = [seconds[phase] for phase in ("generate", "forward", "backward", "rest")]
        assert sum(phases) == pytest.approx(seconds["step"])
        assert min(phases[:3]) > 0
        assert (15 < seconds["mean_length"] < 22) == ("short" in name or name == "lambda_overhead")


@pytest.mark.parametrize("side", ["dapo", training_steps.STOCK])
def test_a_step_of_several_micro_batches_is_one_step(side):
    """Each of two steps generates once; with one micro-batch it needs the same operations."""
    workload = replace(workloads.WORKLOADS["short"], prompts=2, warmup_steps=0, steps=2)
    whole, split = (training_steps.run(replace(workload, micro_batch=size), side) for size in (None, 4))
    assert whole["seconds"].keys() == split["seconds"].keys()
    assert split["operations"] == pytest.approx(whole["operations"], rel=0.5)  # of other random lengths
    assert split["seconds"]["step"] > sum(split["seconds"][phase] for phase in ("generate", "forward", "backward"))


def test_the_real_policy_has_the_size_of_smollm2():
    with torch.device("meta"):
        model = workloads.make_policy(workloads.WORKLOADS["real"])
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008


@pytest.mark.parametrize("workload", ["short", "long", "prompt", "real", "real_long"])
def test_generation_is_a_phase_of_the_same_steps(workload):
    step, generate = (BENCHMARKS[f"{kind}_{workload}"] for kind in ("step", "generate"))
    assert (step.make, step.phase) == (generate.make, "step")
    assert generate.phase == "generate"


def test_a_study_and_its_peer_run(monkeypatch):
    monkeypatch.setattr(benchmarks, "STUDY_STEPS", 2)
    monkeypatch.setattr(benchmarks, "STUDY_SEEDS", 1)
    found = BENCHMARKS["study_throughput"].measure(1)
    assert found.seconds["ours"]["study"] == pytest.approx(4 * found.seconds["ours"]["run"])
    assert 0 < found.seconds["ours"]["start"] < found.seconds["ours"]["study"]


def test_operations_by_hand():
    """Two prompts of 3 and 2 tokens, one of them twice; a layer's matrices, token by token and pair by pair."""
    model = make_model("qwen2")
    hidden, inner, layers, vocabulary = 48, 80, 3, 61
    token = layers * 2 * (4 * hidden * 64 + 3 * hidden * inner)  # four heads of 16, three matrices of the MLP
    pair = layers * 4 * 64
    pairs = 9 / 2 + 4 / 2 + 2 * (4 * 3 + 16 / 2) + (1 * 2 + 1 / 2)
    expected = token * (3 + 2 + 4 + 4 + 1) + pair * pairs + 2 * 9 * hidden * vocabulary
    found = training_steps.operations(model, [[1, 2, 3], [1, 2, 3], [4, 5]], [[5] * 4, [6] * 4, [7]])
    assert found == pytest.approx(expected)


def test_a_decoding_step_is_measured():
    one, four = (bench_decode.measure(workloads.WORKLOADS["short"], rows) for rows in (1, 4))
    assert one["milliseconds"] > 0
    assert four["gflops"] * four["milliseconds"] == pytest.approx(4 * one["gflops"] * one["milliseconds"])
