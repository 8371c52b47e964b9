"""Sampling a batch of completions: the loop over tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lambda_grpo.fast.architectures import UnsupportedError
from lambda_grpo.fast.sampler.decoder import Decoder
from lambda_grpo.fast.sampler.native_step import NativeStep
from lambda_grpo.fast.sampler.stop_strings import StopStrings
from lambda_grpo.fast.sampler.token_sampling import is_native_available, sample_tokens
from lambda_grpo.fast.sampler.torch_step import TorchStep

# Supported settings of a GenerationConfig, and the values of others that change nothing. Anything else is refused.
SUPPORTED = {
    "do_sample", "temperature", "top_k", "top_p", "min_p", "max_new_tokens", "eos_token_id",
    # without effect on what is sampled here
    "pad_token_id", "bos_token_id", "decoder_start_token_id", "use_cache", "max_length", "max_cache_len",
    "disable_compile", "compile_config", "prefill_chunk_size", "continuous_batching_config", "transformers_version",
    "trust_remote_code", "return_dict_in_generate", "output_scores", "output_logits", "output_attentions",
    "output_hidden_states",
    # only for assisted generation, whose second model isn't given here
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind",
    "target_lookbehind", "max_matching_ngram_size", "assistant_ensemble_weight",
}  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1.0,), "length_penalty": (1.0,), "num_beams": (1,), "num_return_sequences": (1,),
    "typical_p": (1.0,), "encoder_repetition_penalty": (1.0,), "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,), "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,), "min_length": (0,),
    "min_new_tokens": (0,), "num_beam_groups": (1,), "diversity_penalty": (0.0,), "guidance_scale": (1.0,),
    # only where keys and values are kept; "quantized" would change them
    "cache_implementation": ("dynamic", "static", "offloaded", "offloaded_static"),
}  # fmt: skip


@dataclass(frozen=True)
class SampledCompletions:
    """Completions in the order of their prompts.

    ids: token ids, including the token that ends the completion.
    logprobs: of each token under the distribution that it was sampled from, temperature and truncation included.
    entropies: of those distributions, in nats.
    """

    ids: list[list[int]]
    logprobs: list[list[float]]
    entropies: list[list[float]]


class FastSampler:
    """Samples from the same distribution as `model.generate`, with different random numbers.

    A prompt that occurs several times is read once, and its keys and values are shared. Finished sequences are dropped
    from the batch. A decoding step is native code on a CPU in float32, and PyTorch elsewhere or without a compiler.

    Args:
        config: temperature, top_k, top_p, min_p, max_new_tokens, eos_token_id (one or several) and do_sample. The
            model's own `generation_config` and transformers' default top_k = 50 are ignored.
        stops: stop strings that end a completion as well.

    Raises:
        UnsupportedError: another setting has a value that would change what is sampled.
    """

    def __init__(self, config: GenerationConfig, stops: StopStrings | None = None):
        check_settings(config)
        self.stops = stops
        self.max_new = int(config.max_new_tokens)
        eos = config.eos_token_id
        self.eos = torch.tensor([] if eos is None else [eos] if isinstance(eos, int) else eos, dtype=torch.long)
        self.greedy = not config.do_sample
        self.temperature = 1.0 if config.temperature is None else config.temperature
        self.warpers = LogitsProcessorList([] if self.greedy else _warpers(config))

    @property
    def samples_full_distribution(self) -> bool:
        """Whether any token can be sampled, so that log-probabilities are the model's own at this temperature."""
        return not self.greedy and all(isinstance(warper, TemperatureLogitsWarper) for warper in self.warpers)

    @torch.no_grad()
    def __call__(self, model: Any, prompt_ids: list[list[int]]) -> SampledCompletions:
        """Sample one completion for each prompt; repeat a prompt for several completions.

        Args:
            model: a Hugging Face causal model of a supported architecture, with or without LoRA. It stays in training
                or evaluation mode.

        Raises:
            UnsupportedError: the model or something in it, such as dropout while training, isn't supported.
            ValueError: a prompt is empty.
        """
        if not all(prompt_ids):
            raise ValueError("a prompt is empty: it needs at least one token")
        decoder = Decoder(model)
        indices: dict[tuple[int, ...], int] = {}
        prompt = torch.tensor([indices.setdefault(tuple(ids), len(indices)) for ids in prompt_ids])
        order = prompt.argsort(stable=True)  # sequences with the same prompt are adjacent
        device = decoder.device
        prompt_index = prompt[order].to(device)
        step = _step_class(decoder)(decoder, [list(ids) for ids in indices], prompt_index, self.max_new)
        *values, lengths = self._decode(step, step.prompt_logits[prompt_index])
        original_order = order.argsort()
        counts = lengths[original_order].tolist()
        return SampledCompletions(
            *([row[:n] for row, n in zip(padded[original_order].tolist(), counts, strict=True)] for padded in values)
        )

    def _decode(self, step: TorchStep | NativeStep, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(n, max_new) tokens, log-probabilities and entropies, and (n,) lengths, all on the CPU."""
        n, device = len(logits), logits.device
        is_end = torch.isin(torch.arange(logits.size(1), device=device), self.eos.to(device))
        sequences, is_done = torch.arange(n, device=device), torch.zeros(n, dtype=torch.bool, device=device)
        tail = sequences.new_empty(n, 0)  # the last tokens, which may complete a stop string
        history: list[tuple[Tensor, ...]] = []
        for t in range(self.max_new):
            if len(self.warpers) > 0:
                logits = self.warpers(None, logits)
            new, logprobs, entropies = sample_tokens(logits, self.greedy)
            is_done = is_done | is_end[new]
            if self.stops is not None:
                tail = torch.cat([tail, new[:, None]], 1)[:, -self.stops.window :]
                is_done = is_done | self.stops(tail)
            history.append((sequences, new, logprobs, entropies, is_done))
            done = int(is_done.sum())
            if done == len(sequences) or t == self.max_new - 1:
                break
            if done > step.drop_threshold * len(sequences):
                live = (~is_done).nonzero()[:, 0]
                step.keep(live)
                sequences, new, is_done, tail = sequences[live], new[live], is_done[live], tail[live]
            logits = step(new, t)
        counts = torch.tensor([len(sequences) for sequences, *_ in history])
        sequence, *values = (torch.cat(steps).cpu() for steps in zip(*history, strict=True))
        index = sequence, torch.arange(len(history)).repeat_interleave(counts)
        tokens, logprobs, entropies, ends = (
            torch.zeros(n, self.max_new, dtype=flat.dtype).index_put_(index, flat) for flat in values
        )
        return tokens, logprobs, entropies, torch.where(ends.any(1), ends.int().argmax(1) + 1, len(history))


def check_settings(config: GenerationConfig) -> None:
    """Raise UnsupportedError if a setting isn't supported; the message names it."""
    for name, value in vars(config).items():
        is_off = value is None or value is False or value in NEUTRAL.get(name, ())
        if not (is_off or name in SUPPORTED or name.startswith("_")):
            raise UnsupportedError(f"{name} = {value!r}")
    if config.max_new_tokens is None:
        raise UnsupportedError("generation without max_new_tokens")


def _warpers(config: GenerationConfig) -> list[Any]:
    """Transformers' logits warpers, in its order, without those that would do nothing."""
    warpers: list[Any] = []
    if config.temperature not in (None, 1.0):
        warpers.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k not in (None, 0):
        warpers.append(TopKLogitsWarper(config.top_k))
    if config.top_p is not None and config.top_p < 1.0:
        warpers.append(TopPLogitsWarper(config.top_p))
    if config.min_p is not None:
        warpers.append(MinPLogitsWarper(config.min_p))
    return warpers


def _step_class(decoder: Decoder) -> type[TorchStep] | type[NativeStep]:
    if NativeStep.supports(decoder) and is_native_available():
        return NativeStep
    return TorchStep
