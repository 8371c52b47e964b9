"""The native head against plain PyTorch: log-probabilities, entropies, and the gradients of both."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer import utils as trl_utils

from lambda_grpo.fast.packing import native_head, products


def plain(hidden, weight, labels, temperature):
    log_p = (hidden @ weight.T / temperature).log_softmax(-1)
    return log_p.gather(1, labels[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def draw(seed, tokens, size, vocabulary):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(shape, generator=generator) for shape in ((tokens, size), (vocabulary, size)))
    return hidden, weight / size**0.5 * 3, torch.randint(vocabulary, (tokens,), generator=generator)


@pytest.fixture(params=[True, False])
def tiles(request, monkeypatch):
    """Whether torch's products are slow; tiles so small that the vocabulary has several."""
    monkeypatch.setattr(products, "is_mkl_slow", lambda: request.param)
    monkeypatch.setattr(native_head, "TILE", 1)
    monkeypatch.setattr(native_head, "LEAST_COLUMNS", 37)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 40), size=st.integers(1, 70), vocabulary=st.integers(1, 200),
    temperature=st.sampled_from([1.0, 0.6, 1.7]), uses=st.sampled_from(["logps", "entropies", "both"]),
)  # fmt: skip
@pytest.mark.usefixtures("tiles")
def test_values_and_gradients(seed, tokens, size, vocabulary, temperature, uses):
    hidden, weight, labels = draw(seed, tokens, size, vocabulary)
    g, h = torch.randn(2, tokens, generator=torch.Generator().manual_seed(seed))
    found = []
    for head, dtype in ((native_head._Head.apply, torch.float32), (plain, torch.float64)):
        inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in (hidden, weight)]
        logps, entropies = head(*inputs, labels, temperature)
        terms = {"logps": logps @ g.to(dtype), "entropies": entropies @ h.to(dtype)}
        (sum(terms.values()) if uses == "both" else terms[uses]).backward()
        found.append([logps, entropies, *(tensor.grad for tensor in inputs)])
    for value, expected in zip(*found, strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=2e-5, atol=5e-5)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_input_has_no_gradient(frozen):
    inputs = list(draw(0, 5, 8, 60))
    inputs[1 - frozen].requires_grad_()
    native_head._Head.apply(*inputs, 1.0)[0].sum().backward()
    assert inputs[frozen].grad is None
    assert inputs[1 - frozen].grad is not None


def test_extreme_logits():
    """A token whose probability is 1 has log-probability and entropy 0; one far below has no NaN."""
    hidden, weight = torch.tensor([[300.0], [-300.0]]), torch.tensor([[1.0], [0.0], [-1.0]])
    logps, entropies = native_head._Head.apply(hidden, weight, torch.tensor([0, 0]), 1.0)
    assert logps.tolist() == [0.0, -600.0]
    assert entropies.tolist() == [0.0, 0.0]


def test_what_is_not_known_is_left_to_trl():
    trls = trl_utils._ChunkedLogProbFunction
    hidden, weight, labels = draw(0, 5, 8, 60)
    ours, expected = [], []
    with native_head.native_head():
        for bias, scale, dtype in (
            (torch.ones(60), 1.0, torch.float32),
            (None, 0.5, torch.float32),
            (None, 1.0, torch.float64),
        ):
            bias = None if bias is None else bias.to(dtype)
            arguments = (
                hidden.to(dtype),
                weight.to(dtype),
                bias,
                labels,
                1.0,
                16,
                None,
                scale,
                ("log_probs", "entropy"),
            )
            ours.append(trl_utils._ChunkedLogProbFunction.apply(*arguments)[0])
            expected.append(trls.apply(*arguments)[0])
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
    assert trl_utils._ChunkedLogProbFunction is trls
