"""`Objective`: a value that names each part of the formula."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args

from lambda_grpo.formatting import fields_in_words, in_words
from lambda_grpo.objective.preferences import Preference
from lambda_grpo.objective.rollout_spec import RolloutSpec
from lambda_grpo.objective.surrogates import Clip, Surrogate
from lambda_grpo.suggestions import did_you_mean

Normalizer = Literal["batch", "group", "responses", "constant", "micro_batch"]
AdvantageScale = Literal["group", "batch", "none"]
WeightNorm = Literal["sum", "tokens"]

NORMALIZERS: dict[Normalizer, str] = {
    "batch": "all tokens of the batch",
    "group": "each prompt's own tokens, then the mean over prompts",
    "responses": "the number of responses",
    "constant": "the number of responses times the longest completion",
    "micro_batch": "the tokens of each micro-batch, then the mean over micro-batches",
}
ADVANTAGES: dict[AdvantageScale, str] = {
    "group": "reward minus its group's mean, divided by the group's standard deviation",
    "batch": "reward minus its group's mean, divided by the batch's standard deviation",
    "none": "reward minus its group's mean",
}


@dataclass(frozen=True)
class Objective:
    """One method of the family  L = − Σ_i f_i Σ_t s_it / Z_i.

    Attributes:
        name: its name in recipes and logs.
        preference: f, how much each token of a response counts.
        normalizer: Z. "batch": the tokens of the global batch. "group": each prompt's own tokens, then the mean over
            prompts. "responses": the number of responses. "constant": responses × max_completion_length.
            "micro_batch": the tokens of the response's micro-batch, then the mean over micro-batches; the only one
            that depends on how a batch is split.
        advantage_scale: what divides R − mean: "group", "batch" or "none" (see `group_advantages`).
        surrogate: s_it, a function of the ratio and the advantage.
        weight_norm: "sum" leaves f as the paper has it; "tokens" rescales it in each group to Σ f|o| = Σ|o|, so that
            λ can't change the size of a step.
        kl_weighted: whether f weights the KL term too. GRPO's KL is inside its mean over tokens; a learned preference
            never weights the KL.
        advantage_min: advantages are clamped at it from below.
        rollouts: how samples are filtered, selected and corrected before the loss. An engine does this; `policy_loss`
            uses all the samples that it is given.

    Raises:
        TypeError: the preference or the surrogate isn't an instance of its base class.
        ValueError: an attribute has an unknown value, or two attributes contradict each other.
    """

    name: str
    preference: Preference
    normalizer: Normalizer = "batch"
    advantage_scale: AdvantageScale = "group"
    surrogate: Surrogate = field(default_factory=Clip)
    weight_norm: WeightNorm = "sum"
    kl_weighted: bool = False
    advantage_min: float | None = None
    rollouts: RolloutSpec = field(default_factory=RolloutSpec)

    def __post_init__(self) -> None:
        for attribute, base in (("preference", Preference), ("surrogate", Surrogate)):
            if not isinstance(value := getattr(self, attribute), base):
                raise TypeError(
                    f"objective {self.name!r}: its {attribute} must be an instance of a subclass of "
                    f"lambda_grpo.objective.{base.__name__}, got {value!r}"
                )
        for attribute, kind in (
            ("normalizer", Normalizer),
            ("advantage_scale", AdvantageScale),
            ("weight_norm", WeightNorm),
        ):
            value, known = getattr(self, attribute), get_args(kind)
            if value not in known:
                meant = did_you_mean(str(value), known)
                raise ValueError(f"objective {self.name!r}: {attribute} is {value!r}{meant}: use {', '.join(known)}")
        if self.preference.learnable and self.kl_weighted:
            raise ValueError(
                f"objective {self.name!r}: a learned preference can't weigh the KL term, since λ would shrink the "
                "penalty instead of choosing tokens; set kl_weighted to False"
            )
        if self.preference.per_token and self.surrogate.per_response:
            raise ValueError(
                f"objective {self.name!r}: its preference tells a response's tokens apart, but its surrogate has one "
                "value a response, the same for each token; use token ratios"
            )
        if self.advantage_min is not None and not self.advantage_min <= 0:
            raise ValueError(f"advantage_min must be 0 or below, got {self.advantage_min}")
        if self.preference.weighs_groups and self.weight_norm == "tokens":
            raise ValueError(
                f"objective {self.name!r}: weight_norm 'tokens' scales each group back to its own tokens, and its "
                "preference weighs whole groups: nothing would be left of it; use 'sum'"
            )

    def describe(self) -> dict[str, Any]:
        """The objective as JSON values; `in_words` holds its description for readers."""
        return {
            "name": self.name,
            "preference": _plain(self.preference),
            "learnable": self.preference.learnable,
            "lambda_favours_length": self.preference.lambda_favours_length,
            "normalizer": self.normalizer,
            "advantage_scale": self.advantage_scale,
            "advantage_min": self.advantage_min,
            "surrogate": _plain(self.surrogate),
            "weight_norm": self.weight_norm,
            "kl_weighted": self.kl_weighted,
            "rollouts": _plain(self.rollouts),
            "in_words": {
                "token preference f": in_words(self.preference),
                "normaliser Z": NORMALIZERS[self.normalizer],
                "advantage": ADVANTAGES[self.advantage_scale],
                "surrogate": in_words(self.surrogate),
                "samples before the loss": fields_in_words(self.rollouts, defaults=False) or None,
            },
        }


def _plain(part: Any) -> Any:
    """A part of an objective as JSON: the name of its class, and its fields."""
    if isinstance(part, str | int | float | None):
        return part
    numbers = fields(part) if is_dataclass(part) else ()
    return {"kind": type(part).__name__} | {one.name: _plain(getattr(part, one.name)) for one in numbers}
