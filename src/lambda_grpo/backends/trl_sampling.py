"""The fast sampler behind TRL's narrow generation hook."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from trl.models.utils import unwrap_model_for_generation

from lambda_grpo.backends.trl_packing import PackingTrainer
from lambda_grpo.rollout import FastSampler, UnsupportedError


class SamplingTrainer(PackingTrainer):
    """`trl.GRPOTrainer` that samples by `FastSampler` on a CPU, where `args.sampler` is "fast".

    vLLM and continuous batching are chosen by TRL's own settings and go before it. A model or a setting that the
    sampler doesn't know goes to TRL's generation, which is said once. So does a GPU, silently: there the sampler hasn't
    been measured.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._fast_sampler: FastSampler | None = None
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
                    return self._fast_sampler(model, prompt_ids).ids, None
            except UnsupportedError as error:
                self._fall_back(error)
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, has_tool_images)
