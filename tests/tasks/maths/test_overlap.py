"""Overlap against a brute-force search, and on cases written by hand."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo.tasks.maths.overlap import find_overlap

LONG = "A train leaves the town at noon and goes due north at forty miles an hour until it stops."
SHARED = "Tom says: a train leaves the town at noon and goes due north at forty miles by night."  # 15 words of it
CHINESE = "已知函数在区间上单调递增且有两个零点求实数的取值范围"


@pytest.mark.parametrize(
    ("training", "test", "expected"),
    [
        (LONG, LONG, "exact"),
        (
            LONG,
            "  a TRAIN leaves the town at noon\nand goes due north at forty miles an hour until it stops. ",
            "exact",
        ),
        (LONG, SHARED, "shared"),
        (LONG, SHARED.replace("goes", "rolls"), None),
        ("What is $2 + 2$?", "What is $2 + 2$?", "exact"),  # fewer than 13 words: only as a whole
        ("What is $2 + 2$?", "What is $2 - 2$?", None),
        ("What is $2 + 2$?", "Tell me: What is $2 + 2$? Say why.", None),
        (CHINESE, "设" + CHINESE[:13] + "吗", "shared"),
        (CHINESE, "设" + CHINESE[:12] + "吗", None),
    ],
)
def test_kinds_of_overlap(training, test, expected):
    found = find_overlap(["Another problem.", training], ["One.", test], "test")
    assert (found.exact, found.shared) == (int(expected == "exact"), int(expected == "shared"))
    assert [(pair.training, pair.test) for pair in found.pairs] == ([] if expected is None else [(1, 1)])


@given(st.lists(st.text("ab ", max_size=60), max_size=4), st.lists(st.text("ab ", max_size=60), max_size=4))
def test_pairs_are_those_of_a_slow_search(training, test):
    def shares(one, other):
        words, others = (re.findall("[ab]+", text) for text in (one, other))
        runs = [others[j : j + 13] for j in range(len(others) - 12)]
        return any(words[i : i + 13] in runs for i in range(len(words) - 12))

    expected = {}
    for i, one in enumerate(training):
        exact = [j for j, other in enumerate(test) if one.split() == other.split()]
        if exact or any(shares(one, other) for other in test):
            expected[i] = bool(exact)
    found = find_overlap(training, test, "test")
    assert {pair.training: pair.exact for pair in found.pairs} == expected
    assert all(pair.exact or shares(training[pair.training], test[pair.test]) for pair in found.pairs)
