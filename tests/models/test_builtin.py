from pathlib import Path
from statistics import fmean

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_grpo.evaluation import Sampling, evaluate
from lambda_grpo.fast.sampler import FastSampler
from lambda_grpo.models import BUILTIN, BUILTIN_LLAMA, load_model, resolve_model
from lambda_grpo.models.builtin import make
from lambda_grpo.models.builtin.warmup_data import GYM_DATA_SET
from lambda_grpo.tasks import load_task

PATH, LLAMA_PATH = resolve_model(BUILTIN), resolve_model(BUILTIN_LLAMA)
BOTH = [("qwen2", PATH), ("llama", LLAMA_PATH)]


@pytest.mark.parametrize(("family", "path"), BOTH)
def test_it_is_small_and_loads_as_any_model(family, path):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert model.config.model_type == family
    assert 0.5e6 < sum(p.numel() for p in model.parameters()) < 1.5e6
    assert sum(file.stat().st_size for file in Path(path).iterdir() if file.is_file()) <= 8e6
    assert type(tokenizer).__name__ == "Qwen2Tokenizer"
    for text in ("3+8+4=#5", "two words\n\n\tand  more ~{Zz}", "é 漢 \U0001f600"):
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text


def test_it_leaves_reinforcement_learning_something_to_improve():
    model, tokenizer = load_model(PATH)
    found = evaluate(model, tokenizer, load_task("arithmetic", "test", size=1000), Sampling(64))
    assert found.ci95[0] > 0.30
    assert found.ci95[1] < 0.75
    assert found.truncated < 0.01


def test_lengths_vary_inside_a_group():
    model, tokenizer = load_model(PATH)
    task = load_task("arithmetic", "test", size=32)
    torch.manual_seed(0)
    varying = 0
    for i in range(len(task)):
        prompt = tokenizer([task[i].prompt] * 8, return_tensors="pt")
        output = model.generate(**prompt, do_sample=True, max_new_tokens=64)[:, prompt["input_ids"].size(1) :]
        varying += len({int((row != tokenizer.pad_token_id).sum()) for row in output}) > 1
    assert varying > len(task) / 2


def test_evaluation_is_reproducible_and_leaves_the_random_state():
    model, tokenizer = load_model(PATH)
    task = load_task("arithmetic", "test", size=64)
    state = torch.random.get_rng_state()
    first = evaluate(model, tokenizer, task, Sampling(64))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    assert evaluate(model, tokenizer, task, Sampling(64)) == first
    assert evaluate(model, tokenizer, task, Sampling(64), seed=1) != first
    greedy = [evaluate(model, tokenizer, task, Sampling(64, temperature=0), seed=s) for s in (0, 1)]
    assert greedy[0].accuracy == greedy[1].accuracy
    short = evaluate(model, tokenizer, task, Sampling(2))
    assert short.truncated == 1.0
    assert short.completion_length_mean == 2.0


@pytest.mark.parametrize(("family", "path"), BOTH)
def test_the_script_is_deterministic_and_makes_this_model(family, path, tmp_path, monkeypatch):
    for name in ("one", "two"):
        monkeypatch.setattr("sys.argv", ["make", str(tmp_path / name), "--family", family, "--steps", "4"])
        make.main()
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    shipped = load_file(f"{path}/model.safetensors")
    assert {key: value.shape for key, value in one.items()} == {key: value.shape for key, value in shipped.items()}
    assert (tmp_path / "one/tokenizer.json").read_text() == Path(path, "tokenizer.json").read_text()


def test_nothing_is_taken_from_the_models_own_sampling_defaults():
    model, tokenizer = load_model(PATH)
    task = load_task("arithmetic", "test", size=64)
    plain = evaluate(model, tokenizer, task, Sampling(64))
    model.generation_config.top_k = 1
    model.generation_config.repetition_penalty = 3.0
    assert evaluate(model, tokenizer, task, Sampling(64)) == plain
    assert model.generation_config.top_k == 1
    nearly_greedy = evaluate(model, tokenizer, task, Sampling(64, top_k=1))
    assert nearly_greedy.accuracy == evaluate(model, tokenizer, task, Sampling(64, temperature=0)).accuracy


def graded_samples(name, size=200, path=LLAMA_PATH):
    """(completion, whether it is right) for each of `size` held-out examples, one sample each at temperature 1."""
    model, tokenizer = load_model(path)
    task = load_task(name, "test", size=size)
    config = Sampling(64).generation_config(tokenizer.eos_token_id, tokenizer.pad_token_id)
    torch.manual_seed(0)
    sampled = FastSampler(config)(model, tokenizer([task[i].prompt for i in range(size)])["input_ids"]).ids
    completions = [tokenizer.decode(ids, skip_special_tokens=True) for ids in sampled]
    return [(text, task.grade(text, task[i]) == 1.0) for i, text in enumerate(completions)]


def share_right(samples):
    return fmean(right for _, right in samples)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("shorter_is_right", 0.40, 0.75),
        ("neutral", 0.45, 0.75),
        ("null", 0.38, 0.62),
        (GYM_DATA_SET, 0.15, 0.80),
    ],
)
def test_the_second_policys_accuracy_on_each_task_is_in_between(name, least, most):
    assert least < share_right(graded_samples(name)) < most


def test_longer_completions_are_more_accurate_on_arithmetic():
    samples = graded_samples("arithmetic", path=PATH)
    worked = [sample for sample in samples if len(sample[0]) > 2]
    direct = [sample for sample in samples if len(sample[0]) <= 2]
    assert len(worked) > 40
    assert len(direct) > 40
    assert share_right(worked) > 0.85
    assert share_right(direct) < 0.6


def test_shorter_completions_are_more_accurate_on_shorter_is_right():
    samples = graded_samples("shorter_is_right")
    direct = [sample for sample in samples if len(sample[0]) == 2]
    wandering = [sample for sample in samples if len(sample[0]) > 2]
    assert len(direct) > 40
    assert len(wandering) > 40
    assert share_right(direct) > 0.85
    assert share_right(wandering) < 0.5


def test_length_is_independent_of_accuracy_on_neutral():
    samples = sorted(graded_samples("neutral", size=400), key=lambda sample: len(sample[0]))
    assert abs(share_right(samples[:200]) - share_right(samples[200:])) < 0.2  # four standard errors
    for name in ("neutral", "null"):
        assert 11 < fmean(len(text) for text, _ in graded_samples(name)) < 17
