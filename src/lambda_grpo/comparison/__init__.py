"""Objectives side by side: the same policy, prompts and budget, several seeds, paired statistics."""

from lambda_grpo.comparison.compare import compare
from lambda_grpo.comparison.study import ENDPOINTS, Study, read_study

__all__ = ["ENDPOINTS", "Study", "compare", "read_study"]
