"""Make a built-in base policy: a small model with a supervised warm-up on solutions of several styles.

    python -m lambda_grpo.models.builtin.make OUTPUT_DIR [--family qwen2|llama]

`qwen2` makes `builtin`, for the demonstration's arithmetic; `llama` makes `builtin-llama`, for the tasks on letters and
a reasoning-gym data set (`warmup_data.py`).

It departs from a textbook warm-up in one way: some solutions answer directly and others work step by step, so that the
policy samples both. That leaves room for reinforcement learning to improve, and makes lengths vary within a group.
Everything is determined by SEED; only problems of training splits are used.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from lambda_grpo.models.builtin.warmup_data import BATCH_SIZE, Solve, solve_arithmetic, solve_mixture, solved_batches

SEED = 0
MAX_POSITIONS = 1024


def make_tokenizer() -> Qwen2Tokenizer:
    """Qwen2's byte-level tokenizer without merges: one token per byte, so it covers any text."""
    vocab = ["<pad>", "<eos>", *sorted(ByteLevel.alphabet())]
    return Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate(vocab)},
        merges=[],
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token=None,
        padding_side="left",
        model_max_length=MAX_POSITIONS,
    )


def make_model(tokenizer: Qwen2Tokenizer, *, hidden_size: int = 128, layers: int = 3) -> Qwen2ForCausalLM:
    """A Qwen2 of about 1 M parameters, randomly initialised."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            hidden_size=hidden_size,
            intermediate_size=5 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            **_common(tokenizer),
        )
    )


def make_llama(tokenizer: Qwen2Tokenizer) -> LlamaForCausalLM:
    """A Llama of about 1 M parameters, randomly initialised."""
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=128,
            intermediate_size=640,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            **_common(tokenizer),
        )
    )


def _common(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_POSITIONS,
        "tie_word_embeddings": True,
        "initializer_range": 0.05,  # with the usual 0.02 such a narrow model stays on a plateau for long
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


@dataclass(frozen=True)
class Family:
    """How a base policy is made.

    solve: takes the number of problems and a seed, and returns the solved problems of the warm-up.
    tokens_per_solution: approximate mean.
    """

    make_model: Callable[[Qwen2Tokenizer], PreTrainedModel]
    solve: Callable[[int, int], Solve]
    steps: int
    learning_rate: float
    tokens_per_solution: int


FAMILIES = {
    "qwen2": Family(make_model, solve_arithmetic, steps=2000, learning_rate=1e-3, tokens_per_solution=12),
    "llama": Family(make_llama, solve_mixture, steps=1200, learning_rate=1.5e-3, tokens_per_solution=12),
}


def warm_up(model: PreTrainedModel, tokenizer: Qwen2Tokenizer, family: Family, steps: int) -> None:
    """Supervised training on the solutions (the prompt's tokens are masked out of the loss)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=family.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, family.learning_rate, total_steps=steps, pct_start=0.05)
    batches = solved_batches(family.solve(steps * BATCH_SIZE, SEED), steps, SEED, tokenizer.eos_token)
    model.train()
    for step, pairs in enumerate(batches, start=1):
        texts = [prompt + solution for prompt, solution in pairs]
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
        prompt_lengths = torch.tensor([len(prompt) for prompt, _ in pairs])  # ASCII: one token per character
        is_prompt = torch.arange(batch["input_ids"].size(1)) < prompt_lengths[:, None]
        labels = batch["input_ids"].masked_fill(is_prompt | (batch["attention_mask"] == 0), -100)
        # Divided by a constant: a mean over the tokens of each batch would weigh batches of short solutions higher.
        loss = model(**batch, labels=labels, num_items_in_batch=BATCH_SIZE * family.tokens_per_solution).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step}/{steps}  loss {loss.item():.4f}", flush=True)


def main() -> None:
    """Make model and tokenizer and save them."""
    parser = argparse.ArgumentParser(description="Make a built-in base policy.")
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--family", choices=FAMILIES, default="qwen2")
    parser.add_argument("--steps", type=int, help="warm-up steps (default: as for the shipped policy)")
    args = parser.parse_args()
    family = FAMILIES[args.family]
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    model = family.make_model(tokenizer)
    warm_up(model, tokenizer, family, args.steps or family.steps)
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
