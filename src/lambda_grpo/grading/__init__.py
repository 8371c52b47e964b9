"""Grading of answers to maths problems with math-verify, in worker processes with time and memory limits."""

from lambda_grpo.grading.grade import Grade, GradingError, check_installed, grade_math, same_answers

__all__ = ["Grade", "GradingError", "check_installed", "grade_math", "same_answers"]
