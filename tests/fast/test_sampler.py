"""The fast sampler against `model.generate` and against the model's own probabilities."""

import random
import warnings
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from lambda_grpo.errors import warn_once
from lambda_grpo.fast.native import build
from lambda_grpo.fast.native.build import CannotCompileError, _library, library
from lambda_grpo.fast.sampler import FastSampler, UnsupportedError, native_step, sampler
from lambda_grpo.fast.sampler.decoder import Decoder
from lambda_grpo.fast.sampler.native_step import NativeStep
from lambda_grpo.fast.sampler.torch_step import TorchStep
from tests.fast.models import MODELS, make_model, with_lora

STEPS = {"native": NativeStep, "torch": TorchStep}


@pytest.fixture(params=STEPS, autouse=True)
def step(request, monkeypatch):
    monkeypatch.setattr(sampler, "_step_class", lambda decoder: STEPS[request.param])
    return request.param


def generation(**settings):
    return GenerationConfig(
        **{"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0, "eos_token_id": 1, **settings}
    )


def generated(model, prompts, config):
    """`model.generate`, one prompt at a time without padding; up to and including the first EOS."""
    ends = [config.eos_token_id] if isinstance(config.eos_token_id, int) else config.eos_token_id
    out = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            new = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        row = new[0, len(prompt) :].tolist()
        stops = [i for i, token in enumerate(row) if token in ends]
        out.append(row[: stops[0] + 1] if stops else row)
    return out


def some_prompts(seed, count, longest=20, vocabulary=50):
    draw = random.Random(seed)
    different = [[draw.randrange(2, vocabulary) for _ in range(draw.randrange(1, longest))] for _ in range(count)]
    return [draw.choice(different) for _ in range(2 * count)]  # in any order, some several times, some never


@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_generate_token_for_token(name):
    model = make_model(name)
    prompts = some_prompts(1, 8)
    for config in (generation(), generation(eos_token_id=[1, 7, 30, 44]), generation(max_new_tokens=1)):
        assert FastSampler(config)(model, prompts).ids == generated(model, prompts, config)


def test_greedy_with_lora():
    plain, prompts = make_model("qwen2"), some_prompts(2, 6)
    before = FastSampler(generation())(plain, prompts).ids
    lora = with_lora(plain)
    with_adapter = FastSampler(generation())(lora, prompts).ids
    assert with_adapter == generated(lora, prompts, generation())
    assert with_adapter != before
    with lora.disable_adapter():
        assert FastSampler(generation())(lora, prompts).ids == before


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 70), st.integers(1, 40))
def test_any_prompts_and_lengths(seed, count, longest, max_new):
    model, prompts = make_model("qwen3"), some_prompts(seed, count, longest + 1)
    config = generation(max_new_tokens=max_new, eos_token_id=[1, 9, 20])
    assert FastSampler(config)(model, prompts).ids == generated(model, prompts, config)


@pytest.mark.parametrize("few", [0, 100], ids=["divide sequences", "divide columns"])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads, few, monkeypatch):
    monkeypatch.setattr(native_step, "FEW", few)
    model, prompts = make_model("llama"), some_prompts(3, 9)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = FastSampler(generation())(model, prompts).ids
    finally:
        torch.set_num_threads(before)
    assert found == generated(model, prompts, generation())


def test_a_long_prompt_shared_by_a_group():
    model = make_model("llama", max_position_embeddings=1024)
    prompt = some_prompts(4, 1, 600)[0] * 3
    prompts = [prompt[:500]] * 16 + [prompt[:37]] * 3
    found = FastSampler(generation())(model, prompts).ids
    assert found == generated(model, prompts[:1], generation()) * 16 + generated(model, prompts[-1:], generation()) * 3


# -- in distribution -------------------------------------------------------------------------------------------------


SETTINGS = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "top-k": {"top_k": 5},
    "top-p": {"top_p": 0.7},
    "min-p": {"min_p": 0.2},
    "all": {"temperature": 1.7, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
}
SEEDS = range(40)


@pytest.mark.parametrize("case", SETTINGS)
def test_samples_follow_the_models_probabilities(case):
    """Chi-square of the first two tokens over a fixed list of seeds, against the exact probabilities."""
    model = make_model("qwen2", vocab_size=16, initializer_range=0.08)
    config = generation(do_sample=True, max_new_tokens=2, **{"top_k": 0, **SETTINGS[case]})
    prompt = [5, 9, 3, 12]
    probabilities = {}
    first = distribution(model, prompt, config)
    for a in range(16):
        if a == 1:
            probabilities[(a,)] = first[a].item()
            continue
        for b, p in enumerate(distribution(model, [*prompt, a], config).tolist()):
            probabilities[(a, b)] = first[a].item() * p
    counts = Counter()
    for seed in SEEDS:
        torch.manual_seed(seed)
        counts.update(tuple(ids) for ids in FastSampler(config)(model, [prompt] * 200).ids)
    total = sum(counts.values())
    assert sum(probabilities.values()) == pytest.approx(1.0, abs=1e-5)
    assert all(probabilities[pair] > 0 for pair in counts)
    likely = [pair for pair, p in probabilities.items() if p * total >= 5]
    seen = [counts[pair] for pair in likely] + [sum(counts[pair] for pair in set(counts) - set(likely))]
    expected = [probabilities[pair] * total for pair in likely]
    expected.append(total - sum(expected))
    if expected[-1] < 1e-3 * total:  # nothing is left for the rest
        seen, expected = seen[:-1], [e * (total - seen[-1]) / sum(expected[:-1]) for e in expected[:-1]]
    assert chisquare(seen, expected).pvalue > 1e-3


