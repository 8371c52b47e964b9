r"""An answer without what carries no meaning: the many ways in which one answer is written become one.

Layout (`\left`, `\,`, `\dfrac`), delimiters, currency, thousands separators, units and their powers, degrees, mixed
numbers, ± written out.
"""

from __future__ import annotations

import re

_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "∞": r"\infty ", "π": r"\pi ", "θ": r"\theta ",
     "²": "^2", "³": "^3", "≤": r"\le ", "≥": r"\ge ", "∪": r"\cup ", "∈": r"\in ", "±": r"\pm ", "°": r"^\circ ",
     "’": "'", "′": "'", "。": "", "，": ",", "（": "(", "）": ")", "\u00a0": " ", "\u200b": "", "\u2062": ""}
)  # fmt: skip
_SPACES = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad")
_LAYOUT = re.compile(
    r"\\left(?![a-z])|\\right(?![a-z])|\\displaystyle|\\limits|\\[bB]ig[lr]?(?![a-z])|(?<=\\\\)\[\d+(?:pt|em|ex)\]"
)
_DELIMITERS = re.compile(r"^(?:\$\$?|\\\(|\\\[)|(?:\$\$?|\\\)|\\\])$")
_CURRENCY = re.compile(r"\\?\$|[€£]")
_PERCENT = re.compile(r"\s*\bpercent(?:age)?\b|\s*\\text\{\s*percent\s*\}")
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mathbf|mathit|mbox|operatorname|rm)\s*\{([^{}]*)\}")
_SQRT = re.compile(r"(?<!\\)√\s*(?:\{([^{}]*)\}|\(([^()]*)\)|(\w+))")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:(?:,|\{,\}| )\d{3})+(?:\.\d+)?")
_SCIENTIFIC = re.compile(r"([-+]?(?:\d+(?:\.\d+)?|\.\d+))[eE]([-+]?\d+)")
_MIXED = re.compile(r"(-?\d+)\s+(\d+)\s*/\s*(\d+)")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_DEGREES = r"(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree)(?:\s*\\(?:text|mathrm)\s*\{\s*[CF]\s*\})?"
_SAME_COMMANDS = {
    r"\\[dtc]frac": r"\\frac", r"\\varnothing": r"\\emptyset", r"\\varphi": r"\\phi", r"\+\\infty": r"\\infty",
    r"\\leqslant|\\leq(?![a-z])": r"\\le", r"\\geqslant|\\geq(?![a-z])": r"\\ge",
    r"\\text\{\s*infinity\s*\}": r"\\infty", r"\\langle": "(",
    r"\\rangle": ")", r"\\lbrace": r"\\{", r"\\rbrace": r"\\}",
}  # fmt: skip
_MULTIPLIERS = {
    "dozen": "12", "hundred": "10^{2}", "thousand": "10^{3}", "million": "10^{6}", "billion": "10^{9}",
    "trillion": "10^{12}",
}  # fmt: skip
_MULTIPLIER = re.compile(rf"(?<=\d)\s*(?:\\text\s*\{{\s*)?({'|'.join(_MULTIPLIERS)})\b")
_ANSWER_IS = re.compile(
    r"^(?:\\text\s*\{\s*)?(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\s*:?\s*\}?\s*(?=[-\d\\$])", re.IGNORECASE
)
_CONDITION = re.compile(r",?\s*(?:\\text\{\s*(?:where|for)?\s*\}\s*)?\(?\s*[kn]\s*\\in\s*\\mathbb\s*\{?[ZN]\}?\s*\)?$")
_MODULUS = re.compile(r"\\equiv\s*([^\\]+?)\s*(?:\\pmod|\\bmod|\\mod)\b.*$|\s*\\pmod\s*(?:\{[^{}]*\}|\d)$")
_BUILDER = re.compile(r"\\\{\s*([A-Za-z])\s*(?:\\mid|\||:|\\colon)\s*(.*)\\\}$")

