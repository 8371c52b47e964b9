"""The close name that an error suggests."""

import pytest

from lambda_grpo.suggestions import did_you_mean

NAMES = ["math500", "gsm8k", "minerva_math", "lambda_grpo", "dr_grpo", "gspo", "grpo"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("math50", "math500"),
        ("gms8k", "gsm8k"),
        ("GSM8K", "gsm8k"),
        ("minerva-math", "minerva_math"),
        ("MATH-500", "math500"),
        ("lambda_gpro", "lambda_grpo"),
        ("gpro", "grpo"),  # not gspo, which is as close by its letters
        ("Dr-GRPO", "dr_grpo"),
    ],
)
def test_a_misspelt_name_gets_the_closest_one(name, meant):
    assert did_you_mean(name, NAMES) == f' (did you mean "{meant}"?)'


def test_a_name_like_none_of_them_gets_nothing():
    assert did_you_mean("weather", NAMES) == ""
    assert did_you_mean("gsm8k", []) == ""
