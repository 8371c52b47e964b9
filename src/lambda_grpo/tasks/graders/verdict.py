"""The verdict on one completion. This is what a grading process runs."""

from __future__ import annotations

from dataclasses import dataclass

from lambda_grpo.tasks.graders.comparison import MAX_LENGTH, normal_form, same_answer
from lambda_grpo.tasks.graders.extraction import final_answer, joined_boxes, reference_answer


@dataclass(frozen=True)
class Verdict:
    """extracted: the answer as the completion has it; normal: see `normal_form`, None for a right one."""

    correct: bool
    extracted: str | None = None
    normal: str | None = None


def judge(completion: str, reference: str) -> Verdict:
    """Whether the completion's answer is the reference's."""
    answer = final_answer(completion)
    if answer is None or len(answer) > MAX_LENGTH:
        return Verdict(False)
    reference = reference_answer(reference)
    if same_answer(answer, reference):
        return Verdict(True, answer)
    together = joined_boxes(completion)
    if together is not None and same_answer(together, reference):
        return Verdict(True, together)
    return Verdict(False, answer, normal_form(answer))
