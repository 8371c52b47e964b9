"""Speed, as ratios against a peer: pairs that alternate on the same machine, with their spread.

An absolute time says little on a machine that others use too; the ratio of two that ran one after the other does.
Training steps run in fresh processes, a pair of them for each ratio: in one process with ours, stock TRL is slower.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from scipy.stats import quantile_test

from lambda_grpo.bench import grading, steps
from lambda_grpo.objective import group_advantages, loss_normalizer, policy_loss, response_weights

Work = Callable[[], dict[str, float]]  # returns the seconds that it took, by phase


@dataclass(frozen=True)
class Benchmark:
    """Something of ours and its peer.

    what: the two, in words.
    pairs: how often each runs, where the caller doesn't say.
    make: makes the input, and returns (ours, peer).
    phase: which of the seconds the ratio is of.
    """

    name: str
    what: str
    pairs: int
    make: Callable[[], tuple[Work, Work]]
    phase: str = "step"


@dataclass(frozen=True)
class Measurement:
    """Ratios of the peer's time over ours, above 1 where ours is faster.

    ci95: the median's, by order statistics; None where the pairs are too few for one.
    seconds: medians of ours and of the peer, by phase.
    of_matrix_rate: of ours by phase, the operations that the maths needs a second, as a share of what large products
        reach on this machine; None where they aren't counted.
    """

    name: str
    what: str
    ratio_median: float
    ratio_min: float
    ratio_max: float
    ci95: tuple[float, float] | None
    pairs: int
    seconds: dict[str, dict[str, float]]
    of_matrix_rate: dict[str, float] | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(benchmark: Benchmark, pairs: int | None = None) -> Measurement:
    """Time pairs, each in the other order than the one before.

    Args:
        pairs: how many; the benchmark's own number if None.
    """
    runs = _runs(benchmark.make, pairs or benchmark.pairs)
    ratios = sorted(peer[benchmark.phase] / ours[benchmark.phase] for ours, peer in runs)
    interval: Any = quantile_test(ratios, p=0.5).confidence_interval(0.95)
    seconds = {
        side: {phase: statistics.median(run[number][phase] for run in runs) for phase in runs[0][number]}
        for number, side in enumerate(("ours", "peer"))
    }
    return Measurement(
        name=benchmark.name,
        what=benchmark.what,
        ratio_median=statistics.median(ratios),
        ratio_min=ratios[0],
        ratio_max=ratios[-1],
        ci95=None if math.isnan(interval.low + interval.high) else (float(interval.low), float(interval.high)),
        pairs=len(ratios),
        seconds=seconds,
        of_matrix_rate=_of_matrix_rate(seconds["ours"]) if "operations" in seconds["ours"] else None,
    )


def _of_matrix_rate(seconds: dict[str, float]) -> dict[str, float]:
    rate = steps.matrix_rate()
    passes = {"generate": 1, "forward": 1, "backward": 2}  # sampling reads each token once, as a forward does
    return {phase: count * seconds["operations"] / seconds[phase] / rate for phase, count in passes.items()}


@functools.cache  # a step and its generation come from the same runs
def _runs(make: Callable[[], tuple[Work, Work]], pairs: int) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Seconds of (ours, peer), pair by pair, each in the other order than the one before."""
    ours, peer = make()
    runs = []
    for number in range(pairs):
        seconds = {work: work() for work in ((ours, peer) if number % 2 == 0 else (peer, ours))}
        runs.append((seconds[ours], seconds[peer]))
    return runs


def _clocked(ours: Callable[[], Any], peer: Callable[[], Any]) -> tuple[Work, Work]:
    """Two functions in this process, warm."""
    ours(), peer()

    def clocked(function: Callable[[], Any]) -> Work:
        def work() -> dict[str, float]:
            start = time.perf_counter()
            function()
            return {"step": time.perf_counter() - start}

        return work

    return clocked(ours), clocked(peer)


# -- what is measured -------------------------------------------------------------------------------------------------


def _group_stage() -> tuple[Work, Work]:
    """1 M responses in 125 k groups of 8: advantages, f and Z."""
    count, size, lambda_ = 1_000_000, 8, 1.5
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randint(0, 2, (count,), generator=generator).double()
    lengths = torch.randint(1, 4096, (count,), generator=generator)
    group_ids = torch.arange(count) // size
    rows = list(zip(rewards.tolist(), lengths.tolist(), group_ids.tolist(), strict=True))

    def ours() -> Any:
        return (
            group_advantages(rewards, group_ids),
            response_weights(lengths, group_ids, "lambda_grpo", lambda_),
            loss_normalizer(lengths, group_ids, "lambda_grpo"),
        )

    return _clocked(ours, lambda: plain_group_stage(rows, lambda_))


