r"""Canonical LaTeX: an answer without Unicode signs, fonts, colours, layout, environments and delimiters.

One command is left for each construct: `\text{}` for all text commands, `\frac` for all fractions, `'` for all primes,
`\sqrt{}` for all roots, `^{}` for superscripts.
"""

from __future__ import annotations

import re

_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "‐": "-", "‑": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*",
     "÷": "/", "⁄": "/", "∕": "/", "∞": r"\infty ", "π": r"\pi ", "𝜋": r"\pi ", "θ": r"\theta ", "φ": r"\phi ",
     "ϕ": r"\phi ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "ω": r"\omega ",
     "σ": r"\sigma ", "Δ": r"\Delta ", "μ": r"\mu ", "µ": r"\mu ", "Ω": r"\Omega ", "ρ": r"\rho ", "ε": r"\epsilon ",
     "δ": r"\delta ", "τ": r"\tau ", "≤": r"\le ", "⩽": r"\le ", "≦": r"\le ", "≥": r"\ge ", "⩾": r"\ge ",
     "≧": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≃": r"\approx ", "≅": r"\approx ", "∼": r"\approx ",
     "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
     "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "∖": r"\setminus ", "±": r"\pm ", "∓": r"\mp ",
     "°": r"^\circ ", "º": r"^\circ ", "˚": r"^\circ ", "→": r"\to ", "⇒": r"\Rightarrow ", "∠": r"\angle ",
     "△": r"\triangle ", "⟨": r"\langle ", "⟩": r"\rangle ", "’": "'", "′": "'", "‘": "'", "″": "''", "“": '"',
     "”": '"', "。": "", "，": ",", "、": ",", "；": ";", "：": ":", "（": "(", "）": ")", "％": "%", "＝": "=",
     "．": ".", "＋": "+", "＄": "$", "…": r"\ldots ", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "",
     "\u2061": "", "\u2062": "", "\ufeff": "", "ı": "i", "ȷ": "j"}
)  # fmt: skip
_DECORATION = re.compile(r"[∴✓✔✅☑🎉👍■□∎▪◼◾●•]️?|\\(?:blacksquare|square|Box|qed|qedsymbol|checkmark)(?![A-Za-z])")
_HIGH = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOW = str.maketrans("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n")
_VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5),
    "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8),
}  # fmt: skip
_SPACES = re.compile(r"(?<!\\)\\[,;:> ]|~|\\(?:enspace|thinspace|medspace|thickspace|hfill|space)(?![A-Za-z])\s?")
_STRUCK = re.compile(r"~~[^~]*~~|\\(?:x|b)?cancel\s*\{[^{}]*\}|\\sout\s*\{[^{}]*\}")
_WIDE = re.compile(r"(?P<before>[,;]?)(?:\s*\\q?quad(?![A-Za-z]))+\s*(?P<after>[,;]|\\(?:text|mbox|mathrm)|$)?")
_LAYOUT = re.compile(
    r"\\(?:left|right|middle)(?![a-z])(?:(?<=left)\.|(?<=right)\.)?|\\[bB]ig{1,2}[lrm]?(?![a-z])|\\[bB]igg[lrm]?(?![a-z])"
    r"|\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|nonumber|notag|strut|mathstrut|allowbreak|bfseries"
    r"|itshape|normalsize|large|Large|LARGE|huge|Huge|small|tiny|boldmath|centering|bf|it|em|tt|sf)(?![A-Za-z])"
    r"|(?<=\\\\)\[\d+(?:\.\d+)?\s*(?:pt|em|ex|mm|cm)\]"
    r"|\\(?:hspace|vspace|phantom|vphantom|hphantom|label|tag)\*?\s*\{[^{}]*\}"
    r"|\\(?:color)\s*(?:\[[^\]]*\])?\{[^{}]*\}"
)
_TEXT_COMMANDS = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|md|up|sl|sc|normal)?|mathrm|mbox|hbox|emph|rm|operatorname\*?)\s*(?=\{)"
)
_FONTS = re.compile(
    r"\\(?:mathbf|boldsymbol|bm|pmb|mathit|mathsf|mathtt|mathnormal|underline|uline|smash|ensuremath|boxed|fbox"
    r"|mathop|mathord|mathpunct|textcolor\s*\{[^{}]*\}|colorbox\s*\{[^{}]*\}|framebox|bold)\s*(?=\{)"
)
_ONE_LETTER_FONTS = re.compile(r"\\(?:mathbf|boldsymbol|bm|pmb|mathit|mathsf|bold)\s*(\\?[A-Za-z]+|\d)")
_OLD_ROMAN = re.compile(r"\{\s*\\rm\s+([^{}]*)\}")
_VECTOR = re.compile(
    r"\\(?:vec|hat|widehat|overrightarrow|vv)\s*(?:\{\s*(?:\\([ij])math|([ijk]))\s*\}|\\([ij])math|([ijk])(?![A-Za-z]))"
)
_ARROW = re.compile(r"\\(?:vec|overrightarrow)\s*(?:\{\s*([A-Za-z])\s*\}|([A-Za-z])(?![A-Za-z]))")
_PRIMES = re.compile(r"\^\s*(?:\{\s*((?:\\prime\s*|')+)\}|((?:\\prime(?![A-Za-z])\s*)+|'+))")
_DERIVATIVE = re.compile(r"\\frac\s*\{\s*d\s*([A-Za-z])\s*\}\s*\{\s*d\s*[A-Za-z]\s*\}")
_SECOND_DERIVATIVE = re.compile(
    r"\\frac\s*\{\s*d\s*\^\s*\{?\s*2\s*\}?\s*([A-Za-z])\s*\}\s*\{\s*d\s*[A-Za-z]\s*\^\s*\{?\s*2\s*\}?\s*\}"
)
_FLUXION = re.compile(r"\\(d?)dot\s*\{\s*([A-Za-z])\s*\}")
_ENVIRONMENT = re.compile(
    r"\\begin\s*\{(aligned|align\*?|alignedat|gathered|gather\*?|split|equation\*?|eqnarray\*?|multline\*?|cases|array)\}"
    r"(?:\[[a-z]\])?(?:\s*\{[^{}]*\})?((?:(?!\\begin|\\end).)*)\\end\s*\{\1\}",
    re.DOTALL,
)
_RELATION = re.compile(r"\s*(?:=|\\approx|\\Rightarrow|\\implies|\\iff|\\le|\\ge|<|>)")
_COMMANDS = {
    re.compile(pattern): replacement
    for pattern, replacement in {
        r"\\(?:[dtc]|nice|s|x)frac(?![A-Za-z])": r"\\frac", r"\\varnothing(?![A-Za-z])": r"\\emptyset",
        r"\\var(phi|theta|epsilon|rho|sigma|pi|kappa)(?![A-Za-z])": r"\\\1", r"\+\s*\\infty": r"\\infty",
        r"\\(?:leqslant|leqq|leq)(?![A-Za-z])": r"\\le ", r"\\(?:geqslant|geqq|geq)(?![A-Za-z])": r"\\ge ",
        r"\\neq(?![A-Za-z])": r"\\ne ", r"\\(?:simeq|thickapprox|approxeq|doteq)(?![A-Za-z])": r"\\approx ",
        r"\\(?:lbrack)(?![A-Za-z])": "[", r"\\(?:rbrack)(?![A-Za-z])": "]",
        r"\\(?:langle)(?![A-Za-z])|\\lparen(?![A-Za-z])": "(", r"\\(?:rangle)(?![A-Za-z])|\\rparen(?![A-Za-z])": ")",
        r"\\lbrace(?![A-Za-z])": r"\\{", r"\\rbrace(?![A-Za-z])": r"\\}",
        r"\\(?:lvert|rvert|vert)(?![A-Za-z])": "|", r"\\(?:dots|dotsc|cdots|dotsb)(?![A-Za-z])": r"\\ldots ",
        r"\\(?:bullet|ast)(?![A-Za-z])": r"\\cdot ", r"\\div(?![A-Za-z])": "/", r"\\colon(?![A-Za-z])": ":",
        r"\\degree(?:s)?(?![A-Za-z])": r"^\\circ", r"\\backslash(?![A-Za-z])": r"\\setminus ",
        r"\\bigcup(?![A-Za-z])": r"\\cup ", r"\\(?:lor|vee)(?![A-Za-z])": r"\\text{ or }",
        r"\\(?:land|wedge)(?![A-Za-z])": r"\\text{ and }",
        r"\\text\s*\{\s*(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|lg|exp|gcd)\s*\}":
            r"\\\1 ",
        r"\\text\s*\{\s*arc(cot|sec|csc)\s*\}": r"\\\1^{-1} ", r"\\text\s*\{\s*infinity\s*\}": r"\\infty ",
        r"\\[dt]binom(?![A-Za-z])": r"\\binom", r"\\lg(?![A-Za-z])": r"\\log_{10}",
        r"\\mathopen|\\mathclose|\\mathrel|\\mathbin": "",
        r"\\(?:longrightarrow|rightarrow)(?![A-Za-z])": r"\\to ", r"\\(?:implies|Longrightarrow)(?![A-Za-z])":
            r"\\Rightarrow ",
    }.items()
}  # fmt: skip
_UNIT_FRACTION = re.compile(r"\\frac\s*\{\s*\\text\{([^{}\d]*)\}\s*\}\s*\{\s*\\text\{([^{}\d]*)\}\s*\}")
_SUBSCRIPT = re.compile(
    r"_\s*(?:\{\s*\\text\s*\{\s*([A-Za-z0-9]+)\s*\}\s*\}|(?:\\text\s*)?\{\s*([A-Za-z0-9]+)\s*\}|([A-Za-z0-9])(?![0-9]))"
)
_GREEK_SUBSCRIPT = re.compile(r"_\s*\{?\s*\\(odot|oplus|circ|ast|star|perp|parallel|infty)(?![A-Za-z])\s*\}?")
_ROOT_SIGN = re.compile(r"([∛∜]|(?<!\\)√)\s*(?:\{([^{}]*)\}|\(([^()]*)\)|(\w+))")
_DOLLARS = re.compile(r"(?<!\\)\$+|(?<!\\)\\[()\[\]]")
_PLAIN_FUNCTIONS = re.compile(
    r"(?<![A-Za-z\\])(?:np\.|math\.)?(sqrt|arcsin|arccos|arctan|sin|cos|tan|sec|csc|cot|ln|log|exp|pi|infinity)(?![A-Za-z])"
)


