"""The training pass without padding, and with each prompt read once for all of its completions."""

from lambda_grpo.packing.layout import Layout, pack
from lambda_grpo.packing.memory import keep_freed_memory
from lambda_grpo.packing.model import packed_pass, prepare
from lambda_grpo.packing.torch_attention import IMPLEMENTATION

__all__ = ["IMPLEMENTATION", "Layout", "keep_freed_memory", "pack", "packed_pass", "prepare"]
