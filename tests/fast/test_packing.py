"""The packed pass against the padded one: log-probabilities, entropies and every gradient."""

import copy
import platform
import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trl.trainer.utils import add_fused_lm_head

from lambda_grpo.fast import packing
from lambda_grpo.fast.packing import native_layers, products
from lambda_grpo.fast.packing.mlp_block import mlp_block
from lambda_grpo.fast.packing.native_attention import attention
from tests.fast.models import MODELS, make_model, with_lora

# relative, of float32 sums in another order: up to 2.3e-5 was seen, on processors that add in other orders
ROUNDING = 5e-5


def batch(seed, rows=9, longest_prompt=12, longest=10, prompts=4):
    """Padded as TRL pads; completions of one prompt needn't be adjacent, and some are empty."""
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
    outputs = packing.packed_pass(model, layout)
    found = []
    for values in (outputs.log_probs, outputs.entropy):
        out = torch.zeros(padded[2].shape, dtype=values.dtype)
        found.append(out.index_put((layout.sample_index, layout.token_index), values[0]))
    return found


def compare(model, padded, rtol, atol, native):
    """The padded pass of the model as it is, against the packed one, for which it is prepared."""
    generator, mask = torch.Generator().manual_seed(0), padded[3]
    weights = torch.randn(mask.shape, generator=generator, dtype=model.dtype) * mask
    found = []
    for run in (padded_pass, packed_pass):
        if run is packed_pass:
            packing.prepare(model, native=native)
        model.zero_grad()
        logps, entropies = run(model, *padded)
        (logps * weights).sum().backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((logps.detach() * mask, entropies.detach() * mask, grads))
    for packed, expected in zip(found[1][:2], found[0][:2], strict=True):
        torch.testing.assert_close(packed, expected, rtol=rtol, atol=atol)
    assert found[1][2].keys() == found[0][2].keys()
    for name, expected in found[0][2].items():
        assert (found[1][2][name] - expected).norm() <= rtol * expected.norm() + atol, name


def prepared(model, **settings):
    add_fused_lm_head(model, outputs=("log_probs", "entropy"), **settings)
    return model


@pytest.fixture(params=["native", "torch"])
def native(request):
    return request.param == "native"


@pytest.fixture(params=["-march=x86-64", "-march=x86-64-v3"])
def processor(request, compile_for):
    """Another processor's vectors, of 4 and of 8 numbers."""
    if platform.machine() != "x86_64" or "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("not a processor that has both")
    compile_for(request.param)


@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_those_of_the_padded_pass(name, native):
    for seed in range(3):
        compare(prepared(make_model(name)), batch(seed), rtol=ROUNDING, atol=ROUNDING, native=native)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 30), st.integers(1, 30), st.integers(1, 6))
def test_any_batch(seed, rows, longest_prompt, longest, prompts):
    """In float64, but for what transformers and TRL's head cast to float32: norms, rotations, the softmax."""
    padded = batch(seed, rows, longest_prompt, longest, prompts)
    compare(prepared(make_model("qwen3")).double(), padded, rtol=1e-6, atol=1e-6, native=True)  # which is float32 only


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 120), st.integers(1, 120), st.integers(1, 6))
def test_any_batch_in_native_code(seed, rows, longest_prompt, longest, prompts):
    padded = batch(seed, rows, longest_prompt, longest, prompts)
    compare(prepared(make_model("qwen3")), padded, rtol=1e-4, atol=3e-4, native=True)


@pytest.mark.parametrize("name", ["qwen3", "llama, odd sizes", "llama, one key head"])
def test_other_processors(name, processor):
    compare(prepared(make_model(name)), batch(3, 9, 70, 70), rtol=1e-4, atol=3e-4, native=True)


@pytest.mark.parametrize("head_dim", [2, 20, 50, 100])
def test_heads_that_fill_no_vector(head_dim, processor):
    compare(prepared(make_model("qwen3", head_dim=head_dim)), batch(5), rtol=1e-4, atol=3e-4, native=True)


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16(autocast):
    """As near to float32's values as the padded pass in bfloat16 is."""
    padded, found = batch(11), {}
    mask = padded[3].bool()
    for name, run in (("float32", padded_pass), ("padded", padded_pass), ("packed", packed_pass)):
        model = prepared(make_model("qwen3", initializer_range=0.05))
        if name != "float32" and not autocast:
            model = model.bfloat16()
        if name == "packed":
            packing.prepare(model)
        with torch.autocast("cpu", enabled=autocast and name != "float32"):
            logps, _ = run(model, *padded)
        logps[mask].sum().backward()
        grads = torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])
        found[name] = (logps.detach().float()[mask], grads)
    for exact, by_padded, by_packed in zip(found["float32"], found["padded"], found["packed"], strict=True):
        assert (by_packed - exact).norm() < 2 * (by_padded - exact).norm()
        assert (by_packed - exact).norm() < 0.1 * exact.norm()


