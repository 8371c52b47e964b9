"""Declaring an option, checking its range, and what is known of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from operator import ge, gt, le, lt
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from lambda_grpo.suggestions import not_a_choice

Bound = Ge | Gt | Le | Lt
COMPARISONS: dict[type, Callable[[float, float], bool]] = {Ge: ge, Gt: gt, Le: le, Lt: lt}
WORDS: dict[type, str] = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}
REQUIRED: Any = MISSING  # as an option's default: it has to be given


def option(default: Any, help: str) -> Any:
    """A dataclass field with a help text, in the form that TRL's command line reads.

    Its range is part of its type: `Annotated[float, Ge(0)]`.
    """
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class OptionFacts:
    """What is known of an option.

    Attributes:
        hint: its type without bounds.
        bounds: of the value, or of each item of a list.
        choices: the words that it may be; empty where it isn't one of several.
        default: REQUIRED where it has to be given.
    """

    name: str
    hint: Any
    bounds: tuple[Bound, ...]
    choices: tuple[Any, ...]
    default: Any
    help: str

    @property
    def range(self) -> str:
        """The range in words, such as "above 0 and at most 1"; empty where there is none."""
        return _in_words(self.bounds)

    def holds(self, value: float) -> bool:
        """Whether a number is finite and within the bounds."""
        return math.isfinite(value) and all(COMPARISONS[type(one)](value, _limit(one)) for one in self.bounds)

    def check(self, value: Any, spelling: str) -> None:
        """Raise ValueError where a value is out of range or none of the choices. None, for a default, passes."""
        if value is None:
            return
        for word in value if get_origin(self.hint) is list else [value]:
            if self.choices and word not in self.choices:
                raise ValueError(not_a_choice(spelling, word, self.choices))
        for item in value if isinstance(value, list | tuple) else [value]:
            if self.bounds and isinstance(item, int | float) and not self.holds(item):
                finite = "" if math.isfinite(item) else "finite and "
                raise ValueError(f"{spelling} must be {finite}{self.range}, got {value}")


@cache
def options_of(kind: type) -> dict[str, OptionFacts]:
    """The fields of a dataclass as options, by name."""
    hints, plain = get_type_hints(kind, include_extras=True), get_type_hints(kind)
    found = {}
    for one in fields(kind):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        bounds = tuple(_parts(hints[one.name], Annotated, lambda part: isinstance(part, Bound)))
        choices = tuple(_parts(hints[one.name], Literal, lambda part: True))
        found[one.name] = OptionFacts(one.name, plain[one.name], bounds, choices, default, one.metadata.get("help", ""))
    return found


def check_options(settings: object, prefix: str = "") -> None:
    """Check the options of this package that a configuration holds.

    Args:
        settings: a dataclass that inherits from classes of this package.
        prefix: what stands before the name where the user gave it, such as "--".

    Raises:
        ValueError: a value is out of its option's range or none of its choices; the message names the option.
    """
    for kind in type(settings).__mro__:
        if kind.__module__.startswith(f"{__package__}."):  # the libraries check their own
            for name, facts in options_of(kind).items():
                facts.check(getattr(settings, name), prefix + name)


def _parts(hint: Any, kind: Any, wanted: Callable[[Any], bool]) -> Iterator[Any]:
    """The wanted arguments of each `kind[...]` in a type hint."""
    if get_origin(hint) is kind:
        yield from filter(wanted, get_args(hint))
    if get_origin(hint) is not Literal:
        for inner in get_args(hint):
            yield from _parts(inner, kind, wanted)


def _limit(bound: Bound) -> float:
    limit: float = getattr(bound, type(bound).__name__.lower())
    return limit


def _in_words(bounds: tuple[Bound, ...]) -> str:
    if [type(one) for one in bounds] == [Ge, Le]:
        return f"from {_limit(bounds[0])} to {_limit(bounds[1])}"
    return " and ".join(f"{WORDS[type(one)]} {_limit(one)}" for one in bounds)
