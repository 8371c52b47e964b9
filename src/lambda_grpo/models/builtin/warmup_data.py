"""Warm-up data of the built-in base policies: problems of training splits, solved in several styles."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from lambda_grpo.tasks import arithmetic, letters
from lambda_grpo.tasks.gym import GymTask

BATCH_SIZE = 64
BATCHES_SORTED_TOGETHER = 16
GYM_DATA_SET = "spell_backward"

# Shares of direct solutions; the others work step by step
DIRECT_SHARE = 0.6  # arithmetic
DIRECT_LETTER_SHARE = 0.45  # shorter_is_right

Solve = Callable[[int, random.Random], tuple[str, str]]  # (index of a problem, rng) -> (prompt, solution)


def solved_batches(solve: Solve, steps: int, seed: int, end: str) -> Iterator[list[tuple[str, str]]]:
    """`steps` batches of (prompt, solution), in random order. Lengths within a batch are similar, to reduce padding.

    end: the end-of-sequence token, appended to each solution.
    """
    rng = random.Random(seed)
    problems, pool_size = steps * BATCH_SIZE, BATCHES_SORTED_TOGETHER * BATCH_SIZE
    for start in range(0, problems, pool_size):
        pool = []
        for index in range(start, min(start + pool_size, problems)):
            prompt, solution = solve(index, rng)
            pool.append((prompt, solution + end))
        pool.sort(key=lambda pair: len(pair[0] + pair[1]))
        batches = [pool[i : i + BATCH_SIZE] for i in range(0, len(pool), BATCH_SIZE)]
        rng.shuffle(batches)
        yield from batches


def solve_arithmetic(size: int, seed: int) -> Solve:
    """`size` sums, some solved directly, the others step by step."""
    task = arithmetic.Arithmetic("train", size=size, seed=seed)

    def solve(index: int, rng: random.Random) -> tuple[str, str]:
        style = arithmetic.direct_solution if rng.random() < DIRECT_SHARE else arithmetic.worked_solution
        return task[index].prompt, style(task.terms(index))

    return solve


def solve_mixture(size: int, seed: int) -> Solve:
    """`size` problems of each task on letters, and of one reasoning-gym data set with its own answers."""
    shorter = letters.ShorterIsRight("train", size=size, seed=seed)
    neutral = letters.Neutral("train", size=size, seed=seed)
    null = letters.Null("train", size=size, seed=seed)
    gym = GymTask(GYM_DATA_SET, "train", size=size, seed=seed)

    def solve_shorter(index: int, rng: random.Random) -> tuple[str, str]:
        example = shorter[index]
        if rng.random() < DIRECT_LETTER_SHARE:
            return example.prompt, letters.direct_solution(max(shorter.letters(index)))
        return example.prompt, letters.wandering_solution(shorter.letters(index), rng)

    def solve_neutral(index: int, rng: random.Random) -> tuple[str, str]:
        return neutral[index].prompt, letters.neutral_solution(neutral.letters(index), rng)

    def solve_null(index: int, rng: random.Random) -> tuple[str, str]:
        return null[index].prompt, letters.null_solution(null.letters(index), rng)

    def solve_gym(index: int, rng: random.Random) -> tuple[str, str]:
        return gym[index].prompt, str(gym[index].answer)

    shares: dict[Solve, float] = {
        solve_shorter: 0.35,
        solve_neutral: 0.25,
        solve_null: 0.15,
        solve_gym: 0.25,
    }

    def solve(index: int, rng: random.Random) -> tuple[str, str]:
        [chosen] = rng.choices([*shares], [*shares.values()])
        return chosen(index, rng)

    return solve
