r"""Whether two answers are the same: as words, as values with names, as text, or as mathematics.

Both are brought to one way of writing (`writing.plain`). Then, in this order: choices, times of day and words are
compared as such, as math-verify would read them as products of letters; units have to agree where both are known;
values with names are compared by name; and the rest is the same as text, or as `mathematics.equal` says. Brackets have
to be of one kind, a number's base is part of it, and an approximation counts where both of its sides agree.
"""

from __future__ import annotations

import itertools
import re

import sympy
from sympy import MatrixBase

from lambda_grpo.grading import left_sides
from lambda_grpo.grading.formatting import tidy
from lambda_grpo.grading.inequalities import real_set, same_set
from lambda_grpo.grading.lists import bracket, in_order, items, several
from lambda_grpo.grading.mathematics import equal, value
from lambda_grpo.grading.normalization import DEGREES, as_text, is_number, is_words, modulus, plain
from lambda_grpo.grading.parsing import MAX_LENGTH, read
from lambda_grpo.grading.units import in_unit_of, unit
from lambda_grpo.grading.words import choice, clock, same_clock, same_labels, same_words

_OF_SETS = re.compile(r"<|>|\\(?:le|ge|ne|cup|in|mathbb|infty|setminus)(?![a-z])|\breals?\b")
CLOSE = 0.01  # relative: how far the two sides of an approximation may be apart
_SPACED = re.compile(r"\d, \d{3}(?!\d)")  # two numbers, and not one with a separator of thousands
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:\s*/\s*\d+)?")
_DENIAL = re.compile(r"\b(?:not?|never|than|least|most)\b|n't|[=<>]")
_BASE = re.compile(r"\(?(\w+?)\)?_\{([^{}]*)\}")
_TRANSPOSED = re.compile(r"(?<=[)\]])\s*\^\s*\{?\s*(?:T|\\top|\\text\{T\}|')\s*\}?$")
_SIZES = re.compile(r"\d+(?:\s*\\times\s*(?!10\^)\d+)+")
_TIMES = re.compile(r"\s*(?:\\times|(?<=[\d\s}])[x×](?=[\s\d])|\\text\{\s*(?:x|by)\s*\}|(?<=\s)by(?=\s))\s*")
_COUNT = re.compile(r"\d[\d.,/]*\s*(?:\\text\{\s*)?[A-Za-z][A-Za-z ]+\}?")
_CHAIN = re.compile(r"\d+(?:\s*:\s*\d+){2,}")
_CONSTANT = re.compile(r"(?<![A-Za-z\\])[ABCcKk](?:_\{\d\})?(?![A-DF-Za-df-z_(])")


def same_answer(answer: str, reference: str) -> bool:
    """Whether `answer` says what `reference` says. May take long: call it under a limit of time."""
    ours, theirs = tidy(answer), tidy(reference)
    if not ours or not theirs:
        return False
    if _same_signs(ours, theirs):
        return True
    if (r"\ldots" in ours) != (r"\ldots" in theirs) and not re.search(r"\.\d{2,}\s*\\ldots", ours + " " + theirs):
        return False
    if len(ours) > MAX_LENGTH or len(theirs) > MAX_LENGTH:
        return False
    return any(_same(a, b) for b in [*_statements(theirs), *_of_prose(theirs)] for a in _statements(ours))


def same_text(answer: str, reference: str) -> bool:
    """Whether both are the same words or signs."""
    ours, theirs = tidy(answer), tidy(reference)
    if not ours or not theirs:
        return False
    return _same_signs(ours, theirs) or (is_words(theirs) and same_words(ours, theirs))


def _same_signs(ours: str, theirs: str) -> bool:
    return as_text(ours) == as_text(theirs) and bool(_SPACED.search(ours)) == bool(_SPACED.search(theirs))


def normal_form(answer: str) -> str:
    """The same text for answers that differ in their writing alone, as far as that is cheap to see: for votes."""
    text = plain(answer, is_number=True)
    if is_words(text):
        return as_text(text).casefold()
    found = read(text)
    if found is None:
        return as_text(text)
    number = value(found)
    return str(found) if number is None else str(sympy.N(number, 9).simplify())


def _statements(text: str) -> list[str]:
    """The ways in which a tidy answer says one thing: an exact and a rounded number, an inequality and its set."""
    if share := re.fullmatch(r"(\d+)\s*(?:\\text\{)?\s*(?:in|out\s+of)\s*\}?\s*(\d+)", text):
        return [text, rf"\frac{{{share.group(1)}}}{{{share.group(2)}}}"]
    if ratio := re.fullmatch(r"(\d+)\s*(?:\\text\{)?\s*to\s*\}?\s*(\d+)", text):
        return [text, f"{ratio.group(1)}:{ratio.group(2)}"]
    for pattern in (r"\s*\\approx\s*", r"\s*=\s*", r"\s*:\s*"):
        sides = re.split(pattern, text)
        if len(sides) == 2 and all(sides):
            if "approx" in pattern or "=" in pattern:
                if _are_close(*sides):
                    return [text, *sides]
            elif re.match(r"[(\[{\\]", sides[1]) and real_set(plain(sides[1])) and real_set(plain(sides[0])):
                return sides
    return [text]


