"""Keeps freed memory in the process, which glibc by default returns to the kernel and maps again for large tensors."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
ONE_GIBIBYTE = 1 << 30


def keep_freed_memory() -> bool:
    """Let tensors of up to 1 GiB reuse freed memory. Returns whether that is set: only glibc has the option.

    By default glibc maps each large block anew and the kernel clears its pages, which on a CPU takes longer than the
    elementwise operations that fill them. The process's peak memory doesn't change.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(option, ONE_GIBIBYTE) == 1 for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
