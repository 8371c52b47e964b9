"""Sampling tokens: native code and PyTorch against a plain loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_grpo.fast.sampler.token_sampling import _sample_native, _sample_torch, sample_tokens


def plain(row, u):
    """One row's token by inverse transform sampling, its log-probability, and the entropy."""
    top = max(row)
    e = [math.exp(x - top) for x in row]
    p = [x / sum(e) for x in e]
    entropy = -sum(x * math.log(x) for x in p if x > 0)
    if u is None:
        token = row.index(top)
    else:
        reached = 0.0
        for token, x in enumerate(p):  # noqa: B007
            reached += x
            if x > 0 and reached >= u:
                break
    return token, math.log(p[token]), entropy


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 70), st.floats(0, 0.9), st.booleans())
def test_both_are_the_plain_loop(seed, n, vocabulary, left_out, greedy):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, vocabulary + 5, generator=draw)[:, :vocabulary] * 4
    logits[torch.rand(n, vocabulary, generator=draw) < left_out] = -torch.inf
    logits[:, seed % vocabulary] = 1.5  # one at least can be drawn
    u = None if greedy else 1 - torch.rand(n, dtype=torch.float64, generator=draw)
    for tokens, logprobs, entropies in (_sample_native(logits, u), _sample_torch(logits, u)):
        for i, row in enumerate(logits.double().tolist()):
            token, logprob, entropy = plain(row, None if u is None else u[i].item())
            assert tokens[i] == token
            assert logprobs[i].item() == pytest.approx(logprob, abs=2e-6)
            assert entropies[i].item() == pytest.approx(entropy, abs=5e-6)


@pytest.mark.parametrize("u", [1.0, 1 - 2**-53, 2**-53])
@pytest.mark.parametrize("sample", [_sample_native, _sample_torch])
def test_the_ends_of_the_interval_draw_what_can_be_drawn(sample, u):
    logits = torch.full((3, 50), -torch.inf)
    logits[0, 20:30], logits[1, 0], logits[2, 49] = torch.randn(10), 2.0, -5.0
    tokens = sample(logits, torch.full((3,), u, dtype=torch.float64))[0].tolist()
    assert tokens == [29 if u > 0.5 else 20, 0, 49]


def test_tokens_come_as_often_as_they_are_probable():
    logits = torch.tensor([0.4, 0.1, 0.0, 0.2, 0.3]).log()
    torch.manual_seed(0)
    tokens = sample_tokens(logits.expand(200_000, 5), greedy=False)[0]
    assert torch.bincount(tokens, minlength=5).div(200_000).tolist() == pytest.approx([0.4, 0.1, 0, 0.2, 0.3], abs=4e-3)
