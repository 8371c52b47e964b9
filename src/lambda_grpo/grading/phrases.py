"""Extracting the answer from a phrase: "approximately 5 apples", "$x = 2$ and $x = 3$", "that she has 5 left"."""

from __future__ import annotations

import re

_LEADING = re.compile(
    r"(?:(?:therefore|thus|simply|just|likely|probably|exactly|indeed|clearly|still|again|that|obviously|then|now|"
    r"equal\s+to|the\s+number|(?:written|expressed|given|computed|calculated)\s+(?:as|to\s+be)|found\s+to\s+be|given\s+by|as\s+follows:?|(?:the\s+)?(?:option|choice))\b[\s,:]*)+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(
    r"(?<![.\s][A-Za-z])(?<!\b[ap]\.m)[.!?](?=\s|\*|$)|。|\bI hope\b|"
    r",?\s+(?:because|since|which|as\s+(?:required|desired|shown)|rather\s+than|instead\s+of|"
    r"not(?=\s+[-$\d\\]))\b|"
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
_OPERATION = re.compile(
    r"\b(?:root|half|double|twice|triple|square|cube|third|quarter|log\w*|power|multiple|percent)\b"
)
SEPARATOR = re.compile(r"\s*(?:[,;，]|[,;]?\s*(?:and|or|和|或)(?![A-Za-z]))\s*")


def answer_in_phrase(rest: str, is_block: bool = False) -> str:
    """The answer in the text that follows "the answer is"."""
    rest = rest.strip().strip("*_ \t")
    if is_block and not has_words(rest):
        return rest
    rest = re.sub(r"\*\*", "", rest) if not re.search(r"\w\*\*\w", rest) else rest
    leading = _LEADING.match(rest)
    rest = rest[leading.end() :] if leading else rest
    formulas, end = [], 0
    while (formula := FORMULA.match(rest, end)) is not None and not has_words(formula.group()):
        formulas.append(formula_content(formula))
        comma = SEPARATOR.match(rest, formula.end())
        end = comma.end() if comma else len(rest)
        last = formula.end()
    if formulas:
        behind = trailing_unit(rest[last:])
        return ", ".join(formulas) + behind
    rest = re.sub(r"</?[a-z]+\s*/?>", " ", rest).strip()
    if "{" not in rest and "[" not in rest:
        rest = rest.rstrip('"}] ')
    stop = _SENTENCE_END.search(rest, 3 if re.match(r"[A-H][.)]\s", rest) else 0)
    rest = (rest[: stop.start()] if stop else rest).strip(" \t*_")
    return _quantity(rest)


def trailing_unit(text: str) -> str:
    r"""The word after a formula that belongs to it, in `\text{}`: "$5$ thousand", "$2: 15$ PM"; "" without one."""
    found = re.match(
        r"\s*((?:hundred|thousand|million|billion|trillion|dozen|[ap]\.?m\.?)\b|\\?%|percent\b)", text, re.IGNORECASE
    )
    return rf" \text{{ {found.group(1)}}}" if found else ""


def _quantity(rest: str) -> str:
    """The phrase; or, if it is prose about one number, that number with the words that directly follow it."""
    numbers = list(NUMBER.finditer(rest))
    # "5x + 1", "5 or 6" and "(1, 2)" are kept as they are
    if numbers and numbers[0].start() == 0:
        following = numbers[1].start() if len(numbers) > 1 else len(rest)
        between = rest[numbers[0].end() : following]
        subordinate = re.match(
            r"\s+[A-Za-z]{2,}[A-Za-z\s'-]*?(?:,\s*(?:or|i\.e\.?,?|that\s+is,?|so|and\s+(?:so|then))\s|\s+(?:after|before|from|when|if|while|in|at|on|with|for|"
            r"during|between|among|under|until|given|using|including|left|out\s+of|of|who|so|per|every|each|to)\b|[=(])",
            between,
        )
        if len(numbers) > 1 and subordinate and not re.match(r"\s+(?:to|in|by|out|over|of)\b", between):
            return rest[: numbers[0].end()] + re.split(r",|\s+(?:or|i\.e|that\s+is|so)\b|[=(]", between)[0].rstrip()
        return rest
    if re.match(
        r"(?:the\s+set\s+of\s+)?all\s+(?:real|non)|[a-z]\s+(?:is|must\s+be)\s+(?:strictly\s+)?(?:greater|less|more|at|not|larger|smaller)\b",
        rest,
    ):
        return rest
    if numbers and _OPERATION.search(rest[: numbers[0].start()]):
        return rest
    is_prose = len(_WORD.findall(_TEXT_COMMAND.sub("", rest))) > 2
    if is_prose and len(numbers) == 1:
        return (
            rest[numbers[0].start() :] if re.match(r"\s*\S", rest[numbers[0].end() :]) else numbers[0].group().strip()
        )
    return rest


def formula_content(formula: re.Match[str]) -> str:
    """The content of a formula; of a derivation in several rows, its last row."""
    found = next(group for group in formula.groups() if group is not None).strip()
    if re.match(r"\\begin\{(?:align|equation)", found) and "\\boxed" not in found:
        rows = [row for row in re.split(r"\\\\|\\end\{[a-z]+\*?\}\s*$", found) if row.strip(" &\n")]
        found = re.sub(r"\\begin\{[a-z]+\*?\}|&", "", rows[-1]).strip()
    return found


def has_words(text: str) -> bool:
    """Whether a formula has words outside of text commands."""
    text = re.sub(r"\\(?:begin|end)\s*\{[^{}]*\}(?:\s*\{[lcr|]+\})?", "", _TEXT_COMMAND.sub("", text))
    return _WORD.search(text) is not None
