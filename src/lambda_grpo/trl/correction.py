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

from lambda_grpo.objective.sampling import ErrorCorrection

if TYPE_CHECKING:
    from lambda_grpo.trl.rollouts import RolloutTrainer, Sample

KINDS = ("reflected", "answered", "replaced")


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
    ranks = [kinds[i : i + len(samples)] for i in range(0, len(kinds), len(samples))]
    own = ranks[trainer.accelerator.process_index]
    changed = list(samples)
    for i, (sample, kind) in enumerate(zip(samples, own, strict=True)):
        if kind == "answered":
            text = trainer.args.answer_template.replace("{answer}", _column(sample.example, "answer"))
            ids = [*_body(trainer, sample), *_tokens(trainer, text), _end(trainer, sample)]
        elif kind == "replaced":
            ids = [*_tokens(trainer, _column(sample.example, "solution")), _end(trainer, sample)]
        else:
            continue
        if len(ids) <= trainer.max_completion_length:
            changed[i] = _with_completion(trainer, sample, ids)
    if count := max(rank.count("reflected") for rank in ranks):
        rows = [i for i, kind in enumerate(own) if kind == "reflected"]
        for i, continued in zip(rows, _continued(trainer, samples, rows, count), strict=True):
            if continued is not None:
                changed[i] = _with_completion(trainer, samples[i], continued)
    counts = Counter(kind for kind, old, new in zip(own, samples, changed, strict=True) if new is not old)
    totals = trainer.accelerator.reduce(
        torch.tensor([counts[kind] for kind in KINDS], device=trainer.accelerator.device)
    )
    trainer.corrections.update(dict(zip(KINDS, totals.tolist(), strict=True)))
    return changed


def _kinds(trainer: RolloutTrainer, is_wrong: list[bool]) -> list[str | None]:
    """What becomes of each sample: the same on every rank, and after a resume."""
    correction = trainer.rollouts.correction
    assert correction is not None
    drawn = trainer.state.num_input_tokens_seen  # tells the draws of a step apart
    chance = random.Random(f"{trainer.args.seed}-{trainer.state.global_step}-{drawn}")
    shares = (correction.reflect, correction.answer, correction.solution)
    weights = (*shares, max(0.0, 1 - sum(shares)))
    return [chance.choices((*KINDS, None), weights)[0] if wrong else None for wrong in is_wrong]


def _continued(trainer: RolloutTrainer, samples: list[Sample], rows: list[int], count: int) -> list[list[int] | None]:
    """The completions of some rows that the policy goes on with after the reflection prompt; None without room.

    count: of prompts on every rank, since engines that share a model or a server expect as many of each.
    """
    reflection = _tokens(trainer, trainer.args.reflection_prompt)
    begun = [[*_body(trainer, samples[i]), *reflection] for i in rows]
    room = [trainer.max_completion_length - len(ids) for ids in begun]
    prompts = [samples[0].prompt_ids] * count
    for place, (i, ids, free) in enumerate(zip(rows, begun, room, strict=True)):
        if free > 0:
            prompts[place] = [*samples[i].prompt_ids, *ids]
    added, _ = trainer._generate_single_turn(prompts, None, {}, 1)
    used = [len(prompts[k]) + len(added[k]) for k, free in enumerate(room) if free > 0]
    total = trainer.accelerator.reduce(torch.tensor(sum(used), device=trainer.accelerator.device))
    trainer.state.num_input_tokens_seen += int(total)
    rests = added[: len(rows)]
    return [[*ids, *rest[:free]] if free > 0 else None for ids, rest, free in zip(begun, rests, room, strict=True)]


def _with_completion(trainer: RolloutTrainer, sample: Sample, ids: list[int]) -> Sample:
    text: Any = trainer._tokenizer.decode(ids, skip_special_tokens=True)
    if is_conversational({"prompt": sample.example["prompt"]}):
        text = [{"role": "assistant", "content": text}]
    return replace(sample, completion_ids=ids, completion=text, logprobs=None)


def _body(trainer: RolloutTrainer, sample: Sample) -> list[int]:
    """A completion without the token that ends it."""
    ids = sample.completion_ids
    return ids[:-1] if ids and ids[-1] in trainer.eos_token_ids else ids


def _end(trainer: RolloutTrainer, sample: Sample) -> int:
    """The token that ends a completion: the sample's own where it has ended, of a model that knows several."""
    ids = sample.completion_ids
    return ids[-1] if ids and ids[-1] in trainer.eos_token_ids else trainer._tokenizer.eos_token_id


def _tokens(trainer: RolloutTrainer, text: str) -> list[int]:
    return trainer._tokenizer(text, add_special_tokens=False)["input_ids"]


def _column(example: dict[str, Any], name: str) -> str:
    """The text of a column; a message's content where it holds one of the assistant's."""
    value = example.get(name)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError(
        f"error correction writes the {name} of an example, and one has none that is text (its columns: "
        f"{', '.join(example)}): add a column {name!r}, or set error_correction to shares (reflect, answer, solution) "
        "without it"
    )