def plain_group_stage(rows: list[tuple[float, int, int]], lambda_: float) -> tuple[list[float], list[float], float]:
    """Stage 1 of λ-GRPO in plain Python, over (reward, length, group) rows: advantages, f, and Z."""
    members: dict[int, list[int]] = {}
    for i, (_, _, group) in enumerate(rows):
        members.setdefault(group, []).append(i)
    advantages, weights = [0.0] * len(rows), [1.0] * len(rows)
    for own in members.values():
        size = len(own)
        mean = sum(rows[i][0] for i in own) / size
        std = math.sqrt(sum((rows[i][0] - mean) ** 2 for i in own) / max(size - 1, 1))
        mu = sum(rows[i][1] for i in own) / size
        sigma = math.sqrt(sum((rows[i][1] - mu) ** 2 for i in own) / size)
        powers = [math.exp((1 + (rows[i][1] - mu) / (sigma + 1e-6) / 9) ** lambda_) for i in own]
        total = sum(powers)
        for i, power in zip(own, powers, strict=True):
            advantages[i] = (rows[i][0] - mean) / (std + 1e-4)
            weights[i] = size * power / total
    return advantages, weights, float(sum(length for _, length, _ in rows))


def _lambda_overhead(*, both_stages: bool) -> tuple[Work, Work]:
    """The loss of 64 responses of up to 4096 tokens with its gradients, λ's too, against DAPO's.

    both_stages: whether stage 1 (f and Z from the lengths) is in it, or given, as to a micro-batch.
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
            loss.backward(retain_graph=True)  # of stage 1, which a batch's micro-batches share

        return step

    return _clocked(work("lambda_grpo"), work("dapo"))


def _steps(workload: str, ours: str, peer: str) -> tuple[Work, Work]:
    """Training steps of two trainers, each in a process of its own."""

    def work(side: str) -> Work:
        return lambda: _flat(_process("lambda_grpo.bench.steps", workload, side, WARM_STEPS, STEPS))

    return work(ours), work(peer)


def _steps_in_this_process(workload: str) -> tuple[Work, Work]:
    """The same in one process for both, which flatters ours."""

    def work(side: str) -> Work:
        def run() -> dict[str, float]:
            with contextlib.redirect_stdout(sys.stderr):  # the trainers print their logs
                return _flat(steps.run(steps.WORKLOADS[workload], side, WARM_STEPS, STEPS))

        return run

    return work("dapo"), work(steps.STOCK)


def _flat(found: dict[str, Any]) -> dict[str, float]:
    """Seconds by phase, with what else was found beside them."""
    return {**found.pop("seconds"), **found}


def _study() -> tuple[Work, Work]:
    """A whole study, and one run of stock TRL; seconds a run."""
    return (
        lambda: _process("lambda_grpo.bench.study", "ours", STUDY_STEPS, STUDY_SEEDS),
        lambda: _process("lambda_grpo.bench.study", "trl", STUDY_STEPS, 1),
    )


def _grading() -> tuple[Work, Work]:
    """A batch of completions, by processes that are started already."""
    numbers = itertools.count()
    return _clocked(*(lambda grade=grade: grade(next(numbers)) for grade in (grading.ours, grading.theirs)))


def _process(module: str, *words: str | int) -> Any:
    """What a module prints, as JSON, in its last line."""
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} fails: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


STUDY_STEPS, STUDY_SEEDS = 60, 10
WARM_STEPS, STEPS = 3, 10  # of a training in a process of its own
AGAINST_TRL = {name: partial(_steps, name, "dapo", "trl") for name in ("short", "long", "prompt")}
WORDS = {
    "short": "64 completions of about 18 of 64 tokens",
    "long": "64 completions of about 50 of 64 tokens",
    "prompt": "2 prompts of 512 tokens, 16 completions each of about 50 of 64 tokens",
}


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("group_stage", "1 M responses in 125 k groups, against a plain loop", 30, _group_stage),
        *(
            Benchmark(f"step_{name}", f"a DAPO step, {WORDS[name]}, against stock TRL", 7, AGAINST_TRL[name])
            for name in WORDS
        ),
        *(
            Benchmark(f"generate_{name}", f"its generation, {WORDS[name]}", 7, AGAINST_TRL[name], "generate")
            for name in WORDS
        ),
        *(
            Benchmark(
                f"step_{name}_one_process",
                f"step_{name}, both in one process",
                3,
                partial(_steps_in_this_process, name),
            )
            for name in WORDS
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
