"""How many processes and threads a study gets, for machines and models of several sizes."""

from dataclasses import replace

import pytest

from lambda_grpo.comparison.processes import choose_processes, study_footprint
from lambda_grpo.training.footprint import Footprint
from lambda_grpo.training.recipe import read_recipe
from tests.comparison.simulated import simulated_study

GB = 1_000_000_000


def run_of(parameters, memory):
    return Footprint(parameters, memory, 12 * parameters, 4 * parameters, 1, 2)


SMALL, MEDIUM = run_of(968_960, 0.8 * GB), run_of(134_515_008, 4.5 * GB)


@pytest.mark.parametrize(
    ("needed", "cores", "memory", "runs", "given", "expected"),
    [
        (SMALL, 2, 20 * GB, 24, None, (2, 1)),
        (SMALL, 64, 256 * GB, 24, None, (64, 1)),
        (SMALL, 64, 8 * GB, 24, None, (10, 1)),  # memory is little: threads don't help a small model
        (SMALL, 2, 20 * GB, 24, 1, (1, 1)),
        (MEDIUM, 2, 20 * GB, 24, None, (2, 1)),  # a laptop with 24 GB
        (MEDIUM, 2, 6 * GB, 24, None, (1, 2)),
        (MEDIUM, 64, 128 * GB, 100, None, (28, 2)),
        (MEDIUM, 64, 512 * GB, 24, None, (24, 2)),  # no more processes than runs
        (MEDIUM, 2, 3 * GB, 24, None, (1, 2)),  # not even one fits
        (MEDIUM, 64, 512 * GB, 24, 8, (8, 8)),
        (MEDIUM, 2, 6 * GB, 24, 2, (2, 1)),
        (None, 8, 6 * GB, 24, None, (8, 1)),
        (None, 8, 6 * GB, 24, 3, (3, 1)),
    ],
)
def test_processes_and_threads(needed, cores, memory, runs, given, expected):
    plan = choose_processes(needed, cores=cores, memory=memory, runs=runs, processes=given)
    assert (plan.processes, plan.threads) == expected
    assert (plan.warning is not None) == (needed is not None and plan.processes * needed.memory > memory)


def test_the_choice_is_one_line_with_its_reason():
    plan = choose_processes(MEDIUM, cores=2, memory=6 * GB, runs=24)
    assert str(plan) == ("1 process × 2 threads; a run needs about 4.5 GB of memory, 6.0 GB are available, for 2 cores")
    given = choose_processes(MEDIUM, cores=2, memory=6 * GB, runs=24, processes=2)
    assert str(given).startswith("2 processes × 1 thread; as given; a run needs about 4.5 GB")
    assert given.warning.startswith("2 runs at the same time may not fit into the memory, by an estimate (a run needs")
    assert "fewer --processes" in given.warning
    none_fits = choose_processes(MEDIUM, cores=2, memory=3 * GB, runs=24)
    assert none_fits.warning.startswith("one run may not fit into the memory")
    assert "--processes" not in none_fits.warning


def test_a_study_needs_what_its_largest_arm_needs():
    demo = read_recipe(None)
    study = replace(simulated_study({"dapo": 0, "grpo": 0}, 2), keys=demo)
    plain = study_footprint(study)
    assert plain.parameters == 968_960
    with_reference = replace(study, arms={**study.arms, "with KL": {"objective": "grpo", "beta": 0.1}})
    assert study_footprint(with_reference).memory == plain.memory + 4 * 968_960
