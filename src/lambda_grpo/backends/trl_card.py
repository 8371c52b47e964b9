"""What a trainer knows of itself, for the model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl.trainer.utils import get_config_model_id

from lambda_grpo.model_card import CardFacts

if TYPE_CHECKING:
    from lambda_grpo.backends.trl_trainer import LambdaGRPOTrainer


def card_facts(
    trainer: LambdaGRPOTrainer,
    name: str | None = None,
    datasets: list[str] | None = None,
    tags: list[str] | None = None,
) -> CardFacts:
    """The present state of a training."""
    args, objective = trainer.args, trainer.objective
    model_id = get_config_model_id(trainer.model.config)
    is_local = not model_id or Path(model_id).is_dir()
    preference: Any = objective.preference
    description: dict[str, Any] = {
        "objective": objective.name,
        "its import path": args.objective if ":" in (args.objective or "") else None,
        "token preference f": getattr(preference, "__name__", repr(preference)),
        "normaliser Z": objective.normalizer,
        "advantage": f"scaled by {args.scale_rewards}",
        "surrogate": repr(objective.surrogate),
        "samples before the loss": repr(objective.rollouts),
        "KL coefficient (beta)": args.beta,
    }
    if objective.learnable:
        low, high = trainer.lambda_state.bounds
        description |= {
            "r": getattr(preference, "r", None),
            "λ at the start": args.lambda_init,
            "learning rate of λ": f"{args.lambda_lr}, {args.lambda_optimizer}, {args.lambda_lr_scheduler_type}",
            "bounds of λ": f"{low} to {high}",
            "weight_norm": objective.weight_norm,
        }
    completions, step = args.generation_batch_size, trainer.policy_step
    updates = args.num_iterations * args.steps_per_generation / args.gradient_accumulation_steps
    return CardFacts(
        name=name or trainer.run_directory.name,
        base_model=None if is_local else model_id,
        step=step,
        objective=description,
        metrics=[row for row in trainer.state.log_history if "lambda" in row and row["step"] <= step]
        if objective.learnable
        else [],
        lambda_value=trainer.lambda_state.value,
        data=trainer.data_description or _of_dataset(trainer.train_dataset),
        training={
            "steps": f"{step} of {trainer.state.max_steps}",
            "seed": args.seed,
            "seed of the data's order": args.data_seed,
            "learning rate": f"{args.learning_rate}, {args.lr_scheduler_type.value}",
            "completions generated together": f"{completions}: {completions // args.num_generations} prompts, "
            f"{args.num_generations} each",
            "optimiser steps on them": f"{updates:g}",
            "longest completion": f"{args.max_completion_length} tokens",
            "temperature": args.temperature,
            "reward": ", ".join(trainer.reward_func_names),
            "LoRA": _lora(trainer),
        },
        output_dir=trainer.run_directory,
        datasets=datasets or trainer.hub_data_sets,
        tags=tags or [],
        trl_citation=(trainer._paper or {}).get("citation"),
    )


def _of_dataset(dataset: Any) -> dict[str, Any]:
    """What `datasets` knows of one."""
    info = getattr(dataset, "info", None)
    rows = len(dataset) if hasattr(dataset, "__len__") else None
    return {"data set": getattr(info, "dataset_name", None) or "not named", "rows": rows}


def _lora(trainer: LambdaGRPOTrainer) -> str | None:
    configs = getattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config", {})
    ranks = [
        f"rank {config.r}, alpha {config.lora_alpha}" for config in configs.values() if hasattr(config, "lora_alpha")
    ]
    return ", ".join(ranks) or None
