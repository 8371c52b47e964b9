"""Make the built-in base policy: a small Qwen2 model, warmed up on solutions of two styles.

    python -m lambda_grpo.base_policy.make OUTPUT_DIR

It departs from a textbook warm-up in one way: some of the solutions answer at once and the others work step by
step, so that the policy is left unsure between the two. That leaves reinforcement learning something to improve, and
makes lengths vary inside a group. Everything follows from SEED; only problems of the training split are seen.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from lambda_grpo.tasks.arithmetic import Arithmetic, direct_solution, worked_solution

SEED = 0
STEPS = 2000
BATCH_SIZE = 64
TOKENS_PER_SOLUTION = 12  # about the mean
BATCHES_SORTED_TOGETHER = 16
LEARNING_RATE = 1e-3
MAX_POSITIONS = 1024
DIRECT_SHARE = 0.6  # of the solutions; the others are worked


def make_tokenizer() -> Qwen2Tokenizer:
    """Qwen2's byte-level tokenizer without merges: a token a byte, so any text can be read and written."""
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
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=5 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            initializer_range=0.05,  # at the usual 0.02 so narrow a model stays on a plateau for long
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def solved_batches(tokenizer: Qwen2Tokenizer, steps: int) -> Iterator[list[tuple[str, str]]]:
    """`steps` batches of (prompt, solution). Batches of like lengths, in random order: little is spent on padding."""
    task = Arithmetic("train", size=steps * BATCH_SIZE, seed=SEED)
    rng = random.Random(SEED)
    pool_size = BATCHES_SORTED_TOGETHER * BATCH_SIZE
    for start in range(0, steps * BATCH_SIZE, pool_size):
        pool = []
        for index in range(start, min(start + pool_size, len(task))):
            solve = direct_solution if rng.random() < DIRECT_SHARE else worked_solution
            solution = solve(task.terms(index))
            pool.append((task[index].prompt, solution + tokenizer.eos_token))
        pool.sort(key=lambda pair: len(pair[0] + pair[1]))
        batches = [pool[i : i + BATCH_SIZE] for i in range(0, len(pool), BATCH_SIZE)]
        rng.shuffle(batches)
        yield from batches


def warm_up(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, steps: int) -> None:
    """Supervised steps on the solutions alone (the prompt's tokens carry no loss)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    model.train()
    for step, pairs in enumerate(solved_batches(tokenizer, steps), start=1):
        texts = [prompt + solution for prompt, solution in pairs]
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
        prompt_lengths = torch.tensor([len(prompt) for prompt, _ in pairs])  # ASCII: one token a character
        is_prompt = torch.arange(batch["input_ids"].size(1)) < prompt_lengths[:, None]
        labels = batch["input_ids"].masked_fill(is_prompt | (batch["attention_mask"] == 0), -100)
        # Divided by a constant: a mean over each batch's own tokens would favour the batches of short solutions.
        loss = model(**batch, labels=labels, num_items_in_batch=BATCH_SIZE * TOKENS_PER_SOLUTION).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step}/{steps}  loss {loss.item():.4f}", flush=True)


def main() -> None:
    """Make model and tokenizer and save them."""
    parser = argparse.ArgumentParser(description="Make the built-in base policy.")
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    warm_up(model, tokenizer, args.steps)
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
