"""Options are declared once; `--help`, the checks and docs/options.md say what the fields say."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo.comparison.study import ENDPOINTS
from lambda_grpo.options.__main__ import PAGE
from lambda_grpo.options.evaluation import EvaluationOptions
from lambda_grpo.options.option import OptionFacts, options_of
from lambda_grpo.options.study import StudyOptions
from lambda_grpo.options.text import describe, describe_in_full
from lambda_grpo.options.training import TaskOptions
from lambda_grpo.trl import LambdaGRPOConfig
from lambda_grpo.trl.config import LAMBDA_SCHEDULES
from lambda_grpo.verl.settings import VerlSettings

BOUNDS = {Ge: ("at least", lambda x, b: x >= b), Gt: ("above", lambda x, b: x > b),
          Le: ("at most", lambda x, b: x <= b), Lt: ("below", lambda x, b: x < b)}  # fmt: skip


def facts_of(*bounds):
    return OptionFacts("x", float, bounds, (), None, "")


def test_the_page_is_written_from_the_fields():
    assert Path("docs/options.md").read_text() == PAGE


@pytest.mark.parametrize("kind", [TaskOptions, EvaluationOptions, StudyOptions, VerlSettings])
def test_every_option_has_a_help_text(kind):
    for facts in options_of(kind).values():
        assert facts.help.endswith("."), facts.name
        assert facts.name in describe([facts])
        assert facts.name in describe_in_full(facts)


@given(bound=st.sampled_from(list(BOUNDS)), limit=st.integers(-5, 5), value=st.floats())
def test_a_bound_holds_for_finite_numbers_on_its_side(bound, limit, value):
    word, holds = BOUNDS[bound]
    facts = facts_of(bound(limit))
    if math.isfinite(value) and holds(value, limit):
        facts.check(value, "x")
        return
    with pytest.raises(ValueError, match=f"^--x must be (finite and )?{word} {limit}, got "):
        facts.check(value, "--x")


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((Ge(0), Le(1)), "from 0 to 1"),
        ((Gt(0), Le(1)), "above 0 and at most 1"),
        ((Ge(0), Lt(1)), "at least 0 and below 1"),
        ((), ""),
    ],
)
def test_a_range_in_words(bounds, words):
    assert facts_of(*bounds).range == words


def test_bounds_and_choices_are_read_from_the_type():
    @dataclass
    class Kind:
        share: Annotated[float, Ge(0)] | None = None
        shares: list[Annotated[float, Le(1)]] | None = None
        word: Literal["one", "two"] | None = None

    Kind.__init__.__globals__.update(Annotated=Annotated, Literal=Literal, Ge=Ge, Le=Le)
    found = options_of(Kind)
    assert [facts.bounds for facts in found.values()] == [(Ge(0),), (Le(1),), ()]
    assert found["word"].choices == ("one", "two")
    found["shares"].check([0.5, 1], "shares")
    with pytest.raises(ValueError, match=r"shares must be at most 1, got \[0.5, 2\]"):
        found["shares"].check([0.5, 2], "shares")
    with pytest.raises(ValueError, match=r"word is 'tow' \(did you mean \"two\"\?\): use 'one' or 'two'"):
        found["word"].check("tow", "word")


@pytest.mark.parametrize(
    "setting",
    [
        {"lambda_lr": -1.0}, {"lambda_lr": math.nan}, {"lambda_r": 0.0}, {"trace_gamma": 1.5}, {"advantage_min": 0.1},
        {"lambda_warmup_steps": -1}, {"overlong_buffer_length": -1}, {"sampler": "fest"}, {"lambda_optimizer": "adm"},
        {"selection_baseline": "groups"}, {"max_prompt_overflow": "cut"}, {"error_correction": [2.0, 0.0, 0.0]},
    ],
)  # fmt: skip
def test_a_script_gets_the_same_checks(setting, tmp_path):
    with pytest.raises(ValueError, match=rf"^{next(iter(setting))} (must be|is) "):
        LambdaGRPOConfig(output_dir=str(tmp_path), **setting)


def test_choices_are_those_that_the_code_knows():
    assert options_of(StudyOptions)["endpoint"].choices == tuple(ENDPOINTS)
    assert options_of(LambdaGRPOConfig)["lambda_lr_scheduler_type"].choices == tuple(LAMBDA_SCHEDULES)


def test_both_engines_options_are_the_same_fields():
    assert options_of(VerlSettings).keys() <= options_of(LambdaGRPOConfig).keys()
