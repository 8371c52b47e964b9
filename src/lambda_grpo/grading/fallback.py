"""Fallback extraction, for a completion without a box, `####` or a statement of its answer.

In this order: a first or last line that consists of an answer, bold text in the last sentence, the letter of a choice,
and the last formula or number. Closing remarks such as "Q.E.D." are ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lambda_grpo.grading.phrases import (
    FORMULA,
    NUMBER,
    SEPARATOR,
    answer_in_phrase,
    formula_content,
    has_words,
    trailing_unit,
)

MAX_LINE = 100  # characters of a line that may be an answer as a whole

_BOLD = re.compile(r"(?<![\w*])\*\*(?=\S)([^*\n]+?)(?<=\S)\*\*(?![\w*])")
_REMARK = re.compile(
    r"(?:[\s*_]*(?:(?:this|that|which)\s+(?:completes|concludes|finishes|ends|proves)\b|we\s+(?:are|'re)\s+done|q\.?\s*e\.?\s*d\b|"
    r"I\s+hope|hope\s+(?:this|that)|let\s+me\s+know|feel\s+free|if\s+you\s+(?:have|need|want)|thank|note\s*:|remark\s*:|"
    r"source\s*:|reference\s*:|end\s+of)[^\n]*|[\s*_$]*[∎■□✓✔✅☑\\]*(?:blacksquare|square|qed|Box)?[\s*_$]*)$",
    re.IGNORECASE,
)
_DETAILS = re.compile(
    r"\n?\s*[*#]*\s*(?:in\s+detail|details?|explanation|breakdown|justification|reasoning|here(?:'s|\s+is|\s+are)\s+(?:why|how|the\s+\w+))"
    r"\b[^\n:]{0,40}:",
    re.IGNORECASE,
)
_FOR_ALL = re.compile(r",?\s+(?:for|where)\s+(?:all|any|every|each)\b[^.\n]*(?:\.\s*)?$")
_FIRST_LINE = re.compile(r"\**([-+]?\\?\$?\d[\d.,/]*(?:\s*[a-z%]+)?)\**\.?\n\s*\n(?=.*[A-Za-z]{3})")
_ASSIGNED = re.compile(
    r"((?<![A-Za-z\\])\$?([a-z])(?:_\w)?\s*=\s*[^\s=,$]+\$?(?:\s*(?:,|or|and|,\s*or|,\s*and)\s*\$?[a-z](?:_\w)?\s*=\s*[^\s=,$]+\$?)+)\.?\s*$"
)
_NO_ANSWER = re.compile(
    r"\b(?:can(?:no|')t\s+(?:be\s+)?(?:solve|find|answer|determine)\w*|need\s+more\s+information|unable\s+to|don't\s+know|(?:not|n't)\s+enough\s+information)"
)
_UNFINISHED = re.compile(
    r"^(?:if|suppose|assume|let)\b[^.!?]*$|\b(?:and|then|so|the|is|of|to|we|for|with|that|because|since)$|"
    r"^\W*(?:step|problem|question|part|exercise|case|example)\s*\d+\W*$|\b(?:need|have)\s+to\s+(?:find|check|compute|show)\b",
    re.IGNORECASE,
)
_ROUNDED = re.compile(
    r",?\s*(?:\(|or\s+|which\s+is\s+)?(?:about|approximately|roughly|≈|\\approx)\s*\$?\s*([\d.,]*\d)\$?\s*\)?\s*\.?$"
)
_TOTAL = re.compile(r"\b(\d{1,9})\s+[a-z]+(?:\s+[a-z]+){0,4}:\s+([^.]*)\.?$")
_COMPLEMENT = re.compile(r"\b(?:is|are|equals|was|were|becomes)\b(?:\s+(?:therefore|thus|then|indeed|exactly))?[\s:]*")
_CHOSEN = re.compile(
    r"\b(?:choose|chose|select|pick|picked)\s+(?:option\s+|answer\s+)?[(\[]?([A-H])\b|"
    r"\b(?:option|choice|statement|answer)?\s*\(?\b([A-H])\b\)?(?:[.)])?[*_]*\s+(?:is|would\s+be|must\s+be)\s+(?:the\s+)?(?:correct|right|true|best)",
)


@dataclass(frozen=True)
class Candidate:
    """What may be the answer of a completion. `text_only`: it is only compared with the reference as text."""

    answer: str
    text_only: bool = False


def fallback_candidates(tail: str) -> list[Candidate]:
    """The answers that the end of a completion may give, the most likely first."""
    tail = _without_remarks(tail)
    details = _DETAILS.search(tail)
    if details and _last_formula_or_number(tail[: details.start()]) is not None:
        tail = tail[: details.start()].strip()
    words = _text_candidates(tail)
    tail = _FOR_ALL.sub("", tail)
    if first := _FIRST_LINE.match(tail):
        return [Candidate(answer_in_phrase(first.group(1))), *words]
    if listed := _ASSIGNED.search(tail):
        return [Candidate(listed.group(1)), *words]
    last_line = re.sub(r"^>\s+", "", tail.rsplit("\n", 1)[-1].strip())
    block = tail.endswith(("$$", "\\]", "$$.", "\\].", "```")) or re.search(r"\\end\{[a-z*]+\}\W*$", tail)
    if not block and last_line and len(last_line) <= MAX_LINE and not has_words(last_line):
        return [Candidate(last_line), *words]
    sentence = re.split(r"(?<=[.!?])\s+|\n", tail)[-1] if tail else ""
    if _UNFINISHED.search(sentence):
        tail = tail[: -len(sentence)].strip()
    if _NO_ANSWER.search(sentence):
        return words
    if rounded := _ROUNDED.search(tail):
        exact = _last_formula_or_number(tail[: rounded.start()])
        if exact and tail[: rounded.start()].rstrip("$ ").endswith(exact[-1]):
            return [Candidate(rf"{exact} \approx {rounded.group(1)}"), *words]
    if (total := _TOTAL.search(sentence)) and _adds_up(total):
        return [Candidate(total.group(1)), *words]
    if letter := re.search(r"\(([A-H])\)\W*$", sentence):
        return [Candidate(letter.group(1)), *words]
    if bold := _bold(sentence):
        return [Candidate(bold), *words]
    if chosen := list(_CHOSEN.finditer(sentence)):
        return [Candidate(chosen[-1].group(1) or chosen[-1].group(2)), *words]
    found = _last_formula_or_number(tail)
    if found is None and (last_line == tail or last_line.startswith("####")) and len(last_line) <= MAX_LINE:
        found = last_line.removeprefix("####").strip() or None
    return [Candidate(found), *words] if found else words


def _adds_up(total: re.Match[str]) -> bool:
    parts = [int(part) for part in re.findall(r"\b\d{1,9}\b", total.group(2))]
    return len(parts) > 1 and sum(parts) == int(total.group(1))


def _text_candidates(tail: str) -> list[Candidate]:
    """The last sentence and parts of it, to be compared as text with references that are words or prose."""
    if not tail:
        return []
    sentences = re.split(r"(?<=[.!?])\s+|\n", tail)
    last = sentences[-1].strip()
    found = [last]
    if complements := list(_COMPLEMENT.finditer(last)):
        found.append(last[complements[-1].end() :])
    found += [bold.group(1) for bold in _BOLD.finditer(last)]
    if yes := re.match(r"(?:Yes|No|True|False)\b", tail.rsplit("\n\n", 1)[-1]):
        found.append(yes.group())
    return [Candidate(one.strip(), True) for one in found if one.strip()]


def _without_remarks(tail: str) -> str:
    """The text without closing remarks such as "Q.E.D." or "This completes step 4 of 4."."""
    for _ in range(5):
        cut = max(
            tail.rfind("\n"),
            max((end.end() for end in re.finditer(r"[.!?]\s", tail[-300:])), default=0) + max(0, len(tail) - 300),
        )
        if not 0 < cut < len(tail) or not _REMARK.fullmatch(tail[cut:]):
            break
        tail = tail[:cut].strip()
    return tail


def _bold(sentence: str) -> str | None:
    """Bold text in a sentence, if it may be an answer: it isn't a label, and no number follows it."""
    found = [bold for bold in _BOLD.finditer(sentence) if not bold.group(1).rstrip().endswith(":")]
    if not found or re.match(r"\s*:", sentence[found[-1].end() :]):
        return None
    has_digits = re.search(r"\d", found[-1].group(1))
    if not has_digits and NUMBER.search(sentence, found[-1].end()):
        return None
    contents = [found[-1].group(1)]
    for earlier, later in zip(found[-2::-1], found[:0:-1], strict=False):
        if not SEPARATOR.fullmatch(sentence[earlier.end() : later.start()]):
            break
        contents.insert(0, earlier.group(1))
    return ", ".join(answer_in_phrase(one) for one in contents)


def _last_formula_or_number(text: str) -> str | None:
    found, end = None, 0
    while (match := FORMULA.search(text, end)) is not None:
        if has_words(match.group()):  # "$5 and then $6": two prices and not a formula
            end = match.start() + 1
        else:
            found, end = formula_content(match) + trailing_unit(text[match.end() :]), match.end()
    for match in NUMBER.finditer(text, end):
        found = match.group().strip() + trailing_unit(text[match.end() :])
    return found
