"""Generation by the fast sampler instead of TRL, through TRL's `_generate_single_turn`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from trl.models.utils import unwrap_model_for_generation

from lambda_grpo.fast.sampler import FastSampler, SampledCompletions, StopStrings, UnsupportedError


class FastGeneration:
    """Completions by `FastSampler` instead of TRL's generation, on a CPU.

    A model or a setting that the sampler doesn't support is left to TRL's generation, with one warning that names it.
    On a GPU TRL generates, without a warning: the sampler hasn't been measured there.

    The sampler knows the log-probabilities and entropies of its tokens. They replace the old log-probabilities that TRL
    would compute, and are added to the batch as `known_logps` and `known_entropies`: (B, T), NaN for samples from
    another source.

    Args:
        model: the policy.
        generation_config: returns TRL's current settings.
        stops: stop strings.
        end_ids: the tokens at which TRL ends completions.
        temperature: of the loss.
        checkpointing: TRL's `gradient_checkpointing_kwargs`.
        is_wanted: whether the settings ask for the fast sampler.
        unsupported: a setting of TRL that it doesn't support; None if there is none.

    Attributes:
        is_on: whether it samples; switched off by the first model or setting that isn't supported.
    """

    def __init__(
        self,
        accelerator: Any,
        model: Any,
        generation_config: Callable[[], Any],
        *,
        stops: StopStrings | None,
        end_ids: list[int],
        temperature: float,
        checkpointing: dict[str, Any] | None = None,
        is_wanted: bool = True,
        unsupported: str | None = None,
    ):
        self.accelerator, self._generation_config, self.stops = accelerator, generation_config, stops
        self.end_ids, self.temperature, self.checkpointing = end_ids, temperature, checkpointing
        self._awaits_old_logps = False
        # log-probabilities and entropies of this batch's samples, by (*prompt, -1, *completion)
        self._known: dict[tuple[int, ...], tuple[list[float], list[float]]] = {}
        self.is_on = is_wanted and accelerator.device.type == "cpu"
        if not self.is_on:
            return
        try:
            if unsupported is not None:
                raise UnsupportedError(unsupported)
            self.make_sampler(accelerator.unwrap_model(model))
        except UnsupportedError as error:
            self._fall_back(error)

    def _fall_back(self, error: UnsupportedError) -> None:
        self.is_on = False
        if self.accelerator.is_main_process:
            warnings.warn(
                f"the fast sampler doesn't know {error}. TRL's generation takes its place (sampler: trl)", stacklevel=2
            )

    def make_sampler(self, model: Any) -> FastSampler:
        """A sampler with TRL's current settings and, where those leave one open, the model's own, as in `generate`.

        Raises:
            UnsupportedError: naming a setting that the sampler doesn't support.
        """
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if model.generation_config is not base.generation_config:
            raise UnsupportedError("a generation_config of PEFT's model that isn't the one of the model in it")
        config = base._prepare_generation_config(self._generation_config())[0]
        ends = config.eos_token_id
        if set(ends if isinstance(ends, list) else [ends]) != set(self.end_ids):
            raise UnsupportedError(f"eos_token_id = {ends} where TRL ends completions at {self.end_ids}")
        return FastSampler(config, self.stops)

    @torch.no_grad()
    def sample(self, model: Any, prompt_ids: list[list[int]]) -> list[list[int]] | None:
        """A completion for each prompt; None if the sampler is off or doesn't support the model.

        Args:
            model: as wrapped by the accelerator.
            prompt_ids: the equal prompts of a group are adjacent.
        """
        if not self.is_on:
            return None
        with unwrap_model_for_generation(
            model, self.accelerator, gradient_checkpointing_kwargs=self.checkpointing
        ) as unwrapped:
            try:
                sampler = self.make_sampler(unwrapped)
                sampled = sampler(unwrapped, prompt_ids)
            except UnsupportedError as error:  # inside: TRL turns checkpointing on again only without an exception
                self._fall_back(error)
                return None
        # in mixed precision the loss would have other values of the same policy
        is_exact = self.accelerator.mixed_precision == "no" and unwrapped.dtype == torch.float32
        if is_exact and sampler.samples_full_distribution and sampler.temperature == self.temperature:
            self._remember(prompt_ids, sampled)
        return sampled.ids

    def _remember(self, prompt_ids: list[list[int]], sampled: SampledCompletions) -> None:
        known = zip(sampled.logprobs, sampled.entropies, strict=True)
        for prompt, ids, values in zip(prompt_ids, sampled.ids, known, strict=True):
            self._known[(*prompt, -1, *ids)] = values

    # -- what is known of the samples --------------------------------------------------------------------------------

    def await_old_logps(self, awaits: bool) -> None:
        """Set whether TRL's first request for log-probabilities after generation is for the old ones."""
        self._awaits_old_logps = awaits

    def old_logps(self, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int) -> Tensor | None:
        """(B, T) old log-probabilities of (B, P + T) samples; None if they aren't requested or not all known."""
        if not self._awaits_old_logps:
            return None
        self._awaits_old_logps = False
        (prompt_ids, ids), (prompt_mask, mask) = (
            (both[:, :-logits_to_keep], both[:, -logits_to_keep:]) for both in (input_ids, attention_mask)
        )
        logps, _ = self._look_up(prompt_ids, prompt_mask, ids, mask)
        return None if logps.isnan().any() else logps

    def add_known(self, output: dict[str, Any]) -> None:
        """Add `known_logps` and `known_entropies` to TRL's output, and clear them here."""
        if self._known:
            parts = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
            output["known_logps"], output["known_entropies"] = self._look_up(*(output[part] for part in parts))
        self._known = {}

    def _look_up(
        self, prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, T) log-probabilities and entropies of padded samples, 0 in the padding; NaN where unknown."""
        width = completion_ids.size(1)
        samples = zip(
            prompt_ids.tolist(), prompt_mask.sum(1).tolist(), completion_ids.tolist(), completion_mask.sum(1).tolist(),
            strict=True,
        )  # fmt: skip
        unknown = ([math.nan] * width,) * 2
        found = []
        for prompt, m, completion, n in samples:
            key = (*prompt[len(prompt) - m :], -1, *completion[:n])
            known = self._known.get(key, unknown) if n > 0 else ([], [])  # n = 0: masked whole, and never read
            found.append([[*values, *[0.0] * (width - len(values))] for values in known])
        logps, entropies = torch.tensor(found).unbind(1)
        return logps, entropies
