"""`lambda-grpo train` with a budget of generated tokens."""

import shutil

import pytest

from lambda_grpo.cli import main
from lambda_grpo.runs.directory import Run
from tests.invariant.ranks import fork_ranks
from tests.training.test_eval_every import trained_alike

QUICK = [
    "--max_steps", "30", "--save_steps", "2", "--eval_size", "8", "--per_device_train_batch_size", "16",
    "--max_completion_length", "16", "--save_total_limit", "20", "--eval_every", "2", "--max_generated_tokens",
]  # fmt: skip


def generated(run):
    return [row["generated_tokens"] for row in run.metrics()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", "--output_dir", str(path), *QUICK, "600"]) == 0
    return Run.open(path)


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


def test_it_ends_at_the_budget(whole):
    counts = generated(whole)
    assert counts[-2] < 600 <= counts[-1]
    last = len(counts)
    assert 4 < last < 30
    assert [record["step"] for record in whole.evaluations()] == [*range(0, last, 2), last]
    assert whole.evaluations()[-1]["generated_tokens"] == counts[-1]
    assert whole.config()["model_step"] == last
    assert whole.checkpoints()[-1].name == f"checkpoint-{last}"


def test_a_resumed_run_ends_there_too(run, whole):
    for path in run.checkpoints()[1:]:
        shutil.rmtree(path)
    assert main(["train", "--output_dir", str(run.path), "--resume"]) == 0
    trained_alike(run, whole)
    assert run.evaluations() == whole.evaluations()


def test_at_the_budget_a_resumed_run_takes_no_further_step(run, whole):
    """As after a kill during the closing evaluation."""
    (run.path / "eval/after.json").unlink()
    (run.path / "model.safetensors").unlink()
    assert main(["train", "--output_dir", str(run.path), "--resume"]) == 0
    trained_alike(run, whole)
    assert run.evaluations() == whole.evaluations()
    assert run.completions().equals(whole.completions())


def test_a_budget_may_grow_and_not_shrink(run, whole, capsys):
    command = ["train", "--output_dir", str(run.path), "--resume", "--max_generated_tokens"]
    assert main([*command, "500"]) == 2
    spent = int(generated(whole)[-1])
    assert f"has already generated {spent} tokens, max_generated_tokens can't be 500" in capsys.readouterr().err
    assert main([*command, "800"]) == 0
    counts = generated(run)
    assert counts[: len(generated(whole))] == generated(whole)
    assert counts[-2] < 800 <= counts[-1]


def test_a_schedule_that_depends_on_the_last_step_is_refused(tmp_path, capsys):
    settings = ["--lr_scheduler_type", "linear", "--output_dir", str(tmp_path / "run")]
    assert main(["train", *QUICK, "600", *settings]) == 2
    assert "max_steps, on which lr_scheduler_type 'linear' depends: set lr_scheduler" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(900)
def test_several_processes_count_together(tmp_path):
    settings = ["--output_dir", tmp_path / "run", *QUICK, "600"]
    fork_ranks(2, "recipe_run", tmp_path, *settings)
    run = Run.open(tmp_path / "run")
    counts, samples = generated(run), run.completions()
    assert counts[-2] < 600 <= counts[-1] == sum(samples["length"].to_pylist())
    assert len(samples) == 2 * 16 * len(counts)
    shutil.rmtree(run.checkpoints()[-1])
    (tmp_path / "again").mkdir()
    fork_ranks(2, "recipe_run", tmp_path / "again", "--output_dir", run.path, "--resume")
    assert generated(run) == counts
