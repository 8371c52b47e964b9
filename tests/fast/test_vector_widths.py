"""Native code compiled for narrower vectors than this processor's: other tiles, other panels."""

import platform
from pathlib import Path

import pytest
import torch

from lambda_grpo.fast import packing
from lambda_grpo.fast.packing import products
from lambda_grpo.fast.sampler import FastSampler
from tests.fast.models import make_model
from tests.fast.test_packing import batch, prepared
from tests.fast.test_sampler import generated, generation

CPU = Path("/proc/cpuinfo")
MACHINES = {"x86-64": "sse2", "haswell": "avx2"}  # gcc's names of processors, and the feature needed to run their code


@pytest.fixture(params=MACHINES)
def narrow(request, compile_for):
    if platform.machine() != "x86_64" or not CPU.exists() or f" {MACHINES[request.param]} " not in CPU.read_text():
        pytest.skip(f"this processor isn't a {request.param}")
    assert compile_for(f"-march={request.param}").lgrpo_vector_width() == {"x86-64": 4, "haswell": 8}[request.param]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("narrow", "two_threads")
@pytest.mark.parametrize("rows", [1, 5, 119, 121, 124, 127, 128, 129, 300])
def test_products(rows):
    """Rows that fill no tile, and as many as two threads nearly fill a block with; a last panel that isn't full."""
    for n in (5, 16, 50):
        x, weight = torch.randn(rows, 33), torch.randn(n, 33)
        for _ in range(20):  # a race between two threads shows only now and then
            found = products.native_product(x, weight)
            torch.testing.assert_close(found, x @ weight.T, rtol=1e-4, atol=1e-4)
        gradient = products.native_weight_gradient(found, x)
        torch.testing.assert_close(gradient, found.T @ x, rtol=1e-4, atol=1e-2)


@pytest.mark.usefixtures("narrow", "two_threads")
@pytest.mark.parametrize("name", ["qwen2, wide heads", "llama, odd sizes", "qwen3"])
def test_sampling_and_training(name):
    model = make_model(name)
    prompts = [[5, 9, 3, 12, 8], [5, 9, 3], [7] * 20, [5, 9, 3]]
    config = generation(max_new_tokens=20)
    assert FastSampler(config)(model, prompts).ids == generated(model, prompts, config)
    parts = batch(11)
    found = []
    for is_native in (True, False):
        each = prepared(make_model(name))
        packing.prepare(each, native=is_native)
        output = packing.packed_pass(each, packing.pack(*parts))
        output.log_probs.sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in each.parameters() if p.grad is not None]))
    assert (found[0] - found[1]).norm() < 1e-4 * found[1].norm()
