"""TRL's SFTTrainer on packed batches: the losses, metrics and weights of its own padded ones."""

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from lambda_grpo.errors import UserError
from lambda_grpo.models import BUILTIN, BUILTIN_LLAMA, resolve_model
from lambda_grpo.training.supervised import IGNORED, PackedCollator, make_sft_trainer

ROWS = Dataset.from_list(
    [{"prompt": f"{i}+{j}=", "completion": f"{i}+{j}#{i + j}" * (1 + i % 3)} for i in range(6) for j in range(4)]
)


def args(folder, **settings):
    given = {
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "max_steps": 4,
        "per_device_train_batch_size": 5, "gradient_accumulation_steps": 2, "logging_steps": 1, "optim": "sgd",
        "learning_rate": 0.05, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "seed": 2,
    }  # fmt: skip
    return SFTConfig(**{**given, **settings})


def fresh(name):
    path = resolve_model(name)
    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)


def logs(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


@pytest.mark.parametrize("name", [BUILTIN, BUILTIN_LLAMA])
def test_packed_batches_are_trls_padded_ones(name, tmp_path):
    trainers = []
    for make in (make_sft_trainer, SFTTrainer):
        model, tokenizer = fresh(name)
        trainer = make(model=model, args=args(tmp_path), train_dataset=ROWS, processing_class=tokenizer)
        trainer.train()
        trainers.append(trainer)
    ours, theirs = trainers
    assert isinstance(ours.data_collator, PackedCollator)
    for key in ("loss", "grad_norm", "entropy", "mean_token_accuracy"):
        assert logs(ours, key) == pytest.approx(logs(theirs, key), rel=1e-4), key
    expected = dict(theirs.model.named_parameters())
    for key, value in ours.model.named_parameters():
        assert (value - expected[key]).norm() <= 1e-5 * expected[key].norm()


def test_a_model_that_isnt_known_is_left_to_trl(tmp_path):
    model, tokenizer = fresh(BUILTIN)
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="forward hooks.*TRL's padded batches take its place"):
        trainer = make_sft_trainer(model, args(tmp_path, max_steps=1), ROWS, tokenizer)
    assert not isinstance(trainer.data_collator, PackedCollator)
    trainer.train()


def test_prompts_that_fill_the_length_are_counted(tmp_path):
    rows = Dataset.from_list([{"prompt": "1+" * 30, "completion": "#3"}, {"prompt": "1+2=", "completion": "#3"}])
    model, tokenizer = fresh(BUILTIN)
    with pytest.warns(UserWarning, match="1 of 2 prompts fill the max_length of 40 tokens"):
        make_sft_trainer(model, args(tmp_path, max_length=40), rows, tokenizer)
    with pytest.raises(UserError, match="2 of 2 prompts fill the max_length of 3 tokens by themselves: set it higher"):
        make_sft_trainer(model, args(tmp_path, max_length=3), rows, tokenizer)


token_ids = st.lists(st.integers(0, 50), min_size=1, max_size=7)


@given(st.lists(st.tuples(token_ids, token_ids), min_size=1, max_size=6))
def test_each_token_of_a_completion_is_predicted_once(pairs):
    examples = [
        {"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion}
        for prompt, completion in pairs
    ]
    batch = PackedCollator()(examples)
    assert sorted(batch["labels"][0].tolist()) == sorted(token for _, completion in pairs for token in completion)
    assert batch["labels"] is batch["shift_labels"]
    assert batch["attention_mask"].sum() == batch["input_ids"].numel()
    layout = batch["packed_layout"]
    for sample, (_, completion) in enumerate(pairs):
        own = layout.sample_index == sample
        assert torch.equal(layout.labels[0, own], torch.tensor(completion))
