"""Grading ordinary completions: `grade_math` against math-verify in a loop in one process."""

from __future__ import annotations

from collections.abc import Callable

COMPLETIONS = 512
REASONING = "We write $x=3$ for the number of days, and each day brings 12 apples more than the one before. " * 6
# (reference, given answer) made from a number: seven of eight are correct
FORMS: tuple[Callable[[int], tuple[str, str]], ...] = (
    lambda n: (f"{n}", f"{n}"),
    lambda n: (rf"\frac{{{n}}}{{7}}", rf"\frac{{{n}}}{{7}}"),
    lambda n: (rf"{n}\sqrt{{3}}", rf"{n}\sqrt3"),
    lambda n: (f"x^2+{n}x+1", f"1+x^2+{n}x"),
    lambda n: (f"({n},{n + 1})", f"({n}, {n + 1})"),
    lambda n: (rf"{n}\pi", rf"{n}\pi"),
    lambda n: (f"{n / 4}", rf"\frac{{{n}}}{{4}}"),
    lambda n: (f"{n}", f"{n + 1}"),
)


def ordinary_batch(number: int) -> tuple[list[str], list[str]]:
    """Completions of some hundred characters, and their references; different ones for each number, as in a run."""
    pairs = [FORMS[i % len(FORMS)](2 + 7 * i % 997 + 1000 * number) for i in range(COMPLETIONS)]
    completions = [rf"{REASONING}Therefore the answer is $\boxed{{{answer}}}$." for _, answer in pairs]
    return completions, [reference for reference, _ in pairs]


def ours(number: int) -> list[bool]:
    """Which completions of a batch are correct, by `grade_math`."""
    from lambda_grpo.grading import grade_math

    return [grade.correct for grade in grade_math(*ordinary_batch(number))]


def peer(number: int) -> list[bool]:
    """The same by math-verify, one after the other."""
    from math_verify import parse, verify

    completions, references = ordinary_batch(number)
    return [verify(parse(f"${ref}$"), parse(text)) for text, ref in zip(completions, references, strict=True)]
