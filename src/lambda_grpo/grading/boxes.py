r"""The boxes of a completion, and which of them are one answer together.

Boxes belong together where only words as "and", "or", names as "x =" and delimiters stand between them, or where they
are parts of one sentence. A box never counts alone where others belong to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MARKS = 50  # at most so many are looked at, from the end

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t]*")
_BETWEEN = re.compile(
    r"(?:[\s$,;&，、.*]|\n\s*-\s|\\[()\[\],;: ]|\\q?quad|\\text\{[^{}]*\}|\\(?:left|right|newline|\\)|"
    r"(?:and|or|as|well|also|along|with|plus|either|respectively|together|或|和)(?![A-Za-z])|[()])*"
    r"(?:(?:(?<![A-Za-z])[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?)?'*\s*(?:\([a-z]\)\s*)?(?:=|:)\s*|\\(?:Rightarrow|implies)\s*)?[\s$({]*"
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_JOINING = re.compile(r",|;|\band\b|\bor\b|&|\bwhile\b|\bwhereas\b|或|和", re.IGNORECASE)
_CORRECTING = re.compile(
    r"\b(?:no|not|wait|actually|instead|rather|correct\w*|so|thus|therefore|hence|which|that is|i\.e|simplif\w*|"
    r"equal\w*|mistake|wrong|check\w*|final\w*|answer|then|means|gives?|because|since|alternatively|hmm|let|verify|but|where|if|when|for|"
    r"approximately|about)\b|=|≈|\\approx|[.!?:]\s|\n\s*\n",
    re.IGNORECASE,
)
_DENIED = re.compile(r"(?:\bnot|\bnever|\brather\s+than|\binstead\s+of|n't(?:\s+be)?)\s*[$({\\\[]*\Z")
_NAME_BEFORE = re.compile(r"((?:(?<![A-Za-z\\])[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?)?)\s*(?:=|:)\s*[$({\s\\]*$")
_LABEL = re.compile(r"\n\s*\**\(?(?:[a-h]|[ivx]+|\d)[.)]|\bpart\s*\(?[a-h\d]", re.IGNORECASE)
FARTHEST = 2000  # characters that are looked at before a box for another one
LONGEST = 80  # characters between boxes of one sentence


@dataclass(frozen=True)
class Box:
    """A box: its content, where its command begins and where it ends, and whether it is closed."""

    content: str
    start: int
    end: int
    closed: bool


def boxes(text: str) -> list[Box]:
    """The last boxes that hold anything, in order; of boxes in boxes, the outer ones."""
    found: list[Box] = []
    for mark in list(BOX.finditer(text))[: -MARKS - 1 : -1]:
        if found and found[-1].start - mark.start() > FARTHEST:
            break
        content, end = boxed(text, mark.end())
        closed = text[mark.end() : mark.end() + 1] == "{" and text[end - 1 : end] == "}"
        inside = [box for box in found if box.start < end and closed]
        found = [box for box in found if box not in inside]
        if content and not _DENIED.search(text, max(0, mark.start() - 40), mark.start()):
            found.append(Box(BOX.sub("", content) if inside else content, mark.start(), end, closed))
    return found[::-1]


def last_boxes(text: str) -> list[Box]:
    """The last box with those that belong to it."""
    together: list[Box] = []
    for box in reversed(boxes(text)):
        if together and not _belong(text[box.end : together[-1].start]):
            break
        together.append(box)
    return together[::-1]


def joined(text: str, together: list[Box]) -> str:
    """Several boxes as one answer, with the names that stand before them: "x = 1, y = 2"."""
    if len({box.content for box in together}) == 1:
        return together[0].content
    names = [_NAME_BEFORE.search(text[max(0, box.start - 30) : box.start]) for box in together]
    contents = [box.content for box in together]
    if all(names) and not any("=" in content for content in contents):
        contents = [f"{name.group(1)} = {content}" for name, content in zip(names, contents, strict=True) if name]
    return ", ".join(contents)


def labelled(text: str) -> list[Box]:
    """The boxes of several parts of a problem, as (a) and (b); none where there are none."""
    found = boxes(text)
    for i in range(len(found) - 1, 0, -1):
        if not _LABEL.search(text[found[i - 1].end : found[i].start]):
            return found[i:] if len(found) - i > 1 else []
    return found if len(found) > 1 else []


def _belong(between: str) -> bool:
    if len(between) > LONGEST:
        return False
    if _BETWEEN.fullmatch(between):
        return "." not in between
    return bool(_JOINING.search(between)) and not _CORRECTING.search(between)


def boxed(text: str, start: int) -> tuple[str, int]:
    """The content of a box whose command ends at `start`, and its end. An unclosed one goes to the end of its line."""
    if text[start : start + 1] != "{":
        match = re.compile(r"[^\s$]*").match(text, start)
        assert match is not None
        return match.group().rstrip(".,"), match.end()
    depth = 0
    for sign in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(sign.group(), 0)  # an escaped brace is part of the content
        if depth == 0:
            return text[start + 1 : sign.start()].strip(), sign.end()
    return rest_of_line(text, start + 1), len(text)


def rest_of_line(text: str, start: int) -> str:
    """The line from `start` on, without a dollar sign that closes what began before it."""
    line = text[start:].split("\n", 1)[0].strip()
    return line.rstrip("$").strip() if line.count("$") % 2 else line