def test_temperature(native):
    compare(prepared(make_model("llama"), temperature=0.6), batch(7), rtol=ROUNDING, atol=ROUNDING, native=native)


def test_lora(native):
    compare(with_lora(prepared(make_model("qwen2"))), batch(8), rtol=ROUNDING, atol=ROUNDING, native=native)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(native, reentrant):
    """The layers run again in the backward, where only their inputs tell that they are packed."""
    model = prepared(make_model("llama"))
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    compare(model, batch(9), rtol=ROUNDING, atol=ROUNDING, native=native)


@pytest.mark.parametrize("is_slow", [True, False])
@pytest.mark.parametrize("name", ["llama, biases", "qwen3", "llama, odd sizes"])
def test_a_prepared_model_is_the_same_function_of_plain_input(name, is_slow, monkeypatch):
    monkeypatch.setattr(products, "is_mkl_slow", lambda: is_slow)
    model, plain = prepared(make_model(name)), make_model(name)
    packing.prepare(model)
    ids = torch.randint(2, 50, (3, 17), generator=torch.Generator().manual_seed(0))
    for each in (model, plain):
        each(ids).logits.square().mean().backward()
    expected = dict(plain.named_parameters())
    for key, parameter in model.named_parameters():
        assert (parameter.grad - expected[key].grad).norm() < 1e-4 * expected[key].grad.norm() + 1e-7, key
    assert model.state_dict().keys() == plain.state_dict().keys()


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 130), st.integers(1, 130), st.booleans())
def test_a_product_is_torchs(seed, rows, k, n, has_bias):
    draw = torch.Generator().manual_seed(seed)
    x, weight, bias = (torch.randn(shape, generator=draw) for shape in ((rows, k), (n, k), (n,)))
    expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double() if has_bias else None)
    found = products.native_product(x, weight, bias if has_bias else None)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    back = products.native_product(found, weight, is_transposed=True)
    torch.testing.assert_close(back.double(), found.double() @ weight.double(), rtol=1e-5, atol=1e-3)


def test_what_is_not_float32_is_left_to_pytorch():
    assert native_layers.use_native_layers(make_model("llama"))
    assert not native_layers.use_native_layers(make_model("llama").double())
    assert not native_layers.use_native_layers(make_model("llama").bfloat16())


def test_the_number_of_threads_changes_nothing():
    """Native code sums in one order, so that a run can be reproduced on another number of cores."""
    layout = packing.pack(*batch(1, 12, 40, 60))
    generator = torch.Generator().manual_seed(0)
    q, k, v, x = (torch.randn(layout.length, 4, 16, generator=generator, requires_grad=True) for _ in range(4))
    cos, sin = (torch.randn(layout.length, 16, generator=generator) for _ in range(2))
    weight = torch.randn(64, generator=generator, requires_grad=True)
    found = []
    threads = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        out = attention(q, k, v, cos, sin, layout, 0.25).flatten(1)
        out = native_layers._Norm.apply(out * x.flatten(1), weight, 1e-6)
        gradients = torch.autograd.grad(out.square().sum(), (q, k, v, x, weight))
        flat = out.detach()
        found.append(
            [
                out,
                *gradients,
                products.native_weight_gradient(flat, x.detach().flatten(1)),
                products.native_product(flat, flat),
            ]
        )
    torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_the_packed_sequence_by_hand():
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
    assert layout.labels.tolist() == [[10, 11, 13, 14, 15, 12]]
    assert (layout.sample_index.tolist(), layout.token_index.tolist()) == ([0, 0, 2, 2, 2, 1], [0, 1, 0, 1, 2, 0])
    assert layout.prompt_length == 3
    assert (layout.prompt_starts.tolist(), layout.prompt_lengths.tolist()) == ([0, 1], [1, 2])
    assert (layout.segment_starts.tolist(), layout.segment_lengths.tolist()) == ([3, 5, 8], [2, 3, 1])
    assert layout.segment_counts.tolist() == [2, 1]
    assert layout.prompt_block.keys.tolist() == [[0, 9], [1, 2]]
    assert layout.prompt_block.queries.tolist() == [[3, 4, 5, 6, 7], [8, 9, 9, 9, 9]]


def test_a_group_costs_its_prompt_once():
    prompt = torch.randint(2, 40, (1, 300)).expand(16, -1)
    completions = torch.randint(2, 40, (16, 5))
    layout = packing.pack(prompt, torch.ones_like(prompt), completions, torch.ones_like(completions))
    assert layout.length == 299 + 16 * 5


