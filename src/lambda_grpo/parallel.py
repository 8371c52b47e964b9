"""Function calls in parallel, each in a fresh process that starts with its imports already done."""

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
from collections.abc import Generator, Sequence
from concurrent import futures
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

# Forking a process that has imported torch is safe on Linux, but not on macOS.
START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
START_TIMEOUT = 1  # seconds that an interrupted program gives a process to be told what to do
EXIT_TIMEOUT = 30  # seconds that a process has to exit after it has sent its result


@dataclass(frozen=True)
class Call:
    """A function, by its import path "module:name", and its arguments.

    output: the file that receives what the process prints.
    """

    function: str
    arguments: tuple[Any, ...]
    output: Path


@dataclass(frozen=True)
class Outcome:
    """The result of call number `index`, or a message on how it failed.

    started: when its process was started, as `time.time()`.
    """

    index: int
    started: float
    result: Any = None
    failure: str | None = None


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_process(process: Any, method: str) -> None:
    """Start a multiprocessing process that ignores Ctrl-C from its first instruction on.

    A terminal sends Ctrl-C to all processes of a program. The parent handles it and ends the others: a process that is
    just starting would only print a traceback, and so would one whose parent is interrupted in the middle of telling
    it what to do. Python raises KeyboardInterrupt in its main thread only, and a process takes over the signals that
    the thread which starts it blocks. So a thread of its own starts it.

    Args:
        method: multiprocessing's start method of the process.
    """
    started: Future[None] = Future()

    def start() -> None:
        try:
            resource_tracker.ensure_running()  # before: it unblocks the signal when it starts
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            if method == "forkserver":
                forkserver.ensure_running()
            process.start()
        except Exception as error:
            started.set_exception(error)
        else:
            started.set_result(None)

    try:
        threading.Thread(target=start, daemon=True).start()
        started.result()  # it may wait for the imports of the fork server
    except KeyboardInterrupt:
        futures.wait([started], START_TIMEOUT)
        raise


def run_all(
    calls: Sequence[Call],
    *,
    preload: str,
    processes: int | None = None,
    threads: int = 1,
) -> Generator[Outcome]:
    """Run calls in parallel, started in the given order, and yield each outcome as its call ends.

    A call that raises, or whose process is killed, yields an outcome with `failure`, and the others continue. When the
    caller stops iterating, or this program is killed, the running calls are terminated.

    Args:
        preload: a module that is imported once, before the first call of this program. It must not start threads.
        processes: how many run at the same time. Default: the number of cores.
        threads: torch's number of threads in each.
    """
    context: Any = multiprocessing.get_context(START_METHOD)
    if START_METHOD == "forkserver":
        context.set_forkserver_preload([preload])
    waiting = deque(enumerate(calls))
    running: dict[int, tuple[float, Any, Connection]] = {}

    def start() -> None:
        while waiting and len(running) < (processes or cores()):
            index, call = waiting.popleft()
            receiver, sender = context.Pipe()
            process = context.Process(target=_child, args=(call, threads, sender))
            started = time.time()
            start_process(process, START_METHOD)
            sender.close()
            running[index] = (started, process, receiver)

    try:
        start()
        while running:
            # the sentinel too: a killed process may leave children behind, which keep its end of the pipe open
            ready = wait([one for _, process, receiver in running.values() for one in (process.sentinel, receiver)])
            ended = []
            for index, (started, process, receiver) in list(running.items()):
                if process.sentinel in ready or receiver in ready:
                    ended.append(Outcome(index, started, **_receive(process, receiver)))
                    del running[index]
            start()  # before the caller spends time on an outcome
            yield from ended
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.join()


def _receive(process: Any, receiver: Connection) -> dict[str, Any]:
    """The message that a process has sent, or how the process ended without one."""
    try:
        message = receiver.recv() if receiver.poll() else None
    except EOFError:
        message = None
    except Exception as error:  # whatever unpickling raises, or a truncated message
        message = {"failure": f"its result can't be read: {type(error).__name__}: {error}"}
    if message is not None:
        process.join(EXIT_TIMEOUT)
        process.kill()  # a library's thread may keep it alive
    process.join()
    receiver.close()
    if message is not None:
        return message
    code = process.exitcode
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return {"failure": f"its process {how}"}


def _child(call: Call, threads: int, connection: Connection) -> None:
    threading.Thread(target=_exit_with_parent, args=(connection,), daemon=True).start()
    try:
        connection.send({"result": _result(call, threads)})
    except Exception as error:
        connection.send({"failure": f"{type(error).__name__}: {error}"})
        with suppress(OSError):  # a full disk
            traceback.print_exc()
            sys.stderr.flush()


def _result(call: Call, threads: int) -> Any:
    call.output.parent.mkdir(parents=True, exist_ok=True)
    with open(call.output, "a") as output:
        os.dup2(output.fileno(), 1)  # for the output of libraries written in C too
        os.dup2(output.fileno(), 2)
    import torch
    from tqdm import tqdm

    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())  # the default is a semaphore, which leaks when the process is terminated
    module, _, name = call.function.partition(":")
    return getattr(importlib.import_module(module), name)(*call.arguments)


def _exit_with_parent(connection: Connection) -> None:
    """The parent never sends anything: receiving ends when the parent does, even when it is killed."""
    try:
        connection.recv()
    except (EOFError, OSError):
        os._exit(1)
