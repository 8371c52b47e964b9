"""Guided error correction in TRL (EDGE-GRPO, arXiv 2507.21848): wrong samples are continued, completed or replaced.

Rules, where the paper leaves them open:

- The corrected completion takes the sample's place in its group, is graded again, and all of its tokens are trained
  on. Tokens that the policy didn't sample (the reflection prompt, an appended answer, a reference solution) are treated
  as if it had: their old log-probabilities are those of the policy that sampled the batch, so their ratio starts at 1.
- A correction never makes a completion longer than max_completion_length: if a reflection leaves no room to continue,
  or an answer doesn't fit, the sample isn't corrected.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from trl.data_utils import is_conversational

from lambda_grpo.objective.rollout_spec import ErrorCorrection
from lambda_grpo.trl.generated_tokens import add_generated_tokens
from lambda_grpo.trl.samples import Sample

KINDS = ("reflected", "answered", "replaced")


def check_columns(correction: ErrorCorrection, example: dict[str, Any]) -> None:
    """Raise ValueError if the first example of a data set lacks a column that the correction needs."""
    for name, share in (("answer", correction.answer), ("solution", correction.solution)):
        if share > 0:
            _column(example, name)


class Corrector:
    """Corrects wrong samples, the same ones on every rank and after a resume.

    Args:
        correction: the shares of the kinds of correction.
        settings: the configuration's `seed`, `reflection_prompt`, `answer_template` and `max_completion_length`.
        tokenizer: of the policy.
        end_ids: tokens that end a completion.
        generate: prompt ids -> completion ids, by the policy.
        state: returns the Trainer's current state.

    Attributes:
        counts: corrected samples of all ranks since the last `clear`, by kind.
    """

    def __init__(
        self,
        correction: ErrorCorrection,
        settings: Any,
        accelerator: Any,
        tokenizer: Any,
        end_ids: list[int],
        *,
        generate: Callable[[list[list[int]]], list[list[int]]],
        state: Callable[[], Any],
    ):
        self.correction, self.settings, self.accelerator = correction, settings, accelerator
        self.tokenizer, self.end_ids, self._generate, self._state = tokenizer, end_ids, generate, state
        self.counts: Counter[str] = Counter()

    def corrected(self, samples: list[Sample], is_wrong: list[bool]) -> list[Sample]:
        """This rank's samples; the corrected ones are new objects.

        Args:
            samples: this rank's.
            is_wrong: for the samples of all ranks.

        Raises:
            ValueError: an example lacks the answer or the solution.
        """
        kinds = self._kinds(is_wrong)
        ranks = [kinds[i : i + len(samples)] for i in range(0, len(kinds), len(samples))]
        own = ranks[self.accelerator.process_index]
        changed = list(samples)
        for i, (sample, kind) in enumerate(zip(samples, own, strict=True)):
            if kind == "answered":
                text = self.settings.answer_template.replace("{answer}", _column(sample.example, "answer"))
                ids = [*self._body(sample), *self._tokens(text), self._end(sample)]
            elif kind == "replaced":
                ids = [*self._tokens(_column(sample.example, "solution")), self._end(sample)]
            else:
                continue
            if len(ids) <= self.settings.max_completion_length:
                changed[i] = self._with_completion(sample, ids)
        if count := max(rank.count("reflected") for rank in ranks):
            reflected = [i for i, kind in enumerate(own) if kind == "reflected"]
            for i, continued in zip(reflected, self._continued(samples, reflected, count), strict=True):
                if continued is not None:
                    changed[i] = self._with_completion(samples[i], continued)
        counts = Counter(kind for kind, old, new in zip(own, samples, changed, strict=True) if new is not old)
        totals = self.accelerator.reduce(torch.tensor([counts[kind] for kind in KINDS], device=self.accelerator.device))
        self.counts.update(dict(zip(KINDS, totals.tolist(), strict=True)))
        return changed

    def _kinds(self, is_wrong: list[bool]) -> list[str | None]:
        """The kind of correction of each sample, None for none: the same on every rank, and after a resume."""
        state = self._state()
        drawn = state.num_input_tokens_seen  # differs between the draws of a step
        chance = random.Random(f"{self.settings.seed}-{state.global_step}-{drawn}")
        shares = (self.correction.reflect, self.correction.answer, self.correction.solution)
        weights = (*shares, max(0.0, 1 - sum(shares)))
        return [chance.choices((*KINDS, None), weights)[0] if wrong else None for wrong in is_wrong]

    def _continued(self, samples: list[Sample], reflected: list[int], count: int) -> list[list[int] | None]:
        """The completions, continued by the policy after the reflection prompt; None if there is no room.

        Args:
            samples: this rank's.
            reflected: indices of those to continue.
            count: number of prompts on every rank: engines that share a model or a server need it to be equal.
        """
        reflection = self._tokens(self.settings.reflection_prompt)
        begun = [[*self._body(samples[i]), *reflection] for i in reflected]
        room = [self.settings.max_completion_length - len(ids) for ids in begun]
        prompts = [samples[0].prompt_ids] * count
        for place, (i, ids, free) in enumerate(zip(reflected, begun, room, strict=True)):
            if free > 0:
                prompts[place] = [*samples[i].prompt_ids, *ids]
        added = self._generate(prompts)
        used = [(len(prompts[k]) + len(added[k]), len(added[k])) for k, free in enumerate(room) if free > 0]
        own = torch.tensor([sum(counts) for counts in zip((0, 0), *used, strict=True)], device=self.accelerator.device)
        seen, generated = self.accelerator.reduce(own).tolist()
        self._state().num_input_tokens_seen += seen
        add_generated_tokens(self._state(), generated)
        rests = added[: len(reflected)]
        return [[*ids, *rest[:free]] if free > 0 else None for ids, rest, free in zip(begun, rests, room, strict=True)]

    def _with_completion(self, sample: Sample, ids: list[int]) -> Sample:
        text: Any = self.tokenizer.decode(ids, skip_special_tokens=True)
        if is_conversational({"prompt": sample.example["prompt"]}):
            text = [{"role": "assistant", "content": text}]
        return replace(sample, completion_ids=ids, completion=text, logprobs=None)

    def _body(self, sample: Sample) -> list[int]:
        """A completion without the token that ends it."""
        ids = sample.completion_ids
        return ids[:-1] if ids and ids[-1] in self.end_ids else ids

    def _end(self, sample: Sample) -> int:
        """The token that ends a completion: the sample's own if it has ended, since a model may have several."""
        ids = sample.completion_ids
        return ids[-1] if ids and ids[-1] in self.end_ids else self.tokenizer.eos_token_id

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def _column(example: dict[str, Any], name: str) -> str:
    """The text of a column; the content of a message if the column holds a single one."""
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
