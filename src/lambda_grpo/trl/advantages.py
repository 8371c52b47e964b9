"""Corrections of TRL's advantages: exactly 0 in groups of equal rewards, and 0 for samples that are filtered out."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lambda_grpo.objective import group_advantages
from lambda_grpo.objective.groups import has_variance
from lambda_grpo.objective.rollout_spec import RolloutSpec
from lambda_grpo.trl.rewards import RewardTable, reward_sum


class EqualGroups(NamedTuple):
    """Corrections of the advantages that TRL computed from a batch's rewards.

    differs: (N,) whether a response's group has differing rewards. If not, its advantage is 0.
    advantages: (N,) replacements of TRL's; None if TRL's are right.
    """

    differs: Tensor
    advantages: Tensor | None = None


def equal_groups(rewards: Tensor, weights: Tensor, group_size: int, aggregation: str) -> EqualGroups:
    """The groups of equal rewards, where rounding of a group's mean may leave advantages other than 0 in TRL.

    With "normalize_then_sum" a reward function whose rewards are equal in some group adds that rounding error, divided
    by 1e-4, to the sum over functions; for such a batch the advantages are recomputed.

    Args:
        rewards: (N, F) by function, in float32.
        weights: (F,).
        group_size: the samples of a group, which are adjacent.
        aggregation: TRL's `multi_objective_aggregation`.
    """
    ids = torch.arange(len(rewards)) // group_size
    if aggregation == "sum_then_normalize":
        total, rounding = reward_sum(rewards, weights)
        return EqualGroups(has_variance(total, ids, rounding))
    grouped = rewards.view(-1, group_size, rewards.size(1))
    residue = (grouped - torch.nanmean(grouped, dim=1, keepdim=True)).view_as(rewards).cpu()  # as TRL takes it
    columns = rewards.cpu().unbind(1)
    differs = torch.stack([has_variance(column, ids) for column in columns], 1)
    normalised = torch.stack([group_advantages(column, ids) for column in columns], 1)
    normalised = normalised.masked_fill(rewards.cpu().isnan(), torch.nan)
    total, rounding = reward_sum(normalised, weights)
    has_residue = bool((~differs & (residue.nan_to_num() != 0)).any())
    recomputed = group_advantages(total.float(), torch.zeros_like(ids)) if has_residue else None  # one group: the batch
    return EqualGroups(has_variance(total, ids, rounding), recomputed)


class Advantages:
    """Advantages in TRL's output, and which samples are kept.

    Args:
        table: how rewards add up.
        spec: which samples are kept.
        scale: TRL's `scale_rewards`.
        aggregation: TRL's `multi_objective_aggregation`.
    """

    def __init__(self, accelerator: Any, table: RewardTable, spec: RolloutSpec, *, scale: str, aggregation: str):
        self.accelerator, self.table, self.spec = accelerator, table, spec
        self.scale, self.aggregation = scale, aggregation

    def set_equal_groups_to_zero(
        self,
        output: dict[str, Any],
        rewards: Tensor,
        group_size: int,
        metrics: dict[str, list[float]],
        log: deque[float],
    ) -> None:
        """Set the advantages of groups with equal rewards to exactly 0.

        For most values TRL's float32 mean of equal rewards has a rounding error. Divided by a standard deviation that
        is only ε, it leaves advantages of some 1e-4, which an optimiser like Adam turns into full steps.
        `frac_reward_zero_std` is the share of these groups, whatever the advantages are divided by.

        Args:
            output: TRL's, of this rank.
            rewards: (N, F) of all ranks.
            group_size: samples of a group.
            metrics: TRL's.
            log: TRL's table of advantages, of all ranks and no longer than a training batch.
        """
        found = equal_groups(rewards, self.table.weights, group_size, self.aggregation)
        metrics["frac_reward_zero_std"][-1] = 1 - found.differs.double().mean().item()
        advantages, own = output["advantages"], self._own(output)
        if found.advantages is not None:
            advantages = found.advantages[own].to(advantages)
        output["advantages"] = advantages.masked_fill(~found.differs[own].to(advantages.device), 0.0)
        logged = [log.pop() for _ in range(min(len(log), len(found.differs)))][::-1]
        whole = logged if found.advantages is None else found.advantages.tolist()[-len(logged) :]
        log.extend(
            value if differs else 0.0 for value, differs in zip(whole, found.differs[-len(logged) :], strict=True)
        )

    def keep_selected(
        self,
        output: dict[str, Any],
        rewards: Tensor,
        group_size: int,
        metrics: dict[str, list[float]],
        log: deque[float],
    ) -> None:
        """Mark the samples that are kept, and exclude the others from the loss, its normaliser and the advantages.

        The arguments are those of `set_equal_groups_to_zero`.
        """
        ids = torch.arange(len(rewards)) // group_size
        task_rewards, task_rounding = self.table.task_sum(rewards)
        is_kept = self.spec.is_kept(task_rewards, ids, task_rounding)
        advantages = self.accelerator.gather(output["advantages"])
        is_selected = self.spec.selection is not None and self.spec.selection.baseline == "selected"
        if is_selected or (self.scale == "batch" and self.spec.filters_equal_groups):
            # TRL's mean and std are over the filtered-out samples, too
            counted = is_kept if is_selected else has_variance(task_rewards, ids, task_rounding)
            total, rounding = self.table.sum(rewards)
            recomputed = group_advantages(total[counted], ids[counted], self.scale, rounding=rounding[counted])
            advantages = advantages.masked_scatter(counted.to(advantages.device), recomputed.to(advantages))
        advantages = torch.where(is_kept.to(advantages.device), advantages, 0.0)
        log.extend(advantages.tolist())  # in place of TRL's: it keeps as many as a batch has
        own = self._own(output)
        output["advantages"] = advantages[own]
        output["is_kept"] = is_kept[own].to(advantages.device)
        # of TRL's two masks the one that the loss alone reads, not attention
        in_loss = output["is_kept"][:, None].to(output["completion_mask"])
        output["tool_mask"] = output.get("tool_mask", torch.ones_like(output["completion_mask"])) * in_loss
        tokens = (output["completion_mask"] * output["tool_mask"]).sum()
        output["num_items_in_batch"] = self.accelerator.gather(tokens).sum()
        metrics["selected_share"].append(is_kept.double().mean().item())

    def _own(self, output: dict[str, Any]) -> slice:
        """This rank's samples among those of all."""
        local = len(output["advantages"])
        return slice(self.accelerator.process_index * local, (self.accelerator.process_index + 1) * local)
