"""Engines that sample completions: `model.generate` or the fast sampler here, vLLM in `vllm.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lambda_grpo.errors import UserError, warn_once
from lambda_grpo.fast.positions import correct_positions
from lambda_grpo.fast.sampler import FastSampler, UnsupportedError


@dataclass(frozen=True)
class Sampling:
    """All sampling parameters: none is taken from the model's own generation config.

    A temperature of 0 means greedy decoding; the defaults leave the model's distribution unchanged.
    """

    max_completion_length: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def generation_config(self, eos_token_id: int | list[int], pad_token_id: int) -> GenerationConfig:
        """The same parameters for transformers."""
        settings: dict[str, Any] = {"do_sample": False}
        if self.temperature > 0:
            settings = {
                "do_sample": True,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "top_k": self.top_k,
                "min_p": self.min_p,
            }
        return GenerationConfig(
            max_new_tokens=self.max_completion_length,
            repetition_penalty=self.repetition_penalty,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            **settings,
        )


@dataclass(frozen=True)
class Completion:
    """A sampled completion.

    Attributes:
        length: in tokens, including the end-of-sequence token.
        ended: whether it ended by itself, rather than being truncated at the limit.
    """

    text: str
    length: int
    ended: bool


class Engine(Protocol):
    """Samples completions.

    Attributes:
        context: the model's context length (prompt and completion) in tokens; None if it isn't known.
    """

    tokenizer: Any
    context: int | None

    def sample(
        self, prompts: list[list[int]], sampling: Sampling, *, seed: int, stops: tuple[str, ...]
    ) -> list[Completion]:
        """One completion for each prompt; for several completions of a prompt, pass it several times.

        Args:
            prompts: token ids.
            seed: of the random numbers.
            stops: stop strings; an engine may ignore them and generate beyond.
        """
        ...


class LocalEngine:
    """A model in this process: the fast sampler, or `model.generate`.

    Args:
        kind: "fast", "transformers", or "auto": the fast sampler on a CPU if it supports the model, otherwise
            transformers, with one warning that says what isn't supported.

    Raises:
        UserError: the model's log-probabilities depend on the padding of a batch.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: str = "auto"):
        correct_positions(model)  # generate pads, too
        self.model, self.tokenizer, self.kind = model, tokenizer, kind
        self.context: int | None = getattr(model.config, "max_position_embeddings", None)

    def sample(
        self, prompts: list[list[int]], sampling: Sampling, *, seed: int, stops: tuple[str, ...]
    ) -> list[Completion]:
        """See `Engine.sample`. The caller's random state and the model's training mode are left unchanged."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
                torch.manual_seed(seed)
                sampled = self._sample(prompts, sampling)
        finally:
            self.model.train(was_training)
        return [
            Completion(self.tokenizer.decode(ids, skip_special_tokens=True), len(ids), ended) for ids, ended in sampled
        ]

    @torch.no_grad()
    def _sample(self, prompts: list[list[int]], sampling: Sampling) -> list[tuple[list[int], bool]]:
        """For each prompt, the token ids up to and including the end-of-sequence token, and whether there was one."""
        model, tokenizer = self.model, self.tokenizer
        own = model.generation_config
        config = sampling.generation_config(own.eos_token_id or tokenizer.eos_token_id, tokenizer.pad_token_id)
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        if self.kind == "fast" or (self.kind == "auto" and model.device.type == "cpu"):  # not measured on a GPU
            try:
                return [(ids, ids[-1] in ends) for ids in FastSampler(config)(model, prompts).ids]
            except UnsupportedError as error:
                if self.kind == "fast":
                    raise UserError(f"the fast sampler doesn't support {error}: use --engine transformers") from error
                warn_once(f"the fast sampler doesn't support {error}. Evaluation uses model.generate instead")
        inputs = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
        # generate fills unset values from the model's own generation config, which PEFT takes from the base model
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        base.generation_config = config
        try:
            output = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        finally:
            base.generation_config = own
        sampled = []
        for ids in output[:, inputs["input_ids"].size(1) :].tolist():
            end = next((t for t, token in enumerate(ids) if token in ends), None)
            sampled.append((ids, False) if end is None else (ids[: end + 1], True))
        return sampled
