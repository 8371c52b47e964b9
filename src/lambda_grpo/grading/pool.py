"""A process pool with hard time and memory limits per call; workers are started once and replaced when they die.

Why not pebble's ProcessPool: its workers share one pipe and one lock. Killing workers at random moments broke or
stalled the whole pool in 4 of 12 trials (pebble 5.2.3; tests/grading/pebble_under_kills.py). Here each worker has its
own pipe, so that its death affects no other. The time limit is a kernel timer, which also ends a process that is in C
code, or whose parent has been killed. It counts CPU time, so the load of the machine hardly matters.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from lambda_grpo.distributed import local_world_size
from lambda_grpo.parallel import START_METHOD, cores, start_process

WORKER_MEMORY = 2**30  # bytes that a worker may allocate beyond what it starts with
PRELOAD = "lambda_grpo.grading.judge"  # imported in the fork server, so that a new worker needn't import SymPy
WALL_CLOCK_FACTOR = 5  # wall-clock limit of a call, as a multiple of its CPU time limit
LIMIT_SIGNALS = (signal.SIGPROF, signal.SIGALRM)  # sent at the CPU time limit and at the wall-clock limit
MAX_DEATHS = 3  # after a call has killed so many workers it isn't tried again
_IMPORTED_IN = os.getpid()


@dataclass(frozen=True)
class Outcome:
    """The outcome of a call: its result, or a traceback if it raised, or neither if it exceeded a limit."""

    result: Any = None
    error: str | None = None
    limit_exceeded: bool = False


@dataclass
class _Worker:
    process: Any
    connection: Connection
    index: int = -1  # of its current call


@dataclass
class Pool:
    """Worker processes that call one function.

    Args:
        module, function: what the workers import and call. This process doesn't import it.
        workers: how many; 0 means one per core, divided by the number of ranks on this machine.
    """

    module: str
    function: str
    workers: int = 0
    _idle: list[_Worker] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)
    _owner: int = field(default_factory=os.getpid)

    def run(
        self, calls: Sequence[tuple[Any, ...]], *seconds: float, batch_seconds: float = float("inf")
    ) -> list[Outcome]:
        """Run the calls and return their outcomes in order. Thread-safe: batches of other threads run one by one.

        If a worker dies, it is replaced and its call is repeated; a call that has killed MAX_DEATHS workers counts as
        having exceeded a limit.

        Args:
            seconds: CPU time limit per call, one value per round: calls that exceed the first limit are repeated with
                the next one, so that quick calls don't wait for slow ones.
            batch_seconds: wall-clock limit of the whole batch, which starts when this batch's turn comes. Calls that
                aren't done by then exceed it.
        """
        if self._owner != os.getpid():  # this process was forked: the workers belong to its parent
            self._idle, self._lock, self._owner = [], Lock(), os.getpid()
        with self._lock:
            deadline = time.monotonic() + batch_seconds
            outcomes = [Outcome(limit_exceeded=True)] * len(calls)
            for limit in seconds:
                open_calls = [i for i, outcome in enumerate(outcomes) if outcome.limit_exceeded]
                found = _Batch(self, [calls[i] for i in open_calls], limit, deadline).run()
                for i, outcome in zip(open_calls, found, strict=True):
                    outcomes[i] = outcome
            return outcomes

    def max_workers(self) -> int:
        """How many worker processes run at most."""
        return self.workers or max(1, cores() // local_world_size())

    def acquire(self) -> _Worker:
        """An idle worker, or a new one."""
        while self._idle:
            worker = self._idle.pop()
            if worker.process.is_alive():
                return worker
            worker.connection.close()
        return _start(self.module, self.function)

    def release(self, worker: _Worker) -> None:
        self._idle.append(worker)


class _Batch:
    """The calls of one round of `Pool.run`."""

    def __init__(self, pool: Pool, calls: Sequence[tuple[Any, ...]], seconds: float, deadline: float):
        self.pool, self.calls, self.seconds, self.deadline = pool, calls, seconds, deadline
        self.outcomes: list[Outcome] = [Outcome(limit_exceeded=True)] * len(calls)
        self.deaths = [0] * len(calls)
        self.waiting = deque(range(len(calls)))
        self.busy: list[_Worker] = []

    def run(self) -> list[Outcome]:
        try:
            self._dispatch()
            while self.busy and (left := self.deadline - time.monotonic()) > 0:
                senders = [one for worker in self.busy for one in (worker.connection, worker.process.sentinel)]
                ready = wait(senders, None if left == float("inf") else left)
                for worker in list(self.busy):
                    if worker.connection in ready or worker.process.sentinel in ready:
                        self.busy.remove(worker)
                        self._receive(worker)
                self._dispatch()
        finally:  # at the deadline, or when the caller is interrupted
            for worker in self.busy:
                worker.process.kill()
                worker.connection.close()
        return self.outcomes

    def _dispatch(self) -> None:
        while self.waiting and len(self.busy) < self.pool.max_workers() and time.monotonic() < self.deadline:
            worker = self.pool.acquire()
            worker.index = self.waiting.popleft()
            try:
                worker.connection.send((self.seconds, self.calls[worker.index]))
            except OSError:  # it died while it was idle
                worker.connection.close()
                self.waiting.appendleft(worker.index)
                continue
            self.busy.append(worker)

    def _receive(self, worker: _Worker) -> None:
        try:
            outcome = worker.connection.recv() if worker.connection.poll() else None
        except (EOFError, OSError):  # it was killed, perhaps in the middle of its answer
            outcome = None
        if outcome is not None:
            self.outcomes[worker.index] = outcome
            self.pool.release(worker)
            return
        worker.process.join()
        worker.connection.close()
        self.deaths[worker.index] += 1
        if -(worker.process.exitcode or 0) not in LIMIT_SIGNALS and self.deaths[worker.index] < MAX_DEATHS:
            self.waiting.appendleft(worker.index)


def _start(module: str, function: str) -> _Worker:
    if multiprocessing.current_process().daemon:
        raise RuntimeError(
            "this process is daemonic (a worker of a DataLoader or of multiprocessing.Pool) and can't start processes "
            "of its own: grade in the main process"
        )
    # A forked process can't reach its parent's fork server.
    method = START_METHOD if os.getpid() == _IMPORTED_IN else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([PRELOAD])
    parent_end, child_end = context.Pipe()
    process = context.Process(target=_serve, args=(module, function, child_end), daemon=True)
    # A new process would import the user's script again, with torch and trl, and would run it if it has no
    # `if __name__ == "__main__"`.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        start_process(process, method)
    finally:
        sys.modules["__main__"] = main
    child_end.close()
    return _Worker(process, parent_end)


def _serve(module: str, name: str, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # in case another library started the fork server
    for limit in LIMIT_SIGNALS:
        signal.signal(limit, signal.SIG_DFL)  # which ends the process
    function = getattr(importlib.import_module(module), name)
    _limit_memory()
    while True:
        try:
            seconds, arguments = connection.recv()
        except EOFError:  # the parent has ended
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, WALL_CLOCK_FACTOR * seconds)
        try:
            outcome = Outcome(function(*arguments))
        except MemoryError:
            outcome = Outcome(limit_exceeded=True)
        except Exception:
            outcome = Outcome(error=traceback.format_exc())
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(outcome)


def _limit_memory() -> None:
    if sys.platform != "linux":  # elsewhere the limit isn't enforced, or counts memory that is mapped but never used
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + WORKER_MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
