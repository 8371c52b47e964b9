"""Keeping freed memory in the process, where glibc would hand it back and fetch it anew for each large tensor."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
ONE_GIBIBYTE = 1 << 30


def keep_freed_memory() -> bool:
    """Let tensors of up to 1 GiB take the place of freed ones. Returns whether this is glibc, which can be told.

    By default glibc maps each large block afresh, and the kernel clears its pages one by one: on a CPU that costs more
    than the elementwise operations that fill them. The peak of a process's memory stays what it was.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(option, ONE_GIBIBYTE) == 1 for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
