r"""Finding, converting and stripping units and currencies.

Known units are distinguished, compound quantities ("5 hours and 30 minutes") become one number, and anything else that
reads like a unit ("12 red balls") is stripped. Words that change the number ("5 times x", "12 is wrong") aren't units.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise

# (name, dimension, factor, spellings)
_TABLE = (
    ("mm", "length", Fraction(1, 1000), "mm millimeter millimetre"),
    ("cm", "length", Fraction(1, 100), "cm centimeter centimetre"),
    ("m", "length", Fraction(1), "m meter metre"),
    ("km", "length", Fraction(1000), "km kilometer kilometre"),
    ("in", "feet", Fraction(1, 12), "in inch inche"),
    ("ft", "feet", Fraction(1), "ft foot feet"),
    ("yd", "feet", Fraction(3), "yd yard"),
    ("mile", "feet", Fraction(5280), "mile mi"),
    ("g", "mass", Fraction(1), "g gram"),
    ("kg", "mass", Fraction(1000), "kg kilogram"),
    ("oz", "weight", Fraction(1, 16), "oz ounce"),
    ("lb", "weight", Fraction(1), "lb pound"),
    ("s", "time", Fraction(1), "s sec second"),
    ("min", "time", Fraction(60), "min minute"),
    ("h", "time", Fraction(3600), "h hr hour"),
    ("day", "time", Fraction(86400), "day"),
    ("week", "time", Fraction(604800), "week"),
    ("month", "months", Fraction(1), "month"),
    ("year", "months", Fraction(12), "year yr"),
    ("cent", "money", Fraction(1, 100), "cent ¢"),
    ("dollar", "money", Fraction(1), "dollar buck usd"),
    ("ml", "volume", Fraction(1, 1000), "ml milliliter millilitre"),
    ("l", "volume", Fraction(1), "l liter litre"),
    ("cup", "cups", Fraction(1), "cup"),
    ("pint", "cups", Fraction(2), "pint pt"),
    ("quart", "cups", Fraction(4), "quart qt"),
    ("gallon", "cups", Fraction(16), "gallon gal"),
    ("night", "", Fraction(1), "night"),
    ("volt", "", Fraction(1), "volt"),
    ("ampere", "", Fraction(1), "amp ampere"),
    ("radian", "", Fraction(1), "radian rad"),
    ("mph", "", Fraction(1), "mph"),
    ("km/h", "", Fraction(1), "km/h kmh kph"),
    ("m/s", "", Fraction(1), "m/s"),
    ("am", "", Fraction(1), "am a.m"),
    ("pm", "", Fraction(1), "pm p.m"),
    ("even", "", Fraction(1), "even"),
    ("odd", "", Fraction(1), "odd"),
)  # fmt: skip
_UNITS = {spelling: name for name, _, _, spellings in _TABLE for spelling in spellings.split()} | {
    "miles per hour": "mph", "mile per hour": "mph", "kilometers per hour": "km/h", "meters per second": "m/s",
    "mi/h": "mph", "miles/hour": "mph", "meters/second": "m/s", "kilometers/hour": "km/h", "p.m.": "pm", "a.m.": "am",
}  # fmt: skip
_DIMENSIONS = {name: (dimension, factor) for name, dimension, factor, _ in _TABLE if dimension}
_LONG_NAMES = "|".join(spelling for _, _, _, spellings in _TABLE for spelling in spellings.split() if len(spelling) > 3)

# Words after a number that aren't a unit, since they change the number or say something else about it
_NO_UNIT = (
    r"times(?=\s+(?!as\b|more\b|the\b|less\b|larger|greater|longer|older|faster|bigger|a\b|per\b)[\w\\$])|minus|plus|"
    r"(?:less|more)\s+than\s+[a-z]\b|squared|cubed|factorial|over\b|root|choose|divided|power|undefined|infinit|"
    r"negative|positive|or\b|and\b|to\b|not\b|is\b|are\b|was\b|were\b|isn|wasn|can\b|cannot|if\b|when\b|where\b|"
    r"unless|but\b|per\s+mille|[a-z ]*below\s+zero|wrong|incorrect|false|approximately"
)
_NUMBER_WORD = (
    r"\b(?:half|halves|thirds?|quarters?|(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand|million)ths?|"
    r"hundred|thousand|million|billion|trillion|dozen|two|three|four|five|six|seven|eight|nine|ten|twelve|twenty)\b"
)
_POWER = r"(?:\s*\^\s*\{\s*-?\d+\s*\})?"
_INNER = r"[A-Za-z\s~./·^%'’()°-]|\{-?\d\}|(?<=\^)-?\d|\\cdot|\\times|\\circ|\\mu|\^\\circ"
# In \text{}: letters after a space, or two and more letters; a single letter directly after a number is a variable or
# the imaginary unit.
_UPRIGHT = (
    rf"\\text\{{(?!\s*(?:[ied]\s*[}}^]|{_NO_UNIT}))(?![^{{}}]*{_NUMBER_WORD})"
    rf"(?:[\s~]+[A-Za-z(]|[A-Za-z(][A-Za-z./^%-]|[A-Za-z](?:\s*\\cdot|\s)\s*[A-Za-z]|\^\\circ|\\mu)(?:{_INNER})*\}}"
)
_ONE_LETTER = r"(?:(?<=\s)|\\mu\s*)\\text\{\s*[mgshLlJNWVAKF]\s*\}"
_FORMAL_UNIT = re.compile(
    rf"(?<=[\d)}}%A-Za-z'|])\s*(?:{_UPRIGHT}|{_ONE_LETTER}|\\(?:AA|Omega|mu)\b\s*(?:\\text\{{[^{{}}\d]*\}})?){_POWER}"
    rf"(?:\s*(?:/|\\cdot|-|\\times)?\s*\\text\{{[^{{}}\d]*\}}{_POWER})*\s*\.?$"
)
# In plain letters: a known unit or a word, after a number only; "5 xy" and "2 theta" are products.
_GREEK = "theta|alpha|beta|lambda|gamma|delta|sigma|omega|sqrt|cdot|infinity"
_SHORT = (
    "cups?|eggs?|days?|men|yen|mi|m|K|N|W|J|Hz|eV|in|red|new|old|big|pie|pies|cat"
    "|cats|dog|dogs|car|cars|box|bag|bags|pen|pens|toy|toys|hat|hats|cow|cows|hen|hens|kids?|boys?|USD|EUR|rad|deg|gal"
    "|qt|pt|ways?|ants?|bees?|buses|bus|jar|jars|can|cans|cm|mm|km|oz|lb|tbsp|tsp|hr|min|sec|ml|mL|kg|ft"
)
_SYMBOL = "(?:km|cm|mm|m|kg|mg|g|N|J|W|kW|V|A|K|mol|L|mL|ft|mi|lb|s|h|erg|eV|Pa|C|rad|Hz)"
_PLAIN_UNIT = re.compile(
    rf"(?<=[\d)}}i])(?:\s*-?(?:{_SYMBOL}{_POWER}(?:\s*(?:\\cdot|/|\*)\s*(?:{_SYMBOL}|[A-Za-z]{{1,2}}){_POWER})+|"
    rf"[ckm]m|kg|m[lL]|ft|lbs?|oz|mph|hrs?|mins?|secs?|yrs?|kWh|(?:{_LONG_NAMES})s?)(?![A-Za-z])|"
    rf"\s+(?!{_NO_UNIT}|{_GREEK})(?![^\\]*{_NUMBER_WORD})(?:[A-Za-z]{{4,}}|(?:{_SHORT})\b|"
    rf"(?:sq|cu|of|per|a|an|each|at|on|in|all|the|by|for)\s+(?:an?\s+)?[A-Za-z]{{2}})[A-Za-z./'’ -]*)"
    rf"{_POWER}\s*\.?$|(?<=\d)\s*(?:[\u4e00-\u9fff]+|/\s*[A-Za-z]{{2,}}(?:\s+[A-Za-z]+)*)$"
)
_LONG_UNIT = re.compile(
    rf"(?<=[\w)}}])\s+(?:(?:cubic|square|sq\.?|cu\.?)\s+)?(?:{_LONG_NAMES})s?(?:\s+per\s+[a-z]+)?$", re.IGNORECASE
)
_IN_PARENTHESES = re.compile(
    r"(?<=[\d)}%])\s+\(\s*(?:\\text\{)?\s*(?!and\b|or\b|[A-Za-z]\b(?:\s*\)|,))[A-Za-z][A-Za-z\s.,/'-]*\}?\s*\)$"
)
_CURRENCY = re.compile(
    r"\\text\{\s*\\?\$\s*\}|\bUS(?=\\?\$)|\bUS(?=\s*\d)|\\?\$|[€£₹¥₩¢]|\b(?:USD|EUR|GBP|INR|Rs)\b\.?\s*(?=\d)|\\text\{\s*(?:USD|EUR|Rs\.?)\s*\}\s*(?=\d)"
)
_NAMED_UNIT = re.compile(
    r"(?:\\text\s*\{\s*([A-Za-z./ ]+)\}|(?:(?<=[\d}])|(?<=[\d})i]\s))([A-Za-z./ ]+))"
    r"(?:\s*\^\s*\{?\s*(-?\d)\s*\}?)?[\s.]*$"
)
_TEMPERATURE = re.compile(
    r"\^\s*\{?\s*\\circ\s*\}?\s*(?:\\text\s*\{\s*([CF])\s*\}|([CF])\b)|degrees\s+([CF])", re.IGNORECASE
)
_POWER_WORD = re.compile(r"(?:square|cubic|sq|cu)\.?\s+")
_QUANTITY = re.compile(
    r"\s*(\\\$)?\s*(\d+(?:\.\d+)?|\\frac\{\d+\}\{\d+\})\s*(?:\\text\s*\{\s*([A-Za-z.]+)\s*\}|([A-Za-z]+\.?|¢))\s*"
)
_JOINT = re.compile(r"(?:,|\\text\{\s*,?\s*and\s*\}|,?\s*and\b|\s)*")


def find_unit(answer: str) -> str | None:
    """The known unit, with its power, at the end of an answer in canonical LaTeX; None without one."""
    if temperature := _TEMPERATURE.search(answer):
        return f"degree {next(filter(None, temperature.groups())).upper()}"
    if re.search(r"¢\s*$", answer):
        return "cent^1"
    if re.match(r"-?\s*\\\$\s*\d", answer):
        return "dollar^1"
    found = _NAMED_UNIT.search(answer)
    if not found:
        return None
    if answer[: found.start()].rstrip().endswith("/"):
        return None
    phrase = (found.group(1) or found.group(2)).strip(" .").casefold()
    power = found.group(3) or "1"
    if prefix := _POWER_WORD.match(phrase):
        power, phrase = ("2" if prefix.group().startswith("sq") else "3"), phrase[prefix.end() :]
    known = _known(phrase) or (None if re.search(r"\bper\b|/", phrase) else _known(phrase.split()[0] if phrase else ""))
    return known and f"{known}^{power}"


def _known(name: str) -> str | None:
    return _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))


def strip_units(text: str, *, is_number: bool) -> str:
    """An answer in canonical LaTeX, without currencies and units.

    Args:
        is_number: whether the reference is a number without variables; words and letters after a number are units then.
    """
    text = _CURRENCY.sub("", text).strip()
    text = _IN_PARENTHESES.sub("", text)
    text = _FORMAL_UNIT.sub("", text)
    return (_PLAIN_UNIT if is_number else _LONG_UNIT).sub("", text).strip()


def convert_quantity(answer: str, reference: str) -> str:
    """A compound quantity such as "5 hours and 30 minutes", converted to a number of one unit.

    The unit is the reference's if that measures the same dimension, otherwise the largest one of the answer. Dollars
    become cents, and cents dollars, if the reference is in the other one. Any other answer is returned unchanged.
    """
    parts = _quantities(answer)
    wanted = (find_unit(reference) or "").removesuffix("^1")
    several = _quantities(reference)
    if len(several) > 1:
        wanted = several[0][1]
    if len(parts) < 2 and not (len(parts) == 1 and (len(several) > 1 or _is_money(parts[0][1], wanted))):
        return answer
    dimension, factor = _DIMENSIONS[parts[0][1]]
    if wanted in _DIMENSIONS and _DIMENSIONS[wanted][0] == dimension:
        factor = _DIMENSIONS[wanted][1]
    value = sum(number * _DIMENSIONS[name][1] for number, name in parts) / factor
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _is_money(name: str, other: str) -> bool:
    return {name, other} == {"cent", "dollar"}


def _quantities(text: str) -> list[tuple[Fraction, str]]:
    """The (number, unit) pairs of a compound quantity: one dimension, ever smaller units; empty for other texts."""
    found: list[tuple[Fraction, str]] = []
    if money := re.fullmatch(r"\\\$\s*(\d+(?:\.\d+)?)", text):
        return [(Fraction(money.group(1)), "dollar")]
    end = 0
    while end < len(text):
        quantity = _QUANTITY.match(text, end)
        if not quantity:
            return []
        dollar, number, upright, letters = quantity.groups()
        name = (upright or letters).strip(".").casefold()
        known = "dollar" if dollar else _known(name)
        if known not in _DIMENSIONS:
            return []
        digits = re.findall(r"\d+(?:\.\d+)?", number)
        found.append((Fraction(digits[0]) / (Fraction(digits[1]) if len(digits) > 1 else 1), known))
        joint = _JOINT.match(text, quantity.end())
        end = joint.end() if joint else quantity.end()
    measures = [_DIMENSIONS[name] for _, name in found]
    falling = all(a[1] > b[1] for a, b in pairwise(measures))
    return found if falling and len({dimension for dimension, _ in measures}) == 1 else []
