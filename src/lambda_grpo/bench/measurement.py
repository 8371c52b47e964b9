"""Speed as the ratio of a peer's time over this package's, from pairs of runs that alternate on the same machine.

An absolute time says little on a machine that others use too; the ratio of two runs, one right after the other, does.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from scipy.stats import quantile_test

from lambda_grpo.bench import training_steps

Work = Callable[[], dict[str, float]]  # returns the seconds that it took, by phase


@dataclass(frozen=True)
class Benchmark:
    """Work of this package ("ours") and the same work of a peer.

    what: a description of both.
    pairs: default number of pairs.
    make: prepares the input and returns (ours, peer).
    phase: the phase whose seconds are compared.
    needs: modules that it imports beyond this package's extras, and what to install for each.
    """

    name: str
    what: str
    pairs: int
    make: Callable[[], tuple[Work, Work]]
    phase: str = "step"
    needs: Mapping[str, str] = field(default_factory=dict)

    @property
    def to_install(self) -> list[str]:
        """What has to be installed before it can run."""
        return [package for module, package in self.needs.items() if importlib.util.find_spec(module) is None]

    def measure(self, pairs: int | None = None) -> Measurement:
        """Time pairs of runs, each pair in the opposite order of the one before.

        Args:
            pairs: how many; the benchmark's default if None.
        """
        runs = _runs(self.make, pairs or self.pairs)
        ratios = sorted(peer[self.phase] / ours[self.phase] for ours, peer in runs)
        interval: Any = quantile_test(ratios, p=0.5).confidence_interval(0.95)
        seconds = {
            side: {phase: statistics.median(run[number][phase] for run in runs) for phase in runs[0][number]}
            for number, side in enumerate(("ours", "peer"))
        }
        return Measurement(
            name=self.name,
            what=self.what,
            ratio_median=statistics.median(ratios),
            ratio_min=ratios[0],
            ratio_max=ratios[-1],
            ci95=None if math.isnan(interval.low + interval.high) else (float(interval.low), float(interval.high)),
            pairs=len(ratios),
            seconds=seconds,
            matrix_gflops=training_steps.matrix_rate() / 1e9,
            of_matrix_rate=_of_matrix_rate(seconds["ours"]) if "operations" in seconds["ours"] else None,
        )


@dataclass(frozen=True)
class Measurement:
    """Ratios of the peer's time over this package's: above 1, this package is faster.

    ci95: of the median, by order statistics; None if there are too few pairs.
    seconds: medians of "ours" and of "peer", by phase.
    matrix_gflops: the rate of large float32 matrix products on this machine, in GFLOP/s.
    of_matrix_rate: by phase, the operations per second that the maths of this package's run needs, as a share of that
        rate; None if operations aren't counted.
    """

    name: str
    what: str
    ratio_median: float
    ratio_min: float
    ratio_max: float
    ci95: tuple[float, float] | None
    pairs: int
    seconds: dict[str, dict[str, float]]
    matrix_gflops: float
    of_matrix_rate: dict[str, float] | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def timed(ours: Callable[[], Any], peer: Callable[[], Any]) -> tuple[Work, Work]:
    """Two functions as work in this process, after one call of each to warm up."""
    ours(), peer()

    def as_work(function: Callable[[], Any]) -> Work:
        def work() -> dict[str, float]:
            start = time.perf_counter()
            function()
            return {"step": time.perf_counter() - start}

        return work

    return as_work(ours), as_work(peer)


@functools.cache  # the benchmarks of a step and of its generation share their runs
def _runs(make: Callable[[], tuple[Work, Work]], pairs: int) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Seconds of (ours, peer), pair by pair, each in the opposite order of the one before."""
    ours, peer = make()
    runs = []
    for number in range(pairs):
        seconds = {work: work() for work in ((ours, peer) if number % 2 == 0 else (peer, ours))}
        runs.append((seconds[ours], seconds[peer]))
    return runs


def _of_matrix_rate(seconds: dict[str, float]) -> dict[str, float]:
    rate = training_steps.matrix_rate()
    passes = {"generate": 1, "forward": 1, "backward": 2}  # sampling reads each token once, as a forward does
    return {phase: count * seconds["operations"] / seconds[phase] / rate for phase, count in passes.items()}
