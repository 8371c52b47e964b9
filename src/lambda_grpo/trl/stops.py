"""Stop strings in TRL, which knows end-of-sequence tokens alone.

What is sampled ends with the token that completes a stop string, whichever engine samples it, and counts as ended: in
TRL's metrics, and for `mask_truncated_completions`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lambda_grpo.fast.sampler import StopAtStrings, StopStrings
from lambda_grpo.trl.packing import PackingTrainer


class StopTrainer(PackingTrainer):
    """`trl.GRPOTrainer` with `args.stops()`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.mask_truncated_completions: bool
        strings = self.args.stops()
        self.stops = StopStrings(strings, self._tokenizer) if strings else None

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        if self.stops is None or self.use_vllm:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        with _stopping(self.accelerator.unwrap_model(self.model_wrapped), self.stops):
            completions, logprobs = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        return self.stops.truncate(completions), logprobs  # what follows is padding

    def _is_truncated(self, completions: list[list[int]]) -> Tensor:
        """(B,) whether neither a token nor a stop string has ended each completion."""
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        assert self.stops is not None
        found = [
            ids[-1] not in ends and not has_stopped
            for ids, has_stopped in zip(completions, self.stops.ended(completions), strict=True)
        ]
        return torch.tensor(found, device=self.accelerator.device)

    def _generate(self, prompts: list[Any]) -> Any:
        output = super()._generate(prompts)
        if self.stops is not None:
            self._count_stopped(*output[1:3])
        return output

    def _count_stopped(self, completions: list[list[int]], tool_masks: list[list[int]] | None) -> None:
        """TRL's metrics of completions that have ended, with those that stop strings ended."""
        lengths = [sum(mask) for mask in tool_masks] if tool_masks is not None else [len(ids) for ids in completions]
        metrics = self._metrics["train" if self.model.training else "eval"]
        is_truncated = self.accelerator.gather(self._is_truncated(completions))
        ended = self.accelerator.gather(torch.tensor(lengths, device=is_truncated.device))[~is_truncated].float()
        ended = ended if len(ended) > 0 else ended.new_zeros(1)  # as TRL has it
        metrics["completions/clipped_ratio"][-1] = is_truncated.float().mean().item()
        for name, value in (("mean", ended.mean()), ("min", ended.min()), ("max", ended.max())):
            metrics[f"completions/{name}_terminated_length"][-1] = value.item()

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        masks_truncated = self.mask_truncated_completions
        self.mask_truncated_completions = masks_truncated and self.stops is None
        try:
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        finally:
            self.mask_truncated_completions = masks_truncated
        if masks_truncated and self.stops is not None:
            self._mask_truncated(output)
        return output

    def _mask_truncated(self, output: dict[str, Any]) -> None:
        """As TRL does it by end-of-sequence tokens alone."""
        mask = output["completion_mask"]
        rows = zip(output["completion_ids"].tolist(), mask.sum(1).tolist(), strict=True)
        is_kept = (~self._is_truncated([ids[:length] for ids, length in rows]))[:, None].to(mask)
        for name in {"completion_mask", "tool_mask"}.intersection(output):
            output[name] = output[name] * is_kept
        in_loss = output["completion_mask"] * output.get("tool_mask", 1)
        output["num_items_in_batch"] = self.accelerator.gather(in_loss.sum()).sum()


@contextmanager
def _stopping(model: Any, stops: StopStrings) -> Iterator[None]:
    """Let `model.generate` end at stop strings: TRL gives it neither a tokenizer nor a criterion."""
    generate = model.generate

    def generate_to_stops(*, input_ids: Tensor, **settings: Any) -> Any:
        criterion = StopAtStrings(stops, input_ids.size(1))
        return generate(input_ids=input_ids, stopping_criteria=[criterion], **settings)

    model.generate = generate_to_stops
    try:
        yield
    finally:
        del model.generate
