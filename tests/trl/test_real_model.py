"""A real language model, SmolLM2-135M, trained beside stock TRL."""

import pytest
from trl import GRPOTrainer

from lambda_grpo.models import load_model, resolve_model
from lambda_grpo.models.gguf import SMOLLM2
from lambda_grpo.trl import LambdaGRPOTrainer
from tests.models.smollm2 import needs_smollm2
from tests.trl.setup import config, logged, stock_config

STEPS = 32
PROMPTS = [{"prompt": f"Question: What is {a} + {a * 7 % 10}?\nAnswer:"} for a in range(2, 34)]


def varied(completion_ids, **_):
    return [sum(ids) % 97 / 97 for ids in completion_ids]  # every completion has an advantage


def trained(trainer_class, args):
    model, tokenizer = load_model(resolve_model(SMOLLM2))
    trainer = trainer_class(
        model=model, reward_funcs=varied, args=args, train_dataset=dataset(), processing_class=tokenizer
    )
    trainer.train()
    return trainer


def dataset():
    from datasets import Dataset

    return Dataset.from_list(PROMPTS)


@needs_smollm2
@pytest.mark.timeout(900)  # stock TRL's steps aren't fast
def test_32_steps_are_those_of_stock_trl(tmp_path):
    """With TRL's own sampling, so that both train on the same tokens, and our packed pass."""
    shared = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "num_generations": 2, "num_iterations": 4,
        "max_completion_length": 8, "max_steps": STEPS, "optim": "sgd", "learning_rate": 2e-3, "beta": 0.0,
    }  # fmt: skip
    theirs = trained(GRPOTrainer, stock_config(tmp_path / "stock", loss_type="grpo", **shared))
    ours = trained(LambdaGRPOTrainer, config(tmp_path / "ours", objective="grpo", sampler="trl", **shared))
    assert ours.packer.is_on
    assert len(logged(ours, "loss")) == STEPS
    assert logged(ours, "completions/mean_length") == logged(theirs, "completions/mean_length")
    assert logged(ours, "reward") == logged(theirs, "reward")  # the same tokens
    assert logged(ours, "loss") == pytest.approx(logged(theirs, "loss"), abs=2e-5)
    assert max(map(abs, logged(theirs, "loss"))) > 1e-3
    assert logged(ours, "grad_norm") == pytest.approx(logged(theirs, "grad_norm"), rel=1e-3)
    assert logged(ours, "entropy") == pytest.approx(logged(theirs, "entropy"), rel=1e-4)
