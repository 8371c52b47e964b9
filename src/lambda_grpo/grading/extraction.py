r"""Where in a completion its answer stands.

The last `\boxed{}`, with those that belong to it, or `####` is the answer. Without one it is what follows the last
"answer is" or "Answer:", then a last line that is nothing but an answer, then what is set in bold in the last sentence,
then the last formula or number. Where there is an `<answer>` tag, all this is looked for inside the last one.
"""

from __future__ import annotations

import re
from typing import Any

from lambda_grpo.grading.boxes import BOX, boxed, joined, labelled, last_boxes, rest_of_line
from lambda_grpo.grading.endings import Reading, ending
from lambda_grpo.grading.phrases import of_line
from lambda_grpo.grading.statements import Statement, statements

TAIL = 4000  # characters: an answer without a mark is looked for in the end of a completion

_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*")
_NEXT_TURN = re.compile(r"(?:<\|im_start\|>|<\|start_header_id\|>|<\|)\s*user\b")
_SPECIAL = re.compile(r"<\|[\w|]{1,40}?\|>|</?s>")
_NEXT_PROBLEM = re.compile(
    r"\n\s*[*#]*\s*(?:Question|Problem|Exercise|Q|Human|User|Instruction)\s*\d*\s*[:.]|\n\s*#+\s*(?:Question|Problem)\b"
)


def final_answer(completion: str) -> str | None:
    """The answer that a completion gives, as it is written there; None without one."""
    found = readings(completion)
    return found[0].answer if found and not found[0].as_text else None


def readings(completion: str) -> list[Reading]:
    """The answer that a completion gives, and further ways to read it, the likeliest first."""
    completion = _SPECIAL.sub(" ", _NEXT_TURN.split(completion, maxsplit=1)[0] or completion)
    if "<answer>" in completion:
        completion = completion.rsplit("<answer>", 1)[1].split("</answer>", 1)[0]
    _, closed, after = completion.rpartition("</think>")
    completion = _first_problem(after if closed and re.search(r"\w", after) else completion)
    if (marked := _marked(completion)) is not None:
        return marked
    tail = completion[-TAIL:].strip()
    said = statements(tail)
    whole = [Reading(one.rest, True) for one in said[-3:] if one.valid]
    found = [(one, answer) for one in said if one.valid and (answer := of_line(one.line, one.is_block))]
    if found:
        best = next(((s, a) for s, a in reversed(found) if re.search(r"\d|\\|\$", a)), found[-1])
        return [Reading(best[1]), *_sentences(best[0]), *whole]
    for one in reversed(said):  # what is denied is no answer
        tail = (tail[: one.start] + tail[one.end :]).strip() if not one.valid else tail
    return [*ending(tail), *whole]


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
    content, end = boxed(completion, start)
    return content if content and completion[start] == "{" and completion[end - 1] == "}" else None


def _first_problem(completion: str) -> str:
    """Without further problems that a model makes up behind its answer."""
    for following in list(_NEXT_PROBLEM.finditer(completion))[:20]:
        before = completion[: following.start()]
        if BOX.search(before) or "####" in before or any(one.valid for one in statements(before[-TAIL:])):
            return before
    return completion


def _marked(completion: str) -> list[Reading] | None:
    """What the last box or `####` holds; None without one."""
    hashes = [
        (mark.start(), found)
        for mark in list(_HASHES.finditer(completion))[-5:]
        if (found := _hashed(rest_of_line(completion, mark.end())))
    ]
    together = last_boxes(completion)
    if hashes and (not together or hashes[-1][0] > together[-1].start):
        return [Reading(hashes[-1][1])]
    if not together:
        return None
    parts = labelled(completion) if len(together) == 1 else []
    return [Reading(joined(completion, some)) for some in (together, parts) if some]


def _sentences(said: Statement) -> list[Reading]:
    """The statement's line, and its first sentence, word for word."""
    ends = [match.start() for match in re.finditer(r"[.!?](?=\s|$)", said.line)]
    return [Reading(said.line[:end], True) for end in ends[:1]] + [Reading(said.line, True)]


def _hashed(rest: str) -> str | None:
    """What follows `####`, if it is an answer and no heading."""
    rest = rest.strip("*_ \t")
    is_answer = re.match(r"[-+−]?(?:\\?\$|[€£₹])?\.?\d|\\|\$|\(", rest) and not re.match(
        r"\d+[.):]\s+\S*[A-Za-z]{3}", rest
    )
    return rest if is_answer else None
