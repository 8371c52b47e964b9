"""Sampling completions fast: each prompt read once for its whole group, finished rows dropped."""

from lambda_grpo.fast.architectures import UnsupportedError
from lambda_grpo.fast.sampler.sampler import FastSampler, Sampled
from lambda_grpo.fast.sampler.stop_strings import StopAtStrings, StopStrings

__all__ = ["FastSampler", "Sampled", "StopAtStrings", "StopStrings", "UnsupportedError"]
