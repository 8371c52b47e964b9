r"""Left-hand sides: "f(x) = 2x - 1" is the value 2x - 1 with the name f.

y and a function of x count as the same name: y = 2x is f(x) = 2x. Other names differ: x = 3 isn't y = 3.
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


def split_equation(text: str) -> tuple[tuple[str, str, str], str] | None:
    """The name before an equals sign (letters, primes, arguments) and the right-hand side; None without a name."""
    found = _LEFT.fullmatch(text)
    if not found:
        return None
    name = re.sub(r"\\text\{([^{}]*)\}", r"\1", found["name"]).strip() + re.sub(r"\s", "", found["script"])
    return (name, found["primes"], re.sub(r"[\s()]", "", found["arguments"] or "")), found["rest"].strip()


def same_name(answer: tuple[str, str, str], reference: tuple[str, str, str]) -> bool:
    """Whether two names stand for the same thing."""
    (name, primes, arguments), (other, other_primes, other_arguments) = answer, reference
    if primes != other_primes:
        return False
    if name == other:
        return arguments == other_arguments or not arguments or not other_arguments
    # y stands for the value of any function, of x or of t
    return (name == "y" and _is_function(other, other_arguments, primes)) or (
        other == "y" and _is_function(name, arguments, primes)
    )


def _is_function(name: str, arguments: str, primes: str) -> bool:
    return bool(re.fullmatch(r"[a-zA-Z](?:\^\{-1\})?", name)) and (
        bool(re.fullmatch(r"[a-z]", arguments)) or (name in "fgh" and bool(primes))
    )


def right_hand_side(text: str) -> str | None:
    """The right-hand side of a normalized answer; None unless its left-hand side is only a name."""
    if words := _ANGLE.fullmatch(text) or _WORDS.fullmatch(text):
        return words.group(1).strip()
    found = split_equation(text)
    return found[1] if found else None
