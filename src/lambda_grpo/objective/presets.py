"""The methods, each a value: what an objective is, and the ones that have a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lambda_grpo.objective.preference import LambdaSoftmax, Preference, inverse_length, uniform


@dataclass(frozen=True)
class Objective:
    """One method of the family  L = − Σ_i f_i Σ_t s_it / Z_i.

    Attributes:
        name: how recipes and logs call it.
        preference: f, how much each token of a response counts.
        normalizer: Z. "batch": the tokens of the global batch. "group": each prompt's own tokens, then the mean over
            prompts. "constant": responses × max_completion_length.
        advantage_scale: what divides R − mean: "group", "batch" or "none" (see `group_advantages`).
        learnable: whether f depends on λ.
        weight_norm: "sum" leaves f as the paper has it; "tokens" rescales it in each group to Σ f|o| = Σ|o|, so that
            λ can't change the size of a step.
        kl_weighted: whether f weighs the KL term too. GRPO's KL stands inside its mean over tokens; a learned
            preference never reaches the KL.
        epsilon, epsilon_high: the clip range, None for the host's own setting.
        needs: what the preference reads beside the lengths: "entropies", "completion_ids".
    """

    name: str
    preference: Preference
    normalizer: Literal["batch", "group", "constant"] = "batch"
    advantage_scale: Literal["group", "batch", "none"] = "group"
    learnable: bool = False
    weight_norm: Literal["sum", "tokens"] = "sum"
    kl_weighted: bool = False
    epsilon: float | None = None
    epsilon_high: float | None = None
    needs: tuple[Literal["entropies", "completion_ids"], ...] = ()

    def __post_init__(self) -> None:
        for attribute, known in (
            ("normalizer", ("batch", "group", "constant")),
            ("advantage_scale", ("group", "batch", "none")),
            ("weight_norm", ("sum", "tokens")),
        ):
            value = getattr(self, attribute)
            if value not in known:
                raise ValueError(f"objective {self.name!r}: {attribute} is {value!r}, it must be one of {known}")


PRESETS: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        # arXiv 2402.03300, eq. 3: the mean over responses of the mean over their tokens
        Objective("grpo", inverse_length, normalizer="group", kl_weighted=True),
        # arXiv 2503.14476: only its token-level loss, the sense in which the λ-GRPO paper says DAPO
        Objective("dapo", uniform, normalizer="batch"),
        # arXiv 2503.20783
        Objective("dr_grpo", uniform, normalizer="constant", advantage_scale="none"),
        # arXiv 2510.06870 over the batch's tokens, so that λ = 0 is the token mean of TRL and verl
        Objective("lambda_grpo", LambdaSoftmax(), normalizer="batch", learnable=True),
        # arXiv 2510.06870 as the paper writes it
        Objective("lambda_grpo_paper", LambdaSoftmax(), normalizer="group", learnable=True),
    )
}


def get_objective(objective: Objective | str) -> Objective:
    """The objective itself, or the preset of that name. Raises ValueError, naming the presets."""
    if isinstance(objective, Objective):
        return objective
    if objective not in PRESETS:
        raise ValueError(f"unknown objective {objective!r}: use one of {', '.join(PRESETS)}")
    return PRESETS[objective]
