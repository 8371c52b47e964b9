"""λ-GRPO and its family in TRL: a thin subclass of `trl.GRPOTrainer` that copies no loss code.

A token preference folds into the advantages, f · min(ρA, clip(ρ)A) = min(ρ · fA, clip(ρ) · fA) for f > 0, so TRL's
own loss stays as it is. Three things are added around it:

1. whole groups, where TRL still has them: each sample takes its group's lengths along, through TRL's shuffling and
   splitting;
2. at the loss, f from those lengths and the present λ, times the advantages;
3. at the optimiser step, the gradient that reached λ, averaged over ranks as the policy's is, to λ's own optimiser.

λ lives outside the model: in the Trainer's optimiser its gradient would never be zeroed, and inside the model DDP
and FSDP2 fail on it and it would be sent to vLLM.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from lambda_grpo.lambda_state import LambdaState
from lambda_grpo.objective import Objective, get_objective, response_weights
from lambda_grpo.objective.preference import inverse_length

LAMBDA_STATE_FILE = "lambda_state.json"

# TRL's loss type whose normaliser is Z
HOST_LOSS_TYPE = {"batch": "dapo", "group": "grpo", "constant": "dr_grpo"}

# TRL's methods that are overridden or wrapped. They are private: a release may move them.
HOOKS = {
    "_generate": ["self", "prompts"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_compute_loss": ["self", "model", "inputs"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_save": ["self", "output_dir", "state_dict"],
    "_save_optimizer_and_scheduler": ["self", "output_dir"],
}


def check_hooks(trainer_class: type) -> None:
    """Raise ImportError if a method that `LambdaGRPOTrainer` overrides isn't where it was."""
    for name, parameters in HOOKS.items():
        method = getattr(trainer_class, name, None)
        if method is None or list(inspect.signature(method).parameters) != parameters:
            raise ImportError(
                f"lambda-grpo overrides {trainer_class.__name__}.{name}({', '.join(parameters)}), which trl "
                f"{version('trl')} doesn't have: install trl 1.16.0, or a lambda-grpo that knows this trl"
            )


check_hooks(GRPOTrainer)


