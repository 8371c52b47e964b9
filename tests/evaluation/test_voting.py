"""Majority votes over answers in several notations, against pooling all of them by hand."""

import logging
from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo.evaluation.engines import Sampling
from lambda_grpo.evaluation.samples import Sample, summarise
from lambda_grpo.evaluation.statistics import majority_at_k
from lambda_grpo.evaluation.voting import MAX_COMPARED, pooled_votes
from lambda_grpo.grading import same_answers
from lambda_grpo.tasks.maths.problems import MathProblems


@dataclass(frozen=True)
class Graded:
    correct: bool
    extracted: str | None


# an answer is written in capital or small letters, with or without a mark; "r" is right
ANSWERS = st.sampled_from(["r", "R", "r!", "a", "A", "a!", "b", "B", "c", "d", None])


def what(answer):
    return None if answer is None else answer.lower().strip("!")


def samples_of(answers):
    return [Graded(what(answer) == "r", answer) for answer in answers]


def same_letter(pairs):
    return [what(answer) == what(reference) for answer, reference in pairs]


@given(st.lists(st.lists(ANSWERS, min_size=1, max_size=12), min_size=1, max_size=4))
def test_the_majority_equals_that_of_pooling_all_answers(problems):
    votes = pooled_votes([samples_of(answers) for answers in problems], same_letter)
    for answers, cast in zip(problems, votes, strict=True):
        counts = Counter(what(answer) for answer in answers if answer is not None)
        best = [answer for answer in counts if counts[answer] == max(counts.values())] if counts else []
        expected = best.count("r") / len(best) if best else 0.0
        assert majority_at_k(cast, [what(answer) == "r" for answer in answers]) == expected


def test_nothing_is_compared_if_the_majority_is_decided():
    known = [["r", "r", "a"], ["a", "a", "A", "r"], ["a", "A"], [None, None], ["r"]]
    asked = []

    def same(pairs):
        asked.extend(pairs)
        return same_letter(pairs)

    pooled_votes([samples_of(answers) for answers in known], same)
    assert asked == []
    pooled_votes([samples_of(["r", "r", "a", "A"]), samples_of(["r", "a", "A"])], same)
    assert asked == [("A", "a")]


def test_the_number_of_comparisons_is_bounded():
    asked = []
    votes = pooled_votes(
        [samples_of(["r"] * 3 + [f"wrong {i}" for i in range(1000)])],
        lambda pairs: asked.extend(pairs) or [False] * len(pairs),
    )
    assert len(asked) == MAX_COMPARED * (MAX_COMPARED - 1) // 2
    assert len(set(votes[0])) == 1001


def test_an_answer_is_pooled_once_if_equivalence_isnt_transitive():
    """0.5 is 50 %, and 50 % is 50, but 0.5 isn't 50."""
    alike = {frozenset(("0.5", "50%")), frozenset(("50%", "50"))}
    cast = pooled_votes(
        [samples_of(["r", "r", "r", "0.5", "0.5", "50", "50%"])],
        lambda pairs: [frozenset(pair) in alike for pair in pairs],
    )[0]
    assert Counter(cast) == {"right": 3, "wrong: 0.5": 3, "wrong: 50": 1}


PAIRS = {
    (r"\frac{1}{2}", "0.5"): True,
    ("2^{10}", "1024"): True,
    (r"\sqrt{8}", r"2\sqrt{2}"): True,
    ("(x+1)^2", "x^2+2x+1"): True,
    ("1,000", "1000"): True,
    (r"5 \text{ cm}", "5"): True,
    (r"5 \text{ cm}", r"5 \text{ m}"): False,
    ("[1, 2)", "(1, 2)"): False,
    ("x+1", "x-1"): False,
    (r"\frac{1}{", "{"): False,
}


def test_wrong_answers_are_compared_by_the_rules_of_grading():
    assert dict(zip(PAIRS, same_answers(list(PAIRS)), strict=True)) == PAIRS


def test_wrong_answers_are_pooled_in_a_result():
    """Two of five are right; three are equivalent, but their normal forms differ."""
    task = MathProblems("one", [{"question": "?", "answer": "77"}], ("question", "answer"), {})
    completions = [rf"\boxed{{{answer}}}" for answer in ("77", "77.0", "(x+1)^2", "x^2+2x+1", "(1+x)^2")]
    grades = task.grade_all(completions, [task[0]] * 5)
    assert [grade.correct for grade in grades] == [True, True, False, False, False]
    samples = [
        Sample(0, 0, i, "?", text, "77", grade.extracted, grade.score, grade.correct, False, grade.vote, 5, True)
        for i, (text, grade) in enumerate(zip(completions, grades, strict=True))
    ]
    assert summarise(task, samples, Sampling(8), 0).metrics["maj@5"].value == 0.0
    assert summarise(task, samples[:4], Sampling(8), 0).metrics["maj@4"].value == 0.5


def test_slow_comparisons_count_as_different_with_a_warning(caplog):
    hostile = [(rf"\prod_{{k=1}}^{{10^9}} k + {i}", rf"{i} + \prod_{{k=1}}^{{10^9}} k") for i in range(100)]
    with caplog.at_level(logging.WARNING):
        found = same_answers([("0.5", "1/2"), *hostile], batch_seconds=3)
    assert found == [True, *[False] * 100]
    assert "of 101 pairs of wrong answers took too long to compare: they count as different" in caplog.text
