"""Gathers the input of stage 1 over all ranks, since a group may straddle them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from lambda_grpo.objective.batch import GeneratedBatch


def gather_batch(
    accelerator: Any,
    output: dict[str, Any],
    token_mask: list[list[int]],
    group_size: int,
    needs: Collection[str],
    entropies: Callable[[Tensor, Tensor, int], Tensor],
) -> GeneratedBatch:
    """A generated batch of all ranks' samples.

    Args:
        output: TRL's, of this rank; `is_kept` is taken out of it.
        token_mask: of this rank's samples, 1 for tokens that the policy generated, before truncation masking.
        group_size: samples of a group, which are adjacent.
        needs: what the objective needs beside lengths and advantages.
        entropies: (B, P + T) ids and attention mask, T -> (B, T) entropies of the policy that sampled.
    """
    advantages = output["advantages"].float()
    is_kept = output.pop("is_kept", torch.ones_like(advantages))
    lengths = torch.tensor([sum(mask) for mask in token_mask], device=advantages.device).float()
    columns = accelerator.gather(torch.stack([lengths, advantages, is_kept.float()], 1)).cpu()
    tokens = {}
    if {"entropies", "completion_ids"}.intersection(needs):
        width = output["completion_ids"].size(1)
        tokens["token_mask"] = torch.tensor([[*mask, *[0] * (width - len(mask))] for mask in token_mask])
    if "completion_ids" in needs:
        tokens["completion_ids"] = output["completion_ids"]
    if "entropies" in needs:
        tokens["entropies"] = _entropies(output, token_mask, entropies)
    return GeneratedBatch(
        columns[:, 0],
        torch.arange(len(columns)) // group_size,
        columns[:, 1],
        columns[:, 2].bool(),
        **{name: _gather_tokens(accelerator, value) for name, value in tokens.items()},
    )


def _entropies(
    output: dict[str, Any], token_mask: list[list[int]], compute: Callable[[Tensor, Tensor, int], Tensor]
) -> Tensor:
    """(B, T) entropies, also of masked truncated completions; the sampler's own if it knows all of them."""
    known = output.get("known_entropies")
    if known is not None and not known.isnan().any():
        return known
    ids = output["completion_ids"]
    lengths = torch.tensor([len(mask) for mask in token_mask], device=ids.device)
    mask = torch.arange(ids.size(1), device=ids.device) < lengths[:, None]
    attention_mask = torch.cat([output["prompt_mask"], mask.to(output["prompt_mask"])], 1)
    return compute(torch.cat([output["prompt_ids"], ids], 1), attention_mask, ids.size(1))


def _gather_tokens(accelerator: Any, values: Tensor) -> Tensor:
    """(B, T) of this rank -> (N, T) of all."""
    values = accelerator.pad_across_processes(values.to(accelerator.device), dim=1)
    return accelerator.gather(values).cpu()
