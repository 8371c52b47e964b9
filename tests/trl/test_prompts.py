"""Prompts that are too long for the setting or the model: refused by name, dropped, or cut on the left."""

import pytest
import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM

from lambda_grpo.errors import UserError
from lambda_grpo.trl import LambdaGRPOTrainer
from tests.fast.models import SIZE
from tests.fast.test_stop_strings import WORDS
from tests.trl.setup import config, logged

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
TEXTS = ["to", "to stop", "the stop", "to the top is the stop", "what is the stop, sto op top", "what", "top", "is"]
LENGTHS = [len(WORDS(text)["input_ids"]) for text in TEXTS]
LIMIT = 5
FITTING = [text for text, length in zip(TEXTS, LENGTHS, strict=True) if length <= LIMIT]
assert 0 < len(TEXTS) - len(FITTING) < 4


def by_length(completions, **_):
    return [float(len(completion)) for completion in completions]


class Recorded(LambdaGRPOTrainer):
    """Writes down which tokens were generated from."""

    def _generate_single_turn(self, prompt_ids, *rest, **kwargs):
        self.read = [*getattr(self, "read", []), *prompt_ids]
        return super()._generate_single_turn(prompt_ids, *rest, **kwargs)


def trainer_of(path, data, positions=256, tokenizer=WORDS, eval_dataset=None, **settings):
    torch.manual_seed(0)
    defaults = {
        "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_generations": 2, "max_steps": 1,
        "max_completion_length": 4,
    }  # fmt: skip
    size = {**SIZE, "vocab_size": len(WORDS), "max_position_embeddings": positions}
    return Recorded(
        model=Qwen2ForCausalLM(Qwen2Config(**size)),
        processing_class=tokenizer,
        reward_funcs=by_length,
        args=config(path, **{**defaults, **settings}),
        train_dataset=data,
        eval_dataset=eval_dataset,
    )


def rows(texts=TEXTS, **columns):
    return Dataset.from_dict({"prompt": texts, **columns})


def said(caplog):
    """What there was to say of prompts."""
    return [record.getMessage() for record in caplog.records if "prompts of the" in record.getMessage()]


def test_longer_prompts_are_dropped_whole_and_counted(tmp_path, caplog):
    data = rows(number=list(range(len(TEXTS))))
    trainer = trainer_of(tmp_path, data, max_prompt_length=LIMIT, eval_dataset=data)
    assert list(trainer.train_dataset["prompt"]) == list(trainer.eval_dataset["prompt"]) == FITTING
    assert [TEXTS[number] for number in trainer.train_dataset["number"]] == FITTING
    count, most = len(TEXTS) - len(FITTING), max(LENGTHS)
    assert said(caplog) == [
        f"{count} of 8 prompts of the {name} data have more than 5 tokens (the longest one {most}) and are dropped"
        for name in ("training", "evaluation")
    ]
    trainer.train()
    assert all(len(ids) <= LIMIT for ids in trainer.read)
    assert len(trainer.read) == 8


def test_longer_prompts_are_cut_on_the_left(tmp_path, caplog):
    settings = {"max_prompt_length": LIMIT, "max_prompt_overflow": "truncate_left", "per_device_train_batch_size": 16}
    trainer = trainer_of(tmp_path, rows(), **settings)
    assert [message.endswith("and are cut on the left") for message in said(caplog)] == [True]
    assert len(trainer.train_dataset) == 8
    trainer.train()
    expected = [WORDS(text)["input_ids"][-LIMIT:] for text in TEXTS for _ in range(2)]
    assert sorted(trainer.read) == sorted(expected)
    assert logged(trainer, "prompts/truncated_ratio") == [(len(TEXTS) - len(FITTING)) / len(TEXTS)]


@pytest.mark.parametrize("overflow", ["drop", "truncate_left"])
def test_a_stream_is_looked_through_as_it_is_read(overflow, tmp_path, caplog):
    settings = {"max_prompt_length": LIMIT, "max_prompt_overflow": overflow, "shuffle_dataset": False}
    trainer = trainer_of(tmp_path, rows().to_iterable_dataset(), **settings)
    trainer.train()
    assert said(caplog) == []
    texts = FITTING if overflow == "drop" else TEXTS
    assert trainer.read == [WORDS(text)["input_ids"][-LIMIT:] for text in texts[:4] for _ in range(2)]
    if overflow == "drop":
        assert logged(trainer, "prompts/dropped") == [TEXTS.index(FITTING[3]) - 3]