@dataclass
class LambdaGRPOConfig(GRPOConfig):
    """`trl.GRPOConfig` plus the objective.

    Where no objective is given, `loss_type` names it; both given and different is an error. `scale_rewards` is the
    objective's own unless it is set here.

    Raises:
        ValueError: unknown objective, `loss_type` and `objective` that disagree, or values of λ out of range.
    """

    objective: str | None = field(
        default=None, metadata={"help": "Name of a preset of lambda_grpo.PRESETS. Default: what loss_type names."}
    )
    loss_type: str | None = field(
        default=None, metadata={"help": "TRL's name of an objective; 'dapo' where objective isn't given either."}
    )
    scale_rewards: str | None = field(
        default=None, metadata={"help": "'group', 'batch' or 'none'. Default: the objective's own advantage."}
    )
    lambda_init: float = field(default=0.0, metadata={"help": "Where λ starts."})
    lambda_lr: float = field(default=0.1, metadata={"help": "Learning rate of λ; 0 freezes it."})
    lambda_optimizer: str = field(default="sgd", metadata={"help": "Optimiser of λ: 'sgd' or 'adam'."})
    lambda_bounds: list[float] = field(
        default_factory=lambda: [-10.0, 10.0], metadata={"help": "λ stays within these two values."}
    )
    lambda_r: float | None = field(
        default=None, metadata={"help": "r of h = 1 + r·z. Default: the objective's own, 1/9."}
    )
    weight_norm: str | None = field(
        default=None, metadata={"help": "'sum' or 'tokens', see Objective. Default: the objective's own, 'sum'."}
    )

    def __post_init__(self) -> None:
        if self.objective is not None and self.loss_type is not None and self.objective != self.loss_type:
            raise ValueError(
                f"objective is {self.objective!r} and loss_type is {self.loss_type!r}: they name the same thing, "
                "give one of them"
            )
        self.objective = self.objective or self.loss_type or "dapo"
        objective = self.resolve_objective()
        # TRL takes booleans too, which a command line gives as words
        scales = {True: "group", False: "none", "true": "group", "false": "none", None: objective.advantage_scale}
        self.scale_rewards = scales.get(self.scale_rewards, self.scale_rewards)
        if self.scale_rewards not in ("group", "batch", "none"):
            raise ValueError(f"scale_rewards is {self.scale_rewards!r}: use 'group', 'batch' or 'none'")
        if self.num_generations < 2:
            raise ValueError(
                f"num_generations is {self.num_generations}: completions are compared in groups, set it to 2 or more"
            )
        completions = self.generation_batch_size or (
            self.per_device_train_batch_size
            * int(os.environ.get("WORLD_SIZE", "1"))
            * (self.steps_per_generation or self.gradient_accumulation_steps)
        )
        if completions % self.num_generations != 0:
            raise ValueError(
                f"{completions} completions are generated at a time, not a multiple of num_generations "
                f"({self.num_generations}): change per_device_train_batch_size or gradient_accumulation_steps"
            )
        if len(self.lambda_bounds) != 2:
            raise ValueError(f"lambda_bounds takes two values, got {self.lambda_bounds}")
        if self.beta != 0.0 and not _kl_is_exact(objective):
            raise ValueError(
                f"objective {objective.name!r} with beta {self.beta}: TRL's "
                f"{HOST_LOSS_TYPE[objective.normalizer]!r} loss averages the KL term in another way; set beta to 0, "
                "or use an objective that normalises by the batch"
            )
        self.make_lambda_state()  # refuses values out of range
        super().__post_init__()

    def resolve_objective(self) -> Objective:
        """The preset with `lambda_r` and `weight_norm` applied."""
        assert self.objective is not None  # set in __post_init__
        objective = get_objective(self.objective)
        if self.lambda_r is not None and objective.learnable:
            objective = replace(objective, preference=replace(objective.preference, r=self.lambda_r))  # type: ignore[type-var]
        if self.weight_norm is not None:
            objective = replace(objective, weight_norm=self.weight_norm)  # type: ignore[arg-type]
        return objective

    def make_lambda_state(self) -> LambdaState:
        """A fresh λ as configured."""
        low, high = self.lambda_bounds
        return LambdaState(self.lambda_init, self.lambda_lr, self.lambda_optimizer, bounds=(low, high))