# Units that are told apart, by what they are called
_UNITS = {
    name: unit
    for unit, names in {
        "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "m": "m meter metre",
        "km": "km kilometer kilometre", "in": "in inch inche", "ft": "ft foot feet", "mile": "mile mi", "yd": "yd yard",
        "g": "g gram", "kg": "kg kilogram", "lb": "lb pound", "oz": "oz ounce", "s": "s sec second",
        "min": "min minute", "h": "h hr hour", "day": "day", "week": "week", "month": "month",
        "year": "year yr", "mph": "mph",
        "km/h": "km/h kmh kph", "m/s": "m/s", "ml": "ml milliliter millilitre", "l": "l liter litre", "cent": "cent",
        "dollar": "dollar", "am": "am a.m", "pm": "pm p.m", "even": "even", "odd": "odd",
    }.items()
    for name in names.split()
}  # fmt: skip
_NAMED_UNIT = re.compile(
    r"(?:\\(?:text|mathrm)\s*\{\s*([A-Za-z./ ]+)\}|(?<=[\d\s])([A-Za-z./]+))(?:\s*\^\s*\{?\s*(-?\d)\s*\}?)?[\s.$]*$"
)
# Words that say something of the number before them
_NO_UNIT = (
    r"times|minus|plus|(?:less|more)\s+than\s+[a-z]\b|squared|cubed|factorial|over|root|choose|divided|power|undefined|"
    r"infinit|negative|positive|or\b|and\b|half|halves|thirds?|quarters?|"
    r"(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand|million)ths?\b"
)
_POWER = r"(?:\s*\^\s*(?:-?\d|\{\s*-?\d+\s*\}))?"
# In \text{} or \mathrm{}: letters after a space, or two and more; a single letter right after a number is a variable,
# or the imaginary unit.
_UPRIGHT = (
    rf"\\(?:text\w*|mathrm|mbox|rm)\s*\{{(?!\s*(?:[ied]\s*[}}^]|{_NO_UNIT}))"
    r"(?:[\s~]+[A-Za-z]|[A-Za-z][A-Za-z./^])(?:[A-Za-z\s~./·^-]|\{-?\d\}|(?<=\^)-?\d)*\}"
)
_ONE_LETTER = r"(?:(?<=\s)|\\mu\s*)\\(?:text|mathrm)\s*\{[mgshLlJNWVAKF]\}"
_FORMAL_UNIT = re.compile(
    rf"(?<=[\d)}}%])\s*(?:{_UPRIGHT}|{_ONE_LETTER}|\\(?:AA|Omega)\b){_POWER}"
    rf"(?:\s*(?:/|\\cdot)?\s*\\(?:text|mathrm)\s*\{{[^{{}}\d]*\}}{_POWER})*\s*\.?$"
)
# In plain letters: a known unit, or a word; of a number alone, as "5 xy" and "2 theta" are products.
_PLAIN_UNIT = re.compile(
    r"(?<=[\d)}])(?:\s*(?:[ckm]m|kg|m[lL]|ft|lbs?|oz|mph|hrs?|mins?|secs?|(?:k?m|mi|ft)/(?:h|s|hr|min))|"
    rf"\s+(?!{_NO_UNIT}|theta|alpha|beta|lambda|gamma|delta|sigma|omega)"
    r"(?:[A-Za-z]{4,}|cups?|eggs?|days?|men|yen|mi|m|K|N|W|J)\b[A-Za-z./ ]*)"
    rf"{_POWER}\s*\.?$|(?<=\d)\s*[\u4e00-\u9fff]+$"
)


def plain(answer: str, *, is_number: bool = False) -> str:
    """The one way of writing it.

    Args:
        is_number: whether the reference is one, without variables: then words and letters behind a number are units.
    """
    text = re.sub(r"\s+", " ", _SPACES.sub(" ", answer.translate(_SIGNS).replace(r"\!", "")))
    text = _LAYOUT.sub("", text).strip().rstrip(" .,;")
    text = _DELIMITERS.sub("", text).strip().strip("*").rstrip(" .,;")
    text = _CURRENCY.sub("", text).replace(r"\%", "%")
    text = _PERCENT.sub("%", text)
    for pattern, replacement in _SAME_COMMANDS.items():
        text = re.sub(pattern, replacement, text)
    if _TRIGONOMETRIC.search(text):  # inside a function degrees aren't a unit
        text = re.sub(rf"(\d+(?:\.\d+)?)\s*(?:{_DEGREES})", r"{(\\frac{\1 \\pi}{180})}", text)
    text = re.sub(_DEGREES, "", text)
    text = _SQRT.sub(lambda match: rf"\sqrt{{{''.join(filter(None, match.groups()))}}}", text)
    text = _without_frame(text).strip()
    text = _MULTIPLIER.sub(lambda match: rf" \times {_MULTIPLIERS[match.group(1)]} \text{{ ", text, count=1)
    text = re.sub(r" \\text\{ \s*(?:\}|$)", "", text)
    if text.count("{") > text.count("}"):
        text += "}" * (text.count("{") - text.count("}"))
    text = _FORMAL_UNIT.sub("", text)
    if is_number:
        text = _PLAIN_UNIT.sub("", text)
    text = re.sub(r"\\(?:mathrm|text|rm)\s*\{\s*([A-Za-z])\s*\}", r" \1", text).strip().rstrip(" .,;")
    if _THOUSANDS.fullmatch(text):
        text = re.sub(r"\{,\}|[, ]", "", text)
    text = re.sub(r"(?<=\d)\s*x\s*(?=10\s*\^)", r"\\times ", text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text) if _MIXED.fullmatch(text) else text
    return both_signs(_SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text) if _SCIENTIFIC.fullmatch(text) else text)


