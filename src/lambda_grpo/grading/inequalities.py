r"""Parsing sets of real numbers: inequalities joined by "or" and "and", x ≠ 1, "all real numbers"."""

from __future__ import annotations

import re

import sympy
from sympy import Complement, FiniteSet, Intersection, Interval, Reals, Set, Union

from lambda_grpo.grading.lists import split_items
from lambda_grpo.grading.parsing import parse_expression

_RELATION = r"\\(?:le|ge|ne|in|not\s*=)(?![A-Za-z])|<|>|=|\\neq"
_OR = re.compile(r"\\text\{\s*,?\s*or\s*\}|(?<![A-Za-z])or(?![A-Za-z])|\\cup(?![a-z])")
_AND = re.compile(r"\\text\{\s*,?\s*(?:and|but)\s*\}|(?<![A-Za-z])(?:and|but)(?![A-Za-z])")
_VARIABLE = re.compile(r"(?:\\[A-Za-z]+|[A-Za-z])(?:_\{[^{}]*\})?")
_ALL = re.compile(
    r"(?:\\text\{\s*)?(?:[a-z]\s+is\s+)?(?:the\s+set\s+of\s+)?(?:all|any)\s+(?:real\s*(?:numbers?)?|reals|[a-z]\s*\\in\s*\\mathbb\s*\{?R\}?)\s*"
    r"(?:values?(?:\s+of\s+[a-z])?|[a-z])?\s*\}?|(?:[a-z]\s*\\in\s*)?\\mathbb\s*\{?\s*R\s*\}?",
    re.IGNORECASE,
)
_NONZERO = re.compile(
    r"(?:\\text\{\s*)?(?:the\s+set\s+of\s+)?all\s+non-?\s?zero\s+real(?:s|\s+numbers?)\s*\}?", re.IGNORECASE
)
_EXCEPT = re.compile(
    r"\s*(?:\\text\{)?\s*,?\s*(?:except|excluding|other\s+than|but\s+not)\s*(?:for\s+|when\s+)?\}?\s*", re.IGNORECASE
)
_FLIPPED = {"<": ">", ">": "<", "le": "ge", "ge": "le", "=": "=", "ne": "ne"}


def parse_real_set(text: str) -> tuple[Set, str | None] | None:
    """The set that a normalized answer describes, and its variable if it names one; None if it isn't a set."""
    try:
        return _set(text.strip())
    except (TypeError, ValueError, AttributeError, NotImplementedError):  # bounds that SymPy can't compare
        return None


def _set(text: str) -> tuple[Set, str | None] | None:
    if _ALL.fullmatch(text):
        return Reals, None
    if _NONZERO.fullmatch(text):
        return Complement(Reals, FiniteSet(0)), None
    halves = _EXCEPT.split(text, maxsplit=1)
    if len(halves) == 2 and _ALL.fullmatch(halves[0].strip()):
        points = _values(halves[1])
        return (Complement(Reals, FiniteSet(*points)), None) if points else None
    for separator, join in ((_OR, Union), (_AND, Intersection)):
        parts = [part.strip(" ,;") for part in separator.split(text)]
        if len(parts) > 1:
            return _joined([_set(part) for part in parts], join)
    parts = split_items(text)
    if len(parts) > 1 and all(re.search(_RELATION, part) for part in parts[:1]):
        return _listed(parts)
    return _relation(text)


def _joined(sets: list[tuple[Set, str | None] | None], join: type) -> tuple[Set, str | None] | None:
    found = [one for one in sets if one is not None]
    names = {name for _, name in found if name}
    if len(found) < len(sets) or len(names) > 1:
        return None
    return join(*(one for one, _ in found)), next(iter(names), None)


def _listed(parts: list[str]) -> tuple[Set, str | None] | None:
    """Relations between commas: "x ≠ 0, 1", "x > 0, x ≠ 1" and "x < 1, x > 3"."""
    if re.search(r"\\ne(?![a-z])", parts[0]) and not any(re.search(_RELATION, part) for part in parts[1:]):
        variable = re.split(r"\\ne(?![a-z])", parts[0])[0]
        parts = [parts[0], *(rf"{variable}\ne {part}" for part in parts[1:])]
    sets = [_relation(part) for part in parts]
    excluding = any(re.search(r"\\ne(?![a-z])", part) for part in parts)
    joined = _joined(sets, Intersection)
    if joined is not None and not excluding and joined[0].is_empty:
        return _joined(sets, Union)
    return joined


def _relation(text: str) -> tuple[Set, str | None] | None:
    """The set of one relation, of a chain of two, or of an interval."""
    pieces = [piece.strip() for piece in re.split(f"({_RELATION})", text)]
    signs = [piece.lstrip("\\") for piece in pieces[1::2]]
    if not signs:
        found = parse_expression(text)
        return (found, None) if isinstance(found, Set) else None
    if signs == ["in"] and _VARIABLE.fullmatch(pieces[0]):
        inner = _set(pieces[2])
        return (inner[0], pieces[0]) if inner and inner[1] is None else None
    signs = ["ne" if sign.startswith(("ne", "not")) else sign for sign in signs]
    if len(signs) == 1 and _VARIABLE.fullmatch(pieces[0]):
        variable, bounds = pieces[0], [(signs[0], pieces[2])]
    elif len(signs) == 1 and _VARIABLE.fullmatch(pieces[2]):
        variable, bounds = pieces[2], [(_FLIPPED[signs[0]], pieces[0])]
    elif len(signs) == 2 and _VARIABLE.fullmatch(pieces[2]):
        variable, bounds = pieces[2], [(_FLIPPED[signs[0]], pieces[0]), (signs[1], pieces[4])]
    else:
        return None
    sets = [_half_line(sign, bound) for sign, bound in bounds]
    if any(one is None for one in sets):
        return None
    return Intersection(*sets), variable


def _half_line(sign: str, bound: str) -> Set | None:
    numbers = _values(bound)
    if len(numbers) != 1:
        return None
    end = numbers[0]
    if sign in ("<", "le"):
        return Interval(-sympy.oo, end, True, sign == "<")
    if sign in (">", "ge"):
        return Interval(end, sympy.oo, sign == ">", True)
    return FiniteSet(end) if sign == "=" else Complement(Reals, FiniteSet(end))


def _values(text: str) -> list[sympy.Expr]:
    """The real numbers in a list; empty if one of its items isn't a real number."""
    found = [parse_expression(part) for part in split_items(text.strip("{}\\ "))]
    numbers = [one.doit() for one in found if isinstance(one, sympy.Expr) and one.is_number]
    return numbers if len(numbers) == len(found) and all(one.is_extended_real for one in numbers) else []


def same_real_set(answer: str, reference: str) -> bool:
    """Whether two normalized answers describe the same set of real numbers."""
    a, b = parse_real_set(answer), parse_real_set(reference)
    if a is None or b is None or (a[1] and b[1] and a[1] != b[1]):
        return False
    if a[0] == b[0]:
        return True
    return a[0].symmetric_difference(b[0]).is_empty is True
