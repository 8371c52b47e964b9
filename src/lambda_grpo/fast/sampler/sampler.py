"""Sampling a batch of completions."""

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
from lambda_grpo.fast.sampler.compiled_step import CompiledStep
from lambda_grpo.fast.sampler.decoder import Decoder
from lambda_grpo.fast.sampler.stop_strings import StopStrings
from lambda_grpo.fast.sampler.token_sampling import choose, is_compiled
from lambda_grpo.fast.sampler.torch_step import TorchStep

# Settings of a GenerationConfig that are followed, and values that change nothing. Any other one is refused.
FOLLOWED = {
    "do_sample", "temperature", "top_k", "top_p", "min_p", "max_new_tokens", "eos_token_id",
    # no part in what is sampled here
    "pad_token_id", "bos_token_id", "decoder_start_token_id", "use_cache", "max_length", "max_cache_len",
    "disable_compile", "compile_config", "prefill_chunk_size", "continuous_batching_config", "transformers_version",
    "trust_remote_code", "return_dict_in_generate", "output_scores", "output_logits", "output_attentions",
    "output_hidden_states",
    # only for a second model, which nobody hands over
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind",
    "target_lookbehind", "max_matching_ngram_size", "assistant_ensemble_weight",
}  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1.0,), "length_penalty": (1.0,), "num_beams": (1,), "num_return_sequences": (1,),
    "typical_p": (1.0,), "encoder_repetition_penalty": (1.0,), "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,), "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,), "min_length": (0,),
    "min_new_tokens": (0,), "num_beam_groups": (1,), "diversity_penalty": (0.0,), "guidance_scale": (1.0,),
    # another place for keys and values; "quantized" has others
    "cache_implementation": ("dynamic", "static", "offloaded", "offloaded_static"),
}  # fmt: skip


@dataclass(frozen=True)
class Sampled:
    """Completions in the order of their prompts: token ids, with the one that ends them where they end.

    logprobs: of each token under the distribution that it was drawn from, temperature and truncation included.
    entropies: of those distributions, in nats.
    """

    ids: list[list[int]]
    logprobs: list[list[float]]
    entropies: list[list[float]]


class FastSampler:
    """Samples as `model.generate` does, token by token; in other random numbers.

    A prompt that occurs more than once is read once, and its keys and values are shared. Finished rows are dropped.
    On a CPU in float32 a step is compiled C; elsewhere, or without a compiler, PyTorch.

    Args:
        config: temperature, top_k, top_p, min_p, max_new_tokens, eos_token_id (one or several), do_sample. It is all
            that decides: nothing is taken from the model's own `generation_config`, nor transformers' top_k = 50.
        stops: texts that end a completion, too.

    Raises:
        UnsupportedError: another setting has a value that would change what is drawn.
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
    def keeps_distribution(self) -> bool:
        """Whether log-probabilities are the model's at this temperature: no token is left out of what is drawn from."""
        return not self.greedy and all(isinstance(warper, TemperatureLogitsWarper) for warper in self.warpers)

    @torch.no_grad()
    def __call__(self, model: Any, prompt_ids: list[list[int]]) -> Sampled:
        """One completion for each prompt; a prompt that is to have several stands there as often.

        Args:
            model: a Hugging Face causal model of a known architecture, with or without LoRA. It is taken in the mode
                that it is in.

        Raises:
            UnsupportedError: the model isn't one of those, or something in it isn't known, as dropout in training.
            ValueError: a prompt is empty.
        """
        if not all(prompt_ids):
            raise ValueError("a prompt is empty: there is nothing to continue")
        decoder = Decoder(model)
        numbers: dict[tuple[int, ...], int] = {}
        prompt = torch.tensor([numbers.setdefault(tuple(ids), len(numbers)) for ids in prompt_ids])
        order = prompt.argsort(stable=True)  # rows of a prompt together
        device = decoder.device
        prompt_of_row = prompt[order].to(device)
        step = _step(decoder)(decoder, [list(ids) for ids in numbers], prompt_of_row, self.max_new)
        *columns, ends = self._loop(step, step.prompt_logits[prompt_of_row])
        back = order.argsort()
        lengths = ends[back].tolist()
        return Sampled(
            *([row[:length] for row, length in zip(column[back].tolist(), lengths, strict=True)] for column in columns)
        )

    def _loop(self, step: TorchStep | CompiledStep, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(n, max_new) tokens, log-probabilities and entropies, and (n,) lengths, all on the CPU."""
        n, device = len(logits), logits.device
        is_end = torch.isin(torch.arange(logits.size(1), device=device), self.eos.to(device))
        rows, is_done = torch.arange(n, device=device), torch.zeros(n, dtype=torch.bool, device=device)
        tail = rows.new_empty(n, 0)  # the last tokens, where stop strings are looked for
        drawn: list[tuple[Tensor, ...]] = []
        for t in range(self.max_new):
            if len(self.warpers) > 0:
                logits = self.warpers(None, logits)
            new, logprobs, entropies = choose(logits, self.greedy)
            is_done = is_done | is_end[new]
            if self.stops is not None:
                tail = torch.cat([tail, new[:, None]], 1)[:, -self.stops.window :]
                is_done = is_done | self.stops(tail)
            drawn.append((rows, new, logprobs, entropies, is_done))
            done = int(is_done.sum())
            if done == len(rows) or t == self.max_new - 1:
                break
            if done > step.worth_dropping * len(rows):
                live = (~is_done).nonzero()[:, 0]
                step.keep(live)
                rows, new, is_done, tail = rows[live], new[live], is_done[live], tail[live]
            logits = step(new, t)
        counts = torch.tensor([len(rows) for rows, *_ in drawn])
        row, *values = (torch.cat(parts).cpu() for parts in zip(*drawn, strict=True))
        place = row, torch.arange(len(drawn)).repeat_interleave(counts)
        tokens, logprobs, entropies, ends = (
            torch.zeros(n, self.max_new, dtype=parts.dtype).index_put_(place, parts) for parts in values
        )
        return tokens, logprobs, entropies, torch.where(ends.any(1), ends.int().argmax(1) + 1, len(drawn))


def check_settings(config: GenerationConfig) -> None:
    """Raise UnsupportedError, naming a setting that isn't followed."""
    for name, value in vars(config).items():
        is_off = value is None or value is False or value in NEUTRAL.get(name, ())
        if not (is_off or name in FOLLOWED or name.startswith("_")):
            raise UnsupportedError(f"{name} = {value!r}")
    if config.max_new_tokens is None:
        raise UnsupportedError("generation without max_new_tokens")


def _warpers(config: GenerationConfig) -> list[Any]:
    """Those of transformers, in its order, where they do anything."""
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


def _step(decoder: Decoder) -> type[TorchStep] | type[CompiledStep]:
    if CompiledStep.is_for(decoder) and is_compiled():
        return CompiledStep
    return TorchStep