def canonical_latex(answer: str) -> str:
    r"""The answer in canonical LaTeX. Text stays inside `\text{}`."""
    text = _DECORATION.sub(" ", _signs(answer).replace("{:}", ":").replace("{.}", "."))
    text = re.sub(r"(?<!\\)\\\s*$", "", text)
    text = re.sub(r"\\!", "", re.sub(r"(?<=\d)(?:,|\{,\})?\s*\\!\s*(?=\d{3}(?!\d))", ",", text))
    if not re.search(r"[(\[]", text):
        text = re.sub(r"(?<=\d)(?:,|\{,\})\s*\\[,;: ]\s*(?=\d{3}(?!\d))", ",", text)
    text = re.sub(r"<<[^<>]*>>", "", text)
    text = re.sub(r"(?<=\d)_(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=\d)(?:\.\.\.|\\dots)(?=\D*$)", r"\\ldots ", text)
    text = re.sub(r"\\?\$", lambda match: r"\$" if match.group().startswith("\\") else "$", text)
    text = _DOLLARS.sub("", text)
    text = _ENVIRONMENT.sub(_rows, text)
    text = _STRUCK.sub("", text)
    text = _WIDE.sub(_gap, re.sub(r"\s+", " ", _SPACES.sub(" ", text)))
    text = _OLD_ROMAN.sub(r"\\text{\1}", _LAYOUT.sub("", text))
    text = _TEXT_COMMANDS.sub(r"\\text", text)
    text = re.sub(r"\\text\{((?:[^{}]|\\text\{[^{}]*\})*)\}", lambda m: rf"\text{{{_flat(m.group(1))}}}", text)
    text = re.sub(r"(\\text\{[^{}]*\w)\s+((?:and|or)\s*\})", r"\1}\\text{ \2", text)
    text = _unwrap(text, _FONTS)
    text = _ONE_LETTER_FONTS.sub(r"\1", text)
    text = _VECTOR.sub(lambda match: " " + next(filter(None, match.groups())) + " ", text)
    text = _ARROW.sub(lambda match: " " + next(filter(None, match.groups())), text)
    text = _PRIMES.sub(lambda match: "'" * len(re.findall(r"\\prime|'", match.group())), text)
    for pattern, replacement in _COMMANDS.items():
        text = pattern.sub(replacement, text)
    text = _SECOND_DERIVATIVE.sub(r"\1''", _DERIVATIVE.sub(r"\1'", text))
    text = _FLUXION.sub(lambda match: match.group(2) + ("''" if match.group(1) else "'"), text)
    text = _GREEK_SUBSCRIPT.sub(r"_{\1}", text)
    text = _SUBSCRIPT.sub(lambda match: f"_{{{next(filter(None, match.groups()))}}}", text)
    text = re.sub(r"\\mathbb\s*\{?R\}?\s*-\s*(?=\\\{)", r"\\mathbb{R} \\setminus ", text)
    text = _UNIT_FRACTION.sub(r"\\text{ \1/\2}", text)
    return _strip_enclosing(re.sub(r"\s+", " ", text))


