r"""Whether two answers are the same: as text, or as math-verify reads and compares them.

math-verify (0.9) alone says "same" of some that aren't, so it is asked under these conditions:

- words are compared as words: it reads them as products of letters, where "tea" is "eat";
- capital and small letters differ: by default it reads mg/M as mg/m;
- brackets have to be of one kind: it takes {1, 2} for (1, 2);
- numbers have to agree in relation to their size: it rounds to six decimals, where all small numbers are 0;
- an equation of numbers has to hold: it takes 5 = 6 for 6;
- units are taken off by `writing.plain`: it takes the letter in "5t" for one. Known ones have to agree;
- an answer that is too long, too deep or too large isn't read at all: it can only cost time.
"""

from __future__ import annotations

import functools
import logging
import math
import re

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from math_verify.grader import should_treat_as_complex
from math_verify.parser import get_last_eq
from sympy import Basic, Eq, Expr, MatrixBase, Pow, factorial, preorder_traversal

from lambda_grpo.tasks.graders.writing import as_text, choice, is_number, is_words, modulus, plain, unit

MAX_LENGTH = 1000  # characters of an answer
MAX_DEPTH = 20  # of its braces and brackets
MAX_DIGITS = 100  # of a number
MAX_NODES = 400  # of its expression
MAX_EXPONENT = 10_000
MAX_BITS = 10_000  # of a whole number
MAX_SUM_EXPONENT, MAX_TERMS = 100, 2000  # a power of a sum, which has to be multiplied out
RELATIVE = sympy.Float(1e-5)

# Its word on limits of time is said once per process, and isn't needed: the pool has them.
for _name in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_name).setLevel(logging.ERROR)

_NORMALIZATION = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_CAPITAL_GREEK = re.compile(r"\\(Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega)(?![A-Za-z_(])")
_SUBSCRIPT = re.compile(r"\d_\{?([^{}]*)\}?$")


def same_answer(answer: str, reference: str) -> bool:
    """Whether `answer` says what `reference` says. May take long: call it under a limit of time."""
    ours, theirs = (plain(text, is_number=is_number(reference)) for text in (answer, reference))
    if not ours or not theirs:
        return False
    if len({unit(answer), unit(reference)} - {None}) > 1 or len({modulus(answer), modulus(reference)} - {None}) > 1:
        return False
    if (letter := choice(reference)) is not None and len(theirs) <= len(r"\textbf{(A)}"):
        return choice(answer) == letter
    if as_text(ours) == as_text(theirs):
        return True
    if is_words(theirs) and (is_words(ours) or len(as_text(theirs)) > 3):
        return as_text(ours).casefold() == as_text(theirs).casefold()
    if is_words(ours) or re.fullmatch(r"\d{1,2}:\d\d", theirs):  # a clock's time is no ratio
        return False
    pairs = [(ours, theirs)]
    if ours.endswith("%") != theirs.endswith("%"):  # 50 % is 50 where percents are asked for, and 0.5
        pairs.append((ours.rstrip("%\\ "), theirs.rstrip("%\\ ")))
    return any(_same_mathematics(*pair) for pair in pairs)


def normal_form(answer: str) -> str:
    """The same text for answers that differ in their writing alone, as far as that is cheap to see: for votes."""
    text = plain(answer, is_number=True)
    if is_words(text):
        return as_text(text).casefold()
    read = _read(text)
    if read is None:
        return as_text(text)
    value = _value(read)
    return str(read) if value is None else str(sympy.N(value, 9).simplify())


def _same_mathematics(ours: str, theirs: str) -> bool:
    subscript = _SUBSCRIPT.search(ours)
    if subscript and subscript.group(1) not in [match.group(1) for match in _SUBSCRIPT.finditer(theirs)]:
        return False  # a number's base is part of it, where it is said: 10_2 isn't 10
    kind, other = _bracket(ours), _bracket(theirs)
    if kind is not None and other is not None and kind != other:
        return False
    left, right = _read(ours), _read(theirs)
    if left is None or right is None:
        return False
    try:
        return _equal(left, right)
    except MemoryError:
        raise
    except Exception:  # as in math-verify: SymPy raises many things on what makes no sense, and that isn't the answer
        return False


