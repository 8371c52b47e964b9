"""Whether a run's rewards gave it anything to learn from, told from its logged steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LAST_STEPS = 10  # a run that had nothing to learn from for so many steps at its end is told of

WHAT_TO_LOOK_AT = (
    "Look at the reward function (does it give one value to everything?), the task (too hard or too easy for this "
    "model?), temperature (are the completions of a prompt all alike?) and num_generations (a larger group has "
    "different rewards more often)."
)

WHERE_LAMBDA_LEARNS = (
    "It has one in groups with differing rewards where f depends on it: for λ-GRPO, where the completions differ in "
    "length."
)


def missing_signal(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader should know of steps without anything to learn from, in sentences; none where all is well.

    Args:
        rows: logged steps in order, as of `metrics.jsonl` or a Trainer's log history: `step`, `informative_groups`, and
            `lambda_grad` where the objective has a λ. With `logging_steps` above 1 each is a mean over its steps.
    """
    rows = [row for row in rows if "reward" in row]  # without those of evaluations and the closing summary
    if not rows:
        return []
    # 0 for a run that never had any; a step of which nothing is known counts as one that had
    last = max((row["step"] for row in rows if row.get("informative_groups") != 0), default=0)
    steps = rows[-1]["step"] - last
    sentences = []
    if last == 0:
        sentences.append(
            f"Nothing to learn from: no group of this run had differing rewards in any of its {steps} steps, so every "
            f"advantage was 0. {WHAT_TO_LOOK_AT}"
        )
    elif steps >= LAST_STEPS:
        sentences.append(
            f"Nothing to learn from at the end: no group of the last {steps} steps had differing rewards, so every "
            f"advantage was 0 after step {last}. {WHAT_TO_LOOK_AT}"
        )
    if all(row.get("lambda_grad") == 0 for row in rows):
        sentences.append("λ's gradient was exactly 0 at every step, so λ never moved.")
        if last > 0:
            sentences[-1] += f" {WHERE_LAMBDA_LEARNS}"
    return sentences
