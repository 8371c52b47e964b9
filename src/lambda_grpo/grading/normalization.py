r"""Normalization: one notation for the many ways to write an answer.

`normalize_answer` combines canonical LaTeX (`latex`), numbers (`numerals`) and units (`units`), and removes what
surrounds an answer: labels, "about", conditions, moduli. Answers that are words are normalized in `words`.
"""

from __future__ import annotations

import functools
import re

from lambda_grpo.grading.latex import canonical_latex
from lambda_grpo.grading.numerals import normalize_numbers, words_to_digits
from lambda_grpo.grading.units import strip_units

_PERCENT = re.compile(
    r"\s*\bper\s?cent(?:age)?\b|\s*\\text\{\s*per\s?cents?\s*\}|\s*\\%|(?<=[\d}])\s*\\text\{\s*%\s*\}"
)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
DEGREES = r"(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ)|(?<=\d)\s*degrees?\b)(?:\s*(?:\\text\s*\{\s*[CF]\s*\}|[CF]\b))?"
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_ABOUT = re.compile(
    r"^(?:(?:\\text\{)?\s*(?:approximately|approx\.?|about|roughly|around|nearly|almost|exactly|precisely|only|just|simply|"
    r"a\s+total\s+of|an\s+average\s+of|equal\s+to|equals|namely|option|choice|answer)\b\s*[:.]?\s*(?:of\s+)?\}?\s*|"
    r"\\approx\s*|\\sim\s*)+",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"^(?:\\text\s*\{\s*)?(?:(?:the|our|my)\s+)?(?:final\s+|correct\s+|general\s+)?"
    r"(?:answer|solution|result|ans)(?:s|\s+set)?(?:\s+(?:is|are)\b\s*:?|\s*[:=])\s*\}?\s*",
    re.IGNORECASE,
)
_SIGN_WORD = re.compile(r"^(?:\\text\{)?\s*(?:negative|minus)\b\s*\}?\s*(?=[\d\\.$A-Za-z])", re.IGNORECASE)
_CONDITION = re.compile(
    r",?\s*(?:\\text\{\s*,?\s*(?:where|for|with)?\s*\}\s*|where\s+|for\s+|with\s+)?\(?\s*[A-Za-z]\s*\\in\s*"
    r"\\(?:mathbb|text)\s*\{?[ZNR]\}?\s*\)?$"
    r"|,?\s*(?:\\text\{\s*)?(?:,\s*)?(?:for|where)\s+(?:all|any|every|each|some)\s+(?:(?:real|positive|integer|whole|natural)\s+)*"
    r"(?:numbers?\s+|integers?\s+|values?\s+of\s+|reals?\s+)?\}?\s*[A-Za-z]?\}?$"
    r"|,?\s*\(?\s*(?:\\text\{\s*)?(?:where\s+|for\s+)?\}?\s*[A-Za-z]\s*(?:\\text\{\s*)?\s*(?:is|are)\s+(?:an?\s+)?(?:any\s+|arbitrary\s+)?"
    r"(?:real\s+number|integer|arbitrary(?:\s+constant)?|constant|real)s?\s*\}?\s*\)?$"
)
_TAIL = re.compile(
    r"(?<=[\w)}])\s*(?:,\s*)?(?:\\forall\b.*|\\text\{\s*,?\s*(?:for|where|when|with)\b(?![^{}]*\d)[^{}]*\}(?:\s*[A-Za-z][^=]*)?)$"
)
_MODULUS = re.compile(r"\\equiv\s*([^\\]+?)\s*(?:\\pmod|\\bmod|\\mod)\b.*$|\s*\\pmod\s*(?:\{[^{}]*\}|\d)$")
_BUILDER = re.compile(r"\\\{\s*([A-Za-z])\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:\\mid|\||:|\\colon)\s*(.*)\\\}$")
_FRENCH = re.compile(r"\]\s*([^\[\](),]+),([^\[\](),]+?)\s*([\]\[])|\[\s*([^\[\](),]+),([^\[\](),]+?)\s*\[")
_FUNCTION = re.compile(
    r"(?<![A-Za-z\\])(?:np\.|math\.)?(sqrt|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|sec|csc|cot|ln|log|exp)"
    r"(?=\s*[(\d{^_]|\s+[a-z\\](?![a-z]))|(?<![A-Za-z\\])(?:np\.|math\.)?(pi|theta|infinity)(?![A-Za-z])"
)
_RELATIONS = tuple(
    (re.compile(rf"(?<=[a-z0-9}}])\s*(?:\\text\{{)?\s*(?:is|must\s+be)\s+{words}\s*\}}?(?=\s*[-\d\\])"), sign)
    for words, sign in (
        ("(?:greater|more|larger)\\s+than\\s+or\\s+equal\\s+to", r" \\ge "),
        ("(?:less|smaller)\\s+than\\s+or\\s+equal\\s+to", r" \\le "),
        ("(?:strictly\\s+)?(?:greater|more|larger)\\s+than", " > "),
        ("(?:strictly\\s+)?(?:less|smaller)\\s+than", " < "),
        ("at\\s+least", r" \\ge "),
        ("at\\s+most", r" \\le "),
        ("not(?:\\s+equal\\s+to)?", r" \\ne "),
    )
)
_COMBINATIONS = re.compile(
    r"(?:\{\})?_\{(\d+)\}\s*C_\{(\d+)\}|(?:\{\})?\^\{(\d+)\}\s*C_\{(\d+)\}|(?<![A-Za-z])C\((\d+),\s*(\d+)\)"
    r"|(?<![A-Za-z])C_\{(\d+)\}\s*\^\s*\{?(\d+)\}?"
)
_CLAUSE = re.compile(
    r"(?:\\text\{)?\s*[A-Z]?[a-z]+(?:\s+[A-Za-z']+)*\s+(?:is|are|makes|has|have|costs?|earns?|gets?|needs?|pays?|equals)"
    r"\s*\}?\s*(?:\\text\{\s*)?(?=(?:\\?\$)?\s*-?\d)"
)
_CIS = re.compile(r"\\text\{\s*cis\s*\}\s*(?:\(([^()]*)\)|([^()+]+))$")
_VARIABLE = re.compile(r"(?<=[\d)}])\s*(?![eExX][-+\d\s{])[A-Za-z](?![A-Za-z\d.])")  # a letter after a number
_DENIAL = re.compile(r"\b(?:not|no|never|than|least|most|if|wrong|incorrect)\b|n't")
_BARE = re.compile(r"\\(?:text)\s*\{\s*([A-Za-z])\s*\}")


