"""Comparing objectives with the same policy, prompts and budget, over several seeds, with paired statistics."""

from lambda_grpo.comparison.compare import compare
from lambda_grpo.comparison.study import ENDPOINTS, Study, read_study
from lambda_grpo.comparison.table import arms_table

__all__ = ["ENDPOINTS", "Study", "arms_table", "compare", "read_study"]
