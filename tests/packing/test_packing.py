"""The packed pass against the padded one: log-probabilities, entropies and every gradient."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.utils import add_fused_lm_head

from lambda_grpo import packing
from tests.rollout.models import MODELS, make_model, with_lora


def batch(seed, rows=9, longest_prompt=12, longest=10, prompts=4):
    """Padded as TRL pads, rows of one prompt anywhere, some completions empty."""
    draw = random.Random(seed)
    different = [[draw.randrange(2, 40) for _ in range(draw.randrange(1, longest_prompt + 1))] for _ in range(prompts)]
    chosen = [draw.choice(different) for _ in range(rows)]
    completions = [[draw.randrange(2, 40) for _ in range(draw.randrange(0, longest + 1))] for _ in range(rows)]
    completions[0] = completions[0] or [5]
    P, C = max(map(len, chosen)), max(map(len, completions))
    return (
        torch.tensor([[0] * (P - len(p)) + p for p in chosen]),
        torch.tensor([[0] * (P - len(p)) + [1] * len(p) for p in chosen]),
        torch.tensor([c + [0] * (C - len(c)) for c in completions]),
        torch.tensor([[1] * len(c) + [0] * (C - len(c)) for c in completions]),
    )


def padded_pass(model, prompt_ids, prompt_mask, completion_ids, completion_mask):
    """What TRL does."""
    ids, mask = torch.cat([prompt_ids, completion_ids], 1), torch.cat([prompt_mask, completion_mask], 1)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : prompt_ids.size(1)] = -100
    outputs = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    C = completion_ids.size(1)
    return outputs.log_probs[:, -C:], outputs.entropy[:, -C:]


def packed_pass(model, *padded):
    layout = packing.pack(*padded)
    outputs = model(
        input_ids=layout.ids, position_ids=layout.positions, attention_mask=torch.zeros(1, 1, 1, 1),
        shift_labels=layout.labels, fused_lm_head=True, packed_layout=layout,
    )  # fmt: skip
    found = []
    for values in (outputs.log_probs, outputs.entropy):
        out = torch.zeros(padded[2].shape, dtype=values.dtype)
        found.append(out.index_put((layout.rows, layout.columns), values[0, layout.prompt_length :]))
    return found


def compare(model, padded, rtol, atol):
    packing.register()
    generator, mask = torch.Generator().manual_seed(0), padded[3]
    weights = torch.randn(mask.shape, generator=generator, dtype=model.dtype) * mask
    found = []
    for implementation, run in (("sdpa", padded_pass), (packing.IMPLEMENTATION, packed_pass)):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        logps, entropies = run(model, *padded)
        (logps * weights).sum().backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((logps.detach() * mask, entropies.detach() * mask, grads))
    for ours, theirs in zip(found[1][:2], found[0][:2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
    assert found[1][2].keys() == found[0][2].keys()
    for name, theirs in found[0][2].items():
        assert (found[1][2][name] - theirs).norm() <= rtol * theirs.norm() + atol, name


def prepared(model, **settings):
    add_fused_lm_head(model, outputs=("log_probs", "entropy"), **settings)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_those_of_the_padded_pass(name):
    model = prepared(make_model(name))
    for seed in range(3):
        compare(model, batch(seed), rtol=2e-5, atol=2e-5)  # float32


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 30), st.integers(1, 30), st.integers(1, 6))
def test_any_batch(seed, rows, longest_prompt, longest, prompts):
    """In float64, but for what transformers and TRL's head take to float32: norms, rotations, the softmax."""
    model = prepared(make_model("qwen3")).double()
    compare(model, batch(seed, rows, longest_prompt, longest, prompts), rtol=1e-6, atol=1e-6)


def test_temperature():
    compare(prepared(make_model("llama"), temperature=0.6), batch(7), rtol=2e-5, atol=2e-5)


def test_lora():
    compare(with_lora(prepared(make_model("qwen2"))), batch(8), rtol=2e-5, atol=2e-5)


def test_gradient_checkpointing():
    """The layers run again in the backward, when nothing but their inputs says that they are packed."""
    model = prepared(make_model("llama"))
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    compare(model, batch(9), rtol=2e-5, atol=2e-5)


def test_the_row_by_hand():
    """Prompts ab and abc, completions xy, z, uvw."""
    layout = packing.pack(
        torch.tensor([[0, 1, 2], [3, 4, 5], [0, 1, 2]]),
        torch.tensor([[0, 1, 1], [1, 1, 1], [0, 1, 1]]),
        torch.tensor([[10, 11, 0], [12, 0, 0], [13, 14, 15]]),
        torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]]),
    )
    # prompt bodies [1], [3, 4]; segments 2 10 | 2 13 14 | 5
    assert layout.ids.tolist() == [[1, 3, 4, 2, 10, 2, 13, 14, 5]]
    assert layout.positions.tolist() == [[0, 0, 1, 1, 2, 1, 2, 3, 2]]
    assert layout.labels.tolist() == [[-100] * 3 + [10, 11, 13, 14, 15, 12]]
    assert (layout.rows.tolist(), layout.columns.tolist()) == ([0, 0, 2, 2, 2, 1], [0, 1, 0, 1, 2, 0])
    assert layout.prompt_length == 3
    assert layout.shared.keys.tolist() == [[0, 9], [1, 2]]
    assert layout.shared.queries.tolist() == [[3, 4, 5, 6, 7], [8, 9, 9, 9, 9]]


def test_a_group_costs_its_prompt_once():
    prompt = torch.randint(2, 40, (1, 300)).expand(16, -1)
    completions = torch.randint(2, 40, (16, 5))
    layout = packing.pack(prompt, torch.ones_like(prompt), completions, torch.ones_like(completions))
    assert layout.length == 299 + 16 * 5
