"""What a user is told: the one exception that is theirs to mend, what goes on after Ctrl-C, warnings that come once."""

import functools
import os
import sysconfig
import traceback
import warnings

SHOWN = 300  # characters of an exception's text
FRAMES = 3  # of the user's own code, the innermost ones


class UserError(ValueError):
    """Input that can't be used. Its message is one line: what is wrong, and how to mend it. Exit code 2."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C where something had begun. `command`: what goes on there, as a shell takes it."""

    def __init__(self, command: str):
        super().__init__(command)
        self.command = command


@functools.cache
def warn_once(message: str) -> None:
    """A UserWarning, the first time that this process has it to say."""
    warnings.warn(message, stacklevel=4)


def describe_failure(error: Exception) -> str:
    """An exception of the user's own code on one line: its type, its text, and where in that code it came from.

    Frames of installed packages, of Python itself and of this package are left out, unless there are no others.
    """
    text = " ".join(str(error).split())
    shown = (
        f"{type(error).__name__}: {text[:SHOWN]}{'…' if len(text) > SHOWN else ''}" if text else type(error).__name__
    )
    own = own_frames(error) or traceback.extract_tb(error.__traceback__)[-1:]
    places = [
        f"{os.path.relpath(frame.filename) if frame.filename.startswith(os.getcwd()) else frame.filename}, "
        f"line {frame.lineno}, in {frame.name}" + (f": `{frame.line}`" if frame is own[-1] and frame.line else "")
        for frame in own[-FRAMES:]
    ]
    return f"{shown} ({'; '.join(places)})" if places else shown


def own_frames(error: Exception) -> list[traceback.FrameSummary]:
    """Where an exception passed through the user's own code, the innermost place last."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_installed(frame.filename)]


def _is_installed(file: str) -> bool:
    """Whether a file of code is this package's, an installed one's or Python's own."""
    paths = sysconfig.get_paths()
    folders = (paths["stdlib"], paths["purelib"], paths["platlib"], os.path.dirname(__file__))
    is_generated = file.startswith("<") and file != "<stdin>"
    return is_generated or any(os.path.realpath(file).startswith(os.path.realpath(folder)) for folder in folders)
