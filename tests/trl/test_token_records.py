"""The columns of single tokens in completions/, against TRL's own numbers and a plain pass of the model."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from lambda_grpo.models import BUILTIN, resolve_model
from lambda_grpo.objective.batch import GeneratedBatch
from lambda_grpo.runs.directory import Run
from lambda_grpo.trl.token_records import chosen_samples
from lambda_grpo.trl.token_texts import TokenTexts
from tests.invariant.injected_run import reward as hash_reward
from tests.trl.setup import config, logged, make_trainer, parameters

SMALL = {"max_completion_length": 12, "lr_scheduler_type": "constant"}
TEMPERATURE = 0.7


def trained(path, checkpoint=None, reward=None, **settings):
    trainer = make_trainer(config(path, **{**SMALL, **settings}), reward=reward)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(path / f"checkpoint-{checkpoint}"))
    return trainer


def rows(path, step=None):
    return Run(path).completions(steps=None if step is None else [step], tokens=True).to_pylist()


def plain_pass(prompt, ids):
    """Log-probabilities and entropies of a completion's tokens under the built-in model, token by token."""
    model = AutoModelForCausalLM.from_pretrained(resolve_model(BUILTIN)).eval()
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / TEMPERATURE
    logps = logits.log_softmax(-1)
    return logps[range(len(ids)), ids].tolist(), (-(logps.exp() * logps).sum(-1)).tolist()


SOURCES = {
    "fast sampler": {},
    "TRL, padded": {"sampler": "trl", "packing": False},
    "two updates": {"sampler": "trl", "num_iterations": 2, "gradient_accumulation_steps": 1},
    "without TRL's surrogate": {"objective": "gmpo", "num_iterations": 2, "gradient_accumulation_steps": 1},
}


@pytest.mark.parametrize("source", SOURCES)
def test_values_are_those_of_the_policy_that_generated(source, tmp_path):
    trained(tmp_path, temperature=TEMPERATURE, **{"max_steps": 2, "objective": "lambda_grpo", **SOURCES[source]})
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(BUILTIN))
    samples = rows(tmp_path, 1)
    assert len(samples) == (16 if "num_iterations" in SOURCES[source] else 32)
    for sample in samples:
        assert sample["length"] == len(sample["tokens"]) == len(sample["clipped"])
        assert "".join(sample["tokens"]) == sample["completion"] + "<eos>" * (sample["tokens"][-1] == "<eos>")
        prompt, ids = tokenizer(sample["prompt"])["input_ids"], tokenizer.convert_tokens_to_ids(sample["tokens"])
        logps, entropies = plain_pass(prompt, ids)
        assert sample["logprobs"] == pytest.approx(logps, abs=1e-4)
        assert sample["entropies"] == pytest.approx(entropies, abs=1e-4)


@pytest.mark.parametrize("objective", ["lambda_grpo", "gspo", "gmpo"])
def test_the_share_of_clipped_tokens_is_trls(objective, tmp_path):
    """At the last of three updates; on policy nothing is clipped."""
    trainer = trained(tmp_path, objective=objective, num_iterations=3, gradient_accumulation_steps=1, max_steps=4)
    clipped = [value for sample in rows(tmp_path, 1) for value in sample["clipped"]]
    share = logged(trainer, "clip_ratio/region_mean")[2]
    if objective == "gspo":  # TRL's mean is over sequences
        clipped = [sample["clipped"][0] for sample in rows(tmp_path, 1)]
        assert all(len(set(sample["clipped"])) == 1 for sample in rows(tmp_path, 1))
    assert 0 < share == pytest.approx(sum(clipped) / len(clipped), abs=1e-6)
    assert not any(value for sample in rows(tmp_path, 4) for value in sample["clipped"])


def test_weights_of_tokens_where_an_objective_has_them(tmp_path):
    trained(tmp_path, objective="lambda_grpo_prm", max_steps=1)
    samples = rows(tmp_path)
    assert any(len(set(sample["token_weights"])) > 1 for sample in samples)
    for sample in samples:
        assert len(sample["token_weights"]) == sample["length"]
        assert sum(sample["token_weights"]) / sample["length"] == pytest.approx(sample["weight"], abs=1e-6)


FILTERED = {
    "selection": {"select_best_and_worst": 2},
    "zero variance": {"drop_zero_variance": True},
    "truncated": {"mask_truncated_completions": True, "max_completion_length": 6},
}


