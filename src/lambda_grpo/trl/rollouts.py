"""What becomes of samples before the loss, in TRL: drawn anew, corrected, selected, and rewarded for ending in time.

TRL generates, scores and assembles a batch in one method. Here samples are drawn, corrected and scored first, as often
as it takes, by TRL's own generation and scoring; then TRL's method runs once, and finds both done. Every rank takes
the same decisions, from rewards that all of them have.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl.rewards import get_soft_overlong_punishment
from trl.trainer.utils import nanstd

from lambda_grpo.objective import group_advantages
from lambda_grpo.objective.groups import has_variance
from lambda_grpo.objective.lambda_file import read_state
from lambda_grpo.objective.sampling import RolloutSpec
from lambda_grpo.trl.correction import KINDS, check_columns, corrected
from lambda_grpo.trl.fresh_prompts import FreshPrompts, prompt_key
from lambda_grpo.trl.prompts import PromptTrainer
from lambda_grpo.trl.reward_functions import check_signatures, checked
from lambda_grpo.trl.rewards import RewardSum, distinct_names, equal_groups, reward_sum

ROLLOUT_STATE_FILE = "rollout_state.json"


@dataclass(frozen=True)
class Sample:
    """One completion with the row of the data set that it answers.

    completion: text, or messages where the prompt is a conversation.
    logprobs: of the sampling engine, where it gives them.
    logged: what reward functions have logged for it, by column.
    """

    example: dict[str, Any]
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: Any
    logprobs: list[float] | None
    logged: dict[str, Any]


@dataclass(frozen=True)
class Draw:
    """This rank's samples, and the rewards of all ranks' by function, (N, F): of the policy's own, and as corrected."""

    samples: list[Sample]
    policy_rewards: Tensor
    rewards: Tensor


