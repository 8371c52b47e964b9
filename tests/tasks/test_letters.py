import random
from collections import Counter
from statistics import fmean

import pytest

from lambda_grpo.tasks import load_task
from lambda_grpo.tasks.base import Example
from lambda_grpo.tasks.letters import (
    MAX_FILLER,
    NEUTRAL_ACCURACY,
    STEP_ERROR,
    Neutral,
    Null,
    ShorterIsRight,
    direct_solution,
    neutral_solution,
    null_solution,
    wandering_solution,
)

TASKS = (ShorterIsRight, Neutral, Null)
DRAWS = 4000


class Scripted(random.Random):
    """Gives the numbers that it was handed."""

    def __init__(self, *numbers):
        super().__init__(0)
        self.numbers = iter(numbers)

    def random(self):
        return next(self.numbers)


@pytest.mark.parametrize(
    ("numbers", "walk"),
    [
        ((0.9, 0.9, 0.9, 0.9), "k,k,k,q,z#z"),
        ((0.9, 0.9, 0.9, 0.1), "k,k,k,q,q#q"),  # z, the right one, is passed over
        ((0.1, 0.1, 0.9, 0.9), "k,f,a,q,z#z"),  # errors before the right one do no harm
        ((0.1, 0.1, 0.1, 0.1), "k,f,a,a,a#a"),
    ],
)
def test_running_maxima_by_hand(numbers, walk):
    assert wandering_solution("kfaqz", Scripted(*numbers)) == walk


def test_answers_and_reference_solutions():
    for task, answer in ((ShorterIsRight(), max), (Neutral(), min)):
        for example in (task[i] for i in range(50)):
            assert example.answer == answer(example.prompt[:-1])
            assert example.solution == direct_solution(example.answer)
            assert task.grade(example.solution, example) == 1.0


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("#z", 1.0),
        ("k,k,k,q,z#z", 1.0),
        ("anything at all#z", 1.0),
        (".......#z", 1.0),
        ("#z\n", 1.0),
        ("#q#z", 1.0),
        ("#z#q", 0.0),
        ("#q", 0.0),
        ("#zz", 0.0),
        ("#Z", 0.0),
        ("z", 0.0),
        ("#", 0.0),
        ("", 0.0),
        ("#z.", 0.0),
    ],
)
@pytest.mark.parametrize("task", [ShorterIsRight, Neutral])
def test_grades(task, completion, score):
    assert task().grade(completion, Example(prompt="", answer="z")) == score


@pytest.mark.parametrize("kind", TASKS)
def test_examples_follow_from_seed_and_index_alone(kind):
    task = load_task(kind.name, size=100, seed=7)
    assert [task[i] for i in range(50)] == [kind("train", size=60, seed=7)[i] for i in range(50)]
    assert task[5] == kind("train", size=100, seed=12)[0]  # seed + index
    with pytest.raises(IndexError):
        task[100]


@pytest.mark.parametrize("kind", TASKS)
def test_no_held_out_problem_is_trained_on(kind):
    train = [kind("train", size=4096)[i].prompt for i in range(4096)]
    test = [kind("test", size=1000)[i].prompt for i in range(1000)]
    assert not set(train) & set(test)
    assert all(len(set(prompt)) == len(prompt) and prompt[:-1].islower() for prompt in train)
    assert {len(prompt) - 1 for prompt in test} == {4, 5, 6, 7, 8}
    assert {prompt[-1] for prompt in train + test} == {kind.mark}


def test_steps_err_with_probability_step_error():
    rng, task, errors, right = random.Random(0), ShorterIsRight(size=DRAWS), [], []
    for i in range(DRAWS):
        letters = task.letters(i)
        solution = wandering_solution(letters, rng)
        walk, answer = solution.split("#")
        kept = walk.split(",")
        assert len(solution) == 2 * len(letters) + 1
        assert (kept[0], kept[-1]) == (letters[0], answer)
        errors += [now < max(before, new) for before, new, now in zip(kept, letters[1:], kept[1:], strict=False)]
        right.append(task.grade(solution, task[i]))
    assert fmean(errors) == pytest.approx(STEP_ERROR, abs=0.015)
    # The right letter survives if it is kept when it comes, and in each later step.
    expected = fmean(fmean((1 - STEP_ERROR) ** (n - max(place, 1)) for place in range(n)) for n in (4, 5, 6, 7, 8))
    assert expected < 0.4
    assert fmean(right) == pytest.approx(expected, abs=0.03)


def test_filler_length_is_independent_of_correctness():
    rng, task, right = random.Random(0), Neutral(size=DRAWS), {False: [], True: []}
    lengths = Counter()
    for i in range(DRAWS):
        filler, answer = neutral_solution(task.letters(i), rng).split("#")
        assert set(filler) <= {"."}
        assert answer in task.letters(i)
        lengths[len(filler)] += 1
        right[len(filler) > MAX_FILLER / 2].append(task.grade(f"{filler}#{answer}", task[i]))
    assert set(lengths) == set(range(MAX_FILLER + 1))
    assert max(lengths.values()) < 1.5 * DRAWS / len(lengths)
    for half in right.values():
        assert fmean(half) == pytest.approx(NEUTRAL_ACCURACY, abs=0.04)


def test_null_is_a_coin_flip_for_any_length():
    rng, task = random.Random(0), Null(size=DRAWS)
    rewards = {}
    for i in range(DRAWS):
        completion = null_solution(task.letters(i), rng)
        reward = task.grade(completion, task[i])
        assert reward == Null().grade(completion, task[i])
        rewards.setdefault((len(completion) - 2) // 5, []).append(reward)
    assert len(rewards) == MAX_FILLER // 5 + 1
    assert {reward for some in rewards.values() for reward in some} == {0.0, 1.0}
    for some in rewards.values():
        assert fmean(some) == pytest.approx(0.5, abs=2.5 / len(some) ** 0.5)  # five standard deviations


def test_null_rewards_completions_without_an_answer_as_often():
    task = Null(size=DRAWS)
    for completion in ("", "." * 64, "two words", "#a#"):
        assert fmean(task.grade(completion, task[i]) for i in range(DRAWS)) == pytest.approx(0.5, abs=0.04)


def test_a_changed_completion_flips_the_reward_of_half_of_the_prompts():
    """A checksum such as crc32 is linear: there it would be all of them, or none."""
    task = Null(size=DRAWS)
    flipped = fmean(task.grade("..#a", task[i]) != task.grade("..#b", task[i]) for i in range(DRAWS))
    assert flipped == pytest.approx(0.5, abs=0.04)
