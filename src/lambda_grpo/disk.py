"""The disk: how much space is free, and one message for the many errors of a full one."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lambda_grpo.errors import UserError

ERROR_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
# Parts of the messages of exceptions without an error number: safetensors and pyarrow quote the system; torch.save only
# notices that a write fell short, and a stream of C++ fails after it.
MESSAGES = (
    "No space left on device", "Disk quota exceeded", "unexpected pos ", "PytorchStreamWriter failed writing",
    "the disk is full",
)  # fmt: skip


NOT_ENOUGH = "not enough space: "  # begins the message of a UserError where less is free than a command needs
FULL = 16_000_000  # bytes: a file system with less is full


class DiskFullError(UserError):
    """The disk is full. The message names the folder, and how to resume."""

    def __init__(self, folder: Path, what_to_do: str):
        super().__init__(f"the disk is full: no space left in {folder}. Free some there, {what_to_do}")
        self.folder = folder


def free_bytes(path: Path) -> int:
    """Free bytes of the file system of a path, which need not exist yet."""
    existing = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    return shutil.disk_usage(existing).free


def is_disk_full(error: BaseException | str) -> bool:
    """Whether a full disk, or a used-up quota, caused an exception, or is what a message tells of.

    An exception's causes count, too, but none that began with Ctrl-C: it also makes a write fall short.
    """
    if isinstance(error, str):
        return any(part in error for part in MESSAGES)
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if any(isinstance(one, KeyboardInterrupt) for one in chain):
        return False
    return any(getattr(one, "errno", None) in ERROR_NUMBERS or is_disk_full(str(one)) for one in chain)


def full_folder(folder: Path) -> Path:
    """Where a full disk was met: a command's folder, or the one for temporary files."""
    temporary = Path(tempfile.gettempdir())
    return temporary if free_bytes(temporary) < FULL <= free_bytes(folder) else folder


@contextmanager
def reporting_full_disk(
    folder: Path, resume: Callable[[], str], clean_up: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Raise DiskFullError in place of whatever a full disk has raised.

    Args:
        folder: where is written.
        resume: returns the command that resumes.
        clean_up: removes what is half written.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        full = error.folder if isinstance(error, DiskFullError) else full_folder(folder)
        clean_up()
        raise DiskFullError(full, f"then resume with: {resume()}") from error
