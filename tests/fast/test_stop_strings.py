"""Stop strings across tokens against a search in the decoded text, and in the fast sampler against `generate`."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from lambda_grpo.fast.sampler import FastSampler, StopAtStrings, StopStrings, sampler
from lambda_grpo.fast.sampler.native_step import NativeStep
from lambda_grpo.fast.sampler.torch_step import TorchStep
from tests.fast.models import make_model

TEXTS = ["the stop stopper, sto op top. ", "Question: what?\n\n### ", "答案 is é 日本 "]


def byte_level(texts, alphabet):
    """Bytes of a character may be tokens of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=["<pad>", "<eos>"])
    tokenizer.train_from_iterator(texts * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


TOKENIZER = byte_level(TEXTS, pre_tokenizers.ByteLevel.alphabet())
WORDS = byte_level([text for text in TEXTS if text.isascii()], [])  # all of its tokens are text
LIKELY = sorted({token for text in TEXTS for cut in range(len(text)) for token in TOKENIZER(text[cut:])["input_ids"]})
IDS = st.lists(st.sampled_from(LIKELY) | st.integers(0, len(TOKENIZER) - 1), min_size=1, max_size=12)
STOPS = [["stop"], ["op", " x"], ["\n\n"], ["答案"], ["本", "Question:"], ["é"], ["<eos>"], ["."]]


def in_text(ids, strings):
    """How many tokens it takes until the text holds one of the strings; None if it never does."""
    lengths = [n for n in range(1, len(ids) + 1) if any(string in TOKENIZER.decode(ids[:n]) for string in strings)]
    return min(lengths, default=None)


@pytest.mark.parametrize("strings", STOPS, ids=str)
def test_a_completion_ends_with_the_token_that_completes_a_stop(strings):
    stops = StopStrings(strings, TOKENIZER)

    @given(st.lists(IDS, min_size=1, max_size=3))
    def check(completions):
        expected = [in_text(ids, strings) for ids in completions]
        cut = stops.truncate(completions)
        assert cut == [ids[:n] for ids, n in zip(completions, expected, strict=True)]
        assert stops.ended(cut) == [n is not None for n in expected]

    check()


def test_it_may_lie_within_a_token():
    long = max(WORDS.batch_decode([[token] for token in range(2, len(WORDS))]), key=len)
    ids = WORDS(f"to{long}to")["input_ids"]
    assert len(long) > 4
    assert WORDS.decode(StopStrings([long[1:3]], WORDS).truncate([ids])[0]) == f"to{long}"


@pytest.mark.parametrize("step", [NativeStep, TorchStep])
@pytest.mark.parametrize("strings", [["J"], ["X3", "W0&"], [")[3", "W1$", "YN."]], ids=str)
def test_the_fast_sampler_stops_where_generate_does(strings, step, monkeypatch):
    monkeypatch.setattr(sampler, "_step_class", lambda decoder: step)
    model = make_model("qwen2")
    config = GenerationConfig(max_new_tokens=24, do_sample=False, pad_token_id=0, eos_token_id=1)
    prompts = [[3, 9, 14], [7], [3, 9, 14], [20, 21, 22, 23, 24, 25], [11, 3]]
    prompts[0][-1] = TOKENIZER.convert_tokens_to_ids(strings[-1][0])  # a stop may not begin in the prompt
    stops = StopStrings(strings, TOKENIZER)
    expected, free = [], FastSampler(config)(model, prompts).ids
    for prompt in prompts:
        ids = torch.tensor([prompt])
        found = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config,
            stopping_criteria=[StopAtStrings(stops, len(prompt))],
        )  # fmt: skip
        expected.append(found[0, len(prompt) :].tolist())
    sampled = FastSampler(config, stops)(model, prompts)
    assert sampled.ids == expected
    assert sampled.ids == [ids[: in_text(ids, strings)] for ids in free]
    assert sampled.ids != free
    assert [len(row) for row in sampled.logprobs] == [len(row) for row in sampled.entropies] == list(map(len, expected))
