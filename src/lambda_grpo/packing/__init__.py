"""The training pass without padding, and with each prompt read once for all of its completions."""

from lambda_grpo.packing.attention import IMPLEMENTATION, register
from lambda_grpo.packing.layout import Layout, pack

__all__ = ["IMPLEMENTATION", "Layout", "pack", "register"]
