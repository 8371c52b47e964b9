"""Stop strings in the trainer: the same completions from both samplers, and ended where a stop string ended them."""

import pytest
import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM

from lambda_grpo.trl import LambdaGRPOTrainer
from lambda_grpo.trl.args import generation_kwargs
from tests.fast.models import SIZE
from tests.fast.test_stop_strings import WORDS
from tests.trl.setup import config, logged

PROMPTS = ["the stop", "the stop", "Question: ", "Question: ", "to", "to", "what is", "what is"]
SETTINGS = {
    "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_generations": 2, "max_steps": 1,
    "max_completion_length": 12,
}  # fmt: skip
GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
FREE = [  # what the model below says
    ["op", "Quest", "\n", "top", "at", "t", "top", "per", "Question", "w", "Qu", "per"],
    ["op", "hat", "<eos>"],
    ["Question", "hat", "n", " stopper", " stop", "est", "at", " st", " top", " op", "hat", "n"],
    ["n", ",", "u", "u", " what", "?", "?", "?", ",", "w", "w", "u"],
]
# Over the borders of three tokens, within one, and one that would begin in the last prompt
STOPS = ["ttto", "toppe", "sn"]
STOPPED = [FREE[0][:7], FREE[1], FREE[2][:4], FREE[3]]


def by_length(completions, **_):
    return [float(len(completion) + i % 2) for i, completion in enumerate(completions)]


class Recorded(LambdaGRPOTrainer):
    def _generate_and_score_completions(self, inputs):
        self.output = super()._generate_and_score_completions(inputs)
        return self.output


def trainer_of(path, **settings):
    """A random model over tokens of several letters."""
    torch.manual_seed(0)
    kwargs = {**GREEDY, **settings.pop("generation_kwargs", {})}
    return Recorded(
        model=Qwen2ForCausalLM(Qwen2Config(**{**SIZE, "vocab_size": len(WORDS)})),
        processing_class=WORDS,
        reward_funcs=by_length,
        args=config(path, **{**SETTINGS, **settings}, generation_kwargs=kwargs),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS[::2]}),
    )


def generated(trainer):
    """The completion of each prompt in tokens, and in text."""
    trainer.model.train()
    _, ids, _, texts, *_ = trainer._generate(PROMPTS)
    return [[WORDS.decode(token) for token in row] for row in ids[::2]], texts[::2]


@pytest.mark.parametrize("sampler", ["fast", "trl"])
def test_both_samplers_stop_alike(sampler, tmp_path):
    assert generated(trainer_of(tmp_path, sampler=sampler))[0] == FREE
    trainer = trainer_of(tmp_path, sampler=sampler, stop_strings=STOPS)
    tokens, texts = generated(trainer)
    assert tokens == STOPPED
    assert texts == ["".join(row).removesuffix("<eos>") for row in STOPPED]
    assert trainer._metrics["train"]["completions/clipped_ratio"] == [0.25]
    assert trainer._metrics["train"]["completions/mean_terminated_length"] == pytest.approx([(7 + 3 + 4) / 3])
    assert trainer._metrics["train"]["completions/max_terminated_length"] == [7]
    assert "generate" not in vars(trainer.model)


@pytest.mark.parametrize("sampler", ["fast", "trl"])
@pytest.mark.parametrize("key", ["stop_strings", "stop"])
def test_generation_kwargs_take_them_by_either_name(key, sampler, tmp_path):
    kwargs = {key: STOPS if key == "stop" else STOPS[0]}
    trainer = trainer_of(tmp_path, sampler=sampler, generation_kwargs=kwargs)
    trainer.train()
    lengths = (trainer.output["completion_mask"].sum(1)).tolist()
    assert sorted(lengths) == sorted(2 * [7, 3, 4 if key == "stop" else 12, 12])
    assert trainer.args.generation_kwargs == {**GREEDY, **kwargs}


@pytest.mark.parametrize("sampler", ["fast", "trl"])
def test_what_a_stop_string_ended_is_not_truncated(sampler, tmp_path):
    trainer = trainer_of(tmp_path, sampler=sampler, stop_strings=STOPS, mask_truncated_completions=True)
    trainer.train()
    assert sorted(trainer.output["completion_mask"].sum(1).tolist()) == sorted(2 * [7, 3, 4, 0])
    assert trainer.output["num_items_in_batch"] == 2 * (7 + 3 + 4)
    assert trainer.mask_truncated_completions
    assert logged(trainer, "completions/clipped_ratio") == [0.25]


def test_vllm_is_told_by_its_own_name(tmp_path):
    given = {"stop": ["a"], "seed": 1}
    assert generation_kwargs(config(tmp_path, use_vllm=True, stop_strings=["b"], generation_kwargs=given)) == {
        "stop": ["b", "a"], "seed": 1,
    }  # fmt: skip
    assert generation_kwargs(config(tmp_path, use_vllm=True, generation_kwargs={"seed": 1})) == {"seed": 1}
    assert generation_kwargs(config(tmp_path, use_vllm=True)) is None


@pytest.mark.parametrize("texts", [[""], ["a", 1]])
def test_what_is_no_text_is_refused(texts, tmp_path):
    with pytest.raises(ValueError, match="it takes texts that aren't empty"):
        config(tmp_path, stop_strings=texts)


def test_continuous_batching_is_refused(tmp_path):
    with pytest.raises(ValueError, match="continuous batching knows no stop strings"):
        config(tmp_path, stop_strings=["a"], use_transformers_continuous_batching=True)
