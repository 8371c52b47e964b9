"""The methods, each a value: what an objective is, and the ones that have a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from torch import Tensor

from lambda_grpo.errors import UserError
from lambda_grpo.import_paths import import_name
from lambda_grpo.objective.groups import Groups
from lambda_grpo.objective.preferences import (
    InverseLengthPower,
    LambdaExp,
    LambdaLinear,
    LambdaSoftmax,
    Preference,
    inverse_entropy,
    inverse_length,
    pass_rate_penalty,
    pass_rate_weights,
    sign_balanced,
    uniform,
)
from lambda_grpo.objective.sampling import BestAndWorst, ErrorCorrection, RolloutSpec
from lambda_grpo.objective.surrogates import (
    CappedWeight,
    Clip,
    GammaWeight,
    GeometricMean,
    LengthBand,
    SoftGate,
    Surrogate,
    TracedClip,
    has_one_value,
)
from lambda_grpo.objective.token_preferences import TailDecay, shared_prefix
from lambda_grpo.suggestions import did_you_mean

Normalizer = Literal["batch", "group", "responses", "constant", "micro_batch"]
AdvantageScale = Literal["group", "batch", "none"]
WeightNorm = Literal["sum", "tokens"]
Need = Literal["advantages", "entropies", "completion_ids"]


@dataclass(frozen=True)
class Objective:
    """One method of the family  L = − Σ_i f_i Σ_t s_it / Z_i.

    Attributes:
        name: how recipes and logs call it.
        preference: f, how much each token of a response counts.
        normalizer: Z. "batch": the tokens of the global batch. "group": each prompt's own tokens, then the mean over
            prompts. "responses": the number of responses. "constant": responses × max_completion_length.
            "micro_batch": the tokens of the micro-batch that a row lies in, then the mean over micro-batches; the
            only one that depends on how a batch is split.
        advantage_scale: what divides R − mean: "group", "batch" or "none" (see `group_advantages`).
        surrogate: s_it, what is made of the ratio.
        learnable: whether f depends on λ.
        weight_norm: "sum" leaves f as the paper has it; "tokens" rescales it in each group to Σ f|o| = Σ|o|, so that
            λ can't change the size of a step.
        kl_weighted: whether f weighs the KL term too. GRPO's KL stands inside its mean over tokens; a learned
            preference never reaches the KL.
        needs: what the preference reads beside the lengths.
        weighs_tokens: whether f tells a response's tokens apart, (B, T).
        advantage_min: advantages below it are raised to it.
        rollouts: what becomes of the samples before the loss. An engine's part: `policy_loss` takes the rows that it
            is given.
        penalty: (groups, λ) -> scalar, what the loss of a whole batch adds for λ itself.
        lambda_shape: G -> shape of λ: () for one number.
        lambda_bounds: where an engine keeps λ, unless it is told otherwise.

    Raises:
        ValueError: an attribute isn't one of its values, or two of them contradict each other.
    """

    name: str
    preference: Preference
    normalizer: Normalizer = "batch"
    advantage_scale: AdvantageScale = "group"
    surrogate: Surrogate = field(default_factory=Clip)
    learnable: bool = False
    weight_norm: WeightNorm = "sum"
    kl_weighted: bool = False
    needs: tuple[Need, ...] = ()
    weighs_tokens: bool = False
    advantage_min: float | None = None
    rollouts: RolloutSpec = field(default_factory=RolloutSpec)
    penalty: Callable[[Groups, Tensor], Tensor] | None = None
    lambda_shape: Callable[[int], tuple[int, ...]] = lambda group_size: ()
    lambda_bounds: tuple[float, float] = (-10.0, 10.0)

    def __post_init__(self) -> None:
        for attribute, kind in (
            ("normalizer", Normalizer),
            ("advantage_scale", AdvantageScale),
            ("weight_norm", WeightNorm),
        ):
            value, known = getattr(self, attribute), get_args(kind)
            if value not in known:
                meant = did_you_mean(str(value), known)
                raise ValueError(f"objective {self.name!r}: {attribute} is {value!r}{meant}: use {', '.join(known)}")
        if self.learnable and self.kl_weighted:
            raise ValueError(
                f"objective {self.name!r}: a learned preference can't weigh the KL term, since λ would shrink the "
                "penalty instead of choosing tokens; set kl_weighted to False"
            )
        if self.weighs_tokens and has_one_value(self.surrogate):
            raise ValueError(
                f"objective {self.name!r}: its preference tells a response's tokens apart, but its surrogate has one "
                "value a response, the same for each token; use token ratios"
            )
        if self.advantage_min is not None and not self.advantage_min <= 0:
            raise ValueError(f"advantage_min must be 0 or below, got {self.advantage_min}")
        if self.preference is pass_rate_weights and self.weight_norm == "tokens":
            raise ValueError(
                f"objective {self.name!r}: weight_norm 'tokens' scales each group back to its own tokens, and its "
                "preference weighs whole groups: nothing would be left of it; use 'sum'"
            )


# arXiv 2402.03300: the mean over responses of the mean over their tokens
_GRPO = Objective("grpo", inverse_length, normalizer="group", kl_weighted=True)

PRESETS: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        _GRPO,
        # arXiv 2503.14476: only its token-level loss, the sense in which the λ-GRPO paper says DAPO
        Objective("dapo", uniform),
        # arXiv 2503.20783
        Objective("dr_grpo", uniform, normalizer="constant", advantage_scale="none"),
        # arXiv 2510.06870 over the batch's tokens, so that λ = 0 is the token mean of TRL and verl
        Objective("lambda_grpo", LambdaSoftmax(), learnable=True),
        # arXiv 2510.06870 as the paper writes it
        Objective("lambda_grpo_paper", LambdaSoftmax(), normalizer="group", learnable=True),
        # its alternative forms
        Objective("lambda_grpo_linear", LambdaLinear(), learnable=True),
        Objective("lambda_grpo_exp", LambdaExp(), learnable=True),
        # TRL's name for a token mean over each micro-batch
        Objective("bnpo", uniform, normalizer="micro_batch"),
        # arXiv 2510.13786 (ScaleRL): the mean over prompts of each prompt's token mean
        Objective("prompt_mean", uniform, normalizer="group", advantage_scale="batch"),
        # arXiv 2508.08221
        Objective("lite_ppo", uniform, advantage_scale="batch"),
        # arXiv 2507.18071
        replace(_GRPO, name="gspo", surrogate=Clip("sequence", 3e-4, 4e-4)),
        # arXiv 2507.20673
        replace(_GRPO, name="gmpo", surrogate=GeometricMean()),
        # arXiv 2506.13585; its cap from arXiv 2510.13786
        Objective("cispo", uniform, surrogate=CappedWeight()),
        # arXiv 2602.05261
        Objective("luspo", uniform, normalizer="responses", surrogate=Clip("sequence", 2e-3, 2.5e-3)),
        # arXiv 2511.20347
        replace(_GRPO, name="sapo", surrogate=SoftGate()),
        # arXiv 2602.10693
        Objective("vespo", uniform, surrogate=GammaWeight()),
        # arXiv 2509.07558
        Objective("delta_l", InverseLengthPower(), normalizer="constant"),
        # arXiv 2605.04077
        Objective("balanced", sign_balanced, normalizer="group", needs=("advantages",)),
        # arXiv 2510.09001
        Objective(
            "daro",
            pass_rate_weights,
            normalizer="group",
            learnable=True,
            needs=("advantages",),
            penalty=pass_rate_penalty,
            lambda_shape=lambda group_size: (group_size - 1,),
            lambda_bounds=(-2.0, 2.0),
        ),
        # arXiv 2509.09177
        replace(_GRPO, name="fspo", surrogate=LengthBand()),
        # arXiv 2503.14476 with all four of its techniques
        Objective(
            "dapo_full",
            uniform,
            surrogate=Clip("token", 0.2, 0.28),
            rollouts=RolloutSpec(dynamic_sampling=True, overlong_buffer=0.2),
        ),
        # arXiv 2510.00194
        replace(_GRPO, name="grpo_lambda", surrogate=TracedClip("recent"), advantage_min=-0.1),
        replace(_GRPO, name="grpo_lambda_both", surrogate=TracedClip("both"), advantage_min=-0.1),
        # its simple port
        Objective("grpo_lambda_tail", TailDecay(), needs=("completion_ids",), weighs_tokens=True),
        # arXiv 2507.21848
        Objective(
            "edge_grpo",
            inverse_entropy,
            normalizer="group",
            needs=("entropies",),
            rollouts=RolloutSpec(correction=ErrorCorrection()),
        ),
        # arXiv 2605.16937, its generic part
        replace(_GRPO, name="devis_grpo", rollouts=RolloutSpec(selection=BestAndWorst(2))),
        # arXiv 2509.21154
        Objective("lambda_grpo_prm", shared_prefix, kl_weighted=True, needs=("completion_ids",), weighs_tokens=True),
    )
}


def get_objective(objective: Objective | str) -> Objective:
    """The objective itself, the preset of that name, or one of your own by its import path, "module:NAME".

    Raises:
        UserError: no preset has that name, or the import path doesn't lead to an `Objective`.
    """
    if isinstance(objective, Objective):
        return objective
    if objective in PRESETS:
        return PRESETS[objective]
    if ":" not in objective:
        meant = did_you_mean(objective, PRESETS)
        raise UserError(
            f"unknown objective {objective!r}{meant}: use one of {', '.join(PRESETS)}, or module:NAME of your own"
        )
    module_name, _, attribute = objective.partition(":")
    found = import_name(f"objective {objective!r}", module_name, attribute)
    if not isinstance(found, Objective):
        kind = "class" if isinstance(found, type) else type(found).__name__
        raise UserError(
            f"objective {objective!r}: {attribute!r} is a {kind}, it must be a lambda_grpo.Objective, as in "
            f"{attribute} = Objective('my_name', my_preference)"
        )
    return found
