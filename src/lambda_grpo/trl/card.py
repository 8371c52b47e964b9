"""The facts about a training for its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl.trainer.utils import get_config_model_id

from lambda_grpo.models import BUILTIN, BUILTIN_LLAMA, model_name
from lambda_grpo.runs.model_card import CardFacts


def card_facts(
    trainer: Any,  # a LambdaGRPOTrainer
    name: str | None = None,
    datasets: list[str] | None = None,
    tags: list[str] | None = None,
) -> CardFacts:
    """The facts for a card at the current state of a training."""
    args, facts = trainer.args, trainer.objective.describe()
    model = trainer.accelerator.unwrap_model(trainer.model)
    base = model_name(get_config_model_id(model.config))
    is_on_hub = base not in (BUILTIN, BUILTIN_LLAMA) and bool(base) and not Path(base).exists()
    description: dict[str, Any] = {
        "objective": facts["name"],
        "its import path": args.objective if ":" in (args.objective or "") else None,
        **facts["in_words"],
        "KL coefficient (beta)": args.beta,
    }
    if facts["learnable"]:
        r = facts["preference"].get("r")
        low, high = trainer.lambda_state.bounds
        description |= {
            "r": None if r is None else str(r),
            "λ at the start": args.lambda_init,
            "learning rate of λ": f"{args.lambda_lr}, {args.lambda_optimizer}, {args.lambda_lr_scheduler_type}",
            "bounds of λ": f"{low} to {high}",
            "weight_norm": facts["weight_norm"],
        }
    completions, step = args.generation_batch_size, trainer.policy_step
    updates = args.num_iterations * args.steps_per_generation / args.gradient_accumulation_steps
    return CardFacts(
        name=name or trainer.run_directory.name,
        base_model=_described(base) if base else f"a {type(_without_adapter(model)).__name__} of the training script",
        hub_model=base if is_on_hub else None,
        is_adapter=hasattr(model, "peft_config"),
        step=step,
        objective=description,
        metrics=[row for row in trainer.state.log_history if "lambda" in row and row["step"] <= step]
        if facts["learnable"]
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
            "LoRA": _lora(model),
        },
        output_dir=trainer.run_directory,
        datasets=datasets or trainer.hub_data_sets,
        tags=tags or [],
        trl_citation=(trainer._paper or {}).get("citation"),
    )


def _of_dataset(dataset: Any) -> dict[str, Any]:
    """Name and size of a data set."""
    info = getattr(dataset, "info", None)
    rows = len(dataset) if hasattr(dataset, "__len__") else None
    return {"data set": getattr(info, "dataset_name", None) or "not named", "rows": rows}


def _described(base: str) -> str:
    return f"{base} (a small policy that lambda-grpo brings)" if base in (BUILTIN, BUILTIN_LLAMA) else base


def _without_adapter(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _lora(model: Any) -> str | None:
    configs = getattr(model, "peft_config", {})
    ranks = [
        f"rank {config.r}, alpha {config.lora_alpha}" for config in configs.values() if hasattr(config, "lora_alpha")
    ]
    return ", ".join(ranks) or None