def _without_frame(text: str) -> str:
    r"""Without words around an answer: a `\text{}` that holds all of it, "Answer:", conditions, the set {x | …}."""
    whole = re.fullmatch(r"\\(?:text\w*|mathrm|mbox)\s*\{([^{}]*\d[^{}]*)\}", text)
    text = _ANSWER_IS.sub("", whole.group(1) if whole else text)
    text = _CONDITION.sub("", text)
    text = _MODULUS.sub(lambda match: "= " + match.group(1) if match.group(1) else "", text)
    builder = _BUILDER.fullmatch(text)
    return builder.group(2) if builder else text


def both_signs(text: str) -> str:
    r"""`a \pm b` as `a + b, a - b`, where there is one ± in a single answer."""
    if len(re.findall(r"\\(?:pm|mp)(?![a-z])", text)) != 1 or "," in text:
        return text
    upper, lower = ("+", "-") if r"\pm" in text else ("-", "+")
    written = [re.sub(r"\\(?:pm|mp)(?![a-z])", f" {sign} ", text).strip().removeprefix("+") for sign in (upper, lower)]
    return ", ".join(written)


def as_text(answer: str) -> str:
    """For comparison letter by letter: without spaces, but those between digits."""
    text = re.sub(r"[\"`]+|(?<!\d) | (?!\d)", "", re.sub(r"\s+", " ", _TEXT.sub(r"\1", answer)))
    return text.strip("()") if re.fullmatch(r"\([A-Za-z]\)", text) else text


def is_words(answer: str) -> bool:
    """Whether an answer is text: a name, yes or no, several words; not a product of letters."""
    if re.fullmatch(r"\\(?:text\w*|mathrm|mbox)\s*\{[^{}]*[A-Za-z]{2}[^{}]*\}", answer.strip()):
        return True
    text = _TEXT.sub(r"\1", answer).strip()
    return bool(re.fullmatch(r"[A-Za-z]+(?:[ '-][A-Za-z]+)*\.?", text) and re.search(r"[A-Za-z]{3}", text))


def is_number(answer: str) -> bool:
    """Whether an answer has no variables: digits, constants and functions of them, and perhaps a unit."""
    text = re.sub(r"\\[A-Za-z]+", "", _TEXT.sub("", plain(answer, is_number=True)))
    return re.search(r"\d", text) is not None and re.search(r"[A-Za-z]", re.sub(r"\d[eE][-+]?\d", "", text)) is None


def choice(answer: str) -> str | None:
    """The letter of a multiple choice, with or without what it stands for: "(B) 12"."""
    text = _TEXT.sub(r"\1", _SPACES.sub(" ", answer)).strip().strip("$*").strip()
    found = re.match(r"\(([A-H])\)|([A-H])(?:[.:)]\s|\s*[.)]?$)", text)
    if not found or len(set(re.findall(r"\(([A-H])\)", text))) > 1:
        return None
    return found.group(1) or found.group(2)


def unit(answer: str) -> str | None:
    """The unit behind an answer with its power, as far as it is a known one."""
    found = _NAMED_UNIT.search(answer)
    if not found:
        return None
    name = (found.group(1) or found.group(2)).strip(" .").casefold()
    known = _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))
    return known and f"{known}^{found.group(3) or 1}"


def modulus(answer: str) -> str | None:
    r"""What a `\pmod{}` names."""
    found = re.search(r"\\(?:pmod|bmod|mod)\s*\{?\s*(\w+)", answer)
    return found.group(1) if found else None
