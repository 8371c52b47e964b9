r"""Comparing answers that are words: names, yes or no, multiple choice, lists of labels, times of day.

Words are compared as text without articles and subjects ("The series converges" is "converges").
"""

from __future__ import annotations

import re

from lambda_grpo.grading.normalization import compact_text

_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_SUBJECT = re.compile(
    r"^(?:(?:therefore|thus|so|hence|then|yes)\b,?\s*)?"
    r"(?:(?:the|this|that|these|those|our|its|a|an)\s+(?:[a-z]+\s+){0,2}?[a-z]+\s*(?:[a-z]\s*(?:\([a-z]\))?\s*)?|it\s+|they\s+|there\s+|"
    r"[a-z](?:\([a-z]\))?\s+)?(?:is|are|was|were|will\s+be|must\s+be)\s+(?:therefore\s+|thus\s+|indeed\s+)?(?=[a-z])",
    re.IGNORECASE,
)
_BARE_SUBJECT = re.compile(
    r"^(?:therefore,?\s+|thus,?\s+|so,?\s+|hence,?\s+)?(?:the|this|that)\s+[a-z]+\s+(?=[a-z])", re.IGNORECASE
)
_ARTICLES = re.compile(r"\b(?:the|an?|only|exactly|is|are)\b\s*", re.IGNORECASE)
_SAME = (
    (re.compile(r"\bdne\b"), "does not exist"),
    (re.compile(r"\bdoesn't\b"), "does not"),
    (re.compile(r"\bisn't\b"), "not"),
    (re.compile(r"\bcan't\b|\bcannot\b"), "can not"),
    (re.compile(r"\bconvergent\b|\bconverge\b"), "converges"),
    (re.compile(r"\bdivergent\b|\bdiverge\b"), "diverges"),
    (re.compile(r"\b(no) (real )?solutions?(?: exist)?\b|\bempty set\b|\\emptyset|\\\{\s*\\\}|^none$"), "no solution"),
    (re.compile(r"\b(?:the set of )?(?:all )(?:of the )?reals?(?: numbers?)?\b"), "all reals"),
    (re.compile(r"\bnot defined\b"), "undefined"),
)  # fmt: skip
_NUMERALS = "①②③④⑤⑥⑦⑧⑨⑩"
_LABEL = re.compile(rf"[A-H]|[IVX]{{1,4}}|[{_NUMERALS}]")
_SEPARATOR = re.compile(r"\s*(?:[,;]|\band\b|\bor\b|&|\\&)\s*(?:\band\b\s*|\bor\b\s*)?", re.IGNORECASE)
_CLOCK = re.compile(
    r"(\d{1,2})\s*(?::\s*(\d\d))?(?:\s*:\s*00)?\s*(?:\\text\{)?\s*(?:([ap])\.?\s*m\b)?[\s.]*\}?\.?", re.IGNORECASE
)
_CHOICE = re.compile(r"[(\[]\s*([A-H])\s*[)\]]\s*[:.,]?\s*|([A-H])\s*(?:[.:)](?=\s|$|\\)\s*|$)")


def normalize_words(text: str) -> str:
    """An answer in lower case, without text commands, dollar signs and quotes, and with synonyms unified."""
    text = _TEXT.sub(r" \1 ", text).replace("\\$", "").replace('"', "").casefold()
    text = re.sub(r"\s+", " ", text).strip(" .,;:!")
    for pattern, wording in _SAME:
        text = pattern.sub(wording, text)
    return text


def same_words(answer: str, reference: str) -> bool:
    """Whether an answer says the same as a reference that is words; both in canonical LaTeX."""
    answer, reference = normalize_words(answer), normalize_words(reference)
    if _squeezed(answer) == _squeezed(reference):
        return True
    if reference in ("yes", "no", "true", "false"):
        begun = re.match(r"(yes|no|true|false)\b(?!\s+(?:or|and)\b|,\s*(?:yes|no)\b)", answer)
        return begun is not None and begun.group() == reference
    wanted = _squeezed(_content(reference))
    for subject in (_SUBJECT, _BARE_SUBJECT):
        found = subject.match(answer)
        if found and " not " not in found.group() and _squeezed(_content(answer[found.end() :])) == wanted:
            return True
    if (found := _SUBJECT.match(reference)) and _squeezed(_content(reference[found.end() :])) == _squeezed(
        _content(answer)
    ):
        return True
    if _squeezed(_content(answer)) == wanted:
        return True
    a, b = _content(answer).split(), _content(reference).split()
    return len(a) == len(b) == 2 and any(word.endswith("ly") for word in b) and sorted(a) == sorted(b)


def _content(text: str) -> str:
    return _ARTICLES.sub("", text)


def _squeezed(text: str) -> str:
    return re.sub(r"[\s'\".()-]", "", text)


def parse_labels(text: str) -> list[str] | None:
    """The labels that an answer lists, like "A, C", "I, III" or "①④", with or without separators; None for others."""
    text = re.sub(r"\bonly\b|\boptions?\b|\bstatements?\b|[()]", " ", _TEXT.sub(r" \1 ", text), flags=re.IGNORECASE)
    parts = [part.strip(" .") for part in _SEPARATOR.split(text) if part.strip(" .")]
    if len(parts) == 1:
        parts = parts[0].split()
    if len(parts) == 1 and re.fullmatch(rf"[A-H]{{2,}}|[{_NUMERALS}]{{2,}}", parts[0]):
        parts = list(parts[0])
    return parts if len(parts) > 1 and all(_LABEL.fullmatch(part) for part in parts) else None


def same_labels(answer: str, reference: str) -> bool | None:
    """Whether two answers list the same labels, in the same order if the reference isn't sorted.

    None unless both are lists of labels; None also if both are written without separators: "ACD" may be an angle.
    """
    a, b = parse_labels(answer), parse_labels(reference)
    if a is None or b is None or all(re.fullmatch(r"[A-Z]{2,}", compact_text(text)) for text in (answer, reference)):
        return None
    return a == b if b != sorted(b, key=_place) else sorted(a) == sorted(b)


def _place(label: str) -> tuple[int, str]:
    roman = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")
    return (roman.index(label), "") if label in roman else (0, label)


def parse_time(text: str) -> tuple[int, int, str | None] | None:
    """The hour, minute, and "a" or "p" if given, of an answer that is a time of day; None for others."""
    found = _CLOCK.fullmatch(text.strip())
    if not found or (found.group(2) is None and found.group(3) is None):
        return None
    hour, half = int(found.group(1)), found.group(3)
    if hour > 12 and half is None:
        hour, half = hour - 12, "p"
    return hour, int(found.group(2) or 0), half.lower() if half else None


def same_time(answer: str, reference: str) -> bool:
    """Whether two answers are the same time of day; a.m. and p.m. have to agree if both give them."""
    a, b = parse_time(answer), parse_time(reference)
    return a is not None and b is not None and a[:2] == b[:2] and (a[2] == b[2] or None in (a[2], b[2]))


def parse_choice(answer: str) -> tuple[str, str] | None:
    """The letter of a multiple-choice answer, and the text of the choice if given: "(B) 12" is B, 12."""
    text = re.sub(
        r"^(?:option|choice|answer|选)\s*", "", _TEXT.sub(r"\1", answer).strip().strip("*"), flags=re.IGNORECASE
    )
    found = _CHOICE.match(text.strip())
    if not found or len(set(re.findall(r"\(([A-H])\)", text))) > 1:
        return None
    rest = text.strip()[found.end() :].strip(" .*~:")
    return found.group(1) or found.group(2), rest
