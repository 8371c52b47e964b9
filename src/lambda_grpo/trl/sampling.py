"""The fast sampler behind TRL's narrow generation hook."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor
from trl.models.utils import unwrap_model_for_generation

from lambda_grpo.fast.sampler import FastSampler, SampledCompletions, UnsupportedError
from lambda_grpo.trl.stops import StopTrainer


class SamplingTrainer(StopTrainer):
    """`trl.GRPOTrainer` that samples by `FastSampler` on a CPU, where `args.sampler` is "fast".

    vLLM and continuous batching are chosen by TRL's own settings and go before it. A model or a setting that the
    sampler doesn't know exactly goes to TRL's generation; one warning names it. So does a GPU, silently: there the
    sampler hasn't been measured.

    The sampler knows the log-probabilities and entropies of what it draws. They are taken where TRL computes old
    log-probabilities, and go with the batch as `known_logps` and `known_entropies`: (B, T), NaN in rows that were made
    in another way.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._awaits_old_logps = False
        # log-probabilities and entropies of this batch's samples, by (*prompt, -1, *completion)
        self._known: dict[tuple[int, ...], tuple[list[float], list[float]]] = {}
        is_elsewhere = (
            self.use_vllm or self.use_transformers_continuous_batching or self.accelerator.device.type != "cpu"
        )
        self._samples_fast = self.args.sampler == "fast" and not is_elsewhere
        if not self._samples_fast:
            return
        try:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise UnsupportedError("weights that are spread over processes (FSDP, DeepSpeed)")
            if self.args.cast_lm_head_to_fp32:
                raise UnsupportedError("cast_lm_head_to_fp32")
            self._make_sampler(self.accelerator.unwrap_model(self.model))
        except UnsupportedError as error:
            self._fall_back(error)

    def _fall_back(self, error: UnsupportedError) -> None:
        self._samples_fast = False
        if self.accelerator.is_main_process:
            warnings.warn(
                f"the fast sampler doesn't know {error}. TRL's generation takes its place (sampler: trl)", stacklevel=2
            )

    def _make_sampler(self, model: Any) -> FastSampler:
        """By TRL's settings and, where they leave one open, the model's own, as `generate` has them at this moment.

        Raises UnsupportedError, naming a setting that the sampler doesn't follow.
        """
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if model.generation_config is not base.generation_config:
            raise UnsupportedError("a generation_config of PEFT's model that isn't the one of the model in it")
        config = base._prepare_generation_config(self.generation_config)[0]
        ends = config.eos_token_id
        if set(ends if isinstance(ends, list) else [ends]) != set(self.eos_token_ids):
            raise UnsupportedError(f"eos_token_id = {ends} where TRL ends completions at {self.eos_token_ids}")
        return FastSampler(config, self.stops)

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> Any:
        if self._samples_fast and not multimodal_fields:
            sampled = self._sample(prompt_ids)
            if sampled is not None:
                return sampled.ids, None
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, has_tool_images)

    @torch.no_grad()
    def _sample(self, prompt_ids: list[list[int]]) -> SampledCompletions | None:
        """Completions by the fast sampler, their log-probabilities kept; None where it doesn't know the model."""
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            try:
                sampler = self._make_sampler(model)
                sampled = sampler(model, prompt_ids)
            except UnsupportedError as error:  # in here: TRL turns checkpointing on again only after a quiet end
                self._fall_back(error)
                return None
        # in mixed precision the loss would have other values of the same policy
        is_exact = self.accelerator.mixed_precision == "no" and model.dtype == torch.float32
        if is_exact and sampler.samples_full_distribution and sampler.temperature == self.temperature:
            known = zip(sampled.logprobs, sampled.entropies, strict=True)
            for prompt, ids, values in zip(prompt_ids, sampled.ids, known, strict=True):
                self._known[(*prompt, -1, *ids)] = values
        return sampled

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._awaits_old_logps = self._samples_are_old
        output = super()._generate_and_score_completions(inputs)
        if self._known:
            parts = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
            output["known_logps"], output["known_entropies"] = self._look_up(*(output[part] for part in parts))
        self._known = {}
        return output

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *rest: Any, **settings: Any
    ) -> Any:
        if self._awaits_old_logps:  # the first thing that TRL asks for after generation
            self._awaits_old_logps = False
            parts = [part for both in (input_ids, attention_mask) for part in _split(both, logits_to_keep)]
            logps, _ = self._look_up(parts[0], parts[2], parts[1], parts[3])
            if not logps.isnan().any():
                return logps, None, None
        arguments = (model, input_ids, attention_mask, logits_to_keep, *rest)
        return super()._get_per_token_logps_and_entropies(*arguments, **settings)

    def _look_up(
        self, prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, T) log-probabilities and entropies of padded rows, 0 behind their ends; NaN where they aren't known."""
        width = completion_ids.size(1)
        rows = zip(
            prompt_ids.tolist(), prompt_mask.sum(1).tolist(), completion_ids.tolist(), completion_mask.sum(1).tolist(),
            strict=True,
        )  # fmt: skip
        unknown = ([math.nan] * width,) * 2
        found = []
        for prompt, m, completion, n in rows:
            key = (*prompt[len(prompt) - m :], -1, *completion[:n])
            known = self._known.get(key, unknown) if n > 0 else ([], [])  # n = 0: masked whole, and never read
            found.append([[*values, *[0.0] * (width - len(values))] for values in known])
        logps, entropies = torch.tensor(found).unbind(1)
        return logps, entropies


def _split(rows: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    return rows[:, :-keep], rows[:, -keep:]
