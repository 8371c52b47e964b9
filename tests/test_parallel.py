"""Calls in processes of their own: real ones, some of which fail or are killed."""

import time
from pathlib import Path

import pytest

from lambda_grpo.parallel import START_METHOD, Call, run_all

PRELOAD = "tests.parallel_calls"
pytestmark = pytest.mark.skipif(START_METHOD != "forkserver", reason="the calls of these tests are Linux's")


def call(tmp_path, name, *arguments):
    return Call(f"tests.parallel_calls:{name}", arguments, tmp_path / "out" / f"{name}{arguments}.txt")


def test_each_call_has_a_fresh_process_and_its_own_output(tmp_path):
    calls = [call(tmp_path, "double", x) for x in range(5)]
    outcomes = sorted(run_all(calls, preload=PRELOAD, processes=2, threads=1), key=lambda outcome: outcome.index)
    assert [outcome.index for outcome in outcomes] == list(range(5))
    assert [outcome.result[:3] for outcome in outcomes] == [(2 * x, 1, 1) for x in range(5)]
    assert len({outcome.result[3] for outcome in outcomes}) == 5
    assert [c.output.read_text() for c in calls] == [f"doubling {x}\n" for x in range(5)]


def test_a_failure_is_told_and_stops_no_other(tmp_path):
    calls = [
        call(tmp_path, "fail", "no such reward"), call(tmp_path, "kill"), call(tmp_path, "double", 4),
        call(tmp_path, "leave"), Call("tests.parallel_calls:nothing", (), tmp_path / "nothing.txt"),
        call(tmp_path, "give_unreadable"), call(tmp_path, "kill_with_a_child"), call(tmp_path, "double", 5),
    ]  # fmt: skip
    outcomes = sorted(run_all(calls, preload=PRELOAD, processes=2), key=lambda outcome: outcome.index)
    assert [outcome.failure for outcome in outcomes] == [
        "ValueError: no such reward", "its process was killed by signal 9", None, "its process ended with exit code 3",
        "AttributeError: module 'tests.parallel_calls' has no attribute 'nothing'",
        "its result can't be read: ValueError: I can't be read", "its process was killed by signal 9", None,
    ]  # fmt: skip
    assert [outcomes[2].result[0], outcomes[7].result[0]] == [8, 10]
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
    assert not any(Path(f"/proc/{process}").exists() for process in processes)
    assert not paths[2].exists()


def test_no_more_at_once_than_asked_for(tmp_path):
    outcomes = list(run_all([call(tmp_path, "sleep_a_little")] * 5, preload=PRELOAD, processes=2))
    times = [outcome.result for outcome in outcomes]
    at_once = [sum(start <= moment < end for start, end in times) for moment, _ in times]
    assert max(at_once) == 2
