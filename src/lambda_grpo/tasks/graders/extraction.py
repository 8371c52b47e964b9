r"""Where in a completion its answer stands.

The last `\boxed{}`, with those that belong to it, or `####` is the answer. Without one it is what follows the last
"answer is" or "Answer:", then a last line that is nothing but an answer, then what is set in bold in the last sentence,
then the last formula or number. Where there is an `<answer>` tag, all this is looked for inside the last one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from lambda_grpo.tasks.graders.boxes import BOX, boxed, boxes, joined, labelled, last_boxes, rest_of_line
from lambda_grpo.tasks.graders.statements import Statement, statements

TAIL = 4000  # characters: an answer without a mark is looked for in the end of a completion
LINE = 100  # of a line that is nothing but an answer

_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*")
_LEADING = re.compile(
    r"(?:(?:therefore|thus|simply|just|likely|probably|exactly|indeed|clearly|still|again|that|obviously|then|now|"
    r"equal\s+to|the\s+number|(?:written|expressed|given|computed|calculated)\s+(?:as|to\s+be)|found\s+to\s+be|given\s+by|as\s+follows:?|(?:the\s+)?(?:option|choice))\b[\s,:]*)+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(
    r"(?<![.\s][A-Za-z])(?<!\b[ap]\.m)[.!?](?=\s|\*|$)|。|\bI hope\b|,?\s+(?:because|since|which|as\s+(?:required|desired|shown)|not(?=\s+[-$\d\\]))\b|"
    r"\s+\((?=[A-Za-z]{3,}[^()]*\d|\d[^()]*\s[A-Za-z]{3,})|\s+(?:or|i\.e\.,?|that\s+is,?)\s+(?=\$?\d[\d.,]*\s+[A-Za-z]+)(?<=[a-z],\s(?:or\s))",
    re.IGNORECASE,
)
FORMULA = re.compile(
    r"(?<!\\)\$\$(.+?)\$\$|(?<![\\$])\$((?:\\.|[^$\\\n])+)\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]"
    r"|(\\begin\{([a-z]*matrix|array|cases|aligned|align\*?|equation\*?)\}.+?\\end\{\6\})",
    re.DOTALL,
)
NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.{}^\\])[-+−]?(?:\\?\$|[€£₹])?\s?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
    r"(?:(?:\s+\d+)?\s*/\s*\d+)?(?:\s*\\?%)?"
)
_TEXT_COMMAND = re.compile(r"\\(?:text\w*|mathrm|mbox|operatorname)\s*\{[^{}]*\}")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}|[\u4e00-\u9fff]")
_COMMA = re.compile(r"\s*(?:[,;，]|[,;]?\s*(?:and|or|和|或)(?![A-Za-z]))\s*")
_NEXT_TURN = re.compile(r"(?:<\|im_start\|>|<\|start_header_id\|>|<\|)\s*user\b")
_SPECIAL = re.compile(r"<\|[\w|]{1,40}?\|>|</?s>")
_BOLD = re.compile(r"(?<![\w*])\*\*(?=\S)([^*\n]+?)(?<=\S)\*\*(?![\w*])")
_NEXT_PROBLEM = re.compile(r"\n\s*[*#]*\s*(?:Question|Problem|Exercise|Q|Human|User|Instruction)\s*\d*\s*[:.]|\n\s*#+\s*(?:Question|Problem)\b")
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
_TOTAL = re.compile(r"\b(\d{1,9})\s+[a-z]+(?:\s+[a-z]+){0,4}:\s+([^.]*)\.?$")
_COMPLEMENT = re.compile(r"\b(?:is|are|equals|was|were|becomes)\b(?:\s+(?:therefore|thus|then|indeed|exactly))?[\s:]*")
_CHOSEN = re.compile(
    r"\b(?:option|choice|statement|answer)?\s*\(?\b([A-H])\b\)?(?:[.)])?[*_]*\s+(?:is|would\s+be|must\s+be)\s+(?:the\s+)?(?:correct|right|true|best)",
)


@dataclass(frozen=True)
class Reading:
    """An answer as a completion may be read. `as_text`: it counts only if it is the reference word for word."""

    answer: str
    as_text: bool = False


def final_answer(completion: str) -> str | None:
    """The answer that a completion gives, as it is written there; None without one."""
    found = readings(completion)
    return found[0].answer if found and not found[0].as_text else None


def readings(completion: str) -> list[Reading]:
    """The answer that a completion gives, and further ways to read it, the likeliest first."""
    completion = _SPECIAL.sub(" ", _NEXT_TURN.split(completion, maxsplit=1)[0] or completion)
    if "<answer>" in completion:
        completion = completion.rsplit("<answer>", 1)[1].split("</answer>", 1)[0]
    completion = _first_problem(completion)
    if (marked := _marked(completion)) is not None:
        return marked
    tail = completion[-TAIL:].strip()
    said = statements(tail)
    whole = [Reading(one.rest, True) for one in said[-3:] if one.valid]
    found = [(one, answer) for one in said if one.valid and (answer := of_line(one.line, one.is_block))]
    if found:
        best = next(((s, a) for s, a in reversed(found) if re.search(r"\d|\\|\$", a)), found[-1])
        sentence = tail[tail.find(best[0].line) :] if not best[0].is_block else best[0].line
        return [Reading(best[1]), *_sentences(best[0]), *whole]
    for one in reversed(said):  # what is denied is no answer
        tail = (tail[: one.start] + tail[one.end :]).strip() if not one.valid else tail
    return [*_unmarked(tail), *whole]


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
    found = [Reading(joined(completion, together))]
    parts = labelled(completion) if len(together) == 1 else []
    if parts:
        found.append(Reading(joined(completion, parts)))
    return found


def _sentences(said: Statement) -> list[Reading]:
    """The statement's line, and its first sentence, word for word."""
    ends = [match.start() for match in re.finditer(r"[.!?](?=\s|$)", said.line)]
    return [Reading(said.line[:end], True) for end in ends[:1]] + [Reading(said.line, True)]


