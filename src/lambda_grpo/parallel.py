"""Many calls at once, each in a fresh process that starts with everything imported."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

# Where a process can fork one that has imported torch. On a Mac that isn't safe.
START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
SECONDS_TO_END = 30  # that a process has after its result


@dataclass(frozen=True)
class Call:
    """A module's function by its import path, "module:name", with what it is called with.

    output: a file for what the process prints.
    """

    function: str
    arguments: tuple[Any, ...]
    output: Path


@dataclass(frozen=True)
class Outcome:
    """What became of call `number`: its result, or how it failed, in words.

    started: when its process was asked for, in seconds of `time.time()`.
    """

    number: int
    started: float
    result: Any = None
    failure: str | None = None


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_process(process: Any, method: str) -> None:
    """Start a process of multiprocessing that Ctrl-C doesn't reach, from its first instruction on.

    A terminal sends Ctrl-C to all processes. This program is the one to answer it, and to end the others: one that is
    just starting would only print a traceback. What is blocked here stays so in what is started here.

    Args:
        method: by which multiprocessing starts it.
    """
    resource_tracker.ensure_running()  # which unblocks the signal when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        if method == "forkserver":
            forkserver.ensure_running()
        else:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if method == "forkserver":
        process.start()  # which may wait for the server's imports


def run_all(
    calls: Sequence[Call],
    *,
    preload: str,
    processes: int | None = None,
    threads: int = 1,
) -> Iterator[Outcome]:
    """Make calls side by side, in their order, and yield each as it ends.

    A call that raises, or whose process is killed, is an outcome; the others go on. When the iteration is given up, or
    this program is killed, the calls that are under way are ended.

    Args:
        preload: a module that is imported once, before the first call of this program. It may not start threads.
        processes: at the same time; the number of cores by default.
        threads: of torch in each.
    """
    context: Any = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        context.set_forkserver_preload([preload])
    waiting = deque(enumerate(calls))
    running: dict[int, tuple[float, Any, Connection]] = {}

    def start() -> None:
        while waiting and len(running) < (processes or cores()):
            number, call = waiting.popleft()
            ours, theirs = context.Pipe()
            process = context.Process(target=_child, args=(call, threads, theirs))
            started = time.time()
            start_process(process, START_METHOD)
            theirs.close()
            running[number] = (started, process, ours)

    try:
        start()
        while running:
            # a process that is killed may leave children, which hold its end of the pipe open
            ready = wait([one for _, process, receiver in running.values() for one in (process.sentinel, receiver)])
            ended = []
            for number, (started, process, receiver) in list(running.items()):
                if process.sentinel in ready or receiver in ready:
                    ended.append(Outcome(number, started, **_received(process, receiver)))
                    del running[number]
            start()  # before whoever listens takes their time
            yield from ended
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.join()


def _received(process: Any, receiver: Connection) -> dict[str, Any]:
    """What a process has said, or how it ended."""
    try:
        said = receiver.recv() if receiver.poll() else None
    except EOFError:
        said = None
    except Exception as error:  # whatever unpickling raises, or a message that was cut short
        said = {"failure": f"its result can't be read: {type(error).__name__}: {error}"}
    if said is not None:
        process.join(SECONDS_TO_END)
        process.kill()  # a thread of some library may keep it
    process.join()
    receiver.close()
    if said is not None:
        return said
    code = process.exitcode
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return {"failure": f"its process {how}"}


def _child(call: Call, threads: int, connection: Connection) -> None:
    threading.Thread(target=_end_with_the_program, args=(connection,), daemon=True).start()
    call.output.parent.mkdir(parents=True, exist_ok=True)
    with open(call.output, "a") as output:
        os.dup2(output.fileno(), 1)  # of libraries written in C too
        os.dup2(output.fileno(), 2)
    import torch
    from tqdm import tqdm

    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which outlives a process that is ended
    module, _, name = call.function.partition(":")
    try:
        connection.send({"result": getattr(importlib.import_module(module), name)(*call.arguments)})
    except Exception as error:
        traceback.print_exc()
        connection.send({"failure": f"{type(error).__name__}: {error}"})


def _end_with_the_program(connection: Connection) -> None:
    """Nothing is ever said on this way: it ends when the program at its other end does, by a kill too."""
    try:
        connection.recv()
    except (EOFError, OSError):
        os._exit(1)
