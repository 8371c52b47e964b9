"""Fast sampling: each prompt is read once for its whole group, and finished sequences are dropped from the batch."""

from lambda_grpo.fast.architectures import UnsupportedError
from lambda_grpo.fast.sampler.sampler import FastSampler, SampledCompletions
from lambda_grpo.fast.sampler.stop_strings import StopAtStrings, StopStrings

__all__ = ["FastSampler", "SampledCompletions", "StopAtStrings", "StopStrings", "UnsupportedError"]
