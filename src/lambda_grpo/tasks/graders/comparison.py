r"""Whether two answers are the same: as text, or as math-verify reads them.

math-verify (0.9) alone says "same" of some that aren't, so it is asked under these conditions:

- words are compared as words: it reads them as products of letters, where "tea" is "eat";
- brackets have to be of one kind: it takes {1, 2} for (1, 2);
- numbers have to agree in relation to their size: it rounds to six decimals, where all small numbers are 0;
- units are taken off here, where they are words: it takes the letter in "5t" for one;
- an answer that is too long, too deep or too large isn't read at all: it can only cost time.
"""

from __future__ import annotations

import logging
import math
import re

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Expr, MatrixBase, Pow, factorial, preorder_traversal

MAX_LENGTH = 1000  # characters of an answer
MAX_DEPTH = 20  # of its braces and brackets
MAX_NODES = 400  # of its expression
MAX_EXPONENT = 10_000
MAX_BITS = 10_000  # of a whole number
MAX_SUM_EXPONENT, MAX_TERMS = 100, 2000  # a power of a sum, which has to be multiplied out
RELATIVE = 1e-5

# Its word on limits of time is said once per process, and isn't needed: the pool has them.
for _name in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_name).setLevel(logging.ERROR)

_READING = [
    LatexExtractionConfig(
        boxed_match_priority=0,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last"
        ),
    )
]

_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "∞": r"\infty ", "π": r"\pi ", "²": "^2", "³": "^3",
     "≤": r"\le ", "≥": r"\ge ", "∪": r"\cup ", "°": "", "’": "'", "\u00a0": " ", "\u200b": "", "\u2062": ""}
)  # fmt: skip
_SPACES = re.compile(r"(?<!\\)\\[,;: ]|~|\\quad|\\qquad")
_LAYOUT = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\displaystyle|\\limits")
_DELIMITERS = re.compile(r"^(?:\$\$?|\\\(|\\\[)|(?:\$\$?|\\\)|\\\])$")
_CURRENCY = re.compile(r"\\?\$|[€£]")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree")
_PERCENT = re.compile(r"\s*\bpercent(?:age)?\b|\s*\\text\{\s*percent\s*\}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
_SQRT = re.compile(r"(?<!\\)√\s*(?:\{([^{}]*)\}|\(([^()]*)\)|(\w+))")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:(?:,|\{,\}| )\d{3})+(?:\.\d+)?")
_SCIENTIFIC = re.compile(r"([-+]?(?:\d+(?:\.\d+)?|\.\d+))[eE]([-+]?\d+)")
_POWER = r"(?:\s*\^\s*\{?-?\d\}?)?\.?$"
# "5 apples" and "5cm" are 5; "5x", "5 xy" and "5 ab" are products
_UNIT = re.compile(
    r"(?<=[\d)}])(?:\s*(?:[ckm]?m|[km]?g|m[lL]|ft|in|lbs?|oz|mph|mi|hrs?|mins?|secs?|(?:k?m|mi|ft)/(?:h|s|hr|min))|"
    rf"\s+(?!sin|cos|tan|log|exp|mod|and|inf)[A-Za-z]{{3,}}[A-Za-z./ ]*){_POWER}"
)
_TEXT_UNIT = re.compile(r"(?<=[\d)}%])\s*\\(?:text\w*|mathrm|mbox)\s*\{\s*[^{}]*\}" + _POWER)
_BASE = re.compile(r"\d_\{?(\d+)\}?$")


def same_answer(answer: str, reference: str) -> bool:
    """Whether `answer` says what `reference` says. May take long: call it under a limit of time."""
    ours, theirs = plain(answer), plain(reference)
    if not ours or not theirs:
        return False
    if as_text(ours) == as_text(theirs):
        return True
    if is_words(theirs) or is_words(ours):
        return False
    pairs = [(ours, theirs)]
    if (ours.endswith("%")) != (theirs.endswith("%")):  # 50 % is 50 where percents are asked for, and 0.5
        pairs.append((ours.rstrip("%\\ "), theirs.rstrip("%\\ ")))
    return any(_same_mathematics(*pair) for pair in pairs)


def normal_form(answer: str) -> str:
    """The same text for answers that differ in their writing alone, as far as that is cheap to see: for votes."""
    text = plain(answer)
    if is_words(text):
        return as_text(text)
    read = _read(text)
    if read is None:
        return as_text(text)
    value = _value(read)
    if value is None:
        return str(read)
    return f"{value.real:.9g}" if value.imag == 0 else f"{value:.9g}"


