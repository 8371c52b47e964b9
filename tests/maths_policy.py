"""A tiny chat model that mostly adds correctly, for end-to-end tests."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_grpo.tasks.maths.templates import TEMPLATES
from tests.evaluation.tiny_models import save_model

SUMS = [(f"What is ${a} + {b}$?", str(a + b)) for a in range(5) for b in range(3)]
WORDINGS = ("\\boxed{{{}}}", "It is \\boxed{{{}}}", "Let me think. It is \\boxed{{{}}}")
STEPS, BATCH = 200, 32


def save_maths_policy(directory, templates=("boxed_system", "question_answer")):
    """Train and save a model that has seen every sum, two thirds of them with the right answer; returns its path."""
    path = save_model(directory, hidden_size=64, intermediate_size=128, initializer_range=0.05)
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, STEPS)

    def draw(limit):
        return int(torch.randint(limit, (), generator=generator))

    for _ in range(STEPS):
        examples = []
        for _ in range(BATCH):
            question, answer = SUMS[draw(len(SUMS))]
            template = TEMPLATES[templates[draw(len(templates))]]
            prompt = template.tokenize(template.render(question, tokenizer), tokenizer)
            given = answer if draw(3) else str(draw(7))
            completion = tokenizer(WORDINGS[draw(len(WORDINGS))].format(given), add_special_tokens=False)["input_ids"]
            examples.append((prompt, [*completion, tokenizer.eos_token_id]))
        width = max(len(prompt) + len(completion) for prompt, completion in examples)
        ids = torch.full((BATCH, width), tokenizer.pad_token_id)
        labels = torch.full((BATCH, width), -100)
        for i, (prompt, completion) in enumerate(examples):
            ids[i, : len(prompt) + len(completion)] = torch.tensor([*prompt, *completion])
            labels[i, len(prompt) : len(prompt) + len(completion)] = torch.tensor(completion)
        model(input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long(), labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(path)
    return path
