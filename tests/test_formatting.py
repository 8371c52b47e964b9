"""Settings in words."""

import functools
import re
from dataclasses import dataclass
from enum import Enum

import pytest

from lambda_grpo import PRESETS
from lambda_grpo.formatting import UNNAMED, fields_in_words, in_words


@dataclass(frozen=True)
class InnerPart:
    k: int = 2


@dataclass(frozen=True)
class GreatPart:
    size: float = 0.25
    name: str | None = None
    is_new: bool = True
    inner: InnerPart | None = None


class Colour(Enum):
    RED = "red"


class Preference:
    def __call__(self):
        return 1


def my_own_weights():
    return 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "none"), (True, "yes"), (False, "no"), (1 / 3, "0.333333"), (1e-6, "1e-06"), (3, "3"), ("a b", "a b"),
        ([], "none"), ([0.1, "a", None], "0.1, a, none"), (("q_proj", "v_proj"), "q_proj, v_proj"),
        ({"min_lr": 0.1, "on": True}, "min_lr 0.1, on yes"), (Colour.RED, "red"),
        (GreatPart(), "great part (size 0.25, is new)"),
        (GreatPart(0.5, "x", False, InnerPart()), "great part (size 0.5, name x, no is new, inner part (k 2))"),
        (my_own_weights, "my own weights"), (Preference(), "preference"), (lambda: 1, UNNAMED),
        (functools.partial(my_own_weights), "partial"),
    ],
)  # fmt: skip
def test_each_kind_of_value(value, words):
    assert in_words(value) == words


def test_fields_at_their_defaults_can_be_left_out():
    assert fields_in_words(GreatPart(), defaults=False) == ""
    assert fields_in_words(GreatPart(size=1.0), defaults=False) == "size 1"


@pytest.mark.parametrize("objective", PRESETS.values(), ids=lambda one: one.name)
def test_no_preset_is_written_as_python_writes_it(objective):
    for part in (objective.preference, objective.surrogate, objective.rollouts):
        assert not re.search(r"[='<\[{]|None|True|False", in_words(part))
