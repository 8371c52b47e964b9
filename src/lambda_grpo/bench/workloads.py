"""What the benchmarks generate and train on: a policy, prompts, and numbers of completions and tokens.

All policies are untrained, so that the number of tokens that end a completion determines the lengths.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _small(tokenizer: Any) -> Any:
    """A Qwen2 of 2.9 M parameters, with the built-in model's architecture."""
    from lambda_grpo.models.builtin.make import make_model

    return make_model(tokenizer, hidden_size=192, layers=4)


def _real(tokenizer: Any) -> Any:
    """A Llama of 135 M parameters, with the sizes of SmolLM2-135M."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, head_dim=64, max_position_embeddings=8192, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}, initializer_range=1 / 24,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """What each step generates and trains on.

    end_tokens: how many of the vocabulary's tokens end a completion.
    make_model: makes the policy, given the tokenizer.
    micro_batch: completions of one forward and backward pass; None for all.
    warmup_steps, steps: of a run. The warm-up doesn't count.
    """

    prompts: int
    num_generations: int
    prompt_length: int
    end_tokens: int
    max_completion_length: int = 64
    make_model: Callable[[Any], Any] = _small
    micro_batch: int | None = None
    warmup_steps: int = 3
    steps: int = 10

    @property
    def completions(self) -> int:
        """Completions of a step."""
        return self.prompts * self.num_generations


WORKLOADS = {
    "short": Workload(8, 8, 24, 16),
    "long": Workload(8, 8, 24, 2),
    "prompt": Workload(2, 16, 512, 2),
    "real": Workload(8, 8, 80, 675, 128, _real, micro_batch=16, warmup_steps=1, steps=2),
    "real_whole": Workload(8, 8, 80, 675, 128, _real, warmup_steps=1, steps=2),
    "real_long": Workload(4, 8, 80, 157, 512, _real, micro_batch=8, warmup_steps=1, steps=1),
}


def make_tokenizer() -> Any:
    """The built-in model's: one token for each byte."""
    from lambda_grpo.models.builtin import make

    return make.make_tokenizer()


def make_policy(workload: Workload) -> Any:
    """The workload's policy, for which several tokens end a completion."""
    import torch

    torch.manual_seed(0)
    model = workload.make_model(make_tokenizer())
    model.generation_config.eos_token_id = list(range(1, 1 + workload.end_tokens))
    return model


def make_prompts(workload: Workload, count: int) -> list[str]:
    """Random prompts, one token for each character."""
    draw = random.Random(0)
    return ["".join(draw.choices("0123456789+=", k=workload.prompt_length)) for _ in range(count)]
