"""What completions are sampled from and where they end, and which numbers of them make whole groups."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from trl import GRPOConfig

from lambda_grpo.distributed import is_main_process, world_size
from lambda_grpo.options.trl import SamplingOptions

logger = logging.getLogger(__name__)

STOP_KEYS = ("stop_strings", "stop")  # of generation_kwargs: transformers' name, and vLLM's


@dataclass
class SamplingConfig(SamplingOptions, GRPOConfig):
    """`trl.GRPOConfig` plus limits of prompts, and texts that end a completion."""

    @property
    def prompt_overflow(self) -> str | None:
        """What happens to prompts that are too long: "drop" or "truncate_left"; None where they are refused."""
        return self.max_prompt_overflow or (None if self.max_prompt_length is None else "drop")

    def stops(self) -> list[str]:
        """The texts that end a completion: of `stop_strings`, and of `generation_kwargs` under either name.

        Raises:
            ValueError: one of them isn't a text, or is empty.
        """
        given = self.generation_kwargs or {}
        found: list[str] = []
        for name, texts in (("stop_strings", self.stop_strings), *((key, given.get(key)) for key in STOP_KEYS)):
            texts = [texts] if isinstance(texts, str) else texts or []
            if not all(isinstance(text, str) and text for text in texts):
                raise ValueError(f"{name} holds {texts!r}: it takes texts that aren't empty")
            found += texts
        return list(dict.fromkeys(found))

    def fit_eval_batch(self) -> None:
        """Let evaluation batches hold whole groups, whose completions TRL compares within a batch."""
        group = self.num_generations_eval or self.num_generations
        least = group // math.gcd(group, world_size())
        given: int = self.per_device_eval_batch_size
        fitting = max(given // least, 1) * least
        if fitting == given:
            return
        self.per_device_eval_batch_size: int = fitting
        if is_main_process():
            logger.warning(
                "per_device_eval_batch_size is %d instead of %d: an evaluation batch holds whole groups of %d",
                *(fitting, given, group),
            )

    def check_sampling(self) -> None:
        """Raise ValueError, naming a setting of this part that can't be followed."""
        self._check_groups()
        if self.stops() and self.use_transformers_continuous_batching:
            raise ValueError("continuous batching knows no stop strings: leave one of them out")

    def _check_groups(self) -> None:
        if self.num_generations < 2:
            raise ValueError(
                f"num_generations is {self.num_generations}: completions are compared in groups, set it to 2 or more"
            )
        completions = self.generation_batch_size or (
            self.per_device_train_batch_size
            * world_size()
            * (self.steps_per_generation or self.gradient_accumulation_steps)
        )
        if completions % self.num_generations != 0:
            raise ValueError(
                f"{completions} completions are generated at a time, not a multiple of num_generations "
                f"({self.num_generations}): change per_device_train_batch_size or gradient_accumulation_steps"
            )
