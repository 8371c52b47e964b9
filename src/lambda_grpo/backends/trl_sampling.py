"""The fast sampler behind TRL's narrow generation hook."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from trl.models.utils import unwrap_model_for_generation

from lambda_grpo.backends.trl_packing import PackingTrainer
from lambda_grpo.rollout import FastSampler, UnsupportedError


class SamplingTrainer(PackingTrainer):
    """`trl.GRPOTrainer` that samples by `FastSampler` on a CPU, where `args.sampler` is "fast".

    vLLM and continuous batching are chosen by TRL's own settings and go before it. A model or a setting that the
    sampler doesn't know goes to TRL's generation, which is said once. So does a GPU, silently: there the sampler hasn't
    been measured.

    Where TRL computes the log-probabilities of samples under the policy that drew them, which are old when a generated
    batch makes several steps, those of the sampler are taken.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._fast_sampler: FastSampler | None = None
        self._known_logps: dict[tuple[int, ...], list[float]] = {}  # of this batch, by (*prompt, -1, *completion)
        # TRL's condition
        generate_every = self.args.steps_per_generation * self.num_iterations
        self._needs_old_logps = self.args.gradient_accumulation_steps % generate_every != 0
        is_elsewhere = (
            self.use_vllm or self.use_transformers_continuous_batching or self.accelerator.device.type != "cpu"
        )
        if self.args.sampler == "trl" or is_elsewhere:
            return
        try:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise UnsupportedError("weights that are spread over processes (FSDP, DeepSpeed)")
            self._fast_sampler = FastSampler(self.generation_config)
        except UnsupportedError as error:
            self._fall_back(error)

    def _fall_back(self, error: UnsupportedError) -> None:
        self._fast_sampler = None
        if self.accelerator.is_main_process:
            warnings.warn(
                f"the fast sampler doesn't know {error}. TRL's generation takes its place (sampler: trl)", stacklevel=2
            )

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> Any:
        if self._fast_sampler is not None and not multimodal_fields:
            try:
                with (
                    unwrap_model_for_generation(
                        self.model_wrapped,
                        self.accelerator,
                        gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
                    ) as model,
                    torch.no_grad(),
                ):
                    sampled = self._fast_sampler(model, prompt_ids)
                if self._needs_old_logps and self._fast_sampler.keeps_distribution:
                    rows = zip(prompt_ids, sampled.ids, sampled.logprobs, strict=True)
                    self._known_logps.update({(*prompt, -1, *ids): logps for prompt, ids, logps in rows})
                return sampled.ids, None
            except UnsupportedError as error:
                self._fall_back(error)
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, has_tool_images)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self._known_logps = {}

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *rest: Any, **settings: Any
    ) -> Any:
        known, self._known_logps = self._known_logps, {}  # the policy's are TRL's first call after generation
        if known:
            logps = torch.zeros(len(input_ids), logits_to_keep)
            for row, ids, mask in zip(logps, input_ids, attention_mask.bool(), strict=True):
                prompt, completion = (
                    part[where].tolist()
                    for part, where in zip(
                        (ids[:-logits_to_keep], ids[-logits_to_keep:]),
                        (mask[:-logits_to_keep], mask[-logits_to_keep:]),
                        strict=True,
                    )
                )
                found = known.get((*prompt, -1, *completion))
                if found is None:  # text that wasn't sampled is in it
                    break
                row[: len(found)] = torch.tensor(found)
            else:
                return logps, None, None
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *rest, **settings
        )
