r"""Rewriting numbers into the notation that the parser reads.

Handles thousands separators, ordinals, mixed numbers, repeating decimals, scientific notation, multipliers ("3
million") and numbers in words ("thirty-six", "two thirds").
"""

from __future__ import annotations

import re

MULTIPLIERS = {
    "dozen": "12", "hundred": "10^{2}", "thousand": "10^{3}", "million": "10^{6}", "billion": "10^{9}",
    "trillion": "10^{12}", "crore": "10^{7}", "lakh": "10^{5}",
}  # fmt: skip
_MULTIPLIER = re.compile(
    rf"(?<=[\d}}])\s*(\\text\{{)?[\s-]*({'|'.join(MULTIPLIERS)})s?\b(?!\s+and\b)\s*", re.IGNORECASE
)
_LETTER_MULTIPLIER = re.compile(r"((?:\\\$)?\s*\d+(?:\.\d+)?)([kKMB])")
_LETTERS = {"k": 3, "K": 3, "M": 6, "B": 9}
_EXPLICIT = re.compile(r"(?<=\d)(?:\{,\}|\\text\{,\}|,\{\}|\{\\,\})\s*(?=\d{3}(?!\d))")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_SPACED = re.compile(r"([-+]?\s*(?:\\\$\s*)?)(\d{1,3}(?: \d{3})+)(\.\d+)?(?!\d)(.*)")
_ORDINAL = re.compile(
    r"(?<=\d)\s*(?:\^\s*\{?\s*(?:\\text\s*\{\s*(?:th|st|nd|rd)\s*\}|th|st|nd|rd)\s*\}?|\\text\s*\{\s*-?(?:th|st|nd|rd)\s*\}"
    r"|(?:th|st|nd|rd))(?![A-Za-z])"
)
_SCIENTIFIC = re.compile(
    r"(?<![\w}])([-+]?(?:\d+(?:\.\d+)?|\.\d+))\s*[eE]"
    r"\s*\{?([-+]?\d+)\}?(?![\w.])"
)
_TIMES_TEN = re.compile(r"(?<=[\d}])\s*(?:x|X|\*|\\cdot|\\times)\s*(?=10\s*\^)")
_EXPONENT = re.compile(r"\^\s*([-+]?\d+)(?![\d}])|\^\s*\(\s*([-+]?\d+(?:/\d+)?)\s*\)")
_MIXED = re.compile(r"(-?\d+)\s*(?:\s|\\text\{\s*and\s*\}|and\s)\s*(\d+)\s*/\s*(\d+)(?![\d.])")
_MIXED_LATEX = re.compile(
    r"(?<![\d.^_{])(-?\d+)\s*(?:\\text\{\s*and\s*\})?\s*\\frac\s*(?:\{\s*(\d+)\s*\}|\s(\d)|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"
)
_STACKED = re.compile(r"(?:\{\})?\^\{?(\d+)\}?\s*/\s*_\{?(\d+)\}?")
_REPEATING = re.compile(
    r"(-?\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?\s*(\d+)\s*\}?(?:(\d)?\\dot\s*\{?\s*(\d)\s*\}?)?(?!\d)"
)
_AND_A_PART = re.compile(r"(-?\d+)\s+and\s+(?:a|an|one)[\s-]+(half|third|quarter|fourth|fifth|sixth|eighth|tenth)\b")
_CUT_OFF = re.compile(r"(\d\.\d{2,})\s*\\ldots\s*$")
_DOTTED = re.compile(r"(-?\d*)\.(\d*?)(\d{1,3})\3{2,}\s*(?:\\ldots|\.\.\.)$")

_ONES = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12, "hundredth": 100,
}  # fmt: skip


_ORDINALS = {
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12, "thirteenth": 13, "fifteenth": 15, "twentieth": 20,
}  # fmt: skip


def normalize_numbers(text: str) -> str:
    """An answer in canonical LaTeX, with its numbers in the notation that the parser reads."""
    text = _EXPLICIT.sub("", text)
    text = re.sub(r"(?<=[\d.])\.(?=/)|(?<=\d)\.(?=\s*[/)}])", "", text)
    if not re.search(r"[(\[{]\s*\d{1,3},\d{3}\b|\\\{", text) and ", " not in text:
        text = _GROUPED.sub(lambda match: match.group().replace(",", ""), text)
    if (spaced := _SPACED.fullmatch(text)) and not re.search(r"\d", spaced.group(4)):
        text = spaced.group(1) + spaced.group(2).replace(" ", "") + (spaced.group(3) or "") + spaced.group(4)
    text = re.sub(r"(?<=\d)\s*\\text\{\s*([eE][-+]?)\s*\}\s*(?=[-+\d{])", r"\1", text)
    if short := _LETTER_MULTIPLIER.fullmatch(text):
        text = rf"{short.group(1)} \times 10^{{{_LETTERS[short.group(2)]}}}"
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)
    text = _TIMES_TEN.sub(r" \\times ", text)
    text = _EXPONENT.sub(lambda match: f"^{{{match.group(1) or match.group(2)}}}", text)
    text = _REPEATING.sub(_repeating, text)
    text = _DOTTED.sub(lambda match: _fraction(match.group(1), match.group(2), match.group(3)), text)
    text = re.sub(r"_\{([a-z]{3,})\}", lambda match: f"_{{{_ONES.get(match.group(1), match.group(1))}}}", text)
    text = _CUT_OFF.sub(r"\1", text)
    text = _AND_A_PART.sub(
        lambda match: rf"\frac{{{int(match.group(1)) * _PARTS[match.group(2)] + 1}}}{{{_PARTS[match.group(2)]}}}", text
    )
    text = _STACKED.sub(r"\\frac{\1}{\2}", text)
    text = _ORDINAL.sub("", text)
    text = _MIXED.sub(_mixed, text)
    text = _MIXED_LATEX.sub(_mixed, text)
    text = _MULTIPLIER.sub(_multiplied, text, count=2)
    return re.sub(r"\\text\{\s*\}", "", text)


