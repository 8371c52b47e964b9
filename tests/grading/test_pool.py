"""The pool's limits hold for any call, and no call is lost when workers are killed."""

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from lambda_grpo.grading.pool import Pool

CALLS = "tests.grading.grader_calls"


def results(outcomes):
    assert all(outcome.error is None and not outcome.limit_exceeded for outcome in outcomes)
    return [outcome.result for outcome in outcomes]


def test_outcomes_are_in_order_and_workers_are_reused():
    pool = Pool(CALLS, "double", workers=2)
    assert results(pool.run([(i,) for i in range(50)], 10)) == [2 * i for i in range(50)]
    before = {worker.process.pid for worker in pool._idle}
    assert results(pool.run([(i,) for i in range(50)], 10)) == [2 * i for i in range(50)]
    assert {worker.process.pid for worker in pool._idle} == before
    assert len(before) == 2
    assert pool.run([], 10) == []


def test_a_call_in_c_code_is_ended_and_the_others_continue():
    pool = Pool(CALLS, "power", workers=2)
    outcomes = pool.run([(3, 5), (9, 9**9), (2, 10), (7, 7**10), (10, 3)], 1.0)
    assert [outcome.limit_exceeded for outcome in outcomes] == [False, True, False, True, False]
    assert [outcome.result for outcome in outcomes] == [3, None, 4, None, 4]


def test_a_call_that_only_waits_is_ended_too():
    outcomes = Pool(CALLS, "doze", workers=2).run([(0.1,), (60,), (0.5,)], 0.2)
    assert [outcome.result for outcome in outcomes] == [0.1, None, 0.5]  # waiting costs no computing time
    assert outcomes[1].limit_exceeded


def test_the_deadline_of_a_batch_ends_what_is_left():
    pool = Pool(CALLS, "double_slowly", workers=1)
    outcomes = pool.run([(i,) for i in range(1000)], 10, batch_seconds=1.0)
    done = [outcome for outcome in outcomes if not outcome.limit_exceeded]
    assert 0 < len(done) < 100
    assert [outcome.result for outcome in done] == [2 * i for i in range(len(done))]
    assert results(pool.run([(4,)], 10)) == [8]  # and the pool still works


def test_a_call_that_raises_says_where():
    (outcome,) = Pool(CALLS, "fail", workers=1).run([(5,)], 10)
    assert "ZeroDivisionError: no verdict on 5" in outcome.error
    assert "grader_calls.py" in outcome.error


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_memory_is_limited():
    (small, large) = Pool(CALLS, "allocate", workers=1).run([(0,), (8,)], 10)
    assert small.result == 0
    assert large.limit_exceeded


def test_a_call_that_kills_its_process_each_time_is_ended():
    outcomes = Pool(CALLS, "die", workers=2).run([(i,) for i in range(8)], 10)
    assert [i for i, outcome in enumerate(outcomes) if outcome.limit_exceeded] == [3]
    assert [outcome.result for outcome in outcomes if not outcome.limit_exceeded] == [0, 2, 4, 8, 10, 12, 14]


@pytest.mark.parametrize("seed", range(3))
def test_killing_processes_loses_nothing(seed):
    pool = Pool(CALLS, "double_slowly", workers=2)
    pool.run([(0,)], 10)
    rng, killed, stop = random.Random(seed), [], threading.Event()

    def kill():
        while not stop.wait(rng.uniform(0.01, 0.15)):
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):  # it has just ended, or there is none
                others = psutil.Process().children(recursive=True)
                victim = rng.choice([one for one in others if one.name().startswith("python") and not one.children()])
                victim.kill()
                killed.append(victim.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        assert results(pool.run([(i,) for i in range(150)], 30)) == [2 * i for i in range(150)]
    finally:
        stop.set()
        thread.join()
    assert len(killed) > 3


def test_a_process_killed_while_idle_is_replaced():
    pool = Pool(CALLS, "double", workers=2)
    pool.run([(i,) for i in range(10)], 10)
    for worker in pool._idle:
        os.kill(worker.process.pid, signal.SIGKILL)
    assert results(pool.run([(i,) for i in range(10)], 10)) == [2 * i for i in range(10)]


def test_from_several_threads():
    pool, found = Pool(CALLS, "double_slowly", workers=2), {}

    def ask(start):
        found[start] = results(pool.run([(start + i,) for i in range(20)], 10))

    threads = [threading.Thread(target=ask, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {100 * i: [2 * (100 * i + j) for j in range(20)] for i in range(4)}


def test_a_batch_that_waits_for_another_one_has_all_of_its_time():
    pool = Pool(CALLS, "doze", workers=1)
    first = threading.Thread(target=pool.run, args=([(0.5,)] * 4, 10))
    first.start()
    time.sleep(0.2)
    assert results(pool.run([(0.1,)], 10, batch_seconds=1.5)) == [0.1]
    first.join()


def test_a_daemonic_process_gets_a_clear_error():
    with multiprocessing.get_context("fork").Pool(1) as others:
        found = others.apply(_grade_here)
    assert "this process is daemonic" in found


def _grade_here():
    try:
        return str(Pool(CALLS, "double").run([(1,)], 10))
    except RuntimeError as error:
        return str(error)


SCRIPT = """
import sys
open("imports.txt", "a").write("x")
from lambda_grpo.grading import grade_math
print([grade.correct for grade in grade_math(["\\\\boxed{42}", "#### 7"], ["42", "8"])])
"""


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[True, False]\n", done.stderr
    assert done.stderr == ""
    assert (tmp_path / "imports.txt").read_text() == "x"


FORKING = """
import os
from lambda_grpo.grading import grade_math
assert grade_math(["#### 7"], ["7"])[0].correct
child = os.fork()
if child == 0:
    os._exit(0 if grade_math(["#### 7", "#### 8"], ["7", "7"])[0].correct else 1)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), grade_math(["#### 9"], ["9"])[0].correct)
"""


def test_a_forked_process_has_workers_of_its_own(tmp_path):
    (tmp_path / "script.py").write_text(FORKING)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "0 True\n", done.stderr


HANGING = """
from lambda_grpo.grading.pool import Pool
print("started", flush=True)
Pool("tests.grading.grader_calls", "power", workers=2).run([(9, 9**9), (9, 9**9)], 3.0)
"""


def test_processes_end_with_a_program_that_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(HANGING)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    program = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, env=environment)
    assert program.stdout.readline() == b"started\n"
    workers = []
    for _ in range(200):
        children = psutil.Process(program.pid).children()
        workers = psutil.Process(program.pid).children(recursive=True)
        # the server that they are forked from has computed as long, by its imports
        if sum(worker.cpu_times().user > 0.5 for worker in workers if worker not in children) == 2:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the two workers don't compute")
    program.kill()
    program.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
