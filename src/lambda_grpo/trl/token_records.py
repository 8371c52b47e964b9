"""What a training pass computes for single tokens, recorded for some groups of each generated batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from lambda_grpo.objective import Objective
from lambda_grpo.objective.batch import GeneratedBatch
from lambda_grpo.objective.surrogates import SurrogateInputs
from lambda_grpo.trl.fold import loss_mask
from lambda_grpo.trl.token_texts import TokenTexts


class TokenRecords:
    """Token texts, log-probabilities, entropies and clipping, taken from the training pass without another one.

    Args:
        accelerator: of the trainer.
        tokenizer: of the policy.
        objective: whose surrogate says which tokens are clipped.
        weights: returns the (N,) or (N, T) f of a generated batch.
        limit: most tokens that are recorded of a generated batch.
    """

    def __init__(
        self,
        accelerator: Any,
        tokenizer: Any,
        objective: Objective,
        weights: Callable[[GeneratedBatch], Tensor],
        limit: int,
    ):
        self.accelerator, self.objective, self.limit = accelerator, objective, limit
        self._texts, self._weights = TokenTexts(tokenizer), weights
        self._batch: GeneratedBatch | None = None
        self._chosen: set[int] = set()
        self._is_seen: set[int] = set()
        self._values: dict[int, dict[str, Any]] = {}  # of this rank since the last `collect`, by sample
        self.has_values = False  # on all ranks, also where none of the samples is this rank's

    @property
    def names(self) -> tuple[str, ...]:
        """The recorded columns."""
        weights = ("token_weights",) if self.objective.preference.per_token else ()
        return ("tokens", "logprobs", "entropies", "clipped", *weights)

    @property
    def batch_size(self) -> int:
        """Samples of the generated batch that was observed last, over all ranks."""
        return 0 if self._batch is None else len(self._batch.lengths)

    @torch.no_grad()
    def observe(self, batch: GeneratedBatch, inputs: dict[str, Any], logps: Tensor, entropies: Tensor) -> None:
        """Take the values of a micro-batch from its training pass.

        Args:
            batch: the generated batch that it belongs to.
            inputs: a micro-batch of TRL, with `sample_index`.
            logps: (B, T) of the policy before its update.
            entropies: (B, T) likewise.
        """
        self.has_values = True
        if batch is not self._batch:
            self._batch, self._chosen, self._is_seen = batch, chosen_samples(batch, self.limit), set()
        has_loss = loss_mask(inputs).any(1).tolist()
        indices = enumerate(inputs["sample_index"].tolist())
        rows = {row: index for row, index in indices if index in self._chosen and has_loss[row]}
        if not rows:
            return
        taken = torch.tensor(list(rows), device=logps.device)

        def own(values: Tensor) -> Tensor:
            return values[taken].cpu()

        mask, logps, entropies = own(loss_mask(inputs)).bool(), own(logps).float(), own(entropies).float()
        old = own(inputs["old_per_token_logps"]).float() if "old_per_token_logps" in inputs else None
        if "known_entropies" in inputs:  # the sampler's
            known = own(inputs["known_entropies"])
            entropies = torch.where(known.isnan(), entropies, known)
        columns = {
            "logprobs": logps if old is None else old,
            "entropies": entropies,
            "clipped": self._is_clipped(logps, old, own(inputs["advantages"]), mask),
        }
        if self.objective.preference.per_token:
            columns["token_weights"] = self._weights(batch)[list(rows.values()), : mask.size(1)].float()
        ends = mask.sum(1).cumsum(0)[:-1]
        samples = {name: np.split(column[mask].numpy(), ends) for name, column in columns.items()}
        ids, is_there = own(inputs["completion_ids"]).numpy(), own(inputs["completion_mask"]).bool().numpy()
        for place, index in enumerate(rows.values()):
            values = self._values.setdefault(index, {})
            values["clipped"] = samples["clipped"][place]
            if index not in self._is_seen:  # later the policy isn't the one that generated
                values |= {name: of_samples[place] for name, of_samples in samples.items()}
                texts = self._texts(ids[place][is_there[place]].tolist())
                is_own = mask[place].numpy()[is_there[place]]  # a tool's tokens aren't the policy's
                values["tokens"] = texts if is_own.all() else list(compress(texts, is_own))
                self._is_seen.add(index)

    def collect(self) -> dict[int, dict[str, Any]]:
        """The values since the last call by sample and column, of all ranks, which call it together.

        `clipped` is that of the last update; the other columns come with the first update of a sample.
        """
        own, self._values, self.has_values = self._values, {}, False
        return {index: values for rank in gather_object([own]) for index, values in rank.items()}

    def _is_clipped(self, logps: Tensor, old: Tensor | None, advantages: Tensor, mask: Tensor) -> Tensor:
        """(B, T) whether the surrogate is clipped; never on policy, where every ratio is 1."""
        if old is None:
            return torch.zeros_like(mask)
        zero = torch.zeros(())
        ratio, logps = torch.where(mask, logps - old, zero), torch.where(mask, logps, zero)
        _, is_clipped = self.objective.surrogate(SurrogateInputs(logps, ratio, advantages[:, None].float(), mask))
        return is_clipped.expand_as(mask)


def token_records(
    trainer: Any, objective: Objective, weights: Callable[[GeneratedBatch], Tensor], limit: int
) -> TokenRecords | None:
    """The records of the tokens of a trainer of TRL's; None where `limit` is 0, so that none are recorded."""
    if limit == 0:
        return None
    return TokenRecords(trainer.accelerator, trainer._tokenizer, objective, weights, limit)


def chosen_samples(batch: GeneratedBatch, limit: int) -> set[int]:
    """The samples whose tokens are recorded: of whole groups, those that teach most first, at most `limit` tokens.

    Groups with mixed rewards come first, then those with more different lengths. A group that no longer fits is left
    out. Samples without loss aren't counted.
    """
    groups: dict[int, list[int]] = {}
    for index in batch.is_kept.nonzero()[:, 0].tolist():
        groups.setdefault(int(batch.group_ids[index]), []).append(index)
    lengths, advantages = batch.lengths.tolist(), batch.advantages.tolist()

    def variety(group: list[int]) -> tuple[int, int]:
        return len({advantages[index] for index in group}), len({lengths[index] for index in group})

    chosen: set[int] = set()
    for group in sorted(groups.values(), key=variety, reverse=True):
        count = sum(int(lengths[index]) for index in group)
        if count <= limit:
            chosen.update(group)
            limit -= count
    return chosen
