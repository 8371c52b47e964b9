"""The training pass over a packed sequence: no padding, and each prompt read once for all of its completions."""

from lambda_grpo.fast.packing.layout import Layout, pack
from lambda_grpo.fast.packing.memory import keep_freed_memory
from lambda_grpo.fast.packing.model import check_packable, packed_pass, prepare

__all__ = ["Layout", "check_packable", "keep_freed_memory", "pack", "packed_pass", "prepare"]
