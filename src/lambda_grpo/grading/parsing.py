r"""Reading an answer as mathematics: math-verify's parser, kept from what it can't read in reasonable time.

An answer that is too long, too deep or too large isn't read at all: it can only cost time. Capital and small letters
differ (by default the parser reads mg/M as mg/m), and so do x and x'.
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
MAX_DEPTH = 20  # of its braces and brackets
MAX_DIGITS = 100  # of a number
MAX_NODES = 400  # of its expression
MAX_EXPONENT = 10_000
MAX_BITS = 10_000  # of a whole number
MAX_SUM_EXPONENT, MAX_TERMS = 100, 2000  # a power of a sum, which has to be multiplied out

# Its word on limits of time is said once per process, and isn't needed: the pool has them.
for _name in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_name).setLevel(logging.ERROR)

_NORMALIZATION = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_IMAGINARY = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z])")  # the parser's own rule misses it behind a digit
_CAPITAL_GREEK = re.compile(r"\\(Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega)(?![A-Za-z_(])")


@functools.lru_cache(maxsize=1024)
def read(text: str) -> Basic | MatrixBase | None:
    """As math-verify parses it; None where it can't, or where it had better not."""
    if _DECIMAL.fullmatch(text) and len(text) < MAX_DIGITS:  # as the parser makes it, without the parser
        return sympy.Float(text) if "." in text else sympy.Integer(int(text))
    if re.search(r"\d'", text):  # minutes of arc
        return None
    if len(text) > MAX_LENGTH or _depth(text) > MAX_DEPTH or _CONTROL.search(text):
        return None
    marked = re.sub(r"([A-Za-z])('+)", lambda match: f"{match[1]}_{{{'p' * len(match[2])}}}", text)  # x' isn't x
    marked = _CAPITAL_GREEK.sub(r"\\\1_{capital}", marked)  # nor is \Theta \theta
    marked = re.sub(r"(?<![A-Za-z\\])I_\{(\w+)\}", r"\\iota_{\1capital}", marked)  # nor I_p the imaginary unit
    marked = re.sub(r"\\gamma(?![A-Za-z_])", r"\\nu_{gamma}", marked)  # a variable, and not Euler's constant
    latex = normalize_latex(marked, _NORMALIZATION)
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
        except Exception:  # ANTLR's errors are of this class itself, and SymPy raises many things
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
    """Whether it takes long to compare, however it is done."""
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
    """Up to which a power of it is quick to compare. A sum is multiplied out for that."""
    if not isinstance(base, sympy.Add):
        return MAX_EXPONENT if base.is_number else float("inf")
    terms = len(base.args)
    return next((n - 1 for n in range(MAX_SUM_EXPONENT) if math.comb(n + terms - 1, n) > MAX_TERMS), MAX_SUM_EXPONENT)


def _size(expression: Basic) -> float:
    """|expression|, or an upper bound where it is a power; infinity if it is above 10^300, 0 for symbols."""
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
