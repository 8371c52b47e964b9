"""Ctrl-C, as a terminal sends it: a real SIGINT to all of a program's processes, at several moments."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lambda_grpo.cli import main
from lambda_grpo.runs.directory import Run
from lambda_grpo.trl import LambdaGRPOTrainer
from tests.evaluation.tiny_models import save_model, write_jsonl

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
TINY = ["--per_device_train_batch_size", "16", "--max_completion_length", "8", "--save_steps", "1", "--eval_size", "8"]

# The program, slowed down so that a moment lasts: argv[1] says which one.
SLOW = r"""
import sys, time
from pathlib import Path
moment = sys.argv[1]
if moment == "step":
    from lambda_grpo.trl import LambdaGRPOTrainer
    step = LambdaGRPOTrainer.training_step
    def slow_step(*arguments, **settings):
        time.sleep(0.5)
        return step(*arguments, **settings)
    LambdaGRPOTrainer.training_step = slow_step
elif moment in ("sampling", "grading"):
    from lambda_grpo.evaluation.engines import Completion, LocalEngine
    sample = LocalEngine.sample
    def slow_sample(self, prompts, *arguments, **settings):
        if moment == "grading":
            Path("sampled").touch()
            return [Completion(r"\boxed{\prod_{k=1}^{10^9} k}", 12, True)] * len(prompts)
        time.sleep(0.7)
        return sample(self, prompts, *arguments, **settings)
    LocalEngine.sample = slow_sample
elif moment == "starting a grader":  # between asking for a process and telling it what to do
    from multiprocessing import forkserver
    connect = forkserver.connect_to_new_process
    def slow_connect(*arguments):
        connected = connect(*arguments)
        Path("connected").touch()
        time.sleep(0.5)
        return connected
    forkserver.connect_to_new_process = slow_connect
from lambda_grpo.cli import main
sys.exit(main(sys.argv[2:]))
"""


def interrupted(folder, moment, arguments, is_reached):
    """Interrupt the program, check what it prints on stderr, and return the arguments of the command that resumes."""
    command = [sys.executable, *(["-m", "lambda_grpo.cli"] if moment is None else ["-c", SLOW, moment]), *arguments]
    with open(folder / "stderr.txt", "w+") as errors:
        program = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
            preexec_fn=heeds_interrupts,
        )  # fmt: skip
        try:
            while not is_reached(program.pid):
                assert program.poll() is None, (folder / "stderr.txt").read_text()
                time.sleep(0.02)
            os.killpg(program.pid, signal.SIGINT)
            assert program.wait(timeout=300) == 130
            deadline = time.monotonic() + 120  # what a child has to say comes before its end
            while any(stat_session(path) == program.pid for path in Path("/proc").glob("[0-9]*")):
                assert time.monotonic() < deadline, "a process is left over"
                time.sleep(0.1)
        finally:
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGKILL)
        errors.seek(0)
        said = errors.read()
    for noise in ("Traceback", "leaked", "resource_tracker", "KeyboardInterrupt", "Warning"):
        assert noise not in said
    *_, stopped, line = said.splitlines()
    assert stopped == "lambda-grpo: stopped. To resume:"
    return line


def heeds_interrupts():
    """A shell makes what it runs in the background ignore the signal, and what that starts inherits it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stat_session(process):
    """The session of a process that hasn't ended; None of one that has."""
    try:
        state, *fields = (process / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if state == "Z" else int(fields[2])


def imports_torch(pid):
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("command", ["compare --objectives grpo,dapo", "eval --model builtin --task neutral"])
def test_while_libraries_are_imported(command, tmp_path):
    line = interrupted(tmp_path, None, [*shlex.split(command), "--output_dir", "my runs/1"], imports_torch)
    assert line == f"lambda-grpo {command} --output_dir 'my runs/1'"
    assert [path.name for path in tmp_path.iterdir()] == ["stderr.txt"]


def test_in_a_training_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run("run")
    line = interrupted(
        tmp_path, "step", ["train", "--output_dir", "run", "--max_steps", "4", *TINY], lambda _: run.checkpoints()
    )
    assert line == "lambda-grpo train --output_dir run --resume"
    assert main(shlex.split(line)[1:]) == 0
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4]


def test_before_the_first_checkpoint_the_run_begins_again(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(LambdaGRPOTrainer, "training_step", stop)
        # batches of an evaluation needn't be whole groups
        tiny = ["--max_steps", "1", *TINY, "--num_generations", "4", "--per_device_eval_batch_size", "3"]
        assert main(["train", *tiny, "--output_dir", "my run"]) == 130
        line = capsys.readouterr().err.splitlines()[-1]
        assert line == f"rm -r 'my run' && {shlex.join(['lambda-grpo', 'train', *tiny, '--output_dir', 'my run'])}"
        assert json.loads(Path("my run/eval/before.json").read_text())["n"] == 8
        assert main(["train", *tiny]) == 130  # in a place that is named by the time
        assert capsys.readouterr().err.splitlines()[-1] == shlex.join(["lambda-grpo", "train", *tiny])
    shutil.rmtree("my run")
    assert main(shlex.split(line.partition(" && ")[2])[1:]) == 0


@pytest.fixture
def evaluation(tmp_path):
    problems = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(40)]
    write_jsonl(tmp_path / "sums.jsonl", problems)
    model = save_model(tmp_path / "model")
    settings = ["--max_completion_length", "8", "--batch_size", "8", "--output_dir", "out"]
    return ["eval", "--model", model, "--task", "sums.jsonl", *settings]


def test_while_samples_are_drawn(tmp_path, evaluation, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples = tmp_path / "out" / "sums.samples.jsonl"
    line = interrupted(tmp_path, "sampling", evaluation, lambda _: samples.exists())
    assert line == shlex.join(["lambda-grpo", *evaluation])
    there = samples.read_text()
    assert 8 <= there.count("\n") < 40
    assert main(shlex.split(line)[1:]) == 0
    assert samples.read_text().startswith(there)
    assert json.loads((tmp_path / "out" / "sums.json").read_text())["n"] == 40


def test_while_the_first_samples_are_graded(tmp_path, evaluation):
    line = interrupted(tmp_path, "grading", evaluation, lambda _: (tmp_path / "sampled").exists())
    assert line == shlex.join(["lambda-grpo", *evaluation])
    assert not (tmp_path / "out").exists()


def test_while_a_process_starts(tmp_path, evaluation):
    line = interrupted(tmp_path, "starting a grader", evaluation, lambda _: (tmp_path / "connected").exists())
    assert line == shlex.join(["lambda-grpo", *evaluation])


def test_while_a_studys_runs_train(tmp_path):
    arguments = ["compare", "--objectives", "grpo,dapo", "--seeds", "1"]
    arguments += ["--task", "arithmetic", "--max_steps", "50", *TINY]
    line = interrupted(tmp_path, None, arguments, lambda _: list(tmp_path.glob("studies/*/runs/*/*/*/metrics.jsonl")))
    (directory,) = (tmp_path / "studies").iterdir()
    assert line == f"{shlex.join(['lambda-grpo', *arguments])} --output_dir studies/{directory.name}"