@pytest.mark.parametrize("name", FILTERED)
def test_a_sample_without_loss_has_none(name, tmp_path):
    trained(tmp_path, objective="dapo", max_steps=1, **FILTERED[name])
    samples = rows(tmp_path)
    has_loss = [sample["weight"] > 0 for sample in samples]
    if name == "truncated":
        has_loss = [sample["length"] < 6 for sample in samples]
    assert {True, False} == set(has_loss)
    assert [sample["tokens"] is not None for sample in samples] == has_loss
    assert [sample["logprobs"] is not None for sample in samples] == has_loss


def test_recording_changes_nothing_and_can_be_switched_off(tmp_path):
    off = trained(tmp_path / "off", record_tokens=0)
    on = trained(tmp_path / "on")
    assert all(torch.equal(value, parameters(on)[name]) for name, value in parameters(off).items())
    assert Run(tmp_path / "off").completions(tokens=True).equals(Run(tmp_path / "on").completions())
    assert "tokens" in Run(tmp_path / "on").completions(tokens=True).column_names


@pytest.mark.parametrize(
    "settings",
    [
        {"num_iterations": 2, "steps_per_generation": 2, "gradient_accumulation_steps": 1},
        {"steps_per_generation": 1, "gradient_accumulation_steps": 3},  # several generations a step
    ],
)
def test_a_resumed_run_has_the_same(settings, tmp_path):
    settings = {"objective": "lambda_grpo", "save_strategy": "steps", "save_steps": 1, "max_steps": 6, **settings}
    trained(tmp_path, reward=hash_reward, **settings)
    whole = Run(tmp_path).completions(tokens=True)
    assert whole["tokens"].null_count == 0
    trained(tmp_path, 3, reward=hash_reward, **settings)
    assert Run(tmp_path).completions(tokens=True).equals(whole)


def test_whole_groups_that_teach_most_come_first():
    """Four groups of two: equal rewards, mixed ones with equal lengths, mixed ones with other lengths, too long."""
    batch = GeneratedBatch(
        lengths=torch.tensor([3.0, 4, 5, 5, 2, 6, 90, 10]),
        group_ids=torch.arange(8) // 2,
        advantages=torch.tensor([0.0, 0, 1, -1, 1, -1, 1, -1]),
        is_kept=torch.ones(8, dtype=torch.bool),
    )
    assert chosen_samples(batch, 1000) == set(range(8))
    assert chosen_samples(batch, 25) == {2, 3, 4, 5, 0, 1}
    assert chosen_samples(batch, 18) == {2, 3, 4, 5}
    assert chosen_samples(batch, 9) == {4, 5}
    assert chosen_samples(batch, 7) == {0, 1}
    assert chosen_samples(batch, 6) == set()


# -- the texts of tokens -----------------------------------------------------------------------------------------------

TEXTS = ["the sum 12+34=46, the end", "a 🙂 → 漢字 é, the", "x=1,y", "🙂🙂", " the", ""]


def byte_level():
    """As in GPT-2, Llama 3 and Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<|im_end|>", "<|tool|>"]
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, special_tokens=special)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def byte_fallback():
    """As in Llama 2 and Gemma."""
    words = ["<unk>", "<|im_end|>", "<|tool|>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁thesumnd=+,xy0123456"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    words += [left + right for left, right in merges]
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def word_pieces():
    """As in BERT: its decoder puts spaces between tokens."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    special = ["[UNK]", "<|im_end|>", "<|tool|>"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=60, special_tokens=special))
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, byte_fallback, word_pieces])
def test_texts_joined_are_the_completion(make):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make(), eos_token="<|im_end|>", additional_special_tokens=["<|tool|>"]
    )
    texts_of = TokenTexts(tokenizer)
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    generator = torch.Generator().manual_seed(0)
    encoded += [torch.randint(3, len(tokenizer), (20,), generator=generator).tolist() for _ in range(50)]
    for ids in encoded:
        texts = texts_of(ids)
        assert len(texts) == len(ids)
        assert "".join(texts) == tokenizer.decode(ids, skip_special_tokens=True)
        end = tokenizer.eos_token_id
        assert texts_of([*ids, end]) == [*texts, "<|im_end|>"]
    ids = [*encoded[0], tokenizer.convert_tokens_to_ids("<|tool|>"), *encoded[2]]
    assert texts_of(ids)[len(encoded[0])] == ""  # left out within a completion


def test_a_split_character_is_the_text_of_its_last_token():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_fallback(), eos_token="<|im_end|>")
    assert TokenTexts(tokenizer)(tokenizer("the é", add_special_tokens=False)["input_ids"]) == [
        "the", " ", "", "é",
    ]  # fmt: skip
