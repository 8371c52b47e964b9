"""The peer of `generate_llamacpp` computes the same model, and the benchmark says what it needs."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lambda_grpo.bench import benchmarks, llamacpp, measurement, workloads
from lambda_grpo.cli import main


def small(_):
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=32, tie_word_embeddings=True, initializer_range=0.2,
            rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        )
    )  # fmt: skip


WORKLOAD = replace(
    workloads.WORKLOADS["real"], prompts=2, num_generations=3, prompt_length=9, max_completion_length=7, end_tokens=20,
    make_model=small,
)  # fmt: skip


def test_the_sampler_draws_the_same_tokens_each_time():
    model, prompts = workloads.make_policy(WORKLOAD), [[5, 6, 7], [8, 9]]
    first, second = (llamacpp.sample(model, prompts, WORKLOAD).ids for _ in range(2))
    assert first == second
    assert len(first) == WORKLOAD.completions


@pytest.mark.parametrize(("quantized", "tolerance"), [(False, 1e-4), (True, 0.3)])
def test_llama_cpp_computes_the_same_model(tmp_path, quantized, tolerance):
    for module in llamacpp.PACKAGES:
        pytest.importorskip(module)
    model = workloads.make_policy(WORKLOAD)
    prompts = workloads.make_tokenizer()(workloads.make_prompts(WORKLOAD, 2))["input_ids"]
    completions = [[20 + i * j for i in range(7)] for j in range(6)]
    llamacpp.write_gguf(model, tmp_path / "policy.gguf", quantized=quantized)
    llama = llamacpp.LlamaCpp(tmp_path / "policy.gguf", WORKLOAD, is_exact=not quantized)
    llama.generate(prompts, completions)
    found = llama.log_probabilities(6)
    rows = [prompts[j // 3] + completion[:-1] for j, completion in enumerate(completions)]
    expected = model(torch.tensor(rows)).logits[:, -1].log_softmax(-1)
    assert (found - expected).abs().max() < tolerance


def test_without_llama_cpp_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(measurement.importlib.util, "find_spec", lambda module: None)
    assert main(["bench", "generate_llamacpp"]) == 2
    advice = "generate_llamacpp needs llama-cpp-python and gguf: pip install llama-cpp-python gguf"
    assert advice in capsys.readouterr().err
    found = benchmarks.BENCHMARKS["grading"]
    monkeypatch.setattr(benchmarks, "BENCHMARKS", {"generate_llamacpp": benchmarks.BENCHMARKS["generate_llamacpp"]})
    assert found.to_install == []
    assert main(["bench"]) == 0
    assert f"skipped: {advice}" in capsys.readouterr().err
