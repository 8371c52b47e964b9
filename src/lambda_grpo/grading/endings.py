"""What a completion without a mark and without a statement ends with, as far as that is an answer.

In this order: a first line or a last line that is nothing but an answer, what is set in bold in the last sentence, the
letter of a choice, and the last formula or number. Closing words as "Q.E.D." don't count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lambda_grpo.grading.phrases import COMMA, FORMULA, NUMBER, content, has_words, of_line, unit_behind

LINE = 100  # of a line that is nothing but an answer

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
class Reading:
    """An answer as a completion may be read. `as_text`: it counts only if it is the reference word for word."""

    answer: str
    as_text: bool = False


def ending(tail: str) -> list[Reading]:
    """What a text without boxes and statements ends with."""
    tail = _without_remarks(tail)
    details = _DETAILS.search(tail)
    if details and _last_formula_or_number(tail[: details.start()]) is not None:
        tail = tail[: details.start()].strip()
    words = _words(tail)
    tail = _FOR_ALL.sub("", tail)
    if first := _FIRST_LINE.match(tail):
        return [Reading(of_line(first.group(1))), *words]
    if listed := _ASSIGNED.search(tail):
        return [Reading(listed.group(1)), *words]
    last_line = re.sub(r"^>\s+", "", tail.rsplit("\n", 1)[-1].strip())
    block = tail.endswith(("$$", "\\]", "$$.", "\\].", "```")) or re.search(r"\\end\{[a-z*]+\}\W*$", tail)
    if not block and last_line and len(last_line) <= LINE and not has_words(last_line):
        return [Reading(last_line), *words]
    sentence = re.split(r"(?<=[.!?])\s+|\n", tail)[-1] if tail else ""
    if _UNFINISHED.search(sentence):
        tail = tail[: -len(sentence)].strip()
    if _NO_ANSWER.search(sentence):
        return words
    if rounded := _ROUNDED.search(tail):
        exact = _last_formula_or_number(tail[: rounded.start()])
        if exact and tail[: rounded.start()].rstrip("$ ").endswith(exact[-1]):
            return [Reading(rf"{exact} \approx {rounded.group(1)}"), *words]
    if (total := _TOTAL.search(sentence)) and _adds_up(total):
        return [Reading(total.group(1)), *words]
    if letter := re.search(r"\(([A-H])\)\W*$", sentence):
        return [Reading(letter.group(1)), *words]
    if bold := _bold(sentence):
        return [Reading(bold), *words]
    if chosen := list(_CHOSEN.finditer(sentence)):
        return [Reading(chosen[-1].group(1) or chosen[-1].group(2)), *words]
    found = _last_formula_or_number(tail)
    if found is None and (last_line == tail or last_line.startswith("####")) and len(last_line) <= LINE:
        found = last_line.removeprefix("####").strip() or None
    return [Reading(found), *words] if found else words


def _adds_up(total: re.Match[str]) -> bool:
    parts = [int(part) for part in re.findall(r"\b\d{1,9}\b", total.group(2))]
    return len(parts) > 1 and sum(parts) == int(total.group(1))


def _words(tail: str) -> list[Reading]:
    """What the last sentence says, for references that are words."""
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
    return [Reading(one.strip(), True) for one in found if one.strip()]


def _without_remarks(tail: str) -> str:
    """Without closing words behind the answer, as "Q.E.D." or "This completes step 4 of 4."."""
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
    """What is set in bold in a sentence, as far as it is an answer: no label, and no number after it."""
    found = [bold for bold in _BOLD.finditer(sentence) if not bold.group(1).rstrip().endswith(":")]
    if not found or re.match(r"\s*:", sentence[found[-1].end() :]):
        return None
    has_digits = re.search(r"\d", found[-1].group(1))
    if not has_digits and NUMBER.search(sentence, found[-1].end()):
        return None
    contents = [found[-1].group(1)]
    for earlier, later in zip(found[-2::-1], found[:0:-1], strict=False):
        if not COMMA.fullmatch(sentence[earlier.end() : later.start()]):
            break
        contents.insert(0, earlier.group(1))
    return ", ".join(of_line(one) for one in contents)


def _last_formula_or_number(text: str) -> str | None:
    found, end = None, 0
    while (match := FORMULA.search(text, end)) is not None:
        if has_words(match.group()):  # "$5 and then $6": no formula, but two prices
            end = match.start() + 1
        else:
            found, end = content(match) + unit_behind(text[match.end() :]), match.end()
    for match in NUMBER.finditer(text, end):
        found = match.group().strip() + unit_behind(text[match.end() :])
    return found
