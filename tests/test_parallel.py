"""Calls in processes of their own: real ones, some of which fail or are killed."""

import os
import time

import psutil
import pytest

from lambda_grpo.parallel import Call, Outcome, run_all

PRELOAD = "tests.parallel_calls"


def call(tmp_path, name, *arguments):
    return Call(f"tests.parallel_calls:{name}", arguments, tmp_path / "out" / f"{name}{arguments}.txt")


def test_each_call_has_a_fresh_process_and_its_own_output(tmp_path):
    calls = [call(tmp_path, "double", x) for x in range(5)]
    outcomes = sorted(run_all(calls, preload=PRELOAD, processes=2, threads=1), key=lambda outcome: outcome.number)
    assert [outcome.number for outcome in outcomes] == list(range(5))
    assert [outcome.result[:3] for outcome in outcomes] == [(2 * x, 1, 1) for x in range(5)]
    assert len({outcome.result[3] for outcome in outcomes}) == 5
    assert [c.output.read_text() for c in calls] == [f"doubling {x}\n" for x in range(5)]


def test_a_failure_is_told_and_stops_no_other(tmp_path):
    calls = [
        call(tmp_path, "fail", "no such reward"), call(tmp_path, "kill"), call(tmp_path, "double", 4),
        call(tmp_path, "leave"), Call("tests.parallel_calls:nothing", (), tmp_path / "nothing.txt"),
    ]  # fmt: skip
    outcomes = sorted(run_all(calls, preload=PRELOAD, processes=1), key=lambda outcome: outcome.number)
    assert outcomes[0] == Outcome(0, failure="ValueError: no such reward")
    assert outcomes[1] == Outcome(1, failure="its process was killed by signal 9")
    assert outcomes[2].result[0] == 8
    assert outcomes[3] == Outcome(3, failure="its process ended with exit code 3")
    assert "nothing" in outcomes[4].failure
    assert "Traceback" in calls[0].output.read_text()


def test_who_stops_listening_ends_what_is_under_way(tmp_path):
    paths = [tmp_path / f"{number}" for number in range(3)]
    calls = [call(tmp_path, "double", 1), *(call(tmp_path, "sleep", str(path)) for path in paths)]
    outcomes = run_all(calls, preload=PRELOAD, processes=2)
    next(outcomes)
    while not all(path.exists() and path.read_text() for path in paths[:2]):
        time.sleep(0.05)
    processes = [int(path.read_text()) for path in paths[:2]]
    outcomes.close()
    assert not any(psutil.pid_exists(process) for process in processes)
    assert not paths[2].exists()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the number of cores can't be narrowed here")
def test_as_many_at_once_as_there_are_cores(tmp_path):
    from lambda_grpo.parallel import cores

    assert cores() == len(os.sched_getaffinity(0))
