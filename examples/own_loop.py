"""λ-GRPO in a training loop of your own: torch, a Hugging Face model, and the two stages.

python examples/own_loop.py [STEPS]
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_grpo import LambdaState, group_advantages, loss_normalizer, policy_loss, response_weights
from lambda_grpo.models import resolve_model
from lambda_grpo.tasks import load_task

PROMPTS, G, MICRO_BATCH, MAX_NEW = 8, 8, 16, 48


def completion_logps(model, ids, attention_mask, prompt_length):
    """(B, T) log-probabilities of the completion's tokens."""
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=attention_mask, position_ids=positions).logits[
        :, prompt_length - 1 : -1
    ]
    return logits.log_softmax(-1).gather(2, ids[:, prompt_length:, None]).squeeze(2)


def main(steps: int) -> None:
    """Train the built-in policy, printing reward and λ."""
    torch.manual_seed(0)
    path = resolve_model("builtin")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    task = load_task("arithmetic", size=steps * PROMPTS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    state = LambdaState()

    for step in range(steps):
        # sample G completions of each prompt
        examples = [task[step * PROMPTS + i] for i in range(PROMPTS) for _ in range(G)]
        prompts = tokenizer([example.prompt for example in examples], return_tensors="pt", padding=True)
        prompt_length = prompts["input_ids"].size(1)
        ids = model.generate(**prompts, do_sample=True, max_new_tokens=MAX_NEW)  # (B, P + T)
        ended = (ids[:, prompt_length:] == tokenizer.eos_token_id).int()
        completion_mask = (ended.cumsum(1) - ended == 0).int()  # (B, T) up to and including the first end
        attention_mask = torch.cat([prompts["attention_mask"], completion_mask], 1)
        texts = tokenizer.batch_decode(ids[:, prompt_length:] * completion_mask, skip_special_tokens=True)
        rewards = torch.tensor([task.grade(text, example) for text, example in zip(texts, examples, strict=True)])

        # stage 1: whole groups
        group_ids, lengths = torch.arange(len(ids)) // G, completion_mask.sum(1)
        lambda_ = state.leaf()
        advantages = group_advantages(rewards, group_ids)
        normalizer = loss_normalizer(lengths, group_ids, "lambda_grpo")

        # stage 2: any split into micro-batches gives the same gradients
        for part in torch.randperm(len(ids)).split(MICRO_BATCH):
            weights = response_weights(lengths, group_ids, "lambda_grpo", lambda_)
            logps = completion_logps(model, ids[part], attention_mask[part], prompt_length)
            loss, _ = policy_loss(
                logps, logps.detach(), advantages[part], completion_mask[part], group_ids[part], "lambda_grpo",
                weights=weights[part], normalizer=normalizer[part],
            )  # fmt: skip
            loss.backward()
        state.step(lambda_.grad)
        optimizer.step()
        optimizer.zero_grad()
        length = lengths.float().mean()
        print(f"step {step + 1}: reward {rewards.mean():.3f}, mean length {length:.1f}, λ {state.value:+.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
