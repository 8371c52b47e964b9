from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_grpo.base_policy import make
from lambda_grpo.evaluation import Sampling, evaluate
from lambda_grpo.models import BUILTIN, load_model, resolve_model
from lambda_grpo.tasks import load_task

PATH = resolve_model(BUILTIN)


def test_it_is_small_and_loads_as_any_model():
    model, tokenizer = AutoModelForCausalLM.from_pretrained(PATH), AutoTokenizer.from_pretrained(PATH)
    assert model.config.model_type == "qwen2"
    assert 0.5e6 < sum(p.numel() for p in model.parameters()) < 1.5e6
    assert sum(file.stat().st_size for file in Path(PATH).iterdir() if file.is_file()) <= 8e6
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


def test_the_script_is_deterministic_and_makes_this_model(tmp_path, monkeypatch):
    for name in ("one", "two"):
        monkeypatch.setattr("sys.argv", ["make", str(tmp_path / name), "--steps", "4"])
        make.main()
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    shipped = load_file(f"{PATH}/model.safetensors")
    assert {key: value.shape for key, value in one.items()} == {key: value.shape for key, value in shipped.items()}
    assert (tmp_path / "one/tokenizer.json").read_text() == Path(PATH, "tokenizer.json").read_text()


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
