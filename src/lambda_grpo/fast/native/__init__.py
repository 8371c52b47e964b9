"""Native code: C for the computations in which PyTorch is slow on a CPU."""

from lambda_grpo.fast.native.build import CannotCompileError, address, is_available, library, up

__all__ = ["CannotCompileError", "address", "is_available", "library", "up"]
