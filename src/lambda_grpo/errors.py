"""What a user is told: the one exception that is theirs to mend, what goes on after Ctrl-C, warnings that come once."""

import functools
import warnings


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
