"""The gradients of a training's loss on made-up samples, without its model.

Completions, rewards and log-probabilities are given. All that is between them and the loss is the trainer's own:
advantages, filters, the split into micro-batches, weights and normalisers, TRL's loss or `policy_loss`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig

from lambda_grpo.comparison.study import LOSS_KEYS
from lambda_grpo.trl import LambdaGRPOConfig, LambdaGRPOTrainer
from lambda_grpo.trl.config import SURROGATE_KEYS

PAD, END = 0, 1
SYMBOLS = (2, 4)  # few, so that responses share prefixes: from 2 to 3
WORDS = {"<pad>": PAD, "<end>": END, "prompt": 2, "other": 3}
# Of a completion's tokens, of a batch's groups, and of its micro-batches, so few show what more of them would
TOKENS, GROUPS, MICRO_BATCHES = 16, 4, 4
TRUNCATED, UNINFORMATIVE = 0.25, 0.25  # shares of completions, and of groups
SPREADS = (0.0, 0.001, 0.1, 0.5, 1.0)  # of log-ratios: both sides of GSPO's clip range, of PPO's, of CISPO's cap
HIGHEST_LOGP = -1e-3
# The settings of a training that its loss depends on: those that an arm may set, except that prompts and the ends of
# completions are given, and those shared by all arms that shape a batch
GIVEN_KEYS = {
    "beta", "max_prompt_length", "max_prompt_overflow", "packing", "sampler", "save_run_records", "stop_strings",
}  # fmt: skip
ADDED_KEYS = {one.name for one in fields(LambdaGRPOConfig)} - {one.name for one in fields(GRPOConfig)}
BATCH_KEYS = {
    "per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "num_generations",
    "max_completion_length", "multi_objective_aggregation", "vllm_importance_sampling_correction",
    "vllm_importance_sampling_mode", "vllm_importance_sampling_clip_min", "vllm_importance_sampling_clip_max",
    *SURROGATE_KEYS,
}  # fmt: skip
LOSS_SETTINGS = (ADDED_KEYS | LOSS_KEYS | BATCH_KEYS) - GIVEN_KEYS


@dataclass(frozen=True)
class MadeUpBatch:
    """N completions of whole groups, of at most T tokens, with F rewards each.

    completions: token ids; they end with END unless they are truncated.
    rewards: (N, F).
    logps, old_logps, reference_logps: (N, T) under the policy, the policy that sampled, and the reference policy.
    engine_logps: (N, T) as a sampling engine such as vLLM reports them, a little off.
    entropies: (N, T).
    """

    seed: int
    completions: list[list[int]]
    rewards: Tensor
    logps: Tensor
    old_logps: Tensor
    reference_logps: Tensor
    engine_logps: Tensor
    entropies: Tensor


def with_fewer_samples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A training's settings with fewer samples in a batch, which is still split as the study's is.

    One, several or a part of a group in a micro-batch, one or several micro-batches in a batch, and batches in an
    optimiser step or steps in a batch: all that remains.
    """
    size, rows = settings["num_generations"], settings["per_device_train_batch_size"]
    pieces, updates = settings["steps_per_generation"], settings["gradient_accumulation_steps"]
    if rows % size == 0:
        rows = min(rows, GROUPS * size)
    common = math.gcd(pieces, updates)
    factors = [factor for factor in range(1, common + 1) if common % factor == 0]
    fitting = [
        factor
        for factor in factors
        if pieces // factor >= MICRO_BATCHES
        and rows * pieces // factor >= GROUPS * size
        and rows * pieces // factor % size == 0
    ]
    factor = max(fitting, default=1)
    return {
        **settings,
        "per_device_train_batch_size": rows,
        "steps_per_generation": pieces // factor,
        "gradient_accumulation_steps": updates // factor,
    }


