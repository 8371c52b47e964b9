"""Whether a run's rewards had a learning signal, according to its logged steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LAST_STEPS = 10  # steps at the end of a run without a learning signal from which on it is reported

REWARD_HINT = (
    "Look at the reward function (does it give one value to everything?), the task (too hard or too easy for this "
    "model?), temperature (are the completions of a prompt all alike?) and num_generations (a larger group has "
    "different rewards more often)."
)

LAMBDA_HINT = (
    "It is other than 0 in groups with differing rewards where f depends on λ: for λ-GRPO, where the completions "
    "differ in length."
)


def missing_signal(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on steps without a learning signal; an empty list if there is nothing to report.

    Args:
        records: logged steps in order, from `metrics.jsonl` or a Trainer's log history, with `step`,
            `informative_groups`, and `lambda_grad` if the objective has a λ. With `logging_steps` above 1 each is a
            mean over steps.
    """
    records = [record for record in records if "reward" in record]  # not evaluations, nor the closing summary
    if not records:
        return []
    # the last informative step, 0 if there was none; a step that didn't log the share counts as informative
    last = max((record["step"] for record in records if record.get("informative_groups") != 0), default=0)
    steps = records[-1]["step"] - last
    sentences = []
    if last == 0:
        sentences.append(
            f"Nothing to learn from: no group of this run had differing rewards in any of its {steps} steps, so every "
            f"advantage was 0. {REWARD_HINT}"
        )
    elif steps >= LAST_STEPS:
        sentences.append(
            f"Nothing to learn from at the end: no group of the last {steps} steps had differing rewards, so every "
            f"advantage was 0 after step {last}. {REWARD_HINT}"
        )
    if all(record.get("lambda_grad") == 0 for record in records):
        sentences.append("λ's gradient was exactly 0 at every step, so λ never moved.")
        if last > 0:
            sentences[-1] += f" {LAMBDA_HINT}"
    return sentences
