"""Objectives side by side: the same policy, prompts and budget, several seeds, paired statistics."""

from lambda_grpo.comparison.compare import compare
from lambda_grpo.comparison.study import ENDPOINTS, Study, read_study
from lambda_grpo.comparison.table import arms_table

__all__ = ["ENDPOINTS", "Study", "arms_table", "compare", "read_study"]