def make_batch(settings: Mapping[str, Any], seed: int, *, on_policy: bool) -> MadeUpBatch:
    """A generated batch as a training with these settings may have it.

    Lengths differ. Rewards are 0 and 1 in about half of the groups and any number in the others, and all equal in some.
    Off policy, single tokens and whole responses have ratios on both sides of the clip ranges.

    Args:
        settings: the training's.
        on_policy: whether the policy is the one that sampled.
    """
    generator = torch.Generator().manual_seed(seed)
    count: int = settings["per_device_train_batch_size"] * settings["steps_per_generation"]
    size: int = settings["num_generations"]
    width = min(settings["max_completion_length"], TOKENS)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def chance(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    lengths = (chance(count) * width).long() + 1
    symbols = torch.randint(*SYMBOLS, (count, width), generator=generator)
    symbols[torch.arange(count), lengths - 1] = torch.where(chance(count) < TRUNCATED, symbols[:, 0], END)
    completions = [row[:length] for row, length in zip(symbols.tolist(), lengths.tolist(), strict=True)]

    groups, functions = count // size, number_of_rewards(settings)
    is_graded, is_equal = chance(groups, 1, 1) < 0.5, chance(groups, 1, 1) < UNINFORMATIVE
    is_graded[0], is_equal[0] = True, False  # no batch without any signal
    shape = groups, size, functions
    rewards = torch.where(is_graded, 3 * noise(*shape), chance(*shape).round())
    rewards = torch.where(is_equal, rewards[:, :1], rewards).view(count, functions)

    logps = (-0.1 - noise(count, width).abs()).clamp(max=HIGHEST_LOGP)
    # a fifth of the responses is still on policy; in the others tokens differ from each other, and as a whole
    spread = torch.tensor(SPREADS, dtype=torch.float64)[torch.randint(len(SPREADS), (count, 1), generator=generator)]
    log_ratio = spread * (noise(count, width) + noise(count, 1))
    old_logps = logps if on_policy else (logps - log_ratio).clamp(max=HIGHEST_LOGP)
    return MadeUpBatch(
        seed,
        completions,
        rewards.float(),
        logps,
        old_logps,
        (logps + 0.3 * noise(count, width)).clamp(max=HIGHEST_LOGP),
        (old_logps + 0.05 * noise(count, width)).clamp(max=HIGHEST_LOGP),
        0.05 + 2 * chance(count, width),
    )


def number_of_rewards(settings: Mapping[str, Any]) -> int:
    """F: of reward functions; a task's grader is one."""
    return len(settings["reward_weights"] or settings["reward_funcs"] or ["grader"])


@dataclass(frozen=True)
class LossGradients:
    """The gradients of a generated batch's loss, summed over its micro-batches, at L values of λ.

    policy: (L, N, T) in each token's log-probability, 0 outside of the completions.
    lambda_: (L, …) in λ.
    """

    policy: Tensor
    lambda_: Tensor


class ModelFreeTrainer(LambdaGRPOTrainer):
    """A trainer to which completions, rewards and log-probabilities are given.

    Args:
        settings: the training's: `Recipe.settings()`.
        folder: an output directory; nothing is written there.

    Raises:
        ValueError: as LambdaGRPOTrainer.
    """

    batch: MadeUpBatch
    logps: Tensor  # (N, T) of the batch, a leaf
    _rows: Tensor  # (B,) of the micro-batch in it

    def __init__(self, settings: Mapping[str, Any], folder: str):
        without_files: dict[str, Any] = {"report_to": "none", "save_run_records": False}
        on_cpu: dict[str, Any] = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
        in_trl: dict[str, Any] = {"sampler": "trl", "packing": False}
        given: dict[str, Any] = {key: settings[key] for key in LOSS_SETTINGS}
        config = LambdaGRPOConfig(folder, **given, **without_files, **on_cpu, **in_trl)
        super().__init__(
            model=_model(),
            reward_funcs=[self._reward(place) for place in range(number_of_rewards(settings))],
            args=config,
            # the columns that error correction asks for
            train_dataset=Dataset.from_list([{"prompt": "prompt", "answer": "", "solution": ""}]),
            processing_class=_tokenizer(),
        )
        self.rollouts = None  # the batch is as it is when all has been corrected and refilled
        # TRL would load the reference model, and vLLM
        self.beta, self.ref_model, self.use_vllm = settings["beta"], torch.nn.Identity(), settings["use_vllm"]
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps

    def gradients(self, batch: MadeUpBatch, lambdas: Sequence[Tensor]) -> LossGradients:
        """Of the loss of a batch, at several λ."""
        self.batch, self._step = batch, 0  # at which TRL generates
        self.model.train()
        torch.manual_seed(batch.seed)  # TRL shuffles the samples before it splits them
        self._prepare_inputs(list(self.train_dataset) * len(batch.completions))
        pieces: Any = self._buffered_inputs
        policy: list[Tensor] = []
        of_lambda: list[Tensor] = []
        for lambda_ in lambdas:
            logps = self.logps = batch.logps.clone().requires_grad_()
            self.fold.lambda_ = lambda_.clone().requires_grad_(self.objective.preference.learnable)
            for inputs in pieces:
                self._compute_loss(self.model, inputs).backward()
            gradient = torch.zeros_like(lambda_) if self.fold.lambda_.grad is None else self.fold.lambda_.grad
            assert logps.grad is not None
            policy.append(logps.grad)
            of_lambda.append(gradient + self.fold.batches["train"].penalty_gradient(self.objective, lambda_))
        return LossGradients(torch.stack(policy), torch.stack(of_lambda))

    # -- what is given in place of the model's -----------------------------------------------------------------------

    def _reward(self, place: int) -> Any:
        def reward(completions: list[str], **_: Any) -> list[float]:
            return self.batch.rewards[:, place].tolist()

        return reward

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.use_vllm:
            return self.batch.completions, None
        rows = zip(self.batch.engine_logps.tolist(), self.batch.completions, strict=True)
        return self.batch.completions, [logps[: len(ids)] for logps, ids in rows]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._rows = inputs["sample_index"]
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        in_loss = torch.is_grad_enabled()
        if in_loss:
            logps, entropies = self.logps[self._rows], self.batch.entropies[self._rows]
        else:
            logps = self.batch.reference_logps if model is self.ref_model else self.batch.old_logps
            entropies = self.batch.entropies
        self._token_values = logps[:, :logits_to_keep], entropies[:, :logits_to_keep]
        return (*self._token_values, None)

    def _send_telemetry(self) -> None:
        """Nothing is trained."""


@cache
def _model() -> LlamaForCausalLM:
    """A model that is never run: TRL wants one."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS), hidden_size=2, intermediate_size=2, num_hidden_layers=1, num_attention_heads=1,
            max_position_embeddings=2**30, eos_token_id=END, pad_token_id=PAD, bos_token_id=None,
        )
    )  # fmt: skip


def _tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(WORDS, "other")), pad_token="<pad>", eos_token="<end>", unk_token="other"
    )
