"""`LambdaGRPOTrainer` instead of `trl.GRPOTrainer`, in a script without any of this project's settings."""

from dataclasses import fields

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from lambda_grpo.models import resolve_model
from lambda_grpo.trl import LambdaGRPOConfig, LambdaGRPOTrainer
from tests.trl.setup import TRL_SETTINGS, logged, make_trainer, parameters, stock_config

PROMPTS = Dataset.from_dict({"prompt": ["1+2+3=", "4+5="] * 16})


def lengths(completions, **_):
    return [float(len(completion)) for completion in completions]


@pytest.fixture
def trls_sampling(monkeypatch):
    """The same random numbers and rounding as TRL's."""
    monkeypatch.setattr(LambdaGRPOConfig.__dataclass_fields__["sampler"], "default", "trl")
    monkeypatch.setattr(LambdaGRPOConfig.__dataclass_fields__["packing"], "default", False)


LOSSES = {
    **{name: {"loss_type": name} for name in ("grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo")},
    "gspo": TRL_SETTINGS["gspo"],
    "sapo, another temperature": {"loss_type": "sapo", "sapo_temperature_neg": 1.3},
    "batch": {"scale_rewards": "batch", "epsilon": 0.1, "epsilon_high": 0.3},
    "false": {"scale_rewards": False, "delta": 1.5},
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_plain_config_trains_as_trl(name, trls_sampling, tmp_path):
    shared = {"max_completion_length": 16, "num_iterations": 2, "max_steps": 2, "beta": 0.04, **LOSSES[name]}
    peer = make_trainer(stock_config(tmp_path / "stock", **shared), GRPOTrainer)
    peer.train()
    ours = make_trainer(stock_config(tmp_path / "ours", **shared), LambdaGRPOTrainer)
    ours.train()
    assert isinstance(ours.args, LambdaGRPOConfig)
    assert ours.objective.name == shared.get("loss_type", "dapo")
    assert logged(ours, "loss") == pytest.approx(logged(peer, "loss"), rel=1e-5, abs=1e-8)
    theirs = parameters(peer)
    for key, value in parameters(ours).items():
        assert (value - theirs[key]).norm() <= 1e-5 * theirs[key].norm()


def test_every_value_is_carried_over(tmp_path):
    """Also those that were changed after the configuration had made its own of them."""
    plain = stock_config(tmp_path, generation_batch_size=32, lr_scheduler_type="linear", loss_type="cispo", epsilon=0.1)
    plain.learning_rate = 7e-4
    plain.steps_per_generation = 4  # TRL's __post_init__ would refuse both
    plain.logging_steps = 2
    before = {one.name: getattr(plain, one.name) for one in fields(GRPOConfig)}
    trainer = make_trainer(plain)
    assert {one.name: getattr(plain, one.name) for one in fields(GRPOConfig)} == before
    assert {one.name: getattr(trainer.args, one.name) for one in fields(GRPOConfig)} == before
    assert trainer.args.world_size == plain.world_size
    assert trainer.args.device == plain.device
    assert trainer.args.to_dict()["objective"] == "cispo"


def as_on_a_gpu(monkeypatch, folder):
    """TRL's defaults ask for bfloat16, which transformers refuses on a CPU unless told to use one."""
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("positional", [True, False])
def test_without_args_the_output_directory_is_trls(positional, tmp_path, monkeypatch):
    as_on_a_gpu(monkeypatch, tmp_path)
    model = resolve_model("builtin")
    given = (model, lengths, None, PROMPTS) if positional else ()
    named = {} if positional else {"model": model, "reward_funcs": lengths, "train_dataset": PROMPTS}
    peer, ours = GRPOTrainer(*given, **named), LambdaGRPOTrainer(*given, **named)
    assert ours.args.output_dir == peer.args.output_dir
    assert ours.args.output_dir.endswith("-GRPO")
    assert ours.objective.name == "dapo"
    theirs = peer.args.to_dict()
    assert {key: value for key, value in ours.args.to_dict().items() if key in theirs} == theirs


def test_without_args_a_models_own_name_counts(tmp_path, monkeypatch):
    as_on_a_gpu(monkeypatch, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(resolve_model("builtin"))
    assert LambdaGRPOTrainer(model, lengths, train_dataset=PROMPTS).args.output_dir.endswith("-GRPO")


def test_positional_plain_args(tmp_path):
    trainer = LambdaGRPOTrainer(resolve_model("builtin"), lengths, stock_config(tmp_path, max_steps=1), PROMPTS)
    trainer.train()
    assert trainer.state.global_step == 1
    assert torch.isfinite(torch.tensor(logged(trainer, "loss"))).all()


def test_something_else_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"args must be a LambdaGRPOConfig or a trl\.GRPOConfig, got dict"):
        LambdaGRPOTrainer(resolve_model("builtin"), lengths, {"output_dir": "x"}, PROMPTS)
    plain = stock_config(tmp_path)
    plain.loss_type = "nothing"
    with pytest.raises(ValueError, match="unknown objective 'nothing'"):
        LambdaGRPOTrainer(resolve_model("builtin"), lengths, plain, PROMPTS)
