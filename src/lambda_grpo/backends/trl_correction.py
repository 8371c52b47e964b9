"""Guided error correction in TRL (EDGE-GRPO, arXiv 2507.21848): wrong samples get a second chance, or the answer.

Rules, where the paper leaves them open:

- The corrected completion takes the sample's place in its group, is graded again, and all of its tokens are trained
  on. Those that the policy didn't sample (the reflection prompt, an appended answer, a reference solution) count as
  though it had: their old log-probabilities are those of the policy that sampled the batch, so their ratio starts at 1.
- A correction never makes a completion longer than max_completion_length: a reflection that leaves no room to go on,
  or an answer that doesn't fit, is left out, and the sample stays as it is.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from trl.data_utils import is_conversational

from lambda_grpo.objective.rollouts import ErrorCorrection

if TYPE_CHECKING:
    from lambda_grpo.backends.trl_rollouts import RolloutTrainer, Sample


def check_columns(correction: ErrorCorrection, example: dict[str, Any]) -> None:
    """Raise ValueError if the first row of a data set lacks what a correction writes."""
    for name, share in (("answer", correction.answer), ("solution", correction.solution)):
        if share > 0:
            _column(example, name)


def corrected(trainer: RolloutTrainer, samples: list[Sample], is_wrong: list[bool]) -> list[Sample]:
    """This rank's samples, those that were changed as new objects.

    is_wrong: over all ranks' samples.

    Raises:
        ValueError: the data set lacks the answer or the solution that is to be written.
    """
    kinds = _kinds(trainer, is_wrong)
    first = trainer.accelerator.process_index * len(samples)
    own = kinds[first : first + len(samples)]
    changed = list(samples)
    for i, (sample, kind) in enumerate(zip(samples, own, strict=True)):
        if kind == "answer":
            ids = _with_answer(trainer, sample)
        elif kind == "solution":
            ids = _solution(trainer, sample)
        else:
            continue
        if ids is not None:
            changed[i] = _with_completion(trainer, sample, ids)
    if "reflect" in kinds:  # on any rank: engines that shard the model generate together
        rows = [i for i, kind in enumerate(own) if kind == "reflect"]
        for i, ids in zip(rows, _continued(trainer, [samples[i] for i in rows], samples[0]), strict=True):
            if ids is not None:
                changed[i] = _with_completion(trainer, samples[i], ids)
    counts = Counter(kind for kind, old, new in zip(own, samples, changed, strict=True) if new is not old)
    totals = trainer.accelerator.reduce(
        torch.tensor([counts[kind] for kind in ("reflect", "answer", "solution")], device=trainer.accelerator.device)
    )
    for name, total in zip(("reflected", "answered", "replaced"), totals.tolist(), strict=True):
        trainer._metrics["train"][f"error_correction/{name}"].append(total)
    return changed


def _kinds(trainer: RolloutTrainer, is_wrong: list[bool]) -> list[str | None]:
    """What becomes of each sample: the same on every rank, and after a resume."""
    correction = trainer.rollouts.correction
    assert correction is not None
    drawn = trainer.state.num_input_tokens_seen  # tells the draws of a step apart
    chance = random.Random(f"{trainer.args.seed}-{trainer.state.global_step}-{drawn}")
    shares = (correction.reflect, correction.answer, correction.solution)
    names = ("reflect", "answer", "solution", None)
    weights = (*shares, max(0.0, 1 - sum(shares)))
    return [chance.choices(names, weights)[0] if wrong else None for wrong in is_wrong]


def _with_answer(trainer: RolloutTrainer, sample: Sample) -> list[int] | None:
    text = trainer.args.answer_template.replace("{answer}", _column(sample.example, "answer"))
    ids = [*_body(trainer, sample), *_tokens(trainer, text), trainer.eos_token_ids[0]]
    return ids if len(ids) <= trainer.max_completion_length else None


def _solution(trainer: RolloutTrainer, sample: Sample) -> list[int] | None:
    ids = [*_tokens(trainer, _column(sample.example, "solution")), trainer.eos_token_ids[0]]
    return ids if len(ids) <= trainer.max_completion_length else None


def _continued(trainer: RolloutTrainer, samples: list[Sample], any_sample: Sample) -> list[list[int] | None]:
    """The completions of samples that the policy goes on with after the reflection prompt."""
    reflection = _tokens(trainer, trainer.args.reflection_prompt)
    begun = [[*_body(trainer, sample), *reflection] for sample in samples]
    room = [trainer.max_completion_length - len(ids) for ids in begun]
    prompts = [sample.prompt_ids + ids for sample, ids, free in zip(samples, begun, room, strict=True) if free > 0]
    # a rank without any takes part, too
    added, _ = trainer._generate_single_turn(prompts or [any_sample.prompt_ids], None, {}, 1)
    count = torch.tensor(sum(map(len, added)) if prompts else 0, device=trainer.accelerator.device)
    trainer.state.num_input_tokens_seen += int(trainer.accelerator.reduce(count))
    rest = iter(added)
    return [[*ids, *next(rest)[:free]] if free > 0 else None for ids, free in zip(begun, room, strict=True)]


def _with_completion(trainer: RolloutTrainer, sample: Sample, ids: list[int]) -> Sample:
    text: Any = trainer.processing_class.decode(ids, skip_special_tokens=True)
    if is_conversational({"prompt": sample.example["prompt"]}):
        text = [{"role": "assistant", "content": text}]
    return replace(sample, completion_ids=ids, completion=text, logprobs=None)


def _body(trainer: RolloutTrainer, sample: Sample) -> list[int]:
    """A completion without the token that ends it."""
    ids = sample.completion_ids
    return ids[:-1] if ids and ids[-1] in trainer.eos_token_ids else ids


def _tokens(trainer: RolloutTrainer, text: str) -> list[int]:
    return trainer.processing_class(text=text, add_special_tokens=False)["input_ids"]


def _column(example: dict[str, Any], name: str) -> str:
    value = example.get(name)
    if value is None:
        raise ValueError(
            f"error correction writes the {name} of an example, and {example!r} has none: add a column {name!r}, or set "
            "error_correction to shares (reflect, answer, solution) without it"
        )
    return str(value)
