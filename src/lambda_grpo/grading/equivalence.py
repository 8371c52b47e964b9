r"""Whether an answer is equivalent to a reference: as words, as named values, as text, or mathematically.

Both are normalized first (`normalization.normalize_answer`). Then, in this order: choices, times of day and words are
compared as such, since math-verify would parse them as products of letters; units have to agree if both are known;
named values are compared by name; everything else is compared as text and by `symbolic.symbolically_equal`. Brackets
have to be of the same kind, a number's base is part of the number, and "a ≈ b" counts as a and as b if the two agree.
"""

from __future__ import annotations

import itertools
import re

import sympy
from sympy import MatrixBase

from lambda_grpo.grading import left_hand_side
from lambda_grpo.grading.inequalities import parse_real_set, same_real_set
from lambda_grpo.grading.latex import canonical_latex
from lambda_grpo.grading.lists import bracket_kind, ordered_values, parse_values, split_items
from lambda_grpo.grading.normalization import DEGREES, compact_text, is_number, is_words, modulus, normalize_answer
from lambda_grpo.grading.parsing import MAX_LENGTH, parse_expression
from lambda_grpo.grading.symbolic import numeric_value, symbolically_equal
from lambda_grpo.grading.units import convert_quantity, find_unit
from lambda_grpo.grading.words import parse_choice, parse_time, same_labels, same_time, same_words

_OF_SETS = re.compile(r"<|>|\\(?:le|ge|ne|cup|in|mathbb|infty|setminus)(?![a-z])|\breals?\b")
APPROXIMATION_TOLERANCE = 0.01  # relative difference of the two sides of an approximation
_SPACED = re.compile(r"\d, \d{3}(?!\d)")  # two numbers, not one with a thousands separator
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
    """Whether `answer` is equivalent to `reference`. May take long: call it under a time limit."""
    answer, reference = canonical_latex(answer), canonical_latex(reference)
    if not answer or not reference:
        return False
    if _same_as_text(answer, reference):
        return True
    if (r"\ldots" in answer) != (r"\ldots" in reference) and not re.search(
        r"\.\d{2,}\s*\\ldots", answer + " " + reference
    ):
        return False
    if len(answer) > MAX_LENGTH or len(reference) > MAX_LENGTH:
        return False
    return any(_equivalent(a, b) for b in [*_forms(reference), *_number_in_prose(reference)] for a in _forms(answer))


def same_text(answer: str, reference: str) -> bool:
    """Whether both are the same as text or as words: the cheap part of `same_answer`."""
    answer, reference = canonical_latex(answer), canonical_latex(reference)
    if not answer or not reference:
        return False
    return _same_as_text(answer, reference) or (is_words(reference) and same_words(answer, reference))


def _same_as_text(answer: str, reference: str) -> bool:
    return compact_text(answer) == compact_text(reference) and bool(_SPACED.search(answer)) == bool(
        _SPACED.search(reference)
    )


def normal_form(answer: str) -> str:
    """A canonical form that is cheap to compute, for votes: equal for most answers that differ only in notation."""
    text = normalize_answer(answer, is_number=True)
    if is_words(text):
        return compact_text(text).casefold()
    found = parse_expression(text)
    if found is None:
        return compact_text(text)
    number = numeric_value(found)
    return str(found) if number is None else str(sympy.N(number, 9).simplify())


def _forms(text: str) -> list[str]:
    """The forms that one answer contains: an exact and a rounded number, an inequality and its solution set."""
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
            elif (
                re.match(r"[(\[{\\]", sides[1])
                and parse_real_set(normalize_answer(sides[1]))
                and parse_real_set(normalize_answer(sides[0]))
            ):
                return sides
    return [text]


def _number_in_prose(text: str) -> list[str]:
    """The number in a reference that is a sentence about one number: "The mode is 1/3"."""
    numbers = list(_NUMBER.finditer(text))
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text)
    if len(numbers) != 1 or len(words) < 3 or _DENIAL.search(text) or not re.match(r"[A-Z]", text):
        return []
    return [text[numbers[0].start() :], numbers[0].group()]


def _are_close(left: str, right: str) -> bool:
    if not (is_number(left) and is_number(right)):
        return False
    numbers = [
        numeric_value(found)
        for side in (left, right)
        if (found := parse_expression(normalize_answer(side, is_number=True))) is not None
    ]
    if len(numbers) < 2 or numbers[0] is None or numbers[1] is None:
        return False
    return bool(abs(numbers[0] - numbers[1]) <= APPROXIMATION_TOLERANCE * abs(numbers[1]))


