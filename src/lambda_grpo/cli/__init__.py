"""The program `lambda-grpo`."""

from lambda_grpo.cli.commands import main

__all__ = ["main"]