def _of_prose(text: str) -> list[str]:
    """The number in a reference that is a sentence about one: "The mode is 1/3"."""
    numbers = list(_NUMBER.finditer(text))
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text)
    if len(numbers) != 1 or len(words) < 3 or _DENIAL.search(text) or not re.match(r"[A-Z]", text):
        return []
    return [text[numbers[0].start() :], numbers[0].group()]


def _are_close(left: str, right: str) -> bool:
    if not (is_number(left) and is_number(right)):
        return False
    numbers = [value(found) for side in (left, right) if (found := read(plain(side, is_number=True))) is not None]
    if len(numbers) < 2 or numbers[0] is None or numbers[1] is None:
        return False
    return bool(abs(numbers[0] - numbers[1]) <= CLOSE * abs(numbers[1]))


def _same(ours: str, theirs: str) -> bool:
    if _same_signs(ours, theirs):
        return True
    if (letter := choice(theirs)) is not None and not letter[1]:
        answered = choice(ours)
        if answered is not None:
            return answered[0] == letter[0]
        if not re.fullmatch(r"[A-Z]", as_text(ours)):
            return False
    answered = choice(ours)
    if answered is not None and answered[1]:
        if letter is not None:
            return answered[0] == letter[0]
        if _same(answered[1], theirs):
            return True
    if (listed := same_labels(ours, theirs)) is not None:
        return listed
    if clock(theirs):
        return same_clock(ours, theirs)
    if theirs == r"\emptyset" or (is_words(theirs) and real_set(theirs) is None):
        if same_words(ours, theirs):
            return True
        if is_words(ours) or (is_words(theirs) and len(as_text(theirs)) > 3):
            return False
    units = {unit(ours), unit(theirs)} - {None}
    if len(units) > 1 and not _convertible(ours, theirs):
        return False
    if len({modulus(ours), modulus(theirs)} - {None}) > 1:
        return False
    for same in (_same_sizes, _same_counts, _same_ratio):
        if (decided := same(ours, theirs)) is not None:
            return decided
    if _convertible(ours, theirs):
        return _same_formula(in_unit_of(ours, theirs), in_unit_of(theirs, theirs))
    if unit(ours) is not None and unit(ours) == unit(theirs):
        ours, theirs = (re.sub(r"(?<=[\d}])\s*[A-Za-z]+$", "", text) for text in (ours, theirs))
    return _same_formula(ours, theirs)


def _same_sizes(ours: str, theirs: str) -> bool | None:
    r"""Whether lists of sizes as "3 \\times 2" or "20 ft by 35 ft" are the same, factor by factor; None of all else."""
    sizes = []
    for text in (ours, theirs):
        factors = [[plain(factor, is_number=True) for factor in _TIMES.split(part)] for part in items(text)]
        if not factors or not all(len(one) > 1 and all(map(str.isdecimal, one)) for one in factors):
            return None
        sizes.append(factors)
    return sizes[0] == sizes[1]


def _convertible(ours: str, theirs: str) -> bool:
    return in_unit_of(ours, theirs) != ours or in_unit_of(theirs, theirs) != theirs


def _same_formula(ours: str, theirs: str) -> bool:
    number = is_number(theirs)
    if r"\circ" in ours and r"\pi" in theirs and r"\circ" not in theirs:
        ours = re.sub(rf"(\d+(?:\.\d+)?)\s*(?:{DEGREES})", r"{(\\frac{\1 \\pi}{180})}", ours)
    ours, theirs = plain(ours, is_number=number), plain(theirs, is_number=number)
    if not ours or not theirs:
        return False
    if _same_signs(ours, theirs):
        return True
    if is_words(ours) and not real_set(ours):
        return False
    named = _same_named(ours, theirs)
    if named is not None:
        return named
    pairs = [(ours, theirs)]
    if ours.endswith("%") or theirs.endswith("%"):  # 50 % is 50 where percents are asked for, and 0.5
        pairs.append((ours.rstrip("%\\ "), theirs.rstrip("%\\ ")))
    left, right = left_sides.split(ours), left_sides.split(theirs)
    if left and right and left_sides.same_name(left[0], right[0]):
        pairs = [(left[1], right[1])]
    elif _is_list_of_one(left or right, ours, theirs):
        return False
    elif left is None or right is None:
        pairs.append((left_sides.without(ours) or ours, left_sides.without(theirs) or theirs))
    return any(_same_mathematics(*pair) for pair in dict.fromkeys(pairs)) or _same_parts(ours, theirs)


def _is_list_of_one(left: tuple[tuple[str, str, str], str] | None, ours: str, theirs: str) -> bool:
    """Whether one answer lists values of one variable and the other one is a point: x = 1, 2 isn't (1, 2)."""
    return left is not None and len(items(left[1])) > 1 and "()" in (bracket(ours), bracket(theirs))


