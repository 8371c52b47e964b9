"""A small file system of its own, which a test can fill: a real one, in memory."""

import os
import subprocess
from contextlib import contextmanager, suppress

import pytest


class SmallDisk:
    """A tmpfs at a path."""

    def __init__(self, path):
        self.path, self.filler = path, path / "filler"

    def resize(self, size):
        """Change its size, such as "64k"."""
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)

    def fill(self, free):
        """Write to a file that leaves at most so many bytes free."""
        with suppress(OSError), open(self.filler, "ab", buffering=0) as file:
            found = os.statvfs(self.path)
            file.write(bytes(max(0, found.f_bavail * found.f_frsize - free)))


@contextmanager
def small_disk(path, size):
    """Mount a file system of this size. The test is skipped where that isn't allowed."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system can't be mounted here")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