class RolloutTrainer(PromptTrainer):
    """`trl.GRPOTrainer` with `RolloutSpec` between sampling and the loss.

    Logs what TRL logs of the samples that the policy drew for the batch's own prompts; what is drawn beyond them, and
    what is corrected, is counted apart. The order of the data set is left as it is: fresh prompts come from passes of
    their own, whose place is saved with each checkpoint.
    """

    def __init__(self, rollouts: RolloutSpec, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rollouts = rollouts
        self.examples: list[dict[str, Any]] = []  # this rank's rows of the data set, one for each sample of the batch
        self.reward_funcs: list[Any]
        self.reward_func_names: list[str]
        self.reward_processing_classes: list[Any]
        self.reward_weights: Tensor
        self.overlong_reward: int | None = None  # its place among the reward functions
        self._check_reward_functions()
        self._draws_samples = rollouts.dynamic_sampling or rollouts.correction is not None
        self._drawn: Draw | None = None
        self.corrections: Counter[str] = Counter()  # of all ranks' samples of a batch, by kind
        self._rewards_per_func = torch.empty(0)
        if self._draws_samples:
            self._check_single_turn()
        if rollouts.dynamic_sampling:
            self.fresh_prompts = FreshPrompts(self.train_dataset, self.args.seed + 1, shuffle=self.shuffle_dataset)
        if rollouts.overlong_buffer > 0:
            self._add_overlong_reward(self.max_completion_length, rollouts.overlong_buffer)
        # TRL's metrics, records and table go by these names: of two that are alike, one would hide the other
        self.reward_func_names = distinct_names(self.reward_func_names)

    def _check_reward_functions(self) -> None:
        if self.rollout_func is not None:  # it can add columns
            return
        columns = list(next(iter(self.train_dataset), {}))
        if self.args.remove_unused_columns:
            self._set_signature_columns_if_needed()
            columns = [column for column in columns if column in self._signature_columns]
        extra = ["environments"] if self.environment_factories else []
        check_signatures(zip(self.reward_func_names, self.reward_funcs, strict=True), columns, extra)

    def _check_single_turn(self) -> None:
        unsupported = {
            "tools": self.tools,
            "rollout_func": self.rollout_func,
            "environment_factory": self.environment_factories,
            "images": {"image", "images"}.intersection(next(iter(self.train_dataset))),
            # what parses a completion into more than its text
            "the tokenizer's response template": getattr(self._tokenizer, "response_template", None)
            or getattr(self._tokenizer, "response_schema", None),
        }
        for name, is_given in unsupported.items():
            if is_given:
                raise ValueError(f"dynamic sampling and error correction take text of a single turn: leave {name} out")
        if self.rollouts.correction is not None:
            check_columns(self.rollouts.correction, next(iter(self.train_dataset)))
        if self.rollouts.correction is not None and self.use_vllm and self.vllm_importance_sampling_correction:
            raise ValueError(
                "corrected completions weren't sampled by vLLM, which has no log-probabilities for them: set "
                "vllm_importance_sampling_correction to False"
            )

    def _add_overlong_reward(self, max_length: int, buffer: float) -> None:
        self.overlong_reward = len(self.reward_funcs)
        function = get_soft_overlong_punishment(max_length, round(buffer * max_length))
        if function.__name__ in self.reward_func_names:
            raise ValueError(
                f"{function.__name__} is a reward function already: leave it out, or set overlong_buffer_length to 0"
            )
        self.reward_funcs = [*self.reward_funcs, function]
        self.reward_func_names = [*self.reward_func_names, function.__name__]
        self.reward_processing_classes = [*self.reward_processing_classes, None]
        self.reward_weights = torch.cat([self.reward_weights, torch.ones(1)])

    # -- one batch ---------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.examples = inputs
        if not self.model.training or not self._draws_samples:
            output = self._generate_and_score_exactly(inputs)
        else:
            self.corrections.clear()
            first = self._draw(inputs)
            batch = self._fill(first) if self.rollouts.dynamic_sampling else first
            for column in {column for sample in batch.samples for column in sample.logged}:
                self._pending_extra_logs[column] = [sample.logged.get(column) for sample in batch.samples]
            self._drawn, self.examples = batch, [sample.example for sample in batch.samples]
            output = self._generate_and_score_exactly(self.examples)
            self._drawn = None
            self._log_rewards(first.policy_rewards)
            self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]
            for kind in KINDS if self.rollouts.correction is not None else ():
                self._metrics["train"][f"error_correction/{kind}"].append(self.corrections[kind])
        if self.model.training and self.rollouts.filters_samples:
            self._select(output)
        return output

    def _generate_and_score_exactly(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch with an advantage of exactly 0 where a group's rewards are equal.

        TRL's float32 mean of equal rewards is off by rounding for most values, which divided by a standard deviation
        of nothing but ε leaves advantages of some 1e-4: full steps for an optimiser like Adam. `frac_reward_zero_std`
        is that share of groups, whatever the advantages are divided by.
        """
        with self._keeping_rewards():
            output = super()._generate_and_score_completions(inputs)
        mode, size = ("train", self.num_generations) if self.model.training else ("eval", self.num_generations_eval)
        found = equal_groups(self._rewards_per_func, self.reward_weights, size, self.multi_objective_aggregation)
        self._metrics[mode]["frac_reward_zero_std"][-1] = 1 - found.differs.double().mean().item()
        advantages, local = output["advantages"], len(output["advantages"])
        own = slice(self.accelerator.process_index * local, (self.accelerator.process_index + 1) * local)
        if found.advantages is not None:
            advantages = found.advantages[own].to(advantages)
        output["advantages"] = advantages.masked_fill(~found.differs[own].to(advantages.device), 0.0)
        log = self._logs["advantages"]  # of all ranks, and no more than a training batch has
        logged = [log.pop() for _ in range(min(len(log), len(found.differs)))][::-1]
        whole = logged if found.advantages is None else found.advantages.tolist()[-len(logged) :]
        log.extend(
            value if differs else 0.0 for value, differs in zip(whole, found.differs[-len(logged) :], strict=True)
        )
        return output

    def _generate(self, prompts: list[Any]) -> Any:
        if self._drawn is None:
            return super()._generate(prompts)
        samples = self._drawn.samples
        has_logprobs = all(sample.logprobs is not None for sample in samples)
        return (
            [sample.prompt_ids for sample in samples],
            [sample.completion_ids for sample in samples],
            None,
            [sample.completion for sample in samples],
            [sample.logprobs for sample in samples] if has_logprobs else None,
            {},
            None,
            [],
        )

    @contextmanager
    def _keeping_rewards(self) -> Iterator[None]:
        """Keep the rewards that TRL scores a batch by, whichever subclass or object calculates them."""
        own, calculate = self.__dict__, self._calculate_rewards
        before = own.get("_calculate_rewards")

        def calculated(*arguments: Any) -> Tensor:
            self._rewards_per_func = calculate(*arguments) if self._drawn is None else self._drawn.rewards
            return self._rewards_per_func

        own["_calculate_rewards"] = calculated
        try:
            yield
        finally:
            del own["_calculate_rewards"]
            if before is not None:
                own["_calculate_rewards"] = before

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        with checked(self, list(inputs[0]), len(prompts)):
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if (column := self.overlong_reward) is not None:  # what nobody could score has no length penalty, either
            others = [i for i in range(rewards.size(1)) if i != column]
            rewards[:, column] = rewards[:, column].masked_fill(rewards[:, others].isnan().all(1), torch.nan)
        return rewards

    def _draw(self, inputs: list[dict[str, Any]]) -> Draw:
        """Generate, score, and correct what is wrong."""
        prompts = [example["prompt"] for example in inputs]
        prompt_ids, completion_ids, _, completions, logprobs, *_ = self._generate(prompts)
        logprobs = logprobs or [None] * len(inputs)
        rows = zip(inputs, prompt_ids, completion_ids, completions, logprobs, strict=True)
        samples = [Sample(*row, logged={}) for row in rows]
        rewards, samples = self._score(samples)
        if self.rollouts.correction is None:
            return Draw(samples, rewards, rewards)
        total, rounding = self._task_rewards(rewards)
        is_wrong = total + rounding < self.args.correct_reward
        if not is_wrong.any():
            return Draw(samples, rewards, rewards)
        changed = corrected(self, samples, is_wrong.tolist())
        return Draw(changed, rewards, self._regraded(samples, changed, rewards))

    def _regraded(self, samples: list[Sample], changed: list[Sample], rewards: Tensor) -> Tensor:
        """(N, F) rewards with those of the changed samples in their place. `changed` takes in what was logged."""
        own = [i for i, (new, old) in enumerate(zip(changed, samples, strict=True)) if new is not old]
        counts = self.accelerator.gather(torch.tensor([len(own)], device=rewards.device))
        count = int(counts.max())
        if count == 0:
            return rewards
        metrics = {name: list(values) for name, values in self._pending_metrics.items()}
        # every rank grades as many, since their rewards are gathered
        again, graded = self._score([changed[i] for i in own] + [changed[0]] * (count - len(own)))
        self._pending_metrics.clear()
        self._pending_metrics.update(metrics)  # of what the policy sampled
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
        columns = dict(self._pending_extra_logs)
        self._pending_extra_logs.clear()
        logged = [{name: values[i] for name, values in columns.items()} for i in range(len(samples))]
        return rewards, [replace(sample, logged=own) for sample, own in zip(samples, logged, strict=True)]

    def _task_rewards(self, rewards: Tensor) -> RewardSum:
        """Of (N, F) rewards the weighted sum without the overlong reward."""
        used = [i for i in range(rewards.size(1)) if i != self.overlong_reward]
        return reward_sum(rewards[:, used], self.reward_weights[used])

    # -- dynamic sampling --------------------------------------------------------------------------------------------

    def _fill(self, first: Draw) -> Draw:
        """Replace the groups whose rewards are all equal, until there is none or the budget is spent."""
        size, ranks = self.num_generations, self.accelerator.num_processes
        samples, rewards = list(first.samples), first.rewards.clone()
        own = range(self.accelerator.process_index * len(samples), (self.accelerator.process_index + 1) * len(samples))
        seen: set[str] | None = None
        counts: dict[str, int] = defaultdict(int)
        for _ in range(self.args.max_resample_times):
            empty = (~self._is_informative(rewards)).view(-1, size)[:, 0].nonzero()[:, 0].tolist()
            if not empty:
                break
            if seen is None:
                seen = {
                    prompt_key(prompt) for prompt in gather_object([sample.example["prompt"] for sample in samples])
                }
            groups = len(empty)
            while groups * size % ranks:  # every rank draws as many
                groups += 1
            rows = [example for example in self.fresh_prompts.take(groups, seen) for _ in range(size)]
            local = len(rows) // ranks
            drawn = self._draw_beyond(rows[self.accelerator.process_index * local :][:local])
            everyones: list[Sample] = gather_object(drawn.samples)
            found = self._is_informative(drawn.rewards).view(-1, size)[:, 0].nonzero()[:, 0].tolist()
            for group, fresh in zip(empty, found, strict=False):
                rewards[group * size : (group + 1) * size] = drawn.rewards[fresh * size : (fresh + 1) * size]
                for member in range(size):
                    if (row := group * size + member) in own:
                        samples[row - own.start] = everyones[fresh * size + member]
            counts["rounds"] += 1
            counts["extra_groups"] += groups
            counts["unused_groups"] += max(0, len(found) - len(empty))
        counts["missing_groups"] = int((~self._is_informative(rewards)).sum()) // size
        for name in ("rounds", "extra_groups", "unused_groups", "missing_groups"):
            self._metrics["train"][f"dynamic_sampling/{name}"].append(counts[name])
        return Draw(samples, first.policy_rewards, rewards)

    def _is_informative(self, rewards: Tensor) -> Tensor:
        """(N, F) -> (N,): whether a sample's group has different rewards, the overlong one aside."""
        total, rounding = self._task_rewards(rewards)
        return has_variance(total, torch.arange(len(rewards)) // self.num_generations, rounding)

    def _draw_beyond(self, inputs: list[dict[str, Any]]) -> Draw:
        """A draw that leaves TRL's and the reward functions' metrics as they are."""
        kept = [
            (metrics, {k: list(v) for k, v in metrics.items()})
            for metrics in (self._metrics["train"], self._pending_metrics)
        ]
        drawn = self._draw(inputs)
        for metrics, before in kept:
            metrics.clear()
            metrics.update(before)
        return drawn

    def _log_rewards(self, rewards: Tensor) -> None:
        """TRL's metrics of the rewards, of what the policy drew for the batch's own prompts."""
        metrics, (total, rounding) = self._metrics["train"], reward_sum(rewards, self.reward_weights)
        columns = {f"rewards/{name}": rewards[:, i] for i, name in enumerate(self.reward_func_names)}
        for name, values in columns.items():
            metrics[f"{name}/mean"][-1], metrics[f"{name}/std"][-1] = values.nanmean().item(), nanstd(values).item()
        metrics["reward"][-1], metrics["reward_std"][-1] = total.nanmean().item(), nanstd(total).item()
        differs = has_variance(total, torch.arange(len(total)) // self.num_generations, rounding)
        metrics["frac_reward_zero_std"][-1] = 1 - differs.double().mean().item()

    # -- selection ---------------------------------------------------------------------------------------------------

    def _select(self, output: dict[str, Any]) -> None:
        """Mark the rows that take part, and take the others out of the loss, its normaliser and the advantages."""
        rewards = self._rewards_per_func
        ids = torch.arange(len(rewards)) // self.num_generations
        task_rewards, task_rounding = self._task_rewards(rewards)
        is_kept = self.rollouts.is_kept(task_rewards, ids, task_rounding)
        advantages = self.accelerator.gather(output["advantages"])
        is_selected = self.rollouts.selection is not None and self.rollouts.selection.baseline == "selected"
        if is_selected or (self.scale_rewards == "batch" and self.rollouts.filters_equal_groups):
            # TRL's mean and std are over rows that take no part, too
            counted = is_kept if is_selected else has_variance(task_rewards, ids, task_rounding)
            total, rounding = reward_sum(rewards, self.reward_weights)
            anew = group_advantages(total[counted], ids[counted], self.scale_rewards, rounding=rounding[counted])
            advantages = advantages.masked_scatter(counted.to(advantages.device), anew.to(advantages))
        advantages = torch.where(is_kept.to(advantages.device), advantages, 0.0)
        self._logs["advantages"].extend(advantages.tolist())  # in place of TRL's: it keeps as many as a batch has
        local = len(output["advantages"])
        own = slice(self.accelerator.process_index * local, (self.accelerator.process_index + 1) * local)
        output["advantages"] = advantages[own]
        output["is_kept"] = is_kept[own].to(advantages.device)
        # of TRL's two masks the one that the loss alone reads, not attention
        in_loss = output["is_kept"][:, None].to(output["completion_mask"])
        output["tool_mask"] = output.get("tool_mask", torch.ones_like(output["completion_mask"])) * in_loss
        tokens = (output["completion_mask"] * output["tool_mask"]).sum()
        output["num_items_in_batch"] = self.accelerator.gather(tokens).sum()
        self._metrics["train"]["selected_share"].append(is_kept.double().mean().item())

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save and self.rollouts.dynamic_sampling:
            with open(os.path.join(output_dir, ROLLOUT_STATE_FILE), "w") as file:
                json.dump({"fresh_prompts": self.fresh_prompts.state_dict()}, file)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self.rollouts.dynamic_sampling:
            return
        if self.args.resume_without_optimizer and not os.path.exists(os.path.join(checkpoint, ROLLOUT_STATE_FILE)):
            return
        state = read_state(
            checkpoint, ROLLOUT_STATE_FILE, "was written without dynamic sampling, or for its model only"
        )
        self.fresh_prompts.load_state_dict(state["fresh_prompts"])