def _signs(text: str) -> str:
    if text.isascii():
        return text
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda match: f"^{{{match.group().translate(_HIGH)}}}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉ₙ]+", lambda match: f"_{{{match.group().translate(_LOW)}}}", text)
    for sign, (numerator, denominator) in _VULGAR.items():
        text = text.replace(sign, rf"\frac{{{numerator}}}{{{denominator}}}")
    text = _ROOT_SIGN.sub(_root, text)
    return text.translate(_SIGNS)


def _root(match: re.Match[str]) -> str:
    degree = {"∛": "[3]", "∜": "[4]"}.get(match.group(1), "")
    return rf"\sqrt{degree}{{{next(filter(None, match.groups()[1:]), '')}}}"


def _gap(match: re.Match[str]) -> str:
    """A wide space as the comma that it stands for between answers; beside words it is only a space."""
    before, after = match["before"] or "", match["after"] or ""
    return f"{before or ('' if after or match.start() == 0 else ',')} {after}"


def _rows(match: re.Match[str]) -> str:
    """The rows of an environment that only aligns formulas, joined by commas; a matrix or cases stay as they are."""
    name, content = match.group(1), match.group(2)
    rows = [row.strip() for row in re.split(r"\\\\(?:\s*\[[^\]]*\])?", content) if row.strip()]
    is_system = bool(rows) and all(re.fullmatch(r"[A-Za-z](?:_\{?\w\}?)?\s*&?\s*=[^&]*", row) for row in rows)
    if name in ("cases", "array") and not is_system and (len(rows) > 1 or "&" in content):
        return match.group()
    joined = ""
    for row in rows:
        row = row.replace("&", " ").strip().rstrip(",")
        joined += row if not joined else (" " if _RELATION.match(row) else ", ") + row
    return f" {joined} "


