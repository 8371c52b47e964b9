r"""Where in a completion its answer stands.

The last `\boxed{}` or `####` is the answer. Without one it is what follows the last "answer is" or "Answer:", then a
last line that is nothing but an answer, then the last formula or number. Where there is an `<answer>` tag, all this is
looked for inside the last one.
"""

from __future__ import annotations

import re
from typing import Any

TAIL = 4000  # characters: an answer without a mark is looked for in the end of a completion
LINE = 100  # of a line that is nothing but an answer

MARKS = 50  # at most so many are looked at, from the end

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t]*")
_MARK = re.compile(rf"{_BOX.pattern}|(?<!#)####(?!#)[ \t]*")
_SENTENCE = re.compile(
    r"(?:\b(?:answer|option|choice)s?\b[^\n.:=]{0,40}?(?:\b(?:is|are|be)\b|[:=])|(?:答案|故选)\s*[是为]?)[\s:：*_]*(?=([^\n]+))",
    re.IGNORECASE,
)
_LEADING = re.compile(
    r"(?:(?:therefore|thus|simply|just|approximately|about|likely|probably|exactly|indeed|clearly|still|again|that|"
    r"equal to)\b[\s,:]*)+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(
    r"[.!?](?=\s|$)|。|\bI hope\b|,?\s+(?:because|since|which|not)\b|\s+\((?=[A-Za-z]{3,})", re.IGNORECASE
)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_NUMBER = re.compile(
    r"(?<![\w.{}^\\])[-+−]?[$€£]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?(?:\s*\\?%)?"
)
_TEXT_COMMAND = re.compile(r"\\(?:text\w*|mathrm|mbox)\s*\{[^{}]*\}")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}|[\u4e00-\u9fff]")
_CONNECTIVE = re.compile(r"[\s$]*(?:[,;，]|[,;]?\s*(?:and|or|和|或)(?![A-Za-z]))[\s$]*(?:[A-Za-z]\s*=\s*)?")
_COMMA = re.compile(r"\s*(?:[,;，]|[,;]?\s*(?:and|or|和|或)(?![A-Za-z]))\s*")
_SPECIAL = re.compile(r"<\|[\w|]{1,40}?\|>|</?s>")


def final_answer(completion: str) -> str | None:
    """The answer that a completion gives, as it is written there; None without one."""
    completion = _SPECIAL.sub(" ", completion)
    if "<answer>" in completion:
        completion = completion.rsplit("<answer>", 1)[1].split("</answer>", 1)[0]
    for mark in list(_MARK.finditer(completion))[: -MARKS - 1 : -1]:
        is_box = mark.group().startswith("\\")
        found = _boxed(completion, mark.end())[0] if is_box else _hashed(_rest_of_line(completion, mark.end()))
        if found:
            return found
    tail = completion[-TAIL:].strip()
    sentences = [said for rest in _SENTENCE.findall(tail) if (said := _of_sentence(rest))]
    if sentences:
        return next((said for said in reversed(sentences) if re.search(r"\d|\\|\$", said)), sentences[-1])
    last_line = tail.rsplit("\n", 1)[-1].strip()
    if last_line and len(last_line) <= LINE and not _has_words(last_line):
        return last_line
    found = _last_formula_or_number(tail)
    if found is None and (last_line == tail or last_line.startswith("####")) and len(last_line) <= LINE:
        return last_line.removeprefix("####").strip() or None
    return found


def reference_answer(reference: Any) -> str:
    r"""A data set's answer as text, without its derivation; empty where there is none.

    Args:
        reference: a text, a number, a list of several answers, or a text with GSM8K's `####` or a `\boxed{}` before the
            answer. None and NaN are none.
    """
    if isinstance(reference, list):
        return ", ".join(reference_answer(part) for part in reference)
    if reference is None or reference != reference:  # NaN isn't itself
        return ""
    reference = str(reference).strip().removeprefix("$").removesuffix("$").strip()
    if "####" in reference or "\\boxed" in reference:
        return final_answer(reference) or ""
    return reference


