"""The training pass without padding, and with each prompt read once for all of its completions."""

from lambda_grpo.packing.attention import IMPLEMENTATION, register
from lambda_grpo.packing.layout import Layout, pack
from lambda_grpo.packing.linear import use_onednn
from lambda_grpo.packing.memory import keep_freed_memory

__all__ = ["IMPLEMENTATION", "Layout", "keep_freed_memory", "pack", "register", "use_onednn"]
