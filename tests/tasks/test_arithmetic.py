import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo.tasks.arithmetic import Arithmetic, direct_solution, worked_solution
from lambda_grpo.tasks.base import Example

TERMS = st.lists(st.integers(0, 9), min_size=2, max_size=6)


def test_solutions_by_hand():
    assert direct_solution([3, 8, 4, 9]) == "#4"
    assert worked_solution([3, 8, 4, 9]) == "3+8=1,1+4=5,5+9=4#4"


@given(TERMS)
def test_both_solutions_are_right(terms):
    example = Example(prompt="", answer=str(sum(terms) % 10))
    task = Arithmetic()
    assert task.grade(direct_solution(terms), example) == 1.0
    assert task.grade(worked_solution(terms), example) == 1.0


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("#4", 1.0),
        ("anything at all#4", 1.0),
        ("#4\n", 1.0),
        ("#3#4", 1.0),
        ("#4#3", 0.0),
        ("#14", 0.0),
        ("#4 ", 1.0),
        ("4", 0.0),
        ("#", 0.0),
        ("", 0.0),
        ("#4x", 0.0),
        ("#٤", 0.0),
    ],
)
def test_grades(completion, score):
    assert Arithmetic().grade(completion, Example(prompt="", answer="4")) == score


def test_examples_follow_from_seed_and_index_alone():
    task = Arithmetic("train", size=100, seed=7)
    assert [task[i] for i in range(50)] == [Arithmetic("train", size=60, seed=7)[i] for i in range(50)]
    assert task[5] == Arithmetic("train", size=100, seed=12)[0]  # seed + index
    with pytest.raises(IndexError):
        task[100]


def test_no_held_out_problem_is_trained_on():
    train = {Arithmetic("train", size=4096)[i].prompt for i in range(4096)}
    test = {Arithmetic("test", size=1000)[i].prompt for i in range(1000)}
    assert not train & test
    assert {prompt.count("+") + 1 for prompt in test} == {2, 3, 4, 5, 6}