def distribution(model, prompt, config):
    """Probabilities of the next token, by transformers' own processors."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[:, -1].float()
    processors = model._get_logits_processor(config, input_ids_seq_length=len(prompt))
    return processors(torch.tensor([prompt]), logits).softmax(-1)[0]


@pytest.mark.parametrize("case", ["plain", "all"])
def test_log_probabilities_are_those_of_the_distribution_sampled_from(case):
    model, prompts = make_model("qwen3"), some_prompts(5, 4)
    config = generation(do_sample=True, max_new_tokens=10, **{"top_k": 0, **SETTINGS[case]})
    torch.manual_seed(0)
    sampled = FastSampler(config)(model, prompts)
    for prompt, ids, logprobs in zip(prompts, sampled.ids, sampled.logprobs, strict=True):
        assert len(ids) == len(logprobs)
        for t, (token, logprob) in enumerate(zip(ids, logprobs, strict=True)):
            p = distribution(model, prompt + ids[:t], config)[token].item()
            assert logprob == pytest.approx(torch.tensor(p).log().item(), abs=2e-4)


def test_the_same_seed_gives_the_same_samples():
    model, prompts = make_model("llama"), some_prompts(6, 5)
    config = generation(do_sample=True, top_k=0)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(FastSampler(config)(model, prompts).ids)
    assert found[0] == found[1] != found[2]


# -- what it saves ---------------------------------------------------------------------------------------------------


def test_a_prompt_is_read_once_and_finished_sequences_are_dropped(step, monkeypatch):
    model, read, stepped = make_model("llama"), [], []

    def counted(self, prompts, *rest):
        read.append(len(prompts))
        return original_read(self, prompts, *rest)

    def counted_step(self, tokens, t):
        stepped.append(len(tokens))
        return original_step(self, tokens, t)

    original_read, original_step = STEPS[step]._read, STEPS[step].__call__
    monkeypatch.setattr(STEPS[step], "_read", counted)
    monkeypatch.setattr(STEPS[step], "__call__", counted_step)
    config = generation(do_sample=True, top_k=0, eos_token_id=list(range(1, 12)), max_new_tokens=60)
    torch.manual_seed(0)
    ids = FastSampler(config)(model, [[3, 4, 5]] * 8 + [[6, 7]] * 8).ids
    assert read == [2]
    alive = [sum(len(row) > t + 1 for row in ids) for t in range(max(map(len, ids)) - 1)]
    if step == "native":
        assert stepped == alive
    else:  # up to a quarter of the batch may be finished
        assert all(rows <= live / 0.75 + 1 for rows, live in zip(stepped, alive, strict=True))
        assert stepped[-1] < 16


# -- what it refuses -------------------------------------------------------------------------------------------------


UNKNOWN = {
    "sliding-window attention": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
    "RoPE scaling of type 'dynamic'": {
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0},
    },
    "the activation 'gelu'": {"hidden_act": "gelu"},
}


@pytest.mark.parametrize("message", UNKNOWN)
def test_an_unsupported_option_is_named(message):
    model = make_model("qwen2", **UNKNOWN[message])
    with pytest.raises(UnsupportedError, match=message):
        FastSampler(generation())(model, [[1]])


def test_what_is_unsupported_is_named():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20))
    with pytest.raises(UnsupportedError, match=r"models of type 'gpt2' \(supported: llama, qwen2, qwen3\)"):
        FastSampler(generation())(model, [[1]])
    with pytest.raises(UnsupportedError, match=r"repetition_penalty = 1\.2"):
        FastSampler(generation(repetition_penalty=1.2))
    with pytest.raises(UnsupportedError, match="num_beams = 4"):
        FastSampler(generation(num_beams=4))
    with pytest.raises(ValueError, match="a prompt is empty"):
        FastSampler(generation())(make_model("llama"), [[1], []])


def test_without_a_compiler_pytorch_is_used_with_one_warning(monkeypatch, tmp_path):
    monkeypatch.undo()
    warn_once.cache_clear()
    model, prompts = make_model("llama"), some_prompts(7, 3)
    expected = FastSampler(generation())(model, prompts).ids
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    failing = tmp_path / "cc"
    failing.write_text("#!/bin/sh\necho no such instruction >&2\nexit 1\n")
    failing.chmod(0o755)
    for compiler, message in ((str(failing), "no such instruction"), ("no-such-compiler", "there is no C compiler")):
        monkeypatch.setenv("CC", compiler)
        _library.cache_clear()
        with pytest.raises(CannotCompileError, match=message):
            library()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                assert FastSampler(generation())(model, prompts).ids == expected
        assert len([w for w in caught if message in str(w.message)]) == 1
    _library.cache_clear()


def test_the_library_is_built_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in build.FLAGS))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _library.cache_clear()
    library()
    (built,) = (tmp_path / "lambda-grpo").iterdir()
    changed = built.stat().st_mtime_ns
    _library.cache_clear()
    library()
    assert built.stat().st_mtime_ns == changed
    _library.cache_clear()


def test_bfloat16_uses_pytorch():
    model = make_model("qwen2").bfloat16()
    assert not NativeStep.supports(Decoder(model))
    assert NativeStep.supports(Decoder(make_model("qwen2")))
