"""Many calls at once, each in a fresh process that starts with everything imported."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What became of call `number`: its result, or how it failed, in words."""

    number: int
    result: Any = None
    failure: str | None = None


@dataclass(frozen=True)
class Call:
    """A module's function by its import path, "module:name", with what it is called with.

    output: a file for what the process prints.
    """

    function: str
    arguments: tuple[Any, ...]
    output: Path


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(
    calls: Sequence[Call], *, preload: str = "lambda_grpo.preload", processes: int | None = None, threads: int = 1
) -> Iterator[Outcome]:
    """Make calls side by side, in their order, and yield each as it ends.

    A call that raises, or whose process is killed, is an outcome; the others go on. When the iteration is given up,
    the calls that are under way are ended.

    Args:
        preload: a module that is imported once, before the first call. It may not start threads.
        processes: at the same time; the number of cores by default.
        threads: of torch in each.
    """
    context: Any = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
    if sys.platform != "win32":
        context.set_forkserver_preload([preload])
    running: set[Any] = set()
    stopping = threading.Event()

    def run(number: int, call: Call) -> Outcome:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(call, threads, sender))
        process.start()
        running.add(process)
        if stopping.is_set():  # since before it was there to be ended
            process.terminate()
        sender.close()
        try:
            outcome = Outcome(number, **receiver.recv())
        except EOFError:  # it ended without a word
            process.join()
            code = process.exitcode or 0
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            outcome = Outcome(number, failure=f"its process {how}")
        process.join()
        running.discard(process)
        return outcome

    pool = ThreadPoolExecutor(processes or cores())
    try:
        futures = [pool.submit(run, number, call) for number, call in enumerate(calls)]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        stopping.set()
        for process in list(running):
            process.terminate()
        pool.shutdown()


def _child(call: Call, threads: int, sender: Connection) -> None:
    call.output.parent.mkdir(parents=True, exist_ok=True)
    with open(call.output, "a") as output:
        os.dup2(output.fileno(), 1)  # of libraries written in C too
        os.dup2(output.fileno(), 2)
    import torch

    torch.set_num_threads(threads)
    module, _, name = call.function.partition(":")
    try:
        sender.send({"result": getattr(importlib.import_module(module), name)(*call.arguments)})
    except Exception as error:
        traceback.print_exc()
        sender.send({"failure": f"{type(error).__name__}: {error}"})
