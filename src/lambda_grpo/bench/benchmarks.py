"""The benchmarks of `lambda-grpo bench`: each compares work of this package with the same work of a peer.

Training steps run in fresh processes, two per pair: in the same process as this package's, stock TRL would be slower.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lambda_grpo.bench import grading, llamacpp, training_steps
from lambda_grpo.bench.measurement import Benchmark, Work, timed
from lambda_grpo.bench.training_steps import STOCK
from lambda_grpo.bench.workloads import WORKLOADS
from lambda_grpo.objective import group_advantages, loss_normalizer, policy_loss, response_weights

GROUP_SIZE = 8


def _responses() -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, lengths and group ids of 1 M responses in 125 k groups."""
    count, generator = 1_000_000, torch.Generator().manual_seed(0)
    rewards = torch.randint(0, 2, (count,), generator=generator).double()
    return rewards, torch.randint(1, 4096, (count,), generator=generator), torch.arange(count) // GROUP_SIZE


def _stage_1(responses: tuple[Tensor, ...], lambda_: float) -> Any:
    """Advantages, f and Z of λ-GRPO."""
    rewards, lengths, group_ids = responses
    return (
        group_advantages(rewards, group_ids),
        response_weights(lengths, group_ids, "lambda_grpo", lambda_),
        loss_normalizer(lengths, group_ids, "lambda_grpo"),
    )


def _group_stage() -> tuple[Work, Work]:
    """Stage 1 against a plain loop."""
    responses, lambda_ = _responses(), 1.5
    listed = list(zip(*(column.tolist() for column in responses), strict=True))
    return timed(lambda: _stage_1(responses, lambda_), lambda: plain_group_stage(listed, lambda_))


def _group_rows() -> tuple[Work, Work]:
    """Stage 1 of groups of one size, whose sums are over rows, against the same without the last response, by index."""
    rows = _responses()
    uneven = tuple(column[:-1] for column in rows)
    return timed(lambda: _stage_1(rows, 1.5), lambda: _stage_1(uneven, 1.5))


def plain_group_stage(
    responses: list[tuple[float, int, int]], lambda_: float
) -> tuple[list[float], list[float], float]:
    """Stage 1 of λ-GRPO in plain Python, over (reward, length, group) of each response: advantages, f, and Z."""
    members: dict[int, list[int]] = {}
    for i, (_, _, group) in enumerate(responses):
        members.setdefault(group, []).append(i)
    advantages, weights = [0.0] * len(responses), [1.0] * len(responses)
    for indices in members.values():
        size = len(indices)
        mean = sum(responses[i][0] for i in indices) / size
        std = math.sqrt(sum((responses[i][0] - mean) ** 2 for i in indices) / max(size - 1, 1))
        mu = sum(responses[i][1] for i in indices) / size
        sigma = math.sqrt(sum((responses[i][1] - mu) ** 2 for i in indices) / size)
        powers = [math.exp((1 + (responses[i][1] - mu) / (sigma + 1e-6) / 9) ** lambda_) for i in indices]
        total = sum(powers)
        for i, power in zip(indices, powers, strict=True):
            advantages[i] = (responses[i][0] - mean) / (std + 1e-4)
            weights[i] = size * power / total
    return advantages, weights, float(sum(length for _, length, _ in responses))


