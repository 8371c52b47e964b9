r"""Finding `\boxed{}` in a completion, and grouping the boxes that form one answer.

Boxes form one answer if only delimiters, names such as "x =" and words such as "and" or "or" separate them, or if they
are parts of one sentence. A box that belongs to a group is never an answer by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_BOXES = 50  # how many boxes are considered, counted from the end

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
MAX_DISTANCE = 2000  # characters between a box and the one before it; earlier boxes are ignored
MAX_GAP = 80  # characters between boxes of one group


@dataclass(frozen=True)
class Box:
    """A box: its content, where its command starts, where it ends, and whether its brace is closed."""

    content: str
    start: int
    end: int
    closed: bool


def find_boxes(text: str) -> list[Box]:
    """The last non-empty boxes, in order; of nested boxes only the outermost."""
    found: list[Box] = []
    for mark in list(BOX.finditer(text))[: -MAX_BOXES - 1 : -1]:
        if found and found[-1].start - mark.start() > MAX_DISTANCE:
            break
        content, end = box_content(text, mark.end())
        closed = text[mark.end() : mark.end() + 1] == "{" and text[end - 1 : end] == "}"
        inside = [box for box in found if box.start < end and closed]
        found = [box for box in found if box not in inside]
        if content and not _DENIED.search(text, max(0, mark.start() - 40), mark.start()):
            found.append(Box(BOX.sub("", content) if inside else content, mark.start(), end, closed))
    return found[::-1]


def last_box_group(text: str) -> list[Box]:
    """The last box, with the boxes before it that form one answer with it."""
    group: list[Box] = []
    for box in reversed(find_boxes(text)):
        if group and not _connects(text[box.end : group[-1].start]):
            break
        group.append(box)
    return group[::-1]


def join_boxes(text: str, group: list[Box]) -> str:
    """A group of boxes as one answer, with the names that precede them: "x = 1, y = 2"."""
    if len({box.content for box in group}) == 1:
        return group[0].content
    names = [_NAME_BEFORE.search(text[max(0, box.start - 30) : box.start]) for box in group]
    contents = [box.content for box in group]
    if all(names) and not any("=" in content for content in contents):
        contents = [f"{name.group(1)} = {content}" for name, content in zip(names, contents, strict=True) if name]
    return ", ".join(contents)


def labelled_boxes(text: str) -> list[Box]:
    """The boxes that answer labelled parts of a problem, such as (a) and (b); empty if there are none."""
    found = find_boxes(text)
    for i in range(len(found) - 1, 0, -1):
        if not _LABEL.search(text[found[i - 1].end : found[i].start]):
            return found[i:] if len(found) - i > 1 else []
    return found if len(found) > 1 else []


def _connects(between: str) -> bool:
    """Whether the text between two boxes makes them one answer."""
    if len(between) > MAX_GAP:
        return False
    if _BETWEEN.fullmatch(between):
        return "." not in between
    return bool(_JOINING.search(between)) and not _CORRECTING.search(between)


def box_content(text: str, start: int) -> tuple[str, int]:
    """The content of a box whose command ends at `start`, and its end. An unclosed box ends with its line."""
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
    """The line from `start` on, without a dollar sign that closes a formula opened before it."""
    line = text[start:].split("\n", 1)[0].strip()
    return line.rstrip("$").strip() if line.count("$") % 2 else line