@functools.lru_cache(maxsize=4096)
def normalize_answer(answer: str, *, is_number: bool = False) -> str:
    """The answer in the one notation in which answers are compared.

    Args:
        is_number: whether the reference is a number without variables; words and letters after a number are units then.
    """
    text = _without_surroundings(canonical_latex(answer))
    sign = ""
    if is_number:
        if negative := _SIGN_WORD.match(text):
            sign, text = "-", text[negative.end() :].removesuffix("}" if "\\text{" in negative.group() else "")
        text = words_to_digits(_without_prose(text))
    text = _CIS.sub(lambda match: rf"(\cos({match[1] or match[2]})+i\sin({match[1] or match[2]}))", text)
    text = _PERCENT.sub("%", normalize_numbers(_with_commands(text)))
    if _TRIGONOMETRIC.search(text):  # in a function's argument degrees aren't a unit
        text = re.sub(rf"(\d+(?:\.\d+)?)\s*(?:{DEGREES})", r"{(\\frac{\1 \\pi}{180})}", text)
    text = re.sub(DEGREES, "", text)
    if text.count("{") > text.count("}"):
        text += "}" * (text.count("{") - text.count("}"))
    text = normalize_numbers(strip_units(text, is_number=is_number).rstrip(" .,;"))
    text = _BARE.sub(r" \1", text).strip().rstrip(" .,;")
    return sign + expand_plus_minus(text)


def _without_prose(text: str) -> str:
    r"""A phrase about one number, starting at the number: `\text{Janet makes } 18 \text{ per day}`, "five (5)"."""
    if repeated := re.fullmatch(r"[A-Za-z -]{2,}\(\s*(\d[\d.,]*)\s*\)", text):
        return repeated.group(1)
    text = re.sub(r"^(?:\\text\{)?the\s+(?:number\s+)?(?=\d)", "", text)
    text = re.sub(r"(?<=\d)\s*\((?:\s*\\text\{)?\s*(?:or\b|\d+\s+[a-z]{3,})[^()]*\)$", "", text)
    phrase = _CLAUSE.match(text)
    if phrase and not _DENIAL.search(phrase.group()) and len(re.findall(r"\d[\d.,]*", text)) == 1:
        return text[phrase.end() :]
    return text


def _without_surroundings(text: str) -> str:
    r"""The answer without surroundings: a `\text{}` around all of it, "Answer:", conditions, set-builder {x | …}."""
    whole = re.fullmatch(r"\\text\s*\{([^{}]*\d[^{}]*)\}", text)
    text = whole.group(1).strip() if whole else text
    text = _ABOUT.sub("", _LABEL.sub("", text))
    text = re.sub(r"\s*(?:\\text\{\s*\(\s*or\b\s*\}|\(\s*or\b)[^()]*\)$", "", text)
    text = re.sub(r"^#\s*(?=\d)", "", text)
    text = _CONDITION.sub("", _TAIL.sub("", text)).strip()
    if re.fullmatch(r"\[[^\[\]]*=[^\[\]]*\]", text):  # a solution in brackets: [x=1, y=2]
        text = text[1:-1]
    text = _FRENCH.sub(_interval, text)
    text = _MODULUS.sub(lambda match: "= " + match.group(1) if match.group(1) else "", text)
    builder = _BUILDER.fullmatch(text)
    return (builder.group(2) if builder else text).strip()