def _multiplied(match: re.Match[str]) -> str:
    return rf" \times {MULTIPLIERS[match.group(2).lower()]} {match.group(1) or ''}"


def words_to_digits(text: str) -> str:
    """The text with a number in words at its start replaced by digits: "36 eggs" for "thirty-six eggs"."""
    text = re.sub(r"^\\text\{([^{}]*)\}", r"\1", text)
    if (ordinal := re.sub(r"^the\s+", "", text.lower())) in _ORDINALS:
        return str(_ORDINALS[ordinal])
    tokens: list[re.Match[str]] = []
    for word in re.finditer(r"([A-Za-z]+)(?:[\s-]+|$)", text):
        if word.start() != (tokens[-1].end() if tokens else 0):
            break
        tokens.append(word)
    words = [token.group(1).lower() for token in tokens]
    value, used = _whole(words)
    numerator, denominator, more = _parts(words[used:], value)
    if not used and not more:
        return text
    rest = text[tokens[used + more - 1].end(1) :]
    if not more:
        return f"{value}{rest}"
    return rf"\frac{{{value * denominator + numerator}}}{{{denominator}}}{rest}"


def _whole(tokens: list[str]) -> tuple[int, int]:
    """The whole number at the start of the words, and how many words it takes (0 if there is none)."""
    total = part = used = 0
    for i, word in enumerate(tokens):
        following = tokens[i + 1] if i + 1 < len(tokens) else ""
        if word in _ONES or word in _TENS:
            if part % 10 or (part % 100 and word in _TENS):
                break  # "five six" are two numbers
            part += _ONES.get(word, 0) + _TENS.get(word, 0)
        elif word in _SCALES and used:
            part *= 100 if word == "hundred" else 1
            if word != "hundred":
                total, part = total + part * _SCALES[word], 0
        elif word == "dozen":
            part = 12 * max(part, 1)
        elif word == "a" and following in ("hundred", "thousand", "million", "dozen"):
            part = 0 if following == "dozen" else 1
        elif word == "and" and used and (tokens[i - 1] in _SCALES) and (following in _ONES or following in _TENS):
            continue
        else:
            break
        used = i + 1
    return total + part, used


def _parts(tokens: list[str], whole: int) -> tuple[int, int, int]:
    """The fraction in words after `whole`: its numerator and denominator, and how many words it takes."""
    rest = [*tokens, "", "", ""]
    singular = rest[0].removesuffix("s")
    if whole and singular in _PARTS:  # "two thirds": the whole number is the numerator
        return whole - whole * _PARTS[singular], _PARTS[singular], 1
    skipped = 1 if whole and rest[0] == "and" else 0
    if rest[skipped] in ("a", "one", "half") or rest[skipped] in _ONES:
        count = 1 if rest[skipped] in ("a", "half") else _ONES[rest[skipped]]
        place = skipped + (rest[skipped] != "half")
        part = rest[place].removesuffix("s")
        if part in _PARTS and (whole == 0 or skipped):
            return count, _PARTS[part], place + 1
    return 0, 1, 0


def _mixed(match: re.Match[str]) -> str:
    whole, numerator, denominator = (part for part in match.groups() if part)
    if int(numerator) >= int(denominator):
        return match.group()
    total = abs(int(whole)) * int(denominator) + int(numerator)
    return rf"{'-' if whole.startswith('-') else ''}\frac{{{total}}}{{{denominator}}}"


def _repeating(match: re.Match[str]) -> str:
    whole, fixed, first, _, last = match.groups()
    return _fraction(whole, fixed, first + (last or ""))


def _fraction(whole: str, fixed: str, period: str) -> str:
    """A repeating decimal as a fraction: 0.1666… is 15/90. `fixed`: the digits before the period."""
    if len(fixed) + len(period) > 30:
        return f"{whole}.{fixed}{period}"
    value = int((whole.lstrip("-") or "0") + fixed + period) - int((whole.lstrip("-") or "0") + fixed)
    denominator = (10 ** len(period) - 1) * 10 ** len(fixed)
    return rf"{'-' if whole.startswith('-') else ''}\frac{{{value}}}{{{denominator}}}"
