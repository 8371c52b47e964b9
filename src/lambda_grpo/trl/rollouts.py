"""The rollouts of a training batch in TRL: drawn, scored, corrected, and refilled with groups of fresh prompts.

TRL generates, scores and assembles a batch in one method. For an objective with error correction or dynamic sampling,
the samples are drawn here before, in as many rounds as needed, by TRL's own generation and scoring; TRL's method then
only assembles them. Every rank takes the same decisions, based on the rewards of all ranks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerState
from trl.rewards import get_soft_overlong_punishment

from lambda_grpo.objective.rollout_spec import RolloutSpec
from lambda_grpo.trl.correction import KINDS, Corrector
from lambda_grpo.trl.fresh_prompts import FreshPrompts, prompt_key
from lambda_grpo.trl.generated_tokens import log_generated_tokens
from lambda_grpo.trl.rewards import RewardTable
from lambda_grpo.trl.samples import Sample, ScoredSamples

Metrics = dict[str, list[Any]]


def check_single_turn(unsupported: dict[str, Any]) -> None:
    """Raise ValueError if a setting is given that can't be combined with samples drawn outside of TRL's method."""
    for name, is_given in unsupported.items():
        if is_given:
            raise ValueError(f"dynamic sampling and error correction take text of a single turn: leave {name} out")


def overlong_penalty(spec: RolloutSpec, max_length: int, taken: Sequence[str]) -> Callable[..., Any] | None:
    """TRL's reward function for the overlong buffer of an objective (DAPO, eq. 13); None if it has no buffer.

    Args:
        spec: the objective's.
        max_length: tokens that a completion may have.
        taken: the names of the other reward functions.

    Raises:
        ValueError: this function is already among them.
    """
    if spec.overlong_buffer == 0:
        return None
    function = get_soft_overlong_punishment(max_length, round(spec.overlong_buffer * max_length))
    if function.__name__ in taken:
        raise ValueError(
            f"{function.__name__} is a reward function already: leave it out, or set overlong_buffer_length to 0"
        )
    return function


class RolloutPipeline:
    """Draws a batch of samples, corrects wrong ones, and replaces groups whose rewards are all equal.

    Samples drawn in addition to the batch's own prompts, and corrections, are logged under their own metrics. The data
    set keeps its order, since fresh prompts come from separate passes.

    Args:
        settings: the configuration's `correct_reward` and `max_resample_times`.
        table: the sums of rewards.
        generate: prompts -> the output of TRL's `_generate`.
        score: examples, prompts, completions and their ids -> (N, F) rewards over all ranks.
        logged: returns what the reward functions have logged for each sample since the last call, by column.
        group_size: samples per prompt.
        metrics, pending_metrics: TRL's training metrics, and those that reward functions have logged for them.
        corrector: corrects wrong samples; None for no correction.
        fresh_prompts: prompts for the groups that are replaced; None for no dynamic sampling.
    """

    def __init__(
        self,
        settings: Any,
        accelerator: Any,
        table: RewardTable,
        *,
        generate: Callable[[list[Any]], Any],
        score: Callable[[list[Any], list[Any], list[Any], list[list[int]]], Tensor],
        logged: Callable[[], dict[str, list[Any]]],
        group_size: int,
        metrics: Metrics,
        pending_metrics: Metrics,
        corrector: Corrector | None = None,
        fresh_prompts: FreshPrompts | None = None,
    ):
        self.settings, self.accelerator, self.table, self.group_size = settings, accelerator, table, group_size
        self._generate, self._calculate_rewards, self._logged = generate, score, logged
        self.metrics, self.pending_metrics = metrics, pending_metrics
        self.corrector, self.fresh_prompts = corrector, fresh_prompts

    def draw(self, examples: list[dict[str, Any]]) -> ScoredSamples:
        """The batch for this rank's examples."""
        if self.corrector is not None:
            self.corrector.counts.clear()
        first = self._draw(examples)
        return first if self.fresh_prompts is None else self._refill_groups(first, self.fresh_prompts)

    def log(self, batch: ScoredSamples, state: TrainerState) -> None:
        """Set TRL's metrics of the batch to those of the policy's samples for its own prompts, and log the corrections.

        state: the Trainer's, with the tokens that have been sampled and read so far.
        """
        self.table.log(self.metrics, batch.policy_rewards, self.group_size)
        self.metrics["num_tokens"] = [state.num_input_tokens_seen]
        log_generated_tokens(state, self.metrics)
        if self.corrector is not None:
            for kind in KINDS:
                self.metrics[f"error_correction/{kind}"].append(self.corrector.counts[kind])

    # -- drawing and correcting --------------------------------------------------------------------------------------

    def _draw(self, examples: list[dict[str, Any]]) -> ScoredSamples:
        """Generate and score samples, and correct wrong ones."""
        prompt_ids, completion_ids, _, completions, logprobs, *_ = self._generate(
            [example["prompt"] for example in examples]
        )
        columns = zip(
            examples, prompt_ids, completion_ids, completions, logprobs or [None] * len(examples), strict=True
        )
        samples = [Sample(*values, logged={}) for values in columns]
        rewards, samples = self._score(samples)
        if self.corrector is None:
            return ScoredSamples(samples, rewards, rewards)
        total, rounding = self.table.task_sum(rewards)
        is_wrong = total + rounding < self.settings.correct_reward
        if not is_wrong.any():
            return ScoredSamples(samples, rewards, rewards)
        changed = self.corrector.corrected(samples, is_wrong.tolist())
        return ScoredSamples(changed, rewards, self._regraded(samples, changed, rewards))

    def _regraded(self, samples: list[Sample], changed: list[Sample], rewards: Tensor) -> Tensor:
        """(N, F) rewards, updated for the changed samples, which are replaced in `changed` by graded ones."""
        own = [i for i, (new, old) in enumerate(zip(changed, samples, strict=True)) if new is not old]
        counts = self.accelerator.gather(torch.tensor([len(own)], device=rewards.device))
        count = int(counts.max())
        if count == 0:
            return rewards
        with _kept(self.pending_metrics):  # these describe the policy's own samples
            # every rank grades the same number, since rewards are gathered
            again, graded = self._score([changed[i] for i in own] + [changed[0]] * (count - len(own)))
        for i, sample in zip(own, graded, strict=False):
            changed[i] = sample
        is_changed = torch.tensor([new is not old for new, old in zip(changed, samples, strict=True)])
        is_changed = self.accelerator.gather(is_changed.to(rewards.device))
        is_used = torch.arange(count, device=rewards.device) < counts[:, None]  # (ranks, count)
        rewards = rewards.clone()
        rewards[is_changed] = again.view(len(counts), count, -1)[is_used]
        return rewards

    def _score(self, samples: list[Sample]) -> tuple[Tensor, list[Sample]]:
        """(N, F) rewards over all ranks, and this rank's samples with what the reward functions logged for each."""
        rewards = self._calculate_rewards(
            [sample.example for sample in samples],
            [sample.example["prompt"] for sample in samples],
            [sample.completion for sample in samples],
            [sample.completion_ids for sample in samples],
        )
        columns = self._logged()
        logged = [{name: values[i] for name, values in columns.items()} for i in range(len(samples))]
        return rewards, [replace(sample, logged=own) for sample, own in zip(samples, logged, strict=True)]

    # -- dynamic sampling --------------------------------------------------------------------------------------------

    def _refill_groups(self, first: ScoredSamples, fresh_prompts: FreshPrompts) -> ScoredSamples:
        """Replace the groups whose rewards are all equal, until there is none or the budget is spent."""
        size, ranks = self.group_size, self.accelerator.num_processes
        samples, rewards = list(first.samples), first.rewards.clone()
        own = range(self.accelerator.process_index * len(samples), (self.accelerator.process_index + 1) * len(samples))
        seen: set[str] | None = None
        counts: dict[str, int] = defaultdict(int)
        for _ in range(self.settings.max_resample_times):
            empty = self._groups_where(~self.table.is_informative(rewards, size))
            if not empty:
                break
            if seen is None:
                seen = {
                    prompt_key(prompt) for prompt in gather_object([sample.example["prompt"] for sample in samples])
                }
            groups = len(empty)
            while groups * size % ranks:  # every rank draws the same number
                groups += 1
            examples = [example for example in fresh_prompts.take(groups, seen) for _ in range(size)]
            local = len(examples) // ranks
            with _kept(self.metrics), _kept(self.pending_metrics):
                drawn = self._draw(examples[self.accelerator.process_index * local :][:local])
            everyones: list[Sample] = gather_object(drawn.samples)
            found = self._groups_where(self.table.is_informative(drawn.rewards, size))
            for group, fresh in zip(empty, found, strict=False):
                rewards[group * size : (group + 1) * size] = drawn.rewards[fresh * size : (fresh + 1) * size]
                for member in range(size):
                    if (place := group * size + member) in own:
                        samples[place - own.start] = everyones[fresh * size + member]
            counts["rounds"] += 1
            counts["extra_groups"] += groups
            counts["unused_groups"] += max(0, len(found) - len(empty))
        counts["missing_groups"] = len(self._groups_where(~self.table.is_informative(rewards, size)))
        for name in ("rounds", "extra_groups", "unused_groups", "missing_groups"):
            self.metrics[f"dynamic_sampling/{name}"].append(counts[name])
        return ScoredSamples(samples, first.policy_rewards, rewards)

    def _groups_where(self, is_so: Tensor) -> list[int]:
        """The groups for which a condition holds. `is_so`: (N,) by sample, equal within each group."""
        return is_so.view(-1, self.group_size)[:, 0].nonzero()[:, 0].tolist()


@contextmanager
def _kept(metrics: Metrics) -> Iterator[None]:
    """Restore metrics after the context."""
    before = {name: list(values) for name, values in metrics.items()}
    yield
    metrics.clear()
    metrics.update(before)
