"""Creates the objects that `LambdaGRPOTrainer` holds, after TRL's trainer has been set up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lambda_grpo.errors import UserError
from lambda_grpo.fast.positions import correct_positions
from lambda_grpo.fast.sampler import StopStrings
from lambda_grpo.trl.advantages import Advantages
from lambda_grpo.trl.correction import Corrector, check_columns
from lambda_grpo.trl.fast_generation import FastGeneration
from lambda_grpo.trl.fold import Fold
from lambda_grpo.trl.fresh_prompts import FreshPrompts
from lambda_grpo.trl.generated_tokens import TokenBudget
from lambda_grpo.trl.packer import Packer
from lambda_grpo.trl.prompts import PromptLimit, room_for_prompts
from lambda_grpo.trl.resume import Resumption
from lambda_grpo.trl.reward_functions import check_signatures
from lambda_grpo.trl.rewards import RewardTable, distinct_names
from lambda_grpo.trl.rollouts import RolloutPipeline, check_single_turn, overlong_penalty
from lambda_grpo.trl.stop_strings import StopStringEnds


def hold_parts(trainer: Any, tokenize: Callable[[list[Any]], Any]) -> None:
    """Create a trainer's objects, and limit its data sets to prompts that fit.

    Args:
        trainer: a `LambdaGRPOTrainer`, set up by TRL.
        tokenize: TRL's `_tokenize_prompts`.

    Raises:
        UserError: TRL would silently ignore a setting.
        ValueError: settings that can't be combined.
    """
    if trainer.is_deepspeed_enabled and trainer.args.fp16 and trainer.objective.preference.learnable:
        raise ValueError("DeepSpeed's fp16 scales the loss where λ's gradient can't be unscaled: use bf16")
    _set_up_models(trainer)
    strings = trainer.args.stops()
    stops = StopStrings(strings, trainer._tokenizer) if strings else None
    end_ids = {*trainer.eos_token_ids, trainer._tokenizer.pad_token_id}
    trainer.stop_ends = None if stops is None else StopStringEnds(trainer.accelerator, stops, end_ids)
    trainer.fast_generation = _fast_generation(trainer, stops)
    trainer.prompt_limit = _prompt_limit(trainer, tokenize)
    _limit_prompts(trainer)
    trainer.reward_table = _reward_table(trainer)
    trainer.rollouts, trainer.fresh_prompts = _rollouts(trainer)
    trainer.advantages = Advantages(
        trainer.accelerator,
        trainer.reward_table,
        trainer.objective.rollouts,
        scale=trainer.scale_rewards,
        aggregation=trainer.multi_objective_aggregation,
    )
    trainer.fold = Fold(
        trainer.objective,
        trainer.trl_loss,
        trainer.lambda_state,
        trainer.accelerator,
        steps_per_generation=trainer.args.steps_per_generation,
        max_completion_length=trainer.max_completion_length,
    )
    trainer.token_budget = TokenBudget(trainer.args.max_generated_tokens)
    trainer.resumption = Resumption(
        trainer.args,
        trainer.accelerator,
        num_iterations=trainer.num_iterations,
        is_learnable=trainer.objective.preference.learnable,
        draws_fresh_prompts=trainer.fresh_prompts is not None,
        epoch_steps=lambda: _epoch_steps(trainer),
    )


def _epoch_steps(trainer: Any) -> tuple[int, int]:
    """The optimiser steps and the micro-batches of an epoch."""
    dataloader = trainer.get_train_dataloader()
    _, updates, *_, micro_batches, _ = trainer.set_initial_training_values(trainer.args, dataloader)
    return updates, micro_batches


def _set_up_models(trainer: Any) -> None:
    """Create the packer, and correct the positions of models that don't derive them from the attention mask."""
    args, accelerator = trainer.args, trainer.accelerator
    models = [accelerator.unwrap_model(model) for model in (trainer.model, trainer.ref_model) if model is not None]
    head = models[0].get_output_embeddings()
    if hasattr(head, "base_layer"):  # by transformers' add_adapter: TRL itself refuses PEFT's model
        raise UserError(
            "an adapter on lm_head wouldn't be trained, since TRL's loss reads lm_head.weight alone: leave lm_head "
            "out of the adapter's target_modules"
        )
    if not trainer._is_vlm:
        for model in models:
            correct_positions(model)
    # TRL's condition: whether the policy moves between sampling and the loss
    generate_every = args.steps_per_generation * trainer.num_iterations
    trainer._samples_are_old = args.gradient_accumulation_steps % generate_every != 0
    has_other_terms = trainer.beta or trainer._entropy_bonus_enabled or trainer.top_entropy_quantile < 1.0
    unsupported = {"torch_compile": args.torch_compile, "cast_lm_head_to_fp32": args.cast_lm_head_to_fp32}
    trainer.packer = Packer(
        accelerator,
        models,
        is_wanted=args.packing,
        unsupported=next((name for name, is_set in unsupported.items() if is_set), None),
        skips_known=not (trainer._samples_are_old or has_other_terms),
    )


def _fast_generation(trainer: Any, stops: StopStrings | None) -> FastGeneration:
    unsupported = {
        "weights that are spread over processes (FSDP, DeepSpeed)": trainer.is_fsdp_enabled
        or trainer.is_deepspeed_enabled,
        "cast_lm_head_to_fp32": trainer.args.cast_lm_head_to_fp32,
    }
    return FastGeneration(
        trainer.accelerator,
        trainer.model,
        lambda: trainer.generation_config,
        stops=stops,
        end_ids=trainer.eos_token_ids,
        temperature=trainer.temperature,
        checkpointing=trainer.args.gradient_checkpointing_kwargs,
        # vLLM and continuous batching are chosen by TRL's own settings and come first
        is_wanted=trainer.args.sampler == "fast"
        and not (trainer.use_vllm or trainer.use_transformers_continuous_batching),
        unsupported=next((name for name, is_so in unsupported.items() if is_so), None),
    )


