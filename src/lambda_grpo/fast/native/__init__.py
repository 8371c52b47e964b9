"""C for what PyTorch is slow at on a CPU."""

from lambda_grpo.fast.native.build import CannotCompileError, address, is_available, library, up

__all__ = ["CannotCompileError", "address", "is_available", "library", "up"]