def _hashed(rest: str) -> str | None:
    """What follows `####`, if it is an answer and no heading."""
    rest = rest.strip("*_ \t")
    is_answer = re.match(r"[-+−]?(?:\\?\$|[€£₹])?\.?\d|\\|\$|\(", rest) and not re.match(r"\d+[.):]\s+\S*[A-Za-z]{3}", rest)
    return rest if is_answer else None


def of_line(rest: str, is_block: bool = False) -> str:
    """The answer at the beginning of what follows "the answer is"."""
    rest = rest.strip().strip("*_ \t")
    if is_block and not has_words(rest):
        return rest
    rest = re.sub(r"\*\*", "", rest) if not re.search(r"\w\*\*\w", rest) else rest
    leading = _LEADING.match(rest)
    rest = rest[leading.end() :] if leading else rest
    formulas, end = [], 0
    while (formula := FORMULA.match(rest, end)) is not None and not has_words(formula.group()):
        formulas.append(content(formula))
        comma = _COMMA.match(rest, formula.end())
        end = comma.end() if comma else len(rest)
        last = formula.end()
    if formulas:
        behind = _unit_behind(rest[last:])
        return ", ".join(formulas) + behind
    stop = _SENTENCE_END.search(rest)
    rest = (rest[: stop.start()] if stop else rest).strip(" \t*_")
    return _quantity(rest)


def _unit_behind(text: str) -> str:
    r"""What follows a formula in a sentence and belongs to it: "$5$ thousand", "$2: 15$ PM"."""
    found = re.match(r"\s*((?:hundred|thousand|million|billion|trillion|dozen|[ap]\.?m\.?)\b|\\?%|percent\b)", text, re.IGNORECASE)
    return rf" \text{{ {found.group(1)}}}" if found else ""


