"""Sampling completions fast: each prompt read once for its whole group, finished rows dropped."""

from lambda_grpo.architectures import UnsupportedError
from lambda_grpo.rollout.sampler import FastSampler, Sampled

__all__ = ["FastSampler", "Sampled", "UnsupportedError"]
