"""Ctrl-C: the program ends, and prints the command that resumes it."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lambda_grpo.errors import Stopped

EXIT_CODE = 128 + signal.SIGINT  # a shell's exit code of a program that Ctrl-C ended
RESUMABLE = ("train", "eval", "compare")


def command_line(arguments: Sequence[str]) -> str:
    """The program with these arguments, quoted for a shell."""
    return shlex.join(["lambda-grpo", *arguments])


@contextmanager
def exit_on_interrupt(arguments: Sequence[str]) -> Iterator[None]:
    """Exit at once on Ctrl-C. For imports of libraries that may swallow a KeyboardInterrupt or convert it.

    Nothing has started that would need to be cleaned up.
    """

    def end(*_: Any) -> None:
        report_interrupt(KeyboardInterrupt(), arguments)
        sys.stderr.flush()
        os._exit(EXIT_CODE)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def report_interrupt(stop: KeyboardInterrupt, arguments: Sequence[str]) -> None:
    """Print that the program was stopped, and on a separate line the command that resumes it."""
    if "tqdm.std" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()  # ends its line
    if not (arguments and arguments[0] in RESUMABLE):
        print("lambda-grpo: stopped", file=sys.stderr)
        return
    command = stop.command if isinstance(stop, Stopped) else command_line(arguments)
    print(f"lambda-grpo: stopped. To resume:\n{command}", file=sys.stderr)
