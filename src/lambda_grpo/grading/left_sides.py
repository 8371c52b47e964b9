r"""What an answer says that it is: "f(x) = 2x - 1" is 2x - 1, under the name f.

y and a function of x are one name: y = 2x is f(x) = 2x. Others differ: x = 3 isn't y = 3.
"""

from __future__ import annotations

import re

_LEFT = re.compile(
    r"(?P<name>\\text\{[^{}=]+\}|\\[A-Za-z]+|[A-Za-z])(?P<script>(?:_\{[^{}]*\}|\^\{-1\}|\^\{\([n\d]\)\})*)(?P<primes>'*)"
    r"\s*(?P<arguments>\([^()=]*\))?\s*(?:=|:=|\\equiv|\\approx)\s*(?P<rest>[^=].*)",
    re.DOTALL,
)
_ANGLE = re.compile(r"(?:m\s*)?\\(?:angle|triangle|measuredangle)\s*[A-Z]{1,3}\s*=\s*([^=]+)")
_WORDS = re.compile(r"(?:\\text\{)?[A-Za-z][A-Za-z ]+\}?\s*(?:=|:)\s*([^=]+)")


def split(text: str) -> tuple[tuple[str, str, str], str] | None:
    """The name before an equals sign, as letters, primes and arguments, and what follows; None without a name."""
    found = _LEFT.fullmatch(text)
    if not found:
        return None
    name = re.sub(r"\\text\{([^{}]*)\}", r"\1", found["name"]).strip() + re.sub(r"\s", "", found["script"])
    return (name, found["primes"], re.sub(r"[\s()]", "", found["arguments"] or "")), found["rest"].strip()


def same_name(ours: tuple[str, str, str], theirs: tuple[str, str, str]) -> bool:
    """Whether two names stand for the same thing."""
    (name, primes, arguments), (other, other_primes, other_arguments) = ours, theirs
    if primes != other_primes:
        return False
    if name == other:
        return arguments == other_arguments or not arguments or not other_arguments
    # y is any function's value, of x or of t
    return (name == "y" and _is_function(other, other_arguments, primes)) or (
        other == "y" and _is_function(name, arguments, primes)
    )


def _is_function(name: str, arguments: str, primes: str) -> bool:
    return bool(re.fullmatch(r"[a-zA-Z](?:\^\{-1\})?", name)) and (
        bool(re.fullmatch(r"[a-z]", arguments)) or (name in "fgh" and bool(primes))
    )


def without(text: str) -> str | None:
    """What follows the left side of a plain answer; None where there is none that is only a name."""
    if words := _ANGLE.fullmatch(text) or _WORDS.fullmatch(text):
        return words.group(1).strip()
    found = split(text)
    return found[1] if found else None
