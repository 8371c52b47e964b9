"""Calls under a limit of time and memory that holds whatever they do, in processes that are started once.

Why not pebble's ProcessPool: its workers share one pipe and one lock. Killing workers at random moments broke or
stalled the whole pool in 4 of 12 trials (pebble 5.2.3; tests/grading/pebble_under_kills.py). Here each worker has a
pipe of its own, and its death is its own affair. The limit of time is the kernel's timer, which ends a process inside C
code, too, and also after the program that asked has been killed. It counts computing time, so that a machine's load
hardly matters.
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

MEMORY = 2**30  # bytes that a worker may take beyond what it starts with
PRELOAD = "lambda_grpo.grading.judge"  # so that a process that is replaced needn't import SymPy
PATIENCE = 5  # times the limit that a call may take on the clock, which goes on while others compute
# What ends a call at its limit: the timers of computing time and of the clock
LIMITS = (signal.SIGPROF, signal.SIGALRM)
MAX_DEATHS = 3  # of workers by the same call
_IMPORTED_IN = os.getpid()


@dataclass(frozen=True)
class Outcome:
    """What became of a call: its result, or a traceback if it raised, or neither if a limit ended it."""

    result: Any = None
    error: str | None = None
    ended: bool = False


@dataclass
class _Worker:
    process: Any
    connection: Connection
    number: int = -1  # of its call


@dataclass
class Pool:
    """Processes that call a function.

    Args:
        module, function: where it is. This process doesn't import it.
        workers: how many; by default one for each core, shared with the other ranks of this machine.
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
        """Make the calls, from any thread, and return their outcomes in order.

        A worker that dies is replaced and its call made again; one that kills MAX_DEATHS workers is ended.

        Args:
            seconds: of computing that a call may take: in a first round, and those that were ended there in the next
                one, so that no call waits for others that take long.
            batch_seconds: that all may take on the clock, from when no other thread's calls are made; those that
                aren't done then are ended.
        """
        if self._owner != os.getpid():  # this process was forked: the workers are its parent's
            self._idle, self._lock, self._owner = [], Lock(), os.getpid()
        with self._lock:
            deadline = time.monotonic() + batch_seconds
            outcomes = [Outcome(ended=True)] * len(calls)
            for limit in seconds:
                left = [i for i, outcome in enumerate(outcomes) if outcome.ended]
                found = _Batch(self, [calls[i] for i in left], limit, deadline).run()
                for i, outcome in zip(left, found, strict=True):
                    outcomes[i] = outcome
            return outcomes

    def processes(self) -> int:
        """How many there are at most."""
        return self.workers or max(1, cores() // local_world_size())

    def take(self) -> _Worker:
        """An idle worker, or a new one."""
        while self._idle:
            worker = self._idle.pop()
            if worker.process.is_alive():
                return worker
            worker.connection.close()
        return _start(self.module, self.function)

    def put_back(self, worker: _Worker) -> None:
        self._idle.append(worker)


class _Batch:
    """The calls of one `Pool.run`."""

    def __init__(self, pool: Pool, calls: Sequence[tuple[Any, ...]], seconds: float, deadline: float):
        self.pool, self.calls, self.seconds, self.deadline = pool, calls, seconds, deadline
        self.outcomes: list[Outcome] = [Outcome(ended=True)] * len(calls)
        self.deaths = [0] * len(calls)
        self.waiting = deque(range(len(calls)))
        self.busy: list[_Worker] = []

    def run(self) -> list[Outcome]:
        try:
            self._fill()
            while self.busy and (left := self.deadline - time.monotonic()) > 0:
                senders = [one for worker in self.busy for one in (worker.connection, worker.process.sentinel)]
                ready = wait(senders, None if left == float("inf") else left)
                for worker in list(self.busy):
                    if worker.connection in ready or worker.process.sentinel in ready:
                        self.busy.remove(worker)
                        self._receive(worker)
                self._fill()
        finally:  # at the deadline, or when the caller is interrupted
            for worker in self.busy:
                worker.process.kill()
                worker.connection.close()
        return self.outcomes

    def _fill(self) -> None:
        while self.waiting and len(self.busy) < self.pool.processes() and time.monotonic() < self.deadline:
            worker = self.pool.take()
            worker.number = self.waiting.popleft()
            try:
                worker.connection.send((self.seconds, self.calls[worker.number]))
            except OSError:  # it died while it was idle
                worker.connection.close()
                self.waiting.appendleft(worker.number)
                continue
            self.busy.append(worker)

    def _receive(self, worker: _Worker) -> None:
        try:
            said = worker.connection.recv() if worker.connection.poll() else None
        except (EOFError, OSError):  # it was killed, perhaps in the middle of its answer
            said = None
        if said is not None:
            self.outcomes[worker.number] = said
            self.pool.put_back(worker)
            return
        worker.process.join()
        worker.connection.close()
        self.deaths[worker.number] += 1
        if -(worker.process.exitcode or 0) not in LIMITS and self.deaths[worker.number] < MAX_DEATHS:
            self.waiting.appendleft(worker.number)


def _start(module: str, function: str) -> _Worker:
    if multiprocessing.current_process().daemon:
        raise RuntimeError(
            "this process is daemonic (a worker of a DataLoader or of multiprocessing.Pool) and may start none of its "
            "own: grade in the main process"
        )
    # A process that was forked can't reach the fork server of the one it comes from.
    method = START_METHOD if os.getpid() == _IMPORTED_IN else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([PRELOAD])
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(module, function, theirs), daemon=True)
    # A new process would import the user's script again: all of its torch and trl, and without an `if __name__ ==
    # "__main__"` it would run it.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        start_process(process, method)
    finally:
        sys.modules["__main__"] = main
    theirs.close()
    return _Worker(process, ours)


def _serve(module: str, name: str, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where the fork server is another library's
    for limit in LIMITS:
        signal.signal(limit, signal.SIG_DFL)  # ends the process
    function = getattr(importlib.import_module(module), name)
    _limit_memory()
    while True:
        try:
            seconds, arguments = connection.recv()
        except EOFError:  # the program has ended
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE * seconds)
        try:
            outcome = Outcome(function(*arguments))
        except MemoryError:
            outcome = Outcome(ended=True)
        except Exception:
            outcome = Outcome(error=traceback.format_exc())
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(outcome)


def _limit_memory() -> None:
    if sys.platform != "linux":  # elsewhere the limit isn't kept, or counts what is mapped and never touched
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
