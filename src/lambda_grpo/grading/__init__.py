"""Grading answers to maths problems: math-verify, in processes that nothing a model writes can hang."""

from lambda_grpo.grading.grade import Grade, GradingError, check_installed, grade_known, grade_math, same_answers

__all__ = ["Grade", "GradingError", "check_installed", "grade_known", "grade_math", "same_answers"]