def _equivalent(answer: str, reference: str) -> bool:
    if _same_as_text(answer, reference):
        return True
    if (letter := parse_choice(reference)) is not None and not letter[1]:
        answered = parse_choice(answer)
        if answered is not None:
            return answered[0] == letter[0]
        if not re.fullmatch(r"[A-Z]", compact_text(answer)):
            return False
    answered = parse_choice(answer)
    if answered is not None and answered[1]:
        if letter is not None:
            return answered[0] == letter[0]
        if _equivalent(answered[1], reference):
            return True
    if (listed := same_labels(answer, reference)) is not None:
        return listed
    if parse_time(reference):
        return same_time(answer, reference)
    if reference == r"\emptyset" or (is_words(reference) and parse_real_set(reference) is None):
        if same_words(answer, reference):
            return True
        if is_words(answer) or (is_words(reference) and len(compact_text(reference)) > 3):
            return False
    units = {find_unit(answer), find_unit(reference)} - {None}
    if len(units) > 1 and not _convertible(answer, reference):
        return False
    if len({modulus(answer), modulus(reference)} - {None}) > 1:
        return False
    for same in (_same_sizes, _same_counts, _same_ratio):
        if (decided := same(answer, reference)) is not None:
            return decided
    if _convertible(answer, reference):
        return _same_formula(convert_quantity(answer, reference), convert_quantity(reference, reference))
    if find_unit(answer) is not None and find_unit(answer) == find_unit(reference):
        answer, reference = (re.sub(r"(?<=[\d}])\s*[A-Za-z]+$", "", text) for text in (answer, reference))
    return _same_formula(answer, reference)


def _same_sizes(answer: str, reference: str) -> bool | None:
    r"""Whether sizes such as "3 \\times 2" or "20 ft by 35 ft" agree factor by factor; None for other answers."""
    sizes = []
    for text in (answer, reference):
        factors = [
            [normalize_answer(factor, is_number=True) for factor in _TIMES.split(part)] for part in split_items(text)
        ]
        if not factors or not all(len(one) > 1 and all(map(str.isdecimal, one)) for one in factors):
            return None
        sizes.append(factors)
    return sizes[0] == sizes[1]


def _convertible(answer: str, reference: str) -> bool:
    return convert_quantity(answer, reference) != answer or convert_quantity(reference, reference) != reference


def _same_formula(answer: str, reference: str) -> bool:
    number = is_number(reference)
    if r"\circ" in answer and r"\pi" in reference and r"\circ" not in reference:
        answer = re.sub(rf"(\d+(?:\.\d+)?)\s*(?:{DEGREES})", r"{(\\frac{\1 \\pi}{180})}", answer)
    answer, reference = normalize_answer(answer, is_number=number), normalize_answer(reference, is_number=number)
    if not answer or not reference:
        return False
    if _same_as_text(answer, reference):
        return True
    if is_words(answer) and not parse_real_set(answer):
        return False
    named = _same_named(answer, reference)
    if named is not None:
        return named
    pairs = [(answer, reference)]
    if answer.endswith("%") or reference.endswith("%"):  # 50 % is 50 where percents are asked for, and 0.5
        pairs.append((answer.rstrip("%\\ "), reference.rstrip("%\\ ")))
    left, right = left_hand_side.split_equation(answer), left_hand_side.split_equation(reference)
    if left and right and left_hand_side.same_name(left[0], right[0]):
        pairs = [(left[1], right[1])]
    elif _is_list_of_one(left or right, answer, reference):
        return False
    elif left is None or right is None:
        pairs.append(
            (left_hand_side.right_hand_side(answer) or answer, left_hand_side.right_hand_side(reference) or reference)
        )
    return any(_mathematically_equal(*pair) for pair in dict.fromkeys(pairs)) or _same_parts(answer, reference)


def _is_list_of_one(left: tuple[tuple[str, str, str], str] | None, answer: str, reference: str) -> bool:
    """Whether one side lists values of one variable and the other one is a point: x = 1, 2 isn't (1, 2)."""
    return (
        left is not None and len(split_items(left[1])) > 1 and "()" in (bracket_kind(answer), bracket_kind(reference))
    )


def _same_named(answer: str, reference: str) -> bool | None:
    """Whether named values are the same; None if neither side has them."""
    a, b = parse_values(answer), parse_values(reference)
    if a is None or b is None or (a.names is None and b.names is None) or len(a.values) != len(b.values):
        return None
    if (a.are_indexed or b.are_indexed) and "()" not in (a.brackets, b.brackets):
        are_solutions = {name[0] for name in (a.names or ()) + (b.names or ())} == {"x"}
        if are_solutions or a.names is None or b.names is None:
            return _same_parts(", ".join(a.values), ", ".join(b.values))
    if a.names is not None and b.names is not None:
        if set(a.names) != set(b.names):
            return False
        reference_by_name = dict(zip(b.names, b.values, strict=True))
        return all(_equivalent(value_, reference_by_name[name]) for name, value_ in zip(a.names, a.values, strict=True))
    if "{" in a.brackets + b.brackets:
        return None
    return all(_equivalent(x, y) for x, y in zip(ordered_values(a), ordered_values(b), strict=True))


