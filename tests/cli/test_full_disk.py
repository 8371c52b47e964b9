"""The program on a disk that runs full: one line, exit code 2, and the command that it names resumes."""

import json
import shlex
import subprocess
import sys
import time

import pytest

from lambda_grpo.cli import main
from lambda_grpo.runs.directory import Run
from tests.comparison.real_study import RUNS, results, write_study
from tests.full_disk import small_disk

TINY = ["--per_device_train_batch_size", "16", "--max_completion_length", "8", "--eval_size", "8", "--task_size", "64"]
CHECKPOINT = 12 * 968_960  # bytes of the built-in model's


def start(*arguments):
    command = [sys.executable, "-m", "lambda_grpo.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def message(program):
    """The last line of a program that ends with an error of the user's."""
    _, said = program.communicate(timeout=250)
    assert program.returncode == 2, said
    assert "Traceback" not in said
    return said.splitlines()[-1]


def arguments_after(text, line):
    """The arguments of the command that a line names after a text."""
    _, found, command = line.partition(text)
    assert found, line
    return shlex.split(command)[1:]


def fill_when(disk, pattern, program, free):
    """Leave at most so many bytes free from when a file exists until the program ends.

    Filling once isn't enough: just then a checkpoint may be about to be deleted, and its room is enough for all
    later ones.
    """
    while program.poll() is None:
        if list(disk.path.glob(pattern)):
            disk.fill(free)
        time.sleep(0.005)


def test_a_training_on_a_full_disk_keeps_its_last_checkpoint(tmp_path):
    with small_disk(tmp_path / "disk", "100m") as disk:
        out = disk.path / "run"
        program = start("train", "--output_dir", out, "--max_steps", 60, "--save_steps", 1, *TINY)
        fill_when(disk, "run/checkpoint-*/trainer_state.json", program, free=CHECKPOINT // 2)
        line = message(program)
        assert line.startswith(f"lambda-grpo: error: the disk is full: no space left in {out}. Free some there")
        assert arguments_after("then resume with: ", line) == ["train", "--output_dir", str(out), "--resume"]
        run = Run(out)
        assert run.checkpoints()
        assert sorted(out.glob("checkpoint-*")) == sorted(run.checkpoints())
        assert not list(out.rglob("*.partial"))
        disk.filler.unlink()
        last = run.step_of(run.checkpoints()[-1])
        resume = arguments_after("then resume with: ", line)
        assert main([*resume, "--max_steps", str(last + 1)]) == 0
        assert run.evaluation("after")["step"] == last + 1


def test_a_training_that_does_not_fit_is_refused(tmp_path, capsys):
    with small_disk(tmp_path / "disk", "30m") as disk:
        out = disk.path / "run"
        many = ["--max_steps", "3", "--save_steps", "1", *TINY]
        assert main(["train", "--output_dir", str(out), *many]) == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert line == (
            f"lambda-grpo: error: not enough space: {out} needs at least 35 MB for the model and 3 checkpoints of "
            "12 MB, and 31 MB are free: free some, lower save_total_limit (2 now), set save_strategy to 'no', or "
            "choose another output_dir"
        )
        assert not out.exists()
        assert main(["train", "--output_dir", str(out), *many, "--save_total_limit", "1"]) == 0


def test_an_evaluation_on_a_full_disk_goes_on_where_it_was(tmp_path):
    with small_disk(tmp_path / "disk", "64k") as disk:
        arguments = ["eval", "--model", "builtin", "--task", "arithmetic", "--n", "600", "--batch_size", "50",
                     "--max_completion_length", "24", "--output_dir", str(disk.path / "eval")]  # fmt: skip
        line = message(start(*arguments))
        assert "the disk is full: no space left in" in line
        assert arguments_after("then resume with: ", line) == arguments
        assert not list(disk.path.rglob("*.partial"))
        disk.resize("8m")
        kept = (disk.path / "eval/arithmetic.samples.jsonl").read_text().count("\n")
        assert 0 < kept < 600
        assert main(arguments) == 0
        assert json.loads((disk.path / "eval/arithmetic.json").read_text())["n"] == 600


@pytest.mark.timeout(600)
def test_a_study_on_a_full_disk_ends_and_resumes(tmp_path):
    with small_disk(tmp_path / "disk", "200m") as disk:
        study, out = write_study(tmp_path / "study", max_steps=8, eval_size=16), disk.path / "out"
        program = start("compare", study, "--output_dir", out)
        fill_when(disk, "out/runs/*/*/*/checkpoint-*/trainer_state.json", program, free=CHECKPOINT // 4)
        line = message(program)
        assert "the disk is full: no space left in" in line
        resume = arguments_after("then resume with: ", line)
        assert resume == ["compare", study, "--output_dir", str(out)]
        for path in out.glob("runs/*/*/*/checkpoint-*"):
            assert path in Run(path.parent).checkpoints()
        assert not list(out.rglob("*.partial"))
        disk.filler.unlink()
        assert main(resume) == 0
        assert len(results(out)["runs"]) == RUNS
        assert len(list(out.glob("runs/*/*/*/eval/after.json"))) == RUNS
        assert not list(out.rglob("*.safetensors"))


def test_a_study_that_does_not_fit_is_refused(tmp_path, capsys):
    with small_disk(tmp_path / "disk", "60m") as disk:
        study = write_study(tmp_path / "study", keep_checkpoints=True)
        assert main(["compare", study, "--output_dir", str(disk.path / "out")]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "needs at least 0.3 GB" in line
        assert "for 12 runs of which checkpoints are kept (keep_checkpoints), with checkpoints of 12 MB each" in line
        assert not (disk.path / "out").exists()