class LambdaGRPOTrainer(GRPOTrainer):
    """`trl.GRPOTrainer` with any objective of the family, λ learned beside the policy where it has one.

    Takes all of `GRPOTrainer`'s arguments. Logs `lambda`, `lambda_grad`, `weight_min` and `weight_max` beside TRL's
    metrics; the smallest and largest f of a step are over all ranks and micro-batches, and with `logging_steps`
    above 1 the logged values are means over the steps, as TRL's are. λ is saved with each checkpoint and model in
    `lambda_state.json`, and resumed from there.

    Args:
        on_samples: called on the main process with each generated batch, as columns: prompt, completion, answer
            (None where the data set has no such column), reward (None where it could not be scored), advantage,
            length, weight, and group, counted from 0 in each batch.
    """

    args: LambdaGRPOConfig

    def __init__(
        self,
        *args: Any,
        on_samples: Callable[[dict[str, list[Any]]], None] | None = None,
        **kwargs: Any,
    ):
        signature = inspect.signature(GRPOTrainer.__init__).bind(self, *args, **kwargs)
        config = signature.arguments.get("args")
        if not isinstance(config, LambdaGRPOConfig):
            raise TypeError("LambdaGRPOTrainer needs args, a LambdaGRPOConfig")
        self.objective = config.resolve_objective()
        if self.objective.needs:
            raise ValueError(
                f"objective {self.objective.name!r} reads {', '.join(self.objective.needs)}, "
                "which the TRL backend doesn't pass on"
            )
        self.lambda_state = config.make_lambda_state()
        self._lambda: torch.Tensor = self._fresh_lambda()
        self._weights_seen: list[torch.Tensor] = []
        self._on_samples = on_samples
        self._lambda_grad = 0.0

        host = copy.copy(config)  # the caller's config keeps what was written in it
        host.loss_type = HOST_LOSS_TYPE[self.objective.normalizer]
        host.epsilon = config.epsilon if self.objective.epsilon is None else self.objective.epsilon
        host.epsilon_high = config.epsilon_high if self.objective.epsilon_high is None else self.objective.epsilon_high
        signature.arguments["args"] = host
        super().__init__(*signature.args[1:], **signature.kwargs)
        if self.is_deepspeed_enabled and host.fp16 and self.objective.learnable:
            raise ValueError("DeepSpeed's fp16 scales the loss where λ's gradient can't be unscaled: use bf16")
        self.add_callback(_LambdaStep(self))

    def _fresh_lambda(self) -> torch.Tensor:
        return torch.tensor(self.lambda_state.value, dtype=torch.float64, requires_grad=self.objective.learnable)

    # -- 1. whole groups ---------------------------------------------------------------------------------------------

    def _generate(self, prompts: list[Any]) -> Any:
        output = super()._generate(prompts)
        completion_ids, tool_mask = output[1], output[2]
        # Before padding, and before truncation masking empties the mask. A tool's output isn't the policy's.
        self._lengths = [len(ids) for ids in completion_ids] if tool_mask is None else [sum(m) for m in tool_mask]
        return output

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        group_size = self.num_generations if self.model.training else self.num_generations_eval
        lengths = torch.tensor(self._lengths, device=self.accelerator.device, dtype=torch.float32)
        groups = self.accelerator.gather(lengths).cpu().view(-1, group_size)  # a group may straddle ranks
        local = len(self._lengths)
        row = torch.arange(local) + self.accelerator.process_index * local
        # (B, G) and (B,), on the CPU: f is computed there, in a float64 that not every device has
        output["group_lengths"], output["index_in_group"] = groups[row // group_size], row % group_size
        if self._on_samples is not None and self.model.training:
            self._report_samples(inputs, groups)
        return output

    def _report_samples(self, inputs: list[dict[str, Any]], groups: torch.Tensor) -> None:
        answers = gather_object([example.get("answer") for example in inputs])
        if not self.accelerator.is_main_process or self._on_samples is None:
            return
        count, size = groups.numel(), groups.size(1)
        rewards = torch.tensor(
            [list(self._logs["rewards"][name])[-count:] for name in self.reward_func_names], dtype=torch.float64
        )
        reward = (rewards * self.reward_weights.cpu().double()[:, None]).nansum(0)
        reward[rewards.isnan().all(0)] = math.nan  # no reward function could score it
        group_ids = torch.arange(count) // size
        weights = response_weights(groups.flatten(), group_ids, self.objective, self.lambda_state.value)
        self._on_samples(
            {
                "prompt": [_text(prompt) for prompt in list(self._logs["prompt"])[-count:]],
                "completion": [_text(completion) for completion in list(self._logs["completion"])[-count:]],
                "answer": [None if answer is None else str(answer) for answer in answers],
                "reward": [None if math.isnan(value) else value for value in reward.tolist()],
                "advantage": list(self._logs["advantages"])[-count:],
                "length": [int(length) for length in groups.flatten().tolist()],
                "weight": weights.tolist(),
                "group": group_ids.tolist(),
            }
        )

    # -- 2. the fold -------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        rows, index = inputs["group_lengths"], inputs["index_in_group"][:, None]
        ids = torch.arange(len(rows)).repeat_interleave(rows.size(1))
        weights = response_weights(rows.flatten(), ids, self.objective, self._lambda)
        weights = weights.view_as(rows).gather(1, index).squeeze(1)  # (B,)
        if self.model.training:
            self._weights_seen.append(weights.detach())
        if self.objective.normalizer == "group":
            # TRL's "grpo" gives a token 1/(B|o|), ours f/(P N_group): their ratio is f |o| / μ
            weights = weights * (rows.double().gather(1, index).squeeze(1) / rows.double().mean(1)).nan_to_num(1.0)
        advantages = inputs["advantages"]
        # A copy: TRL uses the buffered inputs again when num_iterations > 1.
        return super()._compute_loss(
            model, {**inputs, "advantages": advantages * weights.to(advantages.device, advantages.dtype)}
        )

    # -- 3. λ's step -------------------------------------------------------------------------------------------------

    def _measure_lambda_grad(self) -> None:
        """Before the optimiser's step, while fp16's loss scale is still the one that the gradient has."""
        metrics = self._metrics["train"]
        if self._weights_seen:
            seen = torch.cat(self._weights_seen).to(self.accelerator.device, torch.float32)
            low, high = self.accelerator.gather(torch.stack([seen.min(), seen.max()])).view(-1, 2).T
            metrics["weight_min"].append(low.min().item())
            metrics["weight_max"].append(high.max().item())
            self._weights_seen.clear()
        if not self.objective.learnable:
            return
        local = torch.zeros(()) if self._lambda.grad is None else self._lambda.grad.float()
        # The mean over ranks, as DDP and FSDP take it of the policy's gradient.
        grad = self.accelerator.reduce(local.to(self.accelerator.device), "mean").item()
        scaler = self.accelerator.scaler
        self._lambda_grad = grad if scaler is None else grad / scaler.get_scale()
        metrics["lambda"].append(self.lambda_state.value)
        metrics["lambda_grad"].append(self._lambda_grad)

    def _step_lambda(self) -> None:
        """After the optimiser's step: λ moves when the policy moved. An overflow under fp16 leaves both out."""
        if not self.objective.learnable:
            return
        if not self.accelerator.optimizer_step_was_skipped:
            self.lambda_state.step(self._lambda_grad)
        self._lambda = self._fresh_lambda()

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        self._save_lambda(output_dir or self.args.output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        self._save_lambda(output_dir)  # FSDP's sharded checkpoints don't pass through _save

    def _save_lambda(self, output_dir: str) -> None:
        if self.args.should_save and self.objective.learnable:  # some engines save on every rank
            with open(os.path.join(output_dir, LAMBDA_STATE_FILE), "w") as file:
                json.dump({"objective": self.objective.name, **self.lambda_state.state_dict()}, file)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self.objective.learnable:
            return
        path = os.path.join(checkpoint, LAMBDA_STATE_FILE)
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"{path} is missing: this checkpoint wasn't written with a learned λ. "
                "Start from it as a model instead of resuming from it"
            )
        with open(path) as file:
            state = json.load(file)
        if state["objective"] != self.objective.name:
            raise ValueError(
                f"{checkpoint} was trained with objective {state['objective']!r}, not {self.objective.name!r}: "
                "start from it as a model instead of resuming from it"
            )
        self.lambda_state.load_state_dict(state)
        self._lambda = self._fresh_lambda()


class _LambdaStep(TrainerCallback):
    """The Trainer's hooks on both sides of the optimiser's step."""

    def __init__(self, trainer: LambdaGRPOTrainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._measure_lambda_grad()

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._step_lambda()


def _kl_is_exact(objective: Objective) -> bool:
    """Whether TRL's loss averages the KL term as `policy_loss` does for this objective."""
    if objective.normalizer == "group":
        return objective.kl_weighted and objective.preference is inverse_length
    return not objective.kl_weighted


def _text(value: Any) -> str:
    """A prompt or completion as text; conversations as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
