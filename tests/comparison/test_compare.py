"""A real study, small: finished, killed and resumed, broken, refused."""

import subprocess
import time

import pytest

from lambda_grpo.cli import main
from lambda_grpo.runs.directory import Run
from lambda_grpo.runs.study_record import StudyRecord
from tests.comparison.real_study import RUNS, command, finished, kill, results, write_study
from tests.schemas import assert_follows


@pytest.mark.timeout(600)
def test_a_study_leaves_every_run_and_statistic(whole):
    _, out = whole
    found = results(out)
    assert len(finished(out)) == RUNS
    chosen = [run for run in found["runs"] if run["chosen"]]
    assert [(run["objective"], run["seed"]) for run in chosen] == [
        ("dapo", 1), ("lambda_grpo", 1), ("dapo", 2), ("lambda_grpo", 2),
    ]  # fmt: skip
    assert len(found["runs"]) == RUNS
    for run in found["runs"]:
        assert 0 <= run["accuracy"] <= 1
        assert run["completion_length_mean"] > 0
        assert sum(run["share_by_length_quartile"]) == pytest.approx(1)
        assert 0 <= run["share_right"] <= 1
        assert run["curve"]["step"] == [1, 2, 3]
        assert run["curve"]["tokens"] == sorted(run["curve"]["tokens"])
        assert (run["lambda"] is None) == (run["objective"] == "dapo")
        rates = {row["learning_rate"]: row for row in found["sweep"] if row["objective"] == run["objective"]}
        assert len(rates) == 3
        assert rates[run["learning_rate"]]["chosen"] == run["chosen"]
        best = max(rates.values(), key=lambda row: row["value"])
        assert best["chosen"]
        assert run["accuracy"] == pytest.approx((run["choosing"]["accuracy"] + run["reported"]["accuracy"]) / 2)
    (row,) = found["comparisons"]
    assert (row["objective"], row["against"], row["task"], row["n"]) == ("lambda_grpo", "dapo", "arithmetic", 2)
    accuracies = {(run["objective"], run["seed"]): run["reported"]["accuracy"] for run in chosen}
    by_hand = [accuracies["lambda_grpo", seed] - accuracies["dapo", seed] for seed in (1, 2)]
    assert row["difference"] == pytest.approx(sum(by_hand) / 2)
    assert found["failures"] == []
    assert_follows(StudyRecord, (out / "results.json").read_text())
    assert (out / "report.html").exists()


def test_runs_are_paired(whole):
    """Per seed the same prompts in the same order, and the same policy before training."""
    _, out = whole
    prompts, before = {}, set()
    for path in finished(out):
        seed = int(path.name.split("-seed-")[1])
        samples = Run(path).completions()
        prompts.setdefault(seed, set()).add(
            tuple(zip(*(samples[key].to_pylist() for key in ("step", "prompt")), strict=True))
        )
        before.add((path / "eval" / "before.json").read_text())
    assert prompts.keys() == {1, 2}
    assert all(len(of_seed) == 1 for of_seed in prompts.values())
    assert len({next(iter(of_seed)) for of_seed in prompts.values()}) == 2
    assert len(before) == 1
    assert not list(out.glob("runs/*/*/*/checkpoint-*"))


def test_what_is_finished_is_not_repeated(whole):
    study, out = whole
    times = {path: path.stat().st_mtime_ns for path in out.glob("runs/**/*.parquet")}
    first = (out / "results.json").read_text()
    assert main(["compare", study, "--output_dir", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/**/*.parquet")} == times
    assert (out / "results.json").read_text() == first


@pytest.mark.timeout(600)
def test_killed_in_the_middle_and_resumed_it_finds_the_same(whole, tmp_path):
    study, undisturbed = whole
    out = tmp_path / "out"
    for so_many in (2, 7):
        process = subprocess.Popen(command(study, out), stderr=subprocess.DEVNULL)
        while len(finished(out)) < so_many or not list(out.glob("runs/*/*/*/checkpoint-*")):
            assert process.poll() is None
            time.sleep(0.02)
        kill(process, out)
        assert len(finished(out)) < RUNS
    assert main(["compare", study, "--output_dir", str(out)]) == 0
    assert results(out) == results(undisturbed)


@pytest.mark.timeout(600)
def test_a_failed_run_is_reported_and_tried_again(whole, tmp_path, capsys):
    study, undisturbed = whole
    out = tmp_path / "out"
    subprocess.run(["cp", "-r", str(undisturbed), str(out)], check=True)
    chosen = next(row["learning_rate"] for row in results(out)["sweep"] if row["chosen"])
    broken = out / f"runs/arithmetic/lambda_grpo/lr-{chosen:g}-seed-2"
    subprocess.run(["rm", "-r", str(broken), f"{broken}.json", str(out / "results.json")], check=True)
    broken.write_text("in the way")
    assert main(["compare", study, "--output_dir", str(out)]) == 0
    found = results(out)
    (failure,) = found["failures"]
    assert (failure["objective"], failure["seed"]) == ("lambda_grpo", 2)
    assert "not empty" in failure["failure"]
    assert "lambda_grpo on arithmetic" in capsys.readouterr().err
    assert len(found["runs"]) == RUNS - 1
    assert not any(row["chosen"] for row in found["sweep"] if row["n"] < 2)  # its rate isn't chosen any more
    assert any("1 of the runs failed" in sentence for sentence in found["verdict"])
    broken.unlink()
    assert main(["compare", study, "--output_dir", str(out)]) == 0
    assert results(out) == results(undisturbed)


def test_an_objective_that_cannot_start_is_named_before_any_run(tmp_path, capsys):
    arms = {"dapo": None, "with KL": {"objective": "lambda_grpo_prm", "beta": 0.1}}
    study = write_study(tmp_path / "study", objectives=arms)
    assert main(["compare", study, "--output_dir", str(tmp_path / "out")]) == 2
    assert "objective 'with KL' on 'arithmetic' can't start" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["compare", "--objectives", "dapo,lambda_gpro", "--output_dir", str(tmp_path / "out")]) == 2
    assert "objective 'lambda_gpro' on 'arithmetic' can't start" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_task_without_held_out_problems_needs_some(tmp_path, capsys):
    problems = tmp_path / "sums.jsonl"
    problems.write_text('{"question": "1+1=", "answer": "2"}\n{"question": "1+2=", "answer": "3"}\n' * 8)
    study = write_study(tmp_path / "study", task=str(problems), per_device_train_batch_size=8)
    assert main(["compare", study, "--output_dir", str(tmp_path / "out")]) == 2
    assert "can't start: nothing is evaluated: set eval_task" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_no_study_is_refused(tmp_path, capsys):
    study = write_study(tmp_path / "study")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert main(["compare", study, "--output_dir", str(tmp_path / "mine")]) == 2
    assert "not empty" in capsys.readouterr().err


@pytest.mark.timeout(600)
def test_two_programs_at_once_are_refused(whole, tmp_path, capsys):
    study, _ = whole
    out = tmp_path / "out"
    process = subprocess.Popen(command(study, out), stderr=subprocess.DEVNULL)
    try:
        while not list(out.glob("runs/*/*/*")):
            assert process.poll() is None
            time.sleep(0.02)
        assert main(["compare", study, "--output_dir", str(out)]) == 2
        assert "another process runs a study" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()
