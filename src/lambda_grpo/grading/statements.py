r"""Finding statements of the answer: "the answer is 5", "Answer: 5", a heading "Final Answer", a line "A: 5".

A statement that is negated ("the answer isn't 5"), a question ("is the answer 5?") or hypothetical ("if the answer is
5") is not valid.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NOUN = r"(?:answer|option|choice|correct\s+statement)s?"
_CUE = re.compile(
    rf"(?:\b{_NOUN}\b[^\n.:=?]{{0,40}}?(?:\b(?:is|are|be|was|were|equals)(?:n't|n’t)?\b|[:=])|(?:答案|故选)\s*(?:选|应?[是为])?|答\s*[:：]|\banswer\s+[-–—]\s+|"
    r"^[\s*_>#]*(?:the\s+)?(?:final\s+)?(?:answer|result)s?\s*[*_]*\s*$|"
    r"(?:^|[.?]\s)[\s*_>]*(?:A|Ans)[*_]*\s*[:=]|^[\s*_>]*Ans\.|"
    r"\b(?:the|our|all|only)\s+(?:\w+\s+)?(?:solution|root|result)s?\s+(?:\w+\s+)?(?:is|are)\b|"
    r"^[\s*_>#-]*(?:final\s+)?(?:solution|result)s?\s*(?:set\s*)?:)",
    re.IGNORECASE | re.MULTILINE,
)
_SKIPPED = re.compile(r"(?::?-\s)?[\s:：*_]*(?:(?:>|#+)\s+)?")
_NEGATED = re.compile(
    r"(?:isn't|aren't|wasn't|can(?:'|no)t|cannot|couldn't|won't|wouldn't|shouldn't|mustn't|\bnot\b|\bnever\b|n’t)",
    re.IGNORECASE,
)
_HYPOTHETICAL = re.compile(
    r"\b(?:suppos\w+|assum\w+|imagine|pretend|whether|let's\s+say|say\s+that|might\s+(?:\w+\s+)?(?:think|guess|say|expect|believe)"
    r"|(?:may|could|would|can)\s+(?:\w+\s+)?(?:think|guess|say|expect|believe)|tempt\w+|claim(?:s|ed)|first\s+guess|wrong|incorrect|"
    r"\bunless|initial(?:ly)?|previous(?:ly)?|thought|guessed|wondered|wonder|not\s+true|is\s+it|doubt)\b"
    r"|\bif\s+(?:and\s+only\s+if\s+)?(?:\w+\s+){0,2}$|\bis\s+(?:\w+\s+)?$",
    re.IGNORECASE,
)
_NO_ANSWER = re.compile(
    r"\s*(?:at\s+(?:least|most)\b|more\s+than\b|less\s+than\b|greater\s+than\b|fewer\s+than\b|larger\s+than\b|smaller\s+than\b|"
    r"bounded\b|between\b|divisible\b|a\s+(?:multiple|divisor|factor)\b|never\b|not\b(?=[^.]*\d)|wrong\b|incorrect\b|"
    r"correct\b|right\b|close\s+to\b|unlikely\b|clearly\s+not\b|off\s+by\b|somewhere\b|(?:an?\s+)?(?:upper|lower)\s+bound\b)",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"(?:\.\.\.|…|[-–—,;.!?(])\s*(?:(?:oh|hmm|um|uh)\b[\s,]*)?(?:(?:no|wait|sorry|actually|rather|scratch\s+that|I\s+mean|correction)\b[\s,:.!]*)+"
    r"(?:(?:it(?:'s|\s+is)|that(?:'s|\s+is)|the\s+answer\s+is|I\s+mean(?:t)?|make\s+that|it\s+should\s+be)\b\s*)*(?=[-+$\\(]*\d|[$\\])",
    re.IGNORECASE,
)
_TURN = re.compile(r",?\s+(?:but|so|hence|thus|therefore)\b")
_NOT_BUT = re.compile(r"not\s+[^,.]{1,30}?,?\s+but\s+(?:rather\s+)?", re.IGNORECASE)
_CHOSEN = re.compile(r"(?i:option|choice|answer|statement)\s*[(\[]?([A-H])[)\]]?\s")
_BEGINNING = re.compile(r"[.!?]\s|\n")
_BLOCK = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|```\w*\n(.+?)\n?```|(\\begin\{(equation|align|gather)\*?\}.+?\\end\{\5\*?\})",
    re.DOTALL,
)
_ITEM = re.compile(r"[ \t]*(?:[-*•+]|\(?\d{1,2}[.)])[ \t]+([^\n]+)(?:\n+|$)")
_FOLLOWS = re.compile(r"\s*(?:,|and|or|\.)?\s*")


@dataclass(frozen=True)
class Statement:
    """A statement of the answer.

    Attributes:
        line: the rest of its line, or the formula, code block or list that follows.
        rest: the whole text after it.
        start, end: where the sentence stands in the text.
        valid: whether it is an assertion: not negated, not a question, not hypothetical.
        is_block: whether `line` is a displayed formula, a code block or a list.
    """

    line: str
    rest: str
    start: int
    end: int
    valid: bool
    is_block: bool = False


def find_statements(text: str) -> list[Statement]:
    """All statements in a text, in order."""
    return [found for cue in _CUE.finditer(text) if (found := _statement(text, cue)) is not None]


def _statement(text: str, cue: re.Match[str]) -> Statement | None:
    skipped = _SKIPPED.match(text, cue.end())
    start = skipped.end() if skipped else cue.end()
    rest = text[start:].strip()
    if not rest:
        return None
    begun = max((found.end() for found in _BEGINNING.finditer(text, 0, _first_letter(text, cue))), default=0)
    before, cue_text = text[begun : cue.start()], cue.group()
    block, end = _block(text, start)
    line = block if block is not None else text[start:].split("\n", 1)[0].strip()
    if block is None:
        end = start + len(text[start:].split("\n", 1)[0])
    sentence_end = re.search(r"[.!?](?=\s|$)", text[start:end])
    asked = block is None and sentence_end is not None and sentence_end.group() == "?"
    if but := _NOT_BUT.match(line):
        line = line[but.end() :]
        cue_text = ""
    if corrections := list(_CORRECTION.finditer(line)):
        line = line[corrections[-1].end() :]
        asked = False
    if (letter := _CHOSEN.search(cue_text)) and re.match(r"(?:the\s+)?(?:correct|right|best|true)\b", line):
        line = letter.group(1)
    valid = not (
        asked or _NEGATED.search(cue_text) or _HYPOTHETICAL.search(before) or _NO_ANSWER.match(line.strip("*_ "))
    )
    finish = start + sentence_end.end() if sentence_end and block is None else end
    if not valid and (turn := _TURN.search(text, start, finish)):  # "isn't 5 but 6"
        finish = turn.start()
    return Statement(line, rest, begun, finish, valid, block is not None)


def _first_letter(text: str, cue: re.Match[str]) -> int:
    letter = re.compile(r"\w").search(text, cue.start())
    return letter.start() if letter else cue.start()


def _block(text: str, start: int) -> tuple[str | None, int]:
    """The displayed formula, code block or list items that follow, joined by commas, and where they end."""
    if block := _BLOCK.match(text, start):
        contents = [next(filter(None, block.groups()), "").strip()]
        end = block.end()
        while block := _BLOCK.match(text, _end_of(_FOLLOWS, text, end)):
            contents.append(next(filter(None, block.groups()), "").strip())
            end = block.end()
        return ", ".join(contents), end
    items, end = [], start
    if not text[:start].rstrip(" \t").endswith("\n"):
        return None, start
    while item := _ITEM.match(text, end):
        items.append(item.group(1).strip())
        end = item.end()
    return (", ".join(item.strip("*_ ") for item in items), end) if items else (None, start)


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start
