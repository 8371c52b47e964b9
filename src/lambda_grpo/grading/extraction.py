r"""Extracting the answer from a completion.

The answer is the last group of `\boxed{}`, or the last `####` if that comes later. Without either it is what follows
the last "answer is" or "Answer:"; then a last line that consists of an answer; then bold text in the last sentence;
then the last formula or number. If there is an `<answer>` tag, only the last one is searched.
"""

from __future__ import annotations

import re
from typing import Any

from lambda_grpo.grading.boxes import BOX, box_content, join_boxes, labelled_boxes, last_box_group, rest_of_line
from lambda_grpo.grading.fallback import Candidate, fallback_candidates
from lambda_grpo.grading.phrases import answer_in_phrase
from lambda_grpo.grading.statements import Statement, find_statements

TAIL = 4000  # characters at the end of a completion that are searched for an answer without a box or `####`

_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*")
_NEXT_TURN = re.compile(r"(?:<\|im_start\|>|<\|start_header_id\|>|<\|)\s*user\b")
_SPECIAL = re.compile(r"<\|[\w|]{1,40}?\|>|</?s>")
_NEXT_PROBLEM = re.compile(
    r"\n\s*[*#]*\s*(?:Question|Problem|Exercise|Q|Human|User|Instruction)\s*\d*\s*[:.]|\n\s*#+\s*(?:Question|Problem)\b"
)


def final_answer(completion: str) -> str | None:
    """The answer as written in a completion; None if there is none."""
    found = candidate_answers(completion)
    return found[0].answer if found and not found[0].text_only else None


def candidate_answers(completion: str) -> list[Candidate]:
    """The answers that may be meant in a completion, the most likely first."""
    completion = _SPECIAL.sub(" ", _NEXT_TURN.split(completion, maxsplit=1)[0] or completion)
    if "<answer>" in completion:
        completion = completion.rsplit("<answer>", 1)[1].split("</answer>", 1)[0]
    _, closed, after = completion.rpartition("</think>")
    completion = _first_problem(after if closed and re.search(r"\w", after) else completion)
    if (marked := _marked_candidates(completion)) is not None:
        return marked
    tail = completion[-TAIL:].strip()
    found = find_statements(tail)
    whole = [Candidate(one.rest, True) for one in found[-3:] if one.valid]
    stated = [(one, answer) for one in found if one.valid and (answer := answer_in_phrase(one.line, one.is_block))]
    if stated:
        best = next(((s, a) for s, a in reversed(stated) if re.search(r"\d|\\|\$", a)), stated[-1])
        return [Candidate(best[1]), *_sentence_candidates(best[0]), *whole]
    for one in reversed(found):  # a denied answer isn't a candidate
        tail = (tail[: one.start] + tail[one.end :]).strip() if not one.valid else tail
    return [*fallback_candidates(tail), *whole]


def reference_answer(reference: Any) -> str:
    r"""A data set's reference answer as text, without its derivation; "" if there is none.

    Args:
        reference: a text, a number, a list of several answers, or a solution with GSM8K's `####` or a `\boxed{}`. None
            and NaN mean that there is no answer.
    """
    if isinstance(reference, list):
        return ", ".join(reference_answer(part) for part in reference)
    if reference is None or reference != reference:  # NaN isn't itself
        return ""
    reference = str(reference).strip()
    if reference.startswith("$") and reference.endswith("$") and "$" not in reference[1:-1].replace(r"\$", ""):
        reference = reference.strip("$").strip()
    if "####" in reference or "\\boxed" in reference:
        return final_answer(reference) or ""
    if final_line := re.search(r"\n\s*(?:A|Ans|Answer)\s*:\s*([^\n]+)\s*$", reference):
        return final_line.group(1).strip()
    return reference


def closed_box(completion: str) -> str | None:
    r"""The content of the last `\boxed{}`, if it is closed and holds anything."""
    marks = list(BOX.finditer(completion))
    if not marks:
        return None
    start = marks[-1].end()
    content, end = box_content(completion, start)
    return content if content and completion[start] == "{" and completion[end - 1] == "}" else None


def _first_problem(completion: str) -> str:
    """The completion without further problems that a model invents after its answer."""
    for following in list(_NEXT_PROBLEM.finditer(completion))[:20]:
        before = completion[: following.start()]
        if BOX.search(before) or "####" in before or any(one.valid for one in find_statements(before[-TAIL:])):
            return before
    return completion


def _marked_candidates(completion: str) -> list[Candidate] | None:
    """The content of the last group of boxes or of the last `####`; None without either."""
    hashes = [
        (mark.start(), found)
        for mark in list(_HASHES.finditer(completion))[-5:]
        if (found := _hashed(rest_of_line(completion, mark.end())))
    ]
    group = last_box_group(completion)
    if hashes and (not group or hashes[-1][0] > group[-1].start):
        return [Candidate(hashes[-1][1])]
    if not group:
        return None
    parts = labelled_boxes(completion) if len(group) == 1 else []
    return [Candidate(join_boxes(completion, some)) for some in (group, parts) if some]


def _sentence_candidates(statement: Statement) -> list[Candidate]:
    """The statement's first sentence and its whole line, to be compared as text only."""
    ends = [match.start() for match in re.finditer(r"[.!?](?=\s|$)", statement.line)]
    return [Candidate(statement.line[:end], True) for end in ends[:1]] + [Candidate(statement.line, True)]


def _hashed(rest: str) -> str | None:
    """What follows `####`, if it is an answer and not a heading."""
    rest = rest.strip("*_ \t")
    is_answer = re.match(r"[-+−]?(?:\\?\$|[€£₹])?\.?\d|\\|\$|\(", rest) and not re.match(
        r"\d+[.):]\s+\S*[A-Za-z]{3}", rest
    )
    return rest if is_answer else None
