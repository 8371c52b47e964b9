"""The help of options as text: for a terminal, and as the table of docs/options.md."""

from __future__ import annotations

import textwrap
import types
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from lambda_grpo.options.option import REQUIRED, OptionFacts, options_of

WIDTH = 88  # columns of a help page
NAME_WIDTH = 20
TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a mapping"}


def title(kind: type) -> str:
    """What a class of options is about: the first line of its docstring, without the full stop."""
    assert kind.__doc__ is not None
    return kind.__doc__.split("\n")[0].removesuffix(".")


def describe(options: Iterable[OptionFacts]) -> str:
    """An option on each line or more: its name, help and default."""
    return "\n".join(_entry(one.name, _sentence(one)) for one in options)


def describe_in_full(one: OptionFacts) -> str:
    """One option: its name, type, range, default and help."""
    facts = [" or ".join(map(str, one.choices)) or type_in_words(one.hint), one.range]
    facts.append(f"default {default}" if (default := _default(one)) else "")
    return f"{one.name}: {', '.join(fact for fact in facts if fact)}\n" + textwrap.fill(
        one.help, WIDTH, initial_indent="  ", subsequent_indent="  "
    )


def overview(kinds: Iterable[type]) -> str:
    """The names of all options with their defaults, a paragraph for each class."""
    return "\n".join(
        _entry(title(kind), ", ".join(_with_default(one) for one in options_of(kind).values())) for kind in kinds
    )


def sections(kinds: Iterable[type]) -> str:
    """The Markdown table of each class under its title."""
    return "\n\n".join(f"### {title(kind)}\n\n{table(kind)}" for kind in kinds)


def table(kind: type) -> str:
    """The options of a class as a Markdown table."""
    cells = [
        (f"`{one.name}`", type_in_words(one.hint), one.range, _default(one, quote="`"), _escaped(one.help))
        for one in options_of(kind).values()
    ]
    rows = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(["| option | type | range | default | |", "|---|---|---|---|---|", *rows])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("{", "`{").replace("}", "}`")


def _entry(name: str, text: str) -> str:
    head = f"  {name:<{NAME_WIDTH - 4}}  "
    return textwrap.fill(text, WIDTH, initial_indent=head, subsequent_indent=" " * NAME_WIDTH, break_on_hyphens=False)


def _sentence(one: OptionFacts) -> str:
    choices = f"{' | '.join(map(str, one.choices))}. " if one.choices else ""
    default = f" ({default})" if (default := _default(one)) else ""
    return f"{choices}{one.help}{default}"


def _with_default(one: OptionFacts) -> str:
    default = _default(one)
    return f"{one.name}={default}" if default and len(default) < 8 else one.name


def _default(one: OptionFacts, quote: str = "") -> str:
    """The default where it is a value; where it is None the help says what that means."""
    if one.default is None or one.default is REQUIRED:
        return ""
    text = str(one.default).lower() if isinstance(one.default, bool) else _listed(one.default)
    return f"{quote}{text}{quote}" if "\n" not in text else f"{quote}{text!r}{quote}"


def _listed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def type_in_words(hint: Any) -> str:
    """What a value of this type is to a reader who doesn't know Python, such as "a whole number or text"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_in_words(kind) for kind in arguments if kind is not types.NoneType))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is list:
        return f"a list whose items are each {type_in_words(arguments[0])}"
    kind = origin or hint
    if kind in TYPE_NAMES:
        return TYPE_NAMES[kind]
    if issubclass(kind, Enum):
        return TYPE_NAMES[str]
    if is_dataclass(kind):
        needed = ", ".join(sorted(required_fields(kind)))
        return f"a mapping with {needed}" if needed else "a mapping"
    return str(kind.__name__)


def required_fields(kind: Any) -> set[str]:
    """The fields of a dataclass that have no default."""
    return {one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
