r"""Parsing an answer into a SymPy expression: math-verify's parser, with limits on what it is given.

An answer that is too long, too deeply nested or too large isn't parsed at all, since it would only cost time. Symbols
are case-sensitive (by default the parser reads mg/M as mg/m), and x and x' differ.
"""

from __future__ import annotations

import functools
import logging
import math
import re

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify.grader import should_treat_as_complex
from math_verify.parser import get_last_eq
from sympy import Basic, MatrixBase, Pow, factorial, preorder_traversal

MAX_LENGTH = 1000  # characters of an answer
MAX_DEPTH = 20  # nesting of its braces and brackets
MAX_DIGITS = 100  # digits of a number
MAX_NODES = 400  # nodes of its expression tree
MAX_EXPONENT = 10_000
MAX_BITS = 10_000  # bits of an integer
MAX_SUM_EXPONENT, MAX_TERMS = 100, 2000  # limits of a power of a sum, which is expanded

# math-verify warns that its own timeouts are off. They aren't needed: the pool has limits.
for _name in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_name).setLevel(logging.ERROR)

_NORMALIZATION = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_IMAGINARY = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z])")  # the parser's own rule misses it behind a digit
_BRACED_DIGIT = re.compile(r"\^\{(\d)\}(?=[-+=)]|$)")  # x^{2} is x^2, which the parser reads faster
_CAPITAL_GREEK = re.compile(r"\\(Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega)(?![A-Za-z_(])")


@functools.lru_cache(maxsize=1024)
def parse_expression(text: str) -> Basic | MatrixBase | None:
    """A normalized answer as math-verify parses it; None if it can't be parsed, or exceeds a limit."""
    if _DECIMAL.fullmatch(text) and len(text) < MAX_DIGITS:  # the parser's result, without the parser
        return sympy.Float(text) if "." in text else sympy.Integer(int(text))
    if re.search(r"\d'", text):  # minutes of arc
        return None
    if len(text) > MAX_LENGTH or _depth(text) > MAX_DEPTH or _CONTROL.search(text):
        return None
    marked = re.sub(r"([A-Za-z])('+)", lambda match: f"{match[1]}_{{{'p' * len(match[2])}}}", text)  # x' isn't x
    marked = _CAPITAL_GREEK.sub(r"\\\1_{capital}", marked)  # nor is \Theta \theta
    marked = re.sub(r"(?<![A-Za-z\\])I_\{(\w+)\}", r"\\iota_{\1capital}", marked)  # nor I_p the imaginary unit
    marked = re.sub(r"\\gamma(?![A-Za-z_])", r"\\nu_{gamma}", marked)  # a variable, and not Euler's constant
    latex = _BRACED_DIGIT.sub(r"^\1", normalize_latex(marked, _NORMALIZATION))
    for attempt in dict.fromkeys((latex, get_last_eq(latex))):
        try:
            found = latex2sympy(
                attempt,
                is_real=not (should_treat_as_complex(attempt) or _IMAGINARY.search(attempt)),
                convert_degrees=False,
                normalization_config=None,
                conversion_config=_CONVERSION,
            )
        except MemoryError:
            raise
        except Exception:  # ANTLR raises this class itself, and SymPy all kinds of errors
            continue
        return None if _is_heavy(found) else found
    return None


def _depth(text: str) -> int:
    depth = deepest = 0
    for sign in text:
        depth += (sign in "{([") - (sign in "})]")
        deepest = max(deepest, depth)
    return deepest


def _is_heavy(expression: Basic | MatrixBase) -> bool:
    """Whether the expression takes long to compare by any method."""
    parts = list(expression) if isinstance(expression, MatrixBase) else [expression]
    for count, node in enumerate(inner for part in parts for inner in preorder_traversal(part)):
        if count > MAX_NODES:
            return True
        if isinstance(node, (Pow, sympy.exp)) and _size(node.exp) > _largest_exponent(node.base):
            return True
        if isinstance(node, sympy.Integer) and node.p.bit_length() > MAX_BITS:
            return True
        if isinstance(node, (factorial, sympy.binomial)) and _size(node.args[0]) > MAX_EXPONENT:
            return True
    return False


def _largest_exponent(base: Basic) -> float:
    """The largest exponent for which a power of `base` is quick to compare: a power of a sum is expanded."""
    if not isinstance(base, sympy.Add):
        return MAX_EXPONENT if base.is_number else float("inf")
    terms = len(base.args)
    return next((n - 1 for n in range(MAX_SUM_EXPONENT) if math.comb(n + terms - 1, n) > MAX_TERMS), MAX_SUM_EXPONENT)


def _size(expression: Basic) -> float:
    """|expression|, or an upper bound of it for a power; infinity above 10^300, 0 for symbols."""
    if not expression.is_number:
        return 0.0
    if isinstance(expression, (Pow, sympy.exp)):
        base, exponent = _size(expression.base), _size(expression.exp)
        try:
            return max(1.0, base) ** exponent
        except OverflowError:
            return float("inf")
    if expression.args and not expression.is_Atom:
        sizes = [_size(argument) for argument in expression.args]
        if isinstance(expression, sympy.Mul):
            return math.prod(max(1.0, size) for size in sizes)
        return sum(sizes) if isinstance(expression, sympy.Add) else max(sizes)
    try:
        return abs(float(expression))
    except (OverflowError, TypeError, ValueError):
        return float("inf")
