"""Sampling completions fast: each prompt read once for its whole group, finished rows dropped."""

from lambda_grpo.architectures import UnsupportedError
from lambda_grpo.rollout.sampler import FastSampler, Sampled
from lambda_grpo.rollout.stops import StopAtStrings, StopStrings

__all__ = ["FastSampler", "Sampled", "StopAtStrings", "StopStrings", "UnsupportedError"]