def test_what_is_drawn_beyond_the_batch_fits_too(tmp_path):
    trainer = trainer_of(tmp_path, rows(), max_prompt_length=LIMIT, dynamic_sampling=True, max_resample_times=3)
    assert trainer.fresh_prompts.dataset is trainer.train_dataset
    trainer.train()
    assert all(len(ids) <= LIMIT for ids in trainer.read)


def test_a_conversation_counts_with_its_template(tmp_path):
    tokenizer = WORDS.__class__(tokenizer_object=WORDS.backend_tokenizer, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = CHAT
    data = rows([[{"role": "user", "content": text}] for text in TEXTS])
    lengths = [len(tokenizer(f"<user>{text}<a>")["input_ids"]) for text in TEXTS]
    limit = sorted(lengths)[-3]
    trainer = trainer_of(tmp_path, data, max_prompt_length=limit, tokenizer=tokenizer)
    kept = [text for text, length in zip(TEXTS, lengths, strict=True) if length <= limit]
    assert [prompt[0]["content"] for prompt in trainer.train_dataset["prompt"]] == kept
    assert 5 < len(kept) < 8


POSITIONS = 9  # five beside four of the completion


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_beyond_the_models_positions_is_refused_by_name(stream, tmp_path):
    longest = LENGTHS.index(max(LENGTHS))
    message = f"the prompt '{TEXTS[longest]}' has {max(LENGTHS)} tokens, there is room for 5 beside max_completion"
    if stream:
        data = rows(TEXTS[longest:]).to_iterable_dataset()
        trainer = trainer_of(tmp_path, data, POSITIONS, shuffle_dataset=False)
        with pytest.raises(UserError, match=message):
            trainer.train()
    else:
        with pytest.raises(UserError, match=f"row {longest} of the training data: {message}"):
            trainer_of(tmp_path, rows(), POSITIONS)
        with pytest.raises(UserError, match="of the evaluation data"):
            trainer_of(tmp_path, rows(FITTING), POSITIONS, eval_dataset=rows())
        assert not list(tmp_path.iterdir())


def test_the_models_positions_count_without_a_length_of_ones_own(tmp_path):
    assert list(trainer_of(tmp_path, rows(), POSITIONS, max_prompt_overflow="drop").train_dataset["prompt"]) == FITTING
    assert len(trainer_of(tmp_path, rows(), POSITIONS, max_prompt_length=100).train_dataset) == len(FITTING)
    assert len(trainer_of(tmp_path, rows()).train_dataset) == len(TEXTS)
    with pytest.raises(UserError, match="max_completion_length 9 leaves no room for a prompt in the model's 9"):
        trainer_of(tmp_path, rows(), POSITIONS, max_completion_length=9)


def test_too_few_that_fit(tmp_path):
    with pytest.raises(UserError, match="2 of 8 prompts of the training data have at most 1 tokens, too few"):
        trainer_of(tmp_path, rows(), max_prompt_length=1, per_device_train_batch_size=16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_prompt_length": 0}, "max_prompt_length must be at least 1, got 0"),
        ({"max_prompt_overflow": "left"}, "max_prompt_overflow is 'left': use 'drop' or 'truncate_left'"),
    ],
)
def test_values_out_of_range(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **settings)


def test_images_are_not_counted(tmp_path):
    with pytest.raises(UserError, match="max_prompt_length is for prompts of text"):
        trainer_of(tmp_path, rows(image=[None] * 8), max_prompt_length=5)


@pytest.mark.parametrize(("given", "used"), [(1, 4), (4, 4), (5, 4), (9, 8)])
def test_an_evaluation_batch_holds_whole_groups(given, used, tmp_path, caplog):
    settings = {"num_generations_eval": 4, "per_device_eval_batch_size": given}
    assert config(tmp_path, eval_strategy="steps", **settings).per_device_eval_batch_size == used
    said_so = f"per_device_eval_batch_size is {used} instead of {given}: an evaluation batch holds whole groups of 4"
    assert (said_so in caplog.text) == (given != used)
    trainer = trainer_of(tmp_path, rows(FITTING), eval_dataset=rows(FITTING[:3]), **settings)
    assert trainer.args.per_device_eval_batch_size == given  # an evaluation isn't planned
    trainer.evaluate()
    assert len(trainer.read) == 12
    assert trainer.args.per_device_eval_batch_size == used
