"""The machine: its processor, and the memory that this process may still use within its control groups (containers)."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

# Files of a control group's version: its limit, its usage, and the entry of memory.stat for cached files that can go
V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of main memory that can be used without swapping; the machine's whole memory where that isn't known.

    On Linux the least of MemAvailable and of what the process's control groups, of version 1 or 2, have left. Cached
    files don't count as used.

    Args:
        root: where /proc and /sys are.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return min([1024 * kib["MemAvailable"], *_left_in_groups(root)])


def _left_in_groups(root: Path) -> list[int]:
    """Bytes left in each control group that limits this process."""
    return [left for folder, names in _groups(root) if (left := _left(folder, *names)) is not None]


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders of this process's control groups and of those around them, with the names of their files."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        inner = top / path.lstrip("/")
        # in a container the path may be the host's, of which only the top is visible
        yield from (
            (folder, V1 if controllers else V2) for folder in (inner, *inner.parents) if folder.is_relative_to(top)
        )


def _left(folder: Path, limit: str, usage: str, cached: str) -> int | None:
    """Bytes left in a control group; None if it has no limit."""
    try:
        most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        if most == "max":
            return None
        entries = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, int(most) - used + int(entries.get(cached, 0)))
    except (OSError, ValueError):  # no such group, or not one of memory
        return None


def processor() -> str:
    """The model of the CPU, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    entries = [line.partition(":") for line in lines]
    names = [value.strip() for key, _, value in entries if key.strip() == "model name"]
    return names[0] if names else platform.processor() or platform.machine()