def _interval(match: re.Match[str]) -> str:
    if match.group(1) is None:
        return f"[{match.group(4)},{match.group(5)})"
    return f"({match.group(1)},{match.group(2)}{')' if match.group(3) == '[' else ']'}"


def _with_commands(text: str) -> str:
    """Functions, powers, products and relations in plain notation as LaTeX: sqrt(13), x**2, 2*x, <=."""
    text = re.sub(r"\s*\*\*\s*", "^", text)
    text = re.sub(r"(?<=[\w)}])\s*\*\s*(?=[\w(\\{])", r" \\cdot ", text)
    text = re.sub(r"^\{?\s*(\w+)\s*\\choose\s*(\w+)\s*\}?$|\{\s*(\w+)\s*\\choose\s*(\w+)\s*\}", _chosen, text)
    text = text.replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ").replace("+/-", r"\pm ")
    text = re.sub(r"(?<![A-Za-z\\])negative\s+infinity\b", r"-\\infty", text)
    text = _relations(
        _FUNCTION.sub(lambda match: "\\" + (match.group(1) or match.group(2)) + " ", text).replace(
            r"\infinity", r"\infty"
        )
    )
    text = _COMBINATIONS.sub(_chosen, text)
    text = re.sub(r"(?<=[\d}])\s*(?=\\binom)", r" \\cdot ", text)  # without a sign the parser would add the factors
    for root in reversed(list(re.finditer(r"\\sqrt\s*\(", text))):
        end = _closing_parenthesis(text, root.end() - 1)
        if end is not None:
            text = rf"{text[: root.start()]}\sqrt{{{text[root.end() : end]}}}{text[end + 1 :]}"
    return re.sub(r"\\sqrt\s+(?=\{)", r"\\sqrt", text)


def _chosen(match: re.Match[str]) -> str:
    above, below = (group for group in match.groups() if group)
    return rf"\binom{{{above}}}{{{below}}}"


def _relations(text: str) -> str:
    """The text with relations in words replaced by signs: "x is greater than 5"."""
    for words, sign in _RELATIONS:
        text = words.sub(sign, text)
    return text


def _closing_parenthesis(text: str, start: int) -> int | None:
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return None


def expand_plus_minus(text: str) -> str:
    r"""`a \pm b` as `a + b, a - b`, if there is one ± in a single answer."""
    parts = text.split(", ")
    if len(parts) > 1 and not re.search(r"[({\[][^)}\]]*,|^[(\[]|\\\{", text):
        return ", ".join(expand_plus_minus(part) for part in parts)
    is_point = re.fullmatch(r"\([^()]*(?:\([^()]*\)[^()]*)*\)", text) is not None
    if len(re.findall(r"\\(?:pm|mp)(?![a-z])", text)) != 1 or ("," in text and not is_point):
        return text
    upper, lower = ("+", "-") if r"\pm" in text else ("-", "+")
    written = [re.sub(r"\\(?:pm|mp)(?![a-z])", f" {sign} ", text).strip().removeprefix("+") for sign in (upper, lower)]
    return ", ".join(written)


def compact_text(answer: str) -> str:
    """The answer for comparison as text: without spaces, except between digits."""
    text = re.sub(r"[\"`]+|(?<!\d) | (?!\d)", "", re.sub(r"\s+", " ", _TEXT.sub(r"\1", answer)))
    text = text.rstrip(".")
    return text.strip("()") if re.fullmatch(r"\([A-Za-z]\)", text) else text


def is_words(answer: str) -> bool:
    """Whether an answer in canonical LaTeX is words: a name, yes or no, a phrase; not a product of letters."""
    if re.fullmatch(r"\\text\s*\{[^{}]*[A-Za-z]{2}[^{}]*\}", answer.strip()):
        return True
    text = _TEXT.sub(r"\1", answer).strip()
    return bool(re.fullmatch(r"[A-Za-z]+(?:(?:[ '-]|, )[A-Za-z]+)*\.?", text) and re.search(r"[A-Za-z]{3}", text))


def is_number(answer: str) -> bool:
    """Whether an answer is a number: no variables; digits, constants and functions of them, and perhaps a unit."""
    if _VARIABLE.search(_TEXT.sub("", canonical_latex(answer))):
        return False
    text = normalize_answer(answer, is_number=True)
    text = re.sub(r"\\[A-Za-z]+", "", _TEXT.sub("", text))
    return (
        re.search(r"\d|\\pi", text) is not None and re.search(r"[A-Za-z]", re.sub(r"\d[eE][-+]?\d", "", text)) is None
    )


def modulus(answer: str) -> str | None:
    r"""The modulus in a `\pmod{}`; None without one."""
    found = re.search(r"\\(?:pmod|bmod|mod)\s*\{?\s*(\w+)", answer)
    return found.group(1) if found else None
