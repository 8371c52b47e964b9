"""Inspection: what a run's gradient listened to, from the samples that it logged."""

from lambda_grpo.inspection.command import Inspection, inspect_paths, shares_table
from lambda_grpo.inspection.inspect import inspect_samples
from lambda_grpo.inspection.samples import Samples, read_samples

__all__ = ["Inspection", "Samples", "inspect_paths", "inspect_samples", "read_samples", "shares_table"]
