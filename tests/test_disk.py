"""Every library's error on a really full file system is recognised, and no other error is."""

import errno
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from lambda_grpo.disk import DiskFullError, free_bytes, full_folder, is_disk_full, reporting_full_disk
from lambda_grpo.files import write_text
from lambda_grpo.runs.directory import Run
from tests.full_disk import small_disk

VALUES = torch.arange(1_000_000.0)

WRITERS = {
    "text": lambda path: path.write_text("x" * 4_000_000),
    "atomic": lambda path: write_text(path, "x" * 4_000_000),
    "safetensors": lambda path: save_file({"a": VALUES}, path),
    "torch": lambda path: torch.save({"a": VALUES}, path),
    "torch, many": lambda path: torch.save({str(n): torch.rand(1000) for n in range(900)}, path),
    "torch, old format": lambda path: torch.save({"a": VALUES}, path, _use_new_zipfile_serialization=False),
    "parquet": lambda path: pq.write_table(pa.table({"a": VALUES.numpy()}), path),
    "samples": lambda path: Run(path.parent).log_completions(1, {"reward": VALUES.tolist()}),
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    with small_disk(tmp_path_factory.mktemp("disk") / "small", "2m") as found:
        yield found


@pytest.fixture
def folder(disk):
    yield disk.path
    for path in disk.path.rglob("*"):
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_recognised(name, folder):
    with pytest.raises(DiskFullError) as caught, reporting_full_disk(folder, lambda: "again"):
        WRITERS[name](folder / "file")
    assert str(caught.value) == (
        f"the disk is full: no space left in {folder}. Free some there, then resume with: again"
    )
    if name in ("atomic", "safetensors", "samples"):
        assert not [path for path in folder.rglob("*") if path.is_file()]


def test_the_folder_of_the_first_message_stays(folder):
    message = r"left in /inner\. Free some there, then resume with: outer"
    with pytest.raises(DiskFullError, match=message), reporting_full_disk(folder, lambda: "outer"):
        raise DiskFullError(Path("/inner"), "then resume with: inner")


def test_a_full_folder_for_temporary_files_is_named(folder, tmp_path, monkeypatch, disk):
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    disk.fill(free=0)
    assert full_folder(tmp_path) == folder
    assert free_bytes(folder / "not" / "yet" / "there") == 0


def test_other_errors_are_not_a_full_disk():
    assert not is_disk_full(RuntimeError("shape mismatch"))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    cause = RuntimeError("wrapped")
    cause.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_disk_full(cause)
    stopped = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    assert is_disk_full(stopped)
    stopped.__context__ = KeyboardInterrupt()  # Ctrl-C while torch.save writes
    assert not is_disk_full(stopped)
