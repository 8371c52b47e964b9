"""A real TRL trainer on the built-in policy, small enough for a test."""

from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

from lambda_grpo.models import BUILTIN, resolve_model
from lambda_grpo.tasks import load_task
from lambda_grpo.training.data import task_dataset, task_reward
from lambda_grpo.trl import LambdaGRPOConfig, LambdaGRPOTrainer

TASK = load_task("arithmetic", size=64)

# What TRL's configuration has to say for a preset that names its own numbers
TRL_SETTINGS = {
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "sapo": {"loss_type": "sapo"},
    "luspo": {
        "loss_type": "luspo", "importance_sampling_level": "sequence", "epsilon": 2e-3, "epsilon_high": 2.5e-3,
    },
    "vespo": {"loss_type": "vespo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
}  # fmt: skip


def config(output_dir, config_class=LambdaGRPOConfig, **settings):
    defaults = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 2,
        "num_generations": 8,
        "max_completion_length": 40,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "max_grad_norm": 0.0,  # no clipping: gradients are compared as they are
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "seed": 3,
    }
    return config_class(**{**defaults, **settings})


def stock_config(output_dir, **settings):
    return config(output_dir, GRPOConfig, **settings)


def make_trainer(args, trainer_class=LambdaGRPOTrainer, reward=None, **settings):
    return trainer_class(
        model=AutoModelForCausalLM.from_pretrained(resolve_model(BUILTIN)),
        reward_funcs=reward or task_reward(TASK),
        args=args,
        train_dataset=task_dataset(TASK),
        processing_class=AutoTokenizer.from_pretrained(resolve_model(BUILTIN)),
        **settings,
    )


def parameters(trainer):
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]