def _prompt_limit(trainer: Any, tokenize: Callable[[list[Any]], Any]) -> PromptLimit:
    args = trainer.args
    config = trainer.accelerator.unwrap_model(trainer.model).config.get_text_config()
    contexts = [
        getattr(config, "max_position_embeddings", None),
        args.vllm_max_model_length if trainer.use_vllm else None,
    ]
    # with tools, whose schemas are long, TRL goes beyond the positions
    room = None if trainer.tools else room_for_prompts(contexts, trainer.max_completion_length)
    return PromptLimit(
        trainer.accelerator,
        max_length=args.max_prompt_length,
        room=room,
        overflow=args.prompt_overflow,
        tokenize=lambda prompts: tokenize(prompts)[0],
        has_chat_template=bool(trainer.chat_template or trainer._tokenizer.chat_template),
        is_made_later=bool(trainer.rollout_func or trainer.environment_factories),
        batch_prompts=args.generation_batch_size // trainer.num_generations,
    )


def _limit_prompts(trainer: Any) -> None:
    """Take prompts that are too long out of the data sets, or refuse them."""
    fitting = trainer.prompt_limit.fitting
    trainer.train_dataset = fitting(trainer.train_dataset, "training")
    if isinstance(trainer.eval_dataset, dict):
        trainer.eval_dataset = {
            name: fitting(data, f"evaluation ({name})") for name, data in trainer.eval_dataset.items()
        }
    elif trainer.eval_dataset is not None:
        trainer.eval_dataset = fitting(trainer.eval_dataset, "evaluation")


def _reward_table(trainer: Any) -> RewardTable:
    """How rewards add up, with the overlong penalty among TRL's reward functions and a name for each of them."""
    if trainer.rollout_func is None:  # which can add columns
        columns = list(next(iter(trainer.train_dataset), {}))
        if trainer.args.remove_unused_columns:
            trainer._set_signature_columns_if_needed()
            columns = [column for column in columns if column in trainer._signature_columns]
        extra = ["environments"] if trainer.environment_factories else []
        check_signatures(zip(trainer.reward_func_names, trainer.reward_funcs, strict=True), columns, extra)
    place = None
    penalty = overlong_penalty(trainer.objective.rollouts, trainer.max_completion_length, trainer.reward_func_names)
    if penalty is not None:
        place = len(trainer.reward_funcs)
        trainer.reward_funcs = [*trainer.reward_funcs, penalty]
        trainer.reward_func_names = [*trainer.reward_func_names, penalty.__name__]
        trainer.reward_processing_classes = [*trainer.reward_processing_classes, None]
        trainer.reward_weights = torch.cat([trainer.reward_weights, torch.ones(1)])
    # TRL's metrics, records and table go by these names: of two that are alike, one would hide the other
    trainer.reward_func_names = distinct_names(trainer.reward_func_names)
    return RewardTable(trainer.reward_func_names, trainer.reward_weights, place)


def _rollouts(trainer: Any) -> tuple[RolloutPipeline | None, FreshPrompts | None]:
    """The pipeline of an objective that does more with its samples than TRL, and its fresh prompts."""
    spec = trainer.objective.rollouts
    if not spec.dynamic_sampling and spec.correction is None:
        return None, None
    first = next(iter(trainer.train_dataset))
    check_single_turn(
        {
            "tools": trainer.tools,
            "rollout_func": trainer.rollout_func,
            "environment_factory": trainer.environment_factories,
            "images": {"image", "images"}.intersection(first),
            # what parses a completion into more than its text
            "the tokenizer's response template": getattr(trainer._tokenizer, "response_template", None)
            or getattr(trainer._tokenizer, "response_schema", None),
        }
    )
    corrector = None
    if spec.correction is not None:
        check_columns(spec.correction, first)
        if trainer.use_vllm and trainer.vllm_importance_sampling_correction:
            raise ValueError(
                "corrected completions weren't sampled by vLLM, which has no log-probabilities for them: set "
                "vllm_importance_sampling_correction to False"
            )
        corrector = Corrector(
            spec.correction,
            trainer.args,
            trainer.accelerator,
            trainer._tokenizer,
            trainer.eos_token_ids,
            generate=lambda prompt_ids: trainer._generate_single_turn(prompt_ids, None, {}, 1)[0],
            state=lambda: trainer.state,
        )
    fresh_prompts = None
    if spec.dynamic_sampling:
        fresh_prompts = FreshPrompts(trainer.train_dataset, trainer.args.seed + 1, shuffle=trainer.shuffle_dataset)

    def take_logged() -> dict[str, list[Any]]:
        columns = dict(trainer._pending_extra_logs)
        trainer._pending_extra_logs.clear()
        return columns

    pipeline = RolloutPipeline(
        trainer.args,
        trainer.accelerator,
        trainer.reward_table,
        # by name at each call: a subclass may have its own, or an instance
        generate=lambda prompts: trainer._generate(prompts),
        score=lambda *arguments: trainer._calculate_rewards(*arguments),
        logged=take_logged,
        group_size=trainer.num_generations,
        metrics=trainer._metrics["train"],
        pending_metrics=trainer._pending_metrics,
        corrector=corrector,
        fresh_prompts=fresh_prompts,
    )
    return pipeline, fresh_prompts