def plain(answer: str) -> str:
    """An answer without what carries no meaning: signs of formulas, spaces of layout, units, thousands separators."""
    text = _SPACES.sub(" ", answer.translate(_SIGNS).replace(r"\!", ""))
    text = _LAYOUT.sub("", text).strip().rstrip(" .,;")
    text = _DELIMITERS.sub("", text).strip().strip("*").rstrip(" .,;")
    text = _CURRENCY.sub("", text).replace(r"\%", "%")
    text = _PERCENT.sub("%", _DEGREES.sub("", text))
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = _SQRT.sub(lambda match: rf"\sqrt{{{next(group for group in match.groups() if group)}}}", text)
    text = _UNIT.sub("", _TEXT_UNIT.sub("", text)).strip()
    if _THOUSANDS.fullmatch(text):
        text = re.sub(r"\{,\}|[, ]", "", text)
    text = re.sub(r"(?<=\d)\s*x\s*(?=10\s*\^)", r"\\times ", text)
    return _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text) if _SCIENTIFIC.fullmatch(text) else text


def as_text(answer: str) -> str:
    """For comparison letter by letter: without spaces, and words in small letters."""
    text = _TEXT.sub(r"\1", answer)
    text = re.sub(r"[\s\"'`]+", "", text)
    if re.fullmatch(r"\([A-Za-z]\)|[A-Za-z]", text):  # a choice, or a variable
        return text.strip("()")
    return text.casefold() if is_words(answer) else text


def is_words(answer: str) -> bool:
    """Whether an answer is text: a name, yes or no, several words."""
    if re.fullmatch(r"\\(?:text\w*|mathrm|mbox)\s*\{[^{}]*[A-Za-z][^{}]*\}", answer.strip()):
        return True
    text = _TEXT.sub(r"\1", answer)
    return re.fullmatch(r"[A-Za-z][A-Za-z' -]*[A-Za-z.]", text.strip()) is not None and len(text.strip()) >= 3


def _same_mathematics(ours: str, theirs: str) -> bool:
    base = _BASE.search(ours)
    if base and base.group(1) not in [match.group(1) for match in _BASE.finditer(theirs)]:
        return False  # math-verify reads 10_2 as 10
    kind, other = _bracket(ours), _bracket(theirs)
    if kind is not None and other is not None and kind != other:
        return False
    left, right = _read(ours), _read(theirs)
    if left is None or right is None:
        return False
    if not verify(right, left, allow_set_relation_comp=True, timeout_seconds=None):
        return False
    return _agree_in_size(left, right)


def _read(text: str) -> Basic | MatrixBase | None:
    """As math-verify parses it; None where it can't, or where it had better not."""
    if (
        len(text) > MAX_LENGTH
        or _depth(text) > MAX_DEPTH
        or any(ord(sign) < 32 and sign not in "\n\t" for sign in text)
    ):
        return None
    read = parse(rf"\boxed{{{text}}}", _READING, fallback_mode="no_fallback", parsing_timeout=None)
    return None if not read or _is_heavy(read[0]) else read[0]


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
            size = 1.0
            for factor in sizes:
                size *= max(1.0, factor)
            return size
        return sum(sizes) if isinstance(expression, sympy.Add) else max(sizes)
    try:
        return abs(float(expression))
    except (OverflowError, TypeError, ValueError):
        return float("inf")


def _bracket(text: str) -> str | None:
    r"""The brackets around a list, as in "[)" for [1, 2); None for anything else."""
    text = text.replace(r"\{", "{").replace(r"\}", "}").replace(r"\lbrace", "{").replace(r"\rbrace", "}").strip()
    if len(text) < 3 or text[0] not in "([{" or text[-1] not in ")]}" or "," not in text:
        return None
    depth = 0
    for i, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and i < len(text) - 1:
            return None  # a union, or a list of several
    return text[0] + text[-1]


def _agree_in_size(ours: Basic | MatrixBase, theirs: Basic | MatrixBase) -> bool:
    """Whether two numbers differ by little in relation to their size; true of all else."""
    a, b = _value(ours), _value(theirs)
    return a is None or b is None or abs(a - b) <= RELATIVE * max(abs(a), abs(b))


def _value(expression: Basic | MatrixBase) -> complex | None:
    """What a number is worth; None of all else, and of what SymPy can't evaluate: it raises many things there."""
    if not (isinstance(expression, Expr) and expression.is_number):
        return None
    try:
        return complex(expression.doit().evalf())
    except (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError):
        return None