def _same_named(ours: str, theirs: str) -> bool | None:
    """Whether values with names are the same; None where neither answer has them."""
    a, b = several(ours), several(theirs)
    if a is None or b is None or (a.names is None and b.names is None) or len(a.values) != len(b.values):
        return None
    if (a.are_indexed or b.are_indexed) and "()" not in (a.brackets, b.brackets):
        are_solutions = {name[0] for name in (a.names or ()) + (b.names or ())} == {"x"}
        if are_solutions or a.names is None or b.names is None:
            return _same_parts(", ".join(a.values), ", ".join(b.values))
    if a.names is not None and b.names is not None:
        if set(a.names) != set(b.names):
            return False
        theirs_by_name = dict(zip(b.names, b.values, strict=True))
        return all(_same(value_, theirs_by_name[name]) for name, value_ in zip(a.names, a.values, strict=True))
    if "{" in a.brackets + b.brackets:
        return None
    return all(_same(x, y) for x, y in zip(in_order(a), in_order(b), strict=True))


def _same_parts(ours: str, theirs: str) -> bool:
    """Whether two lists without brackets have the same parts, in any order."""
    a, b = items(ours), items(theirs)
    if len(a) > 1 and len(b) == 1 and re.search(r"\bor\b", ours):  # "12 or a dozen"
        return all(_same(part, theirs) for part in a)
    if not 1 < len(a) == len(b) <= 8 or any(bracket(text) for text in (ours, theirs)):
        return False
    left = list(b)
    for part in a:
        found = next((other for other in left if _same_part(part, other)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _same_counts(ours: str, theirs: str) -> bool | None:
    """Whether two lists of numbers of named things are the same; None where not both are such lists."""
    parts = [items(text) for text in (ours, theirs)]
    if any(len(one) < 2 or not all(map(_COUNT.fullmatch, one)) for one in parts):
        return None
    return _same_parts(ours, theirs)


def _same_ratio(ours: str, theirs: str) -> bool | None:
    """Whether chains of ratios as 3:4:5 are the same; None where not both are such chains."""
    chains = [[int(part) for part in text.split(":")] if _CHAIN.fullmatch(text) else [] for text in (ours, theirs)]
    if not all(chains):
        return None
    return len(chains[0]) == len(chains[1]) and all(
        a * chains[1][0] == b * chains[0][0] for a, b in zip(*chains, strict=True)
    )


def _same_part(ours: str, theirs: str) -> bool:
    if unit(ours) is not None and unit(ours) == unit(theirs):
        return _same(ours, theirs)
    words = [re.sub(r"\\text|[^A-Za-z]", "", text).casefold().removesuffix("s") for text in (ours, theirs)]
    are_counts = all(re.match(r"\d", text) for text in (ours, theirs)) and all(len(word) > 2 for word in words)
    return _same(ours, theirs) and (not are_counts or words[0][:4] == words[1][:4])


def _same_mathematics(ours: str, theirs: str) -> bool:
    base, other_base = _BASE.fullmatch(ours), _BASE.fullmatch(theirs)
    if base and not other_base:  # a number's base is part of it, where it is said: 10_2 isn't 10
        return base.group(1) == theirs and base.group(2) == "2" and re.fullmatch(r"[01]{4,}", theirs) is not None
    if base and other_base:
        return base.groups() == other_base.groups()
    if "matrix}" in theirs or "array}" in theirs:
        ours = re.sub(r"^\[([^\[\]]*,[^\[\]]*)\]$", r"(\1)", _TRANSPOSED.sub("", ours))
    kind, other = bracket(ours), bracket(theirs)
    if kind is not None and other is not None and kind != other:
        return False
    try:
        if _OF_SETS.search(ours + theirs) and same_set(ours, theirs):
            return True
        for left, right in _constants(ours, theirs):
            a, b = read(left), read(right)
            if a is not None and b is not None and equal(a, b):
                return not (isinstance(a, MatrixBase) and isinstance(b, MatrixBase) and a.shape != b.shape)
    except MemoryError:
        raise
    except Exception:  # as in math-verify: SymPy raises many things on what makes no sense, and that isn't the answer
        return False
    return False


def _constants(ours: str, theirs: str) -> list[tuple[str, str]]:
    """The pair, and where both have constants of integration, the pairs with ours named as theirs are, in any order."""
    renamed: list[tuple[str, str]] = []
    own, wanted = ({found.group() for found in _CONSTANT.finditer(text)} for text in (ours, theirs))
    if 0 < len(own) == len(wanted) <= 3 and re.search(r"e\s*\^|\\(?:exp|sin|cos|ln|log)|\+\s*[cCkK]\b", theirs):
        for named in itertools.permutations(sorted(wanted)):
            names = dict(zip(sorted(own), named, strict=True))
            renamed.append((_renamed(ours, names), theirs))
    return list(dict.fromkeys(renamed)) or [(ours, theirs)]


def _renamed(text: str, names: dict[str, str]) -> str:
    return _CONSTANT.sub(lambda found: f" {names[found.group()]} ", text)
