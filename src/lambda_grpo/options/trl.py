"""Options of training in TRL, beside those of `trl.GRPOConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from lambda_grpo.options.option import option


@dataclass
class ReplacedOptions:
    """TRL's own.

    By default each is the objective's, where TRL has a value.
    """

    loss_type: str | None = option(None, "TRL's name of an objective; dapo where objective isn't given either.")
    scale_rewards: str | None = option(
        None,
        "Divide advantages by the std of the group or the batch, or none. Default: the objective's own.",
    )
    epsilon: float | None = option(None, "Lower side of the clip range. Default: the objective's own, else 0.2.")
    importance_sampling_level: str | None = option(
        None, "Ratios of a token or of the sequence. Default: the objective's own."
    )


@dataclass
class LambdaScheduleOptions:
    """Schedule of λ."""

    lambda_lr_scheduler_type: Literal["constant", "linear", "cosine"] = option("constant", "Schedule of lambda_lr.")
    lambda_warmup_steps: Annotated[int, Ge(0)] = option(0, "Steps over which lambda_lr rises to its value.")


@dataclass
class BudgetOptions:
    """Length of the training."""

    max_generated_tokens: Annotated[int, Ge(1)] | None = option(
        None,
        "End after the step at which so many completion tokens have been sampled, at the latest at max_steps. "
        "Schedules must be constant.",
    )


@dataclass
class TraceOptions:
    """GRPO-λ's traces."""

    trace: Literal["recent", "both"] | None = option(None, "Traces of GRPO-λ. Default: the objective's own.")
    trace_gamma: Annotated[float, Ge(0), Le(1)] | None = option(None, "γ of GRPO-λ. Default: its own, 1.")
    trace_lambda: Annotated[float, Ge(0), Le(1)] | None = option(None, "λ of GRPO-λ. Default: its own, 0.99.")
    advantage_min: Annotated[float, Le(0)] | None = option(
        None, "Advantages below it are raised to it. Default: the objective's own."
    )


@dataclass
class SelectionOptions:
    """Sample selection."""

    dynamic_sampling: bool | None = option(
        None, "Replace groups without reward variance by groups of fresh prompts. Default: the objective's own."
    )
    max_resample_times: Annotated[int, Ge(1)] = option(
        10, "Rounds of fresh prompts per batch; groups that are still without variance are then filtered out."
    )
    drop_zero_variance: bool = option(
        False, "Leave groups without reward variance out of the loss's average, without drawing others."
    )
    overlong_buffer_length: Annotated[int, Ge(0)] | None = option(
        None, "Last tokens of max_completion_length that are penalised; 0 for none. Default: the objective's own."
    )
    select_best_and_worst: Annotated[int, Ge(1)] | None = option(
        None, "Train on the k best and k worst samples of a group. Default: the objective's own."
    )
    select_min_reward: float | None = option(
        None, "Train on the samples with at least this reward. Default: the objective's own."
    )
    selection_baseline: Literal["group", "selected"] | None = option(
        None, "Advantages over the whole group or the selected samples. Default: the objective's own."
    )


@dataclass
class CorrectionOptions:
    """Error correction."""

    error_correction: list[Annotated[float, Ge(0), Le(1)]] | None = option(
        None,
        "Shares of wrong samples: continued after a reflection, completed with the answer, replaced by the solution. "
        "0 0 0 for none. Default: the objective's own.",
    )
    correct_reward: float = option(1.0, "A sample with less than this reward is wrong.")
    reflection_prompt: str = option(
        "\nWait, that may be wrong. Let me check.", "What a wrong sample is continued after."
    )
    answer_template: str = option(
        "\nWait, that is wrong. The answer is \\boxed{{answer}}.",
        "What is appended to a wrong sample; {answer} is the example's column 'answer'.",
    )


@dataclass
class SamplingOptions:
    """Prompts."""

    max_prompt_length: Annotated[int, Ge(1)] | None = option(
        None, "Most tokens of a prompt. Default: as many as the model's positions leave."
    )
    max_prompt_overflow: Literal["drop", "truncate_left"] | None = option(
        None, "What is done with longer prompts. Default: drop with max_prompt_length, otherwise refuse them."
    )
    stop_strings: list[str] | None = option(
        None, "Texts that end a completion, which includes them. Also as stop_strings of generation_kwargs."
    )


@dataclass
class SpeedOptions:
    """Speed and files."""

    sampler: Literal["fast", "trl"] = option(
        "fast", "On a CPU, read each prompt once and drop finished sequences; or sample as TRL does."
    )
    packing: bool = option(True, "On a CPU, train without padding and read a prompt once for its completions.")
    save_run_records: bool = option(
        True, "Write run.json, metrics.jsonl and completions/ into output_dir, for lambda-grpo report."
    )
    record_tokens: Annotated[int, Ge(0)] = option(
        65536,
        "Most tokens of a generated batch that are recorded in completions/ one by one (docs/runs.md); 0 for none.",
    )
    resume_without_optimizer: bool = option(
        False, "Resume from a checkpoint that lacks the optimizer, the schedule or the random state."
    )


TRL_OPTIONS = (
    LambdaScheduleOptions,
    BudgetOptions,
    TraceOptions,
    SelectionOptions,
    CorrectionOptions,
    SamplingOptions,
    SpeedOptions,
    ReplacedOptions,
)