def test_swiglu_far_from_zero():
    gate = torch.linspace(-300, 300, 1203).repeat(3)
    up = torch.randn(gate.shape, generator=torch.Generator().manual_seed(0))
    inputs, torch_inputs = ([t.clone().requires_grad_() for t in (gate, up)] for _ in range(2))
    found = native_layers._SwiGLU.apply(*inputs)
    expected = torch.nn.functional.silu(torch_inputs[0]) * torch_inputs[1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-30)
    gradients = torch.autograd.grad(found.sum(), inputs)
    for a, b in zip(gradients, torch.autograd.grad(expected.sum(), torch_inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", ["bfloat16", "double", "autocast"])
def test_a_prepared_model_may_be_cast(change):
    model, plain = prepared(make_model("qwen3")), make_model("qwen3")
    packing.prepare(model)
    ids = torch.randint(2, 50, (3, 17), generator=torch.Generator().manual_seed(0))
    if change != "autocast":
        model, plain = getattr(model, change)(), getattr(plain, change)()
    with torch.autocast("cpu", enabled=change == "autocast"):
        torch.testing.assert_close(model(ids).logits, plain(ids).logits)


def test_a_prepared_model_can_be_prepared_again_saved_and_copied(tmp_path):
    model, padded = prepared(make_model("llama")), batch(4)
    packing.prepare(model)
    expected = packed_pass(model, *padded)[0]
    packing.prepare(model)
    torch.testing.assert_close(packed_pass(model, *padded)[0], expected)
    plain = make_model("llama")
    packing.prepare(plain)
    torch.save(plain, tmp_path / "model.pt")
    ids = torch.randint(2, 50, (3, 17))
    for other in (torch.load(tmp_path / "model.pt", weights_only=False), copy.deepcopy(plain)):
        torch.testing.assert_close(other(ids).logits, plain(ids).logits)
        with torch.no_grad():
            other.model.layers[0].mlp.down_proj.weight.zero_()
        assert not torch.equal(other(ids).logits, plain(ids).logits)  # its layers are its own


def mlp_inputs(seed, tokens, size, inner):
    draw = torch.Generator().manual_seed(seed)
    shapes = ((1, tokens, size), (size,), (inner, size), (inner, size), (size, inner))
    return [torch.randn(shape, generator=draw) / shape[-1] ** 0.25 for shape in shapes]


def plain_mlp(x, norm, gate, up, down):
    h = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * norm
    return x + (torch.nn.functional.silu(h @ gate.T) * (h @ up.T)) @ down.T


@pytest.mark.parametrize("is_slow", [True, False])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 40), size=st.integers(8, 60), inner=st.integers(1, 80),
    needs=st.lists(st.booleans(), min_size=5, max_size=5).filter(any),
)  # fmt: skip
def test_half_a_layer_is_plain_pytorchs(is_slow, monkeypatch, seed, tokens, size, inner, needs):
    """Values and gradients, with any of the inputs frozen; the backward may run twice."""
    monkeypatch.setattr(products, "is_mkl_slow", lambda: is_slow)
    values = mlp_inputs(seed, tokens, size, inner)
    found = []
    for run, dtype in ((lambda x, n, *w: mlp_block(x, n, 1e-6, *w), torch.float32), (plain_mlp, torch.float64)):
        inputs = [value.to(dtype, copy=True).requires_grad_(need) for value, need in zip(values, needs, strict=True)]
        out = run(*inputs)
        for _ in range(2):
            out.square().sum().backward(retain_graph=True)
        found.append([out.detach(), *(value.grad for value in inputs if value.requires_grad)])
    for value, expected in zip(*found, strict=True):
        assert (value - expected).norm() <= 1e-4 * expected.norm() + 1e-5


@pytest.mark.parametrize("name", ["a hook", "a bias", "an adapter"])
def test_what_an_mlp_has_of_its_own_is_called(name):
    model = make_model("llama, biases" if name == "a bias" else "llama")
    if name == "an adapter":
        model = with_lora(model)
    layer = next(module for module in model.modules() if hasattr(module, "post_attention_layernorm"))
    native_layers.use_native_layers(model)
    calls = []
    if name == "a hook":
        layer.mlp.up_proj.register_full_backward_hook(lambda *_: calls.append(1))
    assert not native_layers._has_plain_mlp(layer.post_attention_layernorm, layer.mlp)
    model(torch.tensor([[3, 4, 5]])).logits.sum().backward()
    assert calls == ([1] if name == "a hook" else [])