def _quantity(rest: str) -> str:
    """A phrase, or where it is prose about one number, that number with what stands directly behind it."""
    numbers = list(NUMBER.finditer(rest))
    # "5x + 1", "5 or 6" and "(1, 2)" are what they are
    if numbers and numbers[0].start() == 0:
        following = numbers[1].start() if len(numbers) > 1 else len(rest)
        between = rest[numbers[0].end() : following]
        subordinate = re.match(
            r"\s+[A-Za-z]{2,}[A-Za-z\s'-]*?(?:,\s*(?:or|i\.e\.?,?|that\s+is,?|so|and\s+(?:so|then))\s|\s+(?:after|before|from|when|if|while|in|at|on|with|for|"
            r"during|between|among|under|until|than|given|using|including|left|out\s+of|of|who|so|per|every|each|by|to)\b|[=(])",
            between,
        )
        if len(numbers) > 1 and subordinate and not re.match(r"\s+(?:to|in|by|out|over|of)\b", between):
            return rest[: numbers[0].end()] + re.split(r",|\s+(?:or|i\.e|that\s+is|so)\b|[=(]", between)[0].rstrip()
        return rest
    if re.match(r"[a-z]\s+(?:is|must\s+be)\s+(?:strictly\s+)?(?:greater|less|more|at|not|larger|smaller)\b", rest):
        return rest
    is_prose = len(_WORD.findall(_TEXT_COMMAND.sub("", rest))) > 2
    if is_prose and len(numbers) == 1:
        return rest[numbers[0].start() :] if re.match(r"\s*\S", rest[numbers[0].end() :]) else numbers[0].group().strip()
    return rest


def _unmarked(tail: str) -> list[Reading]:
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
    last_line = tail.rsplit("\n", 1)[-1].strip()
    block = tail.endswith(("$$", "\\]", "$$.", "\\].", "```")) or re.search(r"\\end\{[a-z*]+\}\W*$", tail)
    if not block and last_line and len(last_line) <= LINE and not has_words(last_line):
        return [Reading(last_line), *words]
    sentence = re.split(r"(?<=[.!?])\s+|\n", tail)[-1] if tail else ""
    if re.search(r"\b(?:if|when|suppose)\b.*\bthen$", sentence, re.IGNORECASE):  # cut off in the middle
        tail = tail[: -len(sentence)].strip()
    if (total := _TOTAL.search(sentence)) and _adds_up(total):
        return [Reading(total.group(1)), *words]
    if letter := re.search(r"\(([A-H])\)\W*$", sentence):
        return [Reading(letter.group(1)), *words]
    if bold := _bold(sentence):
        return [Reading(bold), *words]
    if chosen := list(_CHOSEN.finditer(sentence)):
        return [Reading(chosen[-1].group(1)), *words]
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
        cut = max(tail.rfind("\n"), max((end.end() for end in re.finditer(r"[.!?]\s", tail[-300:])), default=0) + max(0, len(tail) - 300))
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
        if not _COMMA.fullmatch(sentence[earlier.end() : later.start()]):
            break
        contents.insert(0, earlier.group(1))
    return ", ".join(of_line(one) for one in contents)


def _last_formula_or_number(text: str) -> str | None:
    found, end = None, 0
    while (match := FORMULA.search(text, end)) is not None:
        if has_words(match.group()):  # "$5 and then $6": no formula, but two prices
            end = match.start() + 1
        else:
            found, end = content(match) + _unit_behind(text[match.end() :]), match.end()
    for match in NUMBER.finditer(text, end):
        found = match.group().strip() + _unit_behind(text[match.end() :])
    return found


def content(formula: re.Match[str]) -> str:
    """What a formula holds; of a derivation in several rows, its last row."""
    found = next(group for group in formula.groups() if group is not None).strip()
    if re.match(r"\\begin\{(?:align|equation)", found) and "\\boxed" not in found:
        rows = [row for row in re.split(r"\\\\|\\end\{[a-z]+\*?\}\s*$", found) if row.strip(" &\n")]
        found = re.sub(r"\\begin\{[a-z]+\*?\}|&", "", rows[-1]).strip()
    return found


def has_words(text: str) -> bool:
    text = re.sub(r"\\(?:begin|end)\s*\{[^{}]*\}(?:\s*\{[lcr|]+\})?", "", _TEXT_COMMAND.sub("", text))
    return _WORD.search(text) is not None


__all__ = ["boxes", "closed_box", "final_answer", "readings", "reference_answer"]