def _equal(ours: Basic | MatrixBase, theirs: Basic | MatrixBase) -> bool:
    if not _holds(ours):
        return False
    if isinstance(ours, sympy.Symbol) and isinstance(theirs, sympy.Symbol):
        return bool(ours.name == theirs.name)  # math-verify takes S_n for s_n
    if verify(theirs, ours, allow_set_relation_comp=True, timeout_seconds=None):
        return _agree_in_size(ours, theirs)
    return isinstance(ours, Eq) and isinstance(theirs, Eq) and _is_multiple(ours, theirs)


@functools.lru_cache(maxsize=1024)
def _read(text: str) -> Basic | MatrixBase | None:
    """As math-verify parses it; None where it can't, or where it had better not."""
    if _DECIMAL.fullmatch(text) and len(text) < MAX_DIGITS:  # as the parser makes it, without the parser
        return sympy.Float(text) if "." in text else sympy.Integer(int(text))
    if len(text) > MAX_LENGTH or _depth(text) > MAX_DEPTH or _CONTROL.search(text):
        return None
    marked = re.sub(r"([A-Za-z])('+)", lambda match: f"{match[1]}_{{{'p' * len(match[2])}}}", text)  # x' isn't x
    marked = _CAPITAL_GREEK.sub(r"\\\1_{capital}", marked)  # nor is \Theta \theta
    latex = normalize_latex(marked, _NORMALIZATION)
    for attempt in dict.fromkeys((latex, get_last_eq(latex))):
        try:
            read = latex2sympy(
                attempt,
                is_real=not should_treat_as_complex(attempt),
                convert_degrees=False,
                normalization_config=None,
                conversion_config=_CONVERSION,
            )
        except MemoryError:
            raise
        except Exception:  # ANTLR's errors are of this class itself, and SymPy raises many things
            continue
        return None if _is_heavy(read) else read
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


def _bracket(text: str) -> str | None:
    r"""The brackets around a list, as in "[)" for [1, 2); None for anything else."""
    text = text.replace(r"\{", "{").replace(r"\}", "}").strip()
    if len(text) < 3 or text[0] not in "([{" or text[-1] not in ")]}" or "," not in text:
        return None
    depth = 0
    for i, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and i < len(text) - 1:
            return None  # a union, or a list of several
    return text[0] + text[-1]


def _holds(expression: Basic | MatrixBase) -> bool:
    """Whether the equations of numbers that it has are true."""
    if isinstance(expression, MatrixBase):
        return True
    equations = [node for node in preorder_traversal(expression) if isinstance(node, Eq)]
    return all(_agree(_value(one.lhs), _value(one.rhs)) for one in equations)


def _is_multiple(ours: Eq, theirs: Eq) -> bool:
    """Whether one equation is the other one times a number: 2x = 4 says x = 2."""
    left, right = ours.lhs - ours.rhs, theirs.lhs - theirs.rhs
    if not left.free_symbols or left.free_symbols != right.free_symbols:
        return False
    ratio = sympy.simplify(left / right)
    return bool(ratio.is_number and ratio.is_finite and not ratio.is_zero)


def _agree_in_size(ours: Basic | MatrixBase, theirs: Basic | MatrixBase) -> bool:
    """Whether two numbers, perhaps at the right of an equation, differ by little in relation to their size."""
    if isinstance(ours, Eq) and isinstance(theirs, Eq) and ours.lhs != theirs.lhs:
        return True
    return _agree(*(_value(one.rhs if isinstance(one, Eq) else one) for one in (ours, theirs)))


def _agree(a: Expr | None, b: Expr | None) -> bool:
    if a is None or b is None:
        return True
    difference, largest = abs(a - b), sympy.Max(abs(a), abs(b))
    return bool(difference <= RELATIVE * largest) if difference.is_comparable and largest.is_comparable else True


def _value(expression: Basic | MatrixBase) -> Expr | None:
    """What a number is worth; None of all else, and of what SymPy can't evaluate: it raises many things there."""
    if not (isinstance(expression, Expr) and expression.is_number):
        return None
    try:
        value = expression.doit().evalf()
    except (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError):
        return None
    return value if value.is_number and value.is_finite else None
