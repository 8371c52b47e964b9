"""The methods that have a name, each a value of `Objective`."""

from __future__ import annotations

from dataclasses import replace

from lambda_grpo.errors import UserError
from lambda_grpo.import_paths import import_name
from lambda_grpo.objective.objective import Objective
from lambda_grpo.objective.preferences import (
    InverseEntropy,
    InverseLength,
    InverseLengthPower,
    LambdaExp,
    LambdaLinear,
    LambdaSoftmax,
    PassRateWeights,
    SignBalanced,
    Uniform,
)
from lambda_grpo.objective.rollout_spec import BestAndWorst, ErrorCorrection, RolloutSpec
from lambda_grpo.objective.surrogates import (
    CappedWeight,
    Clip,
    GammaWeight,
    GeometricMean,
    LengthBand,
    SoftGate,
    TracedClip,
)
from lambda_grpo.objective.token_preferences import SharedPrefix, TailDecay
from lambda_grpo.suggestions import did_you_mean

# arXiv 2402.03300: the mean over responses of the mean over their tokens
_GRPO = Objective("grpo", InverseLength(), normalizer="group", kl_weighted=True)

PRESETS: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        _GRPO,
        # arXiv 2503.14476: only its token-level loss, the sense in which the λ-GRPO paper says DAPO
        Objective("dapo", Uniform()),
        # arXiv 2503.20783
        Objective("dr_grpo", Uniform(), normalizer="constant", advantage_scale="none"),
        # arXiv 2510.06870 over the batch's tokens, so that λ = 0 is the token mean of TRL and verl
        Objective("lambda_grpo", LambdaSoftmax()),
        # arXiv 2510.06870 as the paper writes it
        Objective("lambda_grpo_paper", LambdaSoftmax(), normalizer="group"),
        # its alternative forms
        Objective("lambda_grpo_linear", LambdaLinear()),
        Objective("lambda_grpo_exp", LambdaExp()),
        # TRL's name for a token mean over each micro-batch
        Objective("bnpo", Uniform(), normalizer="micro_batch"),
        # arXiv 2510.13786 (ScaleRL): the mean over prompts of each prompt's token mean
        Objective("prompt_mean", Uniform(), normalizer="group", advantage_scale="batch"),
        # arXiv 2508.08221
        Objective("lite_ppo", Uniform(), advantage_scale="batch"),
        # arXiv 2507.18071
        replace(_GRPO, name="gspo", surrogate=Clip("sequence", 3e-4, 4e-4)),
        # arXiv 2507.20673
        replace(_GRPO, name="gmpo", surrogate=GeometricMean()),
        # arXiv 2506.13585; its cap from arXiv 2510.13786
        Objective("cispo", Uniform(), surrogate=CappedWeight()),
        # arXiv 2602.05261
        Objective("luspo", Uniform(), normalizer="responses", surrogate=Clip("sequence", 2e-3, 2.5e-3)),
        # arXiv 2511.20347
        replace(_GRPO, name="sapo", surrogate=SoftGate()),
        # arXiv 2602.10693
        Objective("vespo", Uniform(), surrogate=GammaWeight()),
        # arXiv 2509.07558
        Objective("delta_l", InverseLengthPower(), normalizer="constant"),
        # arXiv 2605.04077
        Objective("balanced", SignBalanced(), normalizer="group"),
        # arXiv 2510.09001
        Objective("daro", PassRateWeights(), normalizer="group"),
        # arXiv 2509.09177
        replace(_GRPO, name="fspo", surrogate=LengthBand()),
        # arXiv 2503.14476 with all four of its techniques
        Objective(
            "dapo_full",
            Uniform(),
            surrogate=Clip("token", 0.2, 0.28),
            rollouts=RolloutSpec(dynamic_sampling=True, overlong_buffer=0.2),
        ),
        # arXiv 2510.00194
        replace(_GRPO, name="grpo_lambda", surrogate=TracedClip("recent"), advantage_min=-0.1),
        replace(_GRPO, name="grpo_lambda_both", surrogate=TracedClip("both"), advantage_min=-0.1),
        # its simple port
        Objective("grpo_lambda_tail", TailDecay()),
        # arXiv 2507.21848
        Objective(
            "edge_grpo",
            InverseEntropy(),
            normalizer="group",
            rollouts=RolloutSpec(correction=ErrorCorrection()),
        ),
        # arXiv 2605.16937, its generic part
        replace(_GRPO, name="devis_grpo", rollouts=RolloutSpec(selection=BestAndWorst(2))),
        # arXiv 2509.21154
        Objective("lambda_grpo_prm", SharedPrefix(), kl_weighted=True),
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
            f"{attribute} = Objective('my_name', MyPreference())"
        )
    return found
