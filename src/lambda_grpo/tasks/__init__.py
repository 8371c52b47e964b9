"""Tasks with a verifiable answer, by name."""

from lambda_grpo.grading import Grade
from lambda_grpo.tasks.base import Example, Task, grade_all
from lambda_grpo.tasks.registry import TASKS, load_task, load_test_task

__all__ = ["TASKS", "Example", "Grade", "Task", "grade_all", "load_task", "load_test_task"]