def _flat(text: str) -> str:
    return re.sub(r"\\text\{([^{}]*)\}", r"\1", text)


def _unwrap(text: str, command: re.Pattern[str]) -> str:
    r"""The text with each `command{content}` replaced by its content."""
    for _ in range(20):
        found = command.search(text)
        if not found:
            break
        end = matching_brace(text, found.end())
        if end is None:
            text = text[: found.start()] + text[found.end() + 1 :]
        else:
            text = text[: found.start()] + text[found.end() + 1 : end] + text[end + 1 :]
    return text


def matching_brace(text: str, start: int) -> int | None:
    """The index of the brace that closes the one at `start`; None if there is none."""
    depth = i = 0
    for i in range(start, len(text)):
        if text[i] in "{}" and text[i - 1 : i] != "\\":
            depth += 1 if text[i] == "{" else -1
            if depth == 0:
                return i
    return None


def _strip_enclosing(text: str) -> str:
    """The text without enclosing braces, emphasis, leading arrows and trailing punctuation."""
    before = None
    while text != before:
        before = text
        text = text.strip().strip("*`").rstrip(" .,;:").strip()
        text = re.sub(r"^(?:\\Rightarrow|\\therefore|\\to|=>|->|=|#+)\s*", "", text)
        if text.startswith("{") and matching_brace(text, 0) == len(text) - 1:
            text = text[1:-1]
        if text.startswith(r"\{") and r"\}" not in text:  # of a system of equations
            text = text[2:]
    return text
