"""What a user is told: the one exception that is theirs to mend, and warnings that are said once."""

import functools
import warnings


class UserError(ValueError):
    """Input that can't be used. Its message is one line: what is wrong, and how to mend it. Exit code 2."""


@functools.cache
def warn_once(message: str) -> None:
    """A UserWarning, the first time that this process has it to say."""
    warnings.warn(message, stacklevel=4)
