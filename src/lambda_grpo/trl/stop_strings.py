"""Stop strings in TRL, which itself only supports end-of-sequence tokens.

With every sampling engine a completion ends with the token that completes a stop string, and counts as terminated: in
TRL's metrics, and for `mask_truncated_completions`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lambda_grpo.fast.sampler import StopAtStrings, StopStrings


class StopStringEnds:
    """Ends completions at stop strings, and counts them as terminated.

    Args:
        stops: the stop strings.
        end_ids: tokens that also end a completion: end-of-sequence and padding.
    """

    def __init__(self, accelerator: Any, stops: StopStrings, end_ids: set[int]):
        self.accelerator, self.stops, self.end_ids = accelerator, stops, end_ids

    @contextmanager
    def stopping(self, model: Any) -> Iterator[None]:
        """Make `model.generate` end at stop strings: TRL passes it neither a tokenizer nor a criterion."""
        generate = model.generate

        def generate_to_stops(*, input_ids: Tensor, **settings: Any) -> Any:
            criterion = StopAtStrings(self.stops, input_ids.size(1))
            return generate(input_ids=input_ids, stopping_criteria=[criterion], **settings)

        model.generate = generate_to_stops
        try:
            yield
        finally:
            del model.generate

    def truncate(self, completions: list[list[int]]) -> list[list[int]]:
        """Completions without the padding after a stop string."""
        return self.stops.truncate(completions)

    def log(
        self, metrics: dict[str, list[float]], completions: list[list[int]], tool_masks: list[list[int]] | None
    ) -> None:
        """Count completions that stop strings ended as terminated, in TRL's metrics of a generation."""
        lengths = [sum(mask) for mask in tool_masks] if tool_masks is not None else [len(ids) for ids in completions]
        is_truncated = self.accelerator.gather(self._is_truncated(completions))
        ended = self.accelerator.gather(torch.tensor(lengths, device=is_truncated.device))[~is_truncated].float()
        ended = ended if len(ended) > 0 else ended.new_zeros(1)  # as TRL has it
        metrics["completions/clipped_ratio"][-1] = is_truncated.float().mean().item()
        for name, value in (("mean", ended.mean()), ("min", ended.min()), ("max", ended.max())):
            metrics[f"completions/{name}_terminated_length"][-1] = value.item()

    def mask_truncated(self, output: dict[str, Any]) -> None:
        """Mask truncated completions in TRL's output; TRL itself would only check for end-of-sequence tokens."""
        mask = output["completion_mask"]
        samples = zip(output["completion_ids"].tolist(), mask.sum(1).tolist(), strict=True)
        is_kept = (~self._is_truncated([ids[:length] for ids, length in samples]))[:, None].to(mask)
        for name in {"completion_mask", "tool_mask"}.intersection(output):
            output[name] = output[name] * is_kept
        in_loss = output["completion_mask"] * output.get("tool_mask", 1)
        output["num_items_in_batch"] = self.accelerator.gather(in_loss.sum()).sum()

    def _is_truncated(self, completions: list[list[int]]) -> Tensor:
        """(B,) whether neither a token nor a stop string has ended each completion."""
        found = [
            ids[-1] not in self.end_ids and not has_stopped
            for ids, has_stopped in zip(completions, self.stops.ended(completions), strict=True)
        ]
        return torch.tensor(found, device=self.accelerator.device)
