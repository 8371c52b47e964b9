"""The project's exceptions, and how messages reach the user."""

import functools
import os
import sysconfig
import traceback
import warnings

MAX_TEXT = 300  # characters of an exception's text
MAX_FRAMES = 3  # of the user's own code, the innermost ones


class LambdaGRPOError(Exception):
    """Base class of the exceptions that this package raises for its own reasons."""


class UserError(LambdaGRPOError, ValueError):
    """Input that can't be used. The message is one line: what is wrong and how to fix it. Exit code 2."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C after work has begun. `command` resumes it, quoted for a shell."""

    def __init__(self, command: str):
        super().__init__(command)
        self.command = command


@functools.cache
def warn_once(message: str) -> None:
    """Issue a UserWarning, once per process for each message."""
    warnings.warn(message, stacklevel=4)


def describe_failure(error: Exception) -> str:
    """An exception raised by the user's own code, on one line: its type, its text, and where it was raised.

    Frames of installed packages, of Python itself and of this package are left out, unless there are no others.
    """
    text = " ".join(str(error).split())
    shown = (
        f"{type(error).__name__}: {text[:MAX_TEXT]}{'…' if len(text) > MAX_TEXT else ''}"
        if text
        else type(error).__name__
    )
    frames = user_frames(error) or traceback.extract_tb(error.__traceback__)[-1:]
    places = [
        f"{os.path.relpath(frame.filename) if frame.filename.startswith(os.getcwd()) else frame.filename}, "
        f"line {frame.lineno}, in {frame.name}" + (f": `{frame.line}`" if frame is frames[-1] and frame.line else "")
        for frame in frames[-MAX_FRAMES:]
    ]
    return f"{shown} ({'; '.join(places)})" if places else shown


def user_frames(error: Exception) -> list[traceback.FrameSummary]:
    """The frames of an exception's traceback that are the user's own code, the innermost last."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_installed(frame.filename)]


def _is_installed(file: str) -> bool:
    """Whether a source file belongs to this package, to an installed one or to Python itself."""
    paths = sysconfig.get_paths()
    folders = (paths["stdlib"], paths["purelib"], paths["platlib"], os.path.dirname(__file__))
    is_generated = file.startswith("<") and file != "<stdin>"
    return is_generated or any(os.path.realpath(file).startswith(os.path.realpath(folder)) for folder in folders)