def closed_box(completion: str) -> str | None:
    r"""The content of the last `\boxed{}`, if it is closed and holds anything."""
    boxes = list(_BOX.finditer(completion))
    if not boxes:
        return None
    start = boxes[-1].end()
    content, end = _boxed(completion, start)
    return content if content and completion[start] == "{" and completion[end - 1] == "}" else None


def joined_boxes(completion: str) -> str | None:
    r"""The last boxes that only "," or "and" or "or" stands between, joined: `\boxed{1} and \boxed{2}` is "1, 2"."""
    contents: list[str] = []
    following = None
    for mark in list(_BOX.finditer(completion))[: -MARKS - 1 : -1]:
        content, end = _boxed(completion, mark.end())
        if following is not None and not _CONNECTIVE.fullmatch(completion[end:following]):
            break
        contents.append(content)
        following = mark.start()
    return ", ".join(reversed(contents)) if len(contents) > 1 else None


def _boxed(text: str, start: int) -> tuple[str, int]:
    """The content of a box whose command ends at `start`, and its end. An unclosed one goes to the end of its line."""
    if text[start : start + 1] != "{":
        match = re.compile(r"[^\s$]*").match(text, start)
        assert match is not None
        return match.group().rstrip(".,"), match.end()
    depth, i = 0, start
    while i < len(text):
        if text[i] == "\\":
            i += 1  # an escaped brace is part of the content
        elif text[i] == "{":
            depth += 1
        elif text[i] == "}":
            depth -= 1
            if depth == 0:
                return text[start + 1 : i].strip(), i + 1
        i += 1
    return _rest_of_line(text, start + 1), len(text)


def _rest_of_line(text: str, start: int) -> str:
    line = text[start:].split("\n", 1)[0].strip()
    return line.rstrip("$").strip() if line.count("$") % 2 else line


def _hashed(rest: str) -> str | None:
    """What follows `####`, if it is an answer and no heading."""
    rest = rest.strip("*_ \t")
    is_answer = re.match(r"[-+−]?[$€£]?\.?\d|\\|\$|\(", rest) and not re.match(r"\d+[.):]\s+\S*[A-Za-z]{3}", rest)
    return rest if is_answer else None


def _of_sentence(rest: str) -> str:
    """The answer at the beginning of what follows "the answer is"."""
    rest = rest.strip(" \t*_")
    leading = _LEADING.match(rest)
    rest = rest[leading.end() :] if leading else rest
    formulas, end = [], 0
    while (formula := _FORMULA.match(rest, end)) is not None and not _has_words(formula.group()):
        formulas.append(_content(formula))
        comma = _COMMA.match(rest, formula.end())
        end = comma.end() if comma else len(rest)
    if formulas:
        return ", ".join(formulas)
    stop = _SENTENCE_END.search(rest)
    rest = (rest[: stop.start()] if stop else rest).strip(" \t*_")
    numbers = list(_NUMBER.finditer(rest))
    # "5 apples" is 5; "5x + 1", "5 or 6" and "(1, 2)" are what they are
    if numbers and numbers[0].start() == 0:
        behind = rest[numbers[0].end() :]
        return numbers[0].group() if re.match(r"\s+(?!(?:and|or)\s+[-\d\\$])[A-Za-z]{2,}", behind) else rest
    is_prose = len(_WORD.findall(_TEXT_COMMAND.sub("", rest))) > 2
    return numbers[0].group() if is_prose and len(numbers) == 1 else rest


def _last_formula_or_number(text: str) -> str | None:
    found, end = None, 0
    while (match := _FORMULA.search(text, end)) is not None:
        if _has_words(match.group()):  # "$5 and then $6": no formula, but two prices
            end = match.start() + 1
        else:
            found, end = _content(match), match.end()
    for match in _NUMBER.finditer(text, end):
        found = match.group()
    return found


def _content(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None).strip()


def _has_words(text: str) -> bool:
    return _WORD.search(_TEXT_COMMAND.sub("", text)) is not None
