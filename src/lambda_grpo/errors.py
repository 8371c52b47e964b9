"""The one exception that is the user's to mend."""


class UserError(ValueError):
    """Input that can't be used. Its message is one line: what is wrong, and how to mend it. Exit code 2."""
