"""What Ctrl-C does: the program ends, and says which command goes on."""

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

CODE = 128 + signal.SIGINT  # what shells take for "ended by Ctrl-C"
GOES_ON = ("train", "eval", "compare")  # commands that go on where they were stopped


def command_line(arguments: Sequence[str]) -> str:
    """The program with these arguments, as a shell takes it."""
    return shlex.join(["lambda-grpo", *arguments])


@contextmanager
def ending_at_once(arguments: Sequence[str]) -> Iterator[None]:
    """While libraries are imported, which may swallow a KeyboardInterrupt or turn it into another error.

    Nothing has begun then that would have to be put in order.
    """

    def end(*_: Any) -> None:
        tell(KeyboardInterrupt(), arguments)
        sys.stderr.flush()
        os._exit(CODE)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def tell(stop: KeyboardInterrupt, arguments: Sequence[str]) -> None:
    """Print that the program was stopped, and on a line of its own the command that goes on."""
    if "tqdm.std" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()  # which ends its line
    if not (arguments and arguments[0] in GOES_ON):
        print("lambda-grpo: stopped", file=sys.stderr)
        return
    command = stop.command if isinstance(stop, Stopped) else command_line(arguments)
    print(f"lambda-grpo: stopped. To go on:\n{command}", file=sys.stderr)