def _same_parts(answer: str, reference: str) -> bool:
    """Whether two lists without brackets have the same parts, in any order."""
    a, b = split_items(answer), split_items(reference)
    if len(a) > 1 and len(b) == 1 and re.search(r"\bor\b", answer):  # "12 or a dozen"
        return all(_equivalent(part, reference) for part in a)
    if not 1 < len(a) == len(b) <= 8 or any(bracket_kind(text) for text in (answer, reference)):
        return False
    left = list(b)
    for part in a:
        found = next((other for other in left if _same_part(part, other)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _same_counts(answer: str, reference: str) -> bool | None:
    """Whether two lists of counts, such as "3 red, 5 blue", are the same; None unless both are such lists."""
    parts = [split_items(text) for text in (answer, reference)]
    if any(len(one) < 2 or not all(map(_COUNT.fullmatch, one)) for one in parts):
        return None
    return _same_parts(answer, reference)


def _same_ratio(answer: str, reference: str) -> bool | None:
    """Whether ratios such as 3:4:5 are the same; None unless both are such ratios."""
    chains = [[int(part) for part in text.split(":")] if _CHAIN.fullmatch(text) else [] for text in (answer, reference)]
    if not all(chains):
        return None
    return len(chains[0]) == len(chains[1]) and all(
        a * chains[1][0] == b * chains[0][0] for a, b in zip(*chains, strict=True)
    )


def _same_part(answer: str, reference: str) -> bool:
    if find_unit(answer) is not None and find_unit(answer) == find_unit(reference):
        return _equivalent(answer, reference)
    words = [re.sub(r"\\text|[^A-Za-z]", "", text).casefold().removesuffix("s") for text in (answer, reference)]
    are_counts = all(re.match(r"\d", text) for text in (answer, reference)) and all(len(word) > 2 for word in words)
    return _equivalent(answer, reference) and (not are_counts or words[0][:4] == words[1][:4])


def _mathematically_equal(answer: str, reference: str) -> bool:
    base, other_base = _BASE.fullmatch(answer), _BASE.fullmatch(reference)
    if base and not other_base:  # a base that is given is part of the number: 10_2 isn't 10
        return base.group(1) == reference and base.group(2) == "2" and re.fullmatch(r"[01]{4,}", reference) is not None
    if base and other_base:
        return base.groups() == other_base.groups()
    if "matrix}" in reference or "array}" in reference:
        answer = re.sub(r"^\[([^\[\]]*,[^\[\]]*)\]$", r"(\1)", _TRANSPOSED.sub("", answer))
    kind, other = bracket_kind(answer), bracket_kind(reference)
    if kind is not None and other is not None and kind != other:
        return False
    try:
        if _OF_SETS.search(answer + reference) and same_real_set(answer, reference):
            return True
        for left, right in _constants(answer, reference):
            a, b = parse_expression(left), parse_expression(right)
            if a is not None and b is not None and symbolically_equal(a, b):
                return not (isinstance(a, MatrixBase) and isinstance(b, MatrixBase) and a.shape != b.shape)
    except MemoryError:
        raise
    except Exception:  # as in math-verify: SymPy raises all kinds of errors on nonsense, which isn't the answer
        return False
    return False


def _constants(answer: str, reference: str) -> list[tuple[str, str]]:
    """The pairs to compare: one pair, or one for each way of renaming the answer's constants of integration."""
    renamed: list[tuple[str, str]] = []
    given, wanted = ({found.group() for found in _CONSTANT.finditer(text)} for text in (answer, reference))
    if 0 < len(given) == len(wanted) <= 3 and re.search(r"e\s*\^|\\(?:exp|sin|cos|ln|log)|\+\s*[cCkK]\b", reference):
        for permuted in itertools.permutations(sorted(wanted)):
            names = dict(zip(sorted(given), permuted, strict=True))
            renamed.append((_renamed(answer, names), reference))
    return list(dict.fromkeys(renamed)) or [(answer, reference)]


def _renamed(text: str, names: dict[str, str]) -> str:
    return _CONSTANT.sub(lambda found: f" {names[found.group()]} ", text)