def _lambda_overhead(*, both_stages: bool) -> tuple[Work, Work]:
    """λ-GRPO's loss of 64 responses of up to 4096 tokens and its gradients, including λ's, against DAPO's.

    both_stages: whether to include stage 1 (f and Z from the lengths); otherwise it is given, as to a micro-batch.
    """
    B, T = 64, 4096  # noqa: N806
    generator = torch.Generator().manual_seed(0)
    old = -torch.rand(B, T, generator=generator)
    lengths = torch.randint(T // 8, T + 1, (B,), generator=generator)
    mask = torch.arange(T) < lengths[:, None]
    group_ids = torch.arange(B) // 8
    advantages = group_advantages(torch.randint(0, 2, (B,), generator=generator), group_ids)
    logps = (old + 0.1 * torch.randn(B, T, generator=generator)).requires_grad_()
    lambda_ = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def work(objective: str) -> Callable[[], None]:
        given: dict[str, Any] = {
            "weights": response_weights(lengths, group_ids, objective, lambda_),
            "normalizer": loss_normalizer(lengths, group_ids, objective),
        }

        def step() -> None:
            logps.grad = lambda_.grad = None
            stage_1 = {} if both_stages else given
            loss = policy_loss(logps, old, advantages, mask, group_ids, objective, lambda_, **stage_1).loss
            loss.backward(retain_graph=True)  # stage 1 is shared by a batch's micro-batches

        return step

    return timed(work("lambda_grpo"), work("dapo"))


def _steps(workload: str, ours: str, peer: str) -> tuple[Work, Work]:
    """Training steps of two trainers, each in its own process."""

    def work(side: str) -> Work:
        chosen = WORKLOADS[workload]
        steps = (chosen.warmup_steps, chosen.steps)
        return lambda: _flat(_process("lambda_grpo.bench.training_steps", workload, side, *steps))

    return work(ours), work(peer)


def _steps_in_this_process(workload: str) -> tuple[Work, Work]:
    """The same with both in one process, which favours this package."""

    def work(side: str) -> Work:
        def run() -> dict[str, float]:
            with contextlib.redirect_stdout(sys.stderr):  # the trainers print their logs
                return _flat(training_steps.run(WORKLOADS[workload], side))

        return run

    return work("dapo"), work(STOCK)


def _flat(found: dict[str, Any]) -> dict[str, float]:
    """The seconds by phase and the other findings in one dictionary."""
    return {**found.pop("seconds"), **found}


def _llamacpp(peer: str) -> tuple[Work, Work]:
    """The sampler and llama.cpp, each in its own process."""

    def work(side: str) -> Work:
        return lambda: _process("lambda_grpo.bench.llamacpp", side)

    return work("ours"), work(peer)


def _study() -> tuple[Work, Work]:
    """A whole study against one run of stock TRL, in seconds per run."""
    return (
        lambda: _process("lambda_grpo.bench.study", "ours", STUDY_STEPS, STUDY_SEEDS),
        lambda: _process("lambda_grpo.bench.study", "trl", STUDY_STEPS, 1),
    )


def _grading() -> tuple[Work, Work]:
    """Batches of completions, graded by processes that have already started."""
    numbers = itertools.count()
    return timed(*(lambda grade=grade: grade(next(numbers)) for grade in (grading.ours, grading.peer)))


def _process(module: str, *arguments: str | int) -> Any:
    """Run a module in a fresh process and return its last line of output, parsed as JSON."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} fails: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


STUDY_STEPS, STUDY_SEEDS = 60, 10
DESCRIPTIONS = {
    "short": "64 completions of about 18 of 64 tokens",
    "long": "64 completions of about 50 of 64 tokens",
    "prompt": "2 prompts of 512 tokens, 16 completions each of about 50 of 64 tokens",
    "real": "135 M parameters, 64 completions of about 60 of 128 tokens, in micro-batches of 16",
    "real_long": "135 M parameters, 32 completions of about 250 of 512 tokens, in micro-batches of 8",
}
PAIRS = {"real": 3, "real_long": 2}  # of runs of minutes
AGAINST_TRL = {name: partial(_steps, name, "dapo", STOCK) for name in DESCRIPTIONS}


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("group_stage", "1 M responses in 125 k groups, against a plain loop", 30, _group_stage),
        Benchmark("group_rows", "the same, against groups of uneven sizes", 30, _group_rows),
        *(
            Benchmark(
                f"step_{name}",
                f"a DAPO step, {DESCRIPTIONS[name]}, against stock TRL",
                PAIRS.get(name, 7),
                AGAINST_TRL[name],
            )
            for name in DESCRIPTIONS
        ),
        *(
            Benchmark(
                f"generate_{name}",
                f"its generation, {DESCRIPTIONS[name]}",
                PAIRS.get(name, 7),
                AGAINST_TRL[name],
                "generate",
            )
            for name in DESCRIPTIONS
        ),
        *(
            Benchmark(
                f"step_{name}_one_process",
                f"step_{name}, both in one process",
                3,
                partial(_steps_in_this_process, name),
            )
            for name in ("short", "long", "prompt")
        ),
        *(
            Benchmark(
                name,
                f"the generation of step_real, against llama.cpp's batched decoding of the same tokens {weights}",
                5,
                partial(_llamacpp, peer),
                "generate",
                llamacpp.PACKAGES,
            )
            for name, peer, weights in (
                ("generate_llamacpp", "float32", "in float32"),
                ("generate_llamacpp_q8", "q8_0", "with weights in Q8_0"),
            )
        ),
        Benchmark("grading", "512 maths completions, against math-verify in a loop in one process", 7, _grading),
        Benchmark(
            "study_throughput",
            "a run of a study (4 objectives, 10 seeds, 60 steps, side by side), against one of stock TRL by itself",
            3,
            _study,
            "run",
        ),
        Benchmark(
            "lambda_overhead",
            "a step of λ-GRPO, 64 completions of about 18 tokens, against DAPO's in the same trainer",
            30,
            partial(_steps, "short", "lambda_grpo", "dapo"),
        ),
        Benchmark(
            "lambda_overhead_loss",
            "the loss stage of λ-GRPO with its gradients at 64 × 4096, against DAPO's",
            100,
            partial(_lambda_overhead, both_stages=False),
        ),
        Benchmark(
            "lambda_overhead_stages",
            "the same with the group stage, as for a batch in one piece",
            100,
            partial(_lambda_overhead, both_stages=True),
        ),
    )
}
