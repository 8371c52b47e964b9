"""A study with more, fewer or other runs than the one in its directory."""

import itertools
import json
import shutil
import subprocess
import time

import pytest

from lambda_grpo.cli import main
from lambda_grpo.comparison.study_directory import changes
from lambda_grpo.files import write_json
from lambda_grpo.runs.directory import Run
from tests.comparison.real_study import RUNS, command, finished, kill, results, write_study
from tests.comparison.simulated import simulated_study


def files(out):
    """Modification times of what runs have written, but for the programs' output."""
    return {path.relative_to(out): path.stat().st_mtime_ns for path in out.glob("runs/*/*/*/**/*") if path.is_file()}


def reported(found):
    return [(run["objective"], run["task"], run["seed"]) for run in found["runs"] if run["chosen"]]


@pytest.fixture
def out(whole, tmp_path):
    return shutil.copytree(whole[1], tmp_path / "out", copy_function=shutil.copy2)


@pytest.mark.timeout(600)
def test_more_seeds_and_arms_keep_what_is_there_also_after_a_kill(whole, out, tmp_path, capsys):
    before = files(out)
    larger = write_study(tmp_path, objectives=["dapo", "lambda_grpo", "grpo"], seeds=3)
    process = subprocess.Popen(command(larger, out), stderr=subprocess.DEVNULL)
    while len(finished(out)) < RUNS + 1:
        assert process.poll() is None
        time.sleep(0.02)
    kill(process, out)
    assert main(["compare", larger, "--output_dir", str(out)]) == 0
    shown = capsys.readouterr()
    assert "kept, but not in results" not in shown.err
    # each arm's row has its own mean; the arm that the others are compared with has no difference
    for name in ("dapo", "lambda_grpo", "grpo"):
        mean = next(row["accuracy"]["mean"] for row in results(out)["objectives"] if row["objective"] == name)
        cells = next(line for line in shown.out.splitlines() if line.startswith(f"  {name} ")).split()
        assert cells[1] == f"{100 * mean:.1f}"
        assert cells[2].startswith(("+", "-")) if name == "lambda_grpo" else cells[2] == "–"
    found = results(out)
    assert reported(found) == [
        (arm, "arithmetic", seed) for seed in (1, 2, 3) for arm in ("dapo", "lambda_grpo", "grpo")
    ]  # fmt: skip
    assert [row["n"] for row in found["comparisons"]] == [3, 3]
    page = (out / "report.html").read_text()
    assert "with the seeds 1, 2, 3" in page
    assert "<code>grpo</code>" in page
    after = files(out)
    assert {path: after[path] for path in before} == before

    # and back again: the results are of what is asked for, what isn't stays
    assert main(["compare", write_study(tmp_path), "--output_dir", str(out)]) == 0
    shown = capsys.readouterr()
    assert "resumes with changes: objectives - grpo; seeds - 3" in shown.err
    assert f"15 runs in {out / 'runs'} that this study doesn't name: kept, but not in results" in shown.err
    assert results(out) == results(whole[1])
    assert files(out) == after


@pytest.mark.timeout(600)
def test_more_tasks_and_learning_rates(out, tmp_path):
    before = files(out)
    rates = [1e-4, 3e-4, 9e-4, 2e-3]
    tasks, recorded = ["arithmetic", "shorter_is_right"], {"record_tokens": 0}  # what is recorded may change
    wider = write_study(tmp_path, tasks=tasks, learning_rates=rates, **recorded)
    assert main(["compare", wider, "--output_dir", str(out)]) == 0
    found = results(out)
    assert {run[:2] for run in reported(found)} == {
        (arm, task) for arm in ("dapo", "lambda_grpo") for task in ("arithmetic", "shorter_is_right")
    }
    assert sorted({row["learning_rate"] for row in found["sweep"]}) == rates
    after = files(out)
    assert {path: after[path] for path in before} == before
    new = out / "runs/arithmetic/dapo/lr-0.002-seed-2"
    assert Run(new).config()["recipe"]["run_name"] == "arithmetic-dapo-lr-0.002-seed-2"
    assert list((out / "figures").glob("shorter_is_right-*"))
    assert main(["compare", write_study(tmp_path), "--output_dir", str(out)]) == 0
    assert not list((out / "figures").glob("shorter_is_right-*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 4}, "was run with max_steps 3, not 4. Set it back, or choose"),
        ({"task_size": 128, "max_steps": 4}, "was run with task_size 256, not 128, max_steps 3, not 4"),
        (
            {"objectives": {"dapo": {"objective": "dapo", "beta": 0.1}, "lambda_grpo": None}},
            "dapo on arithmetic, learning rate 0.0001, seed 1 was run with beta 0.0, not 0.1. Set it back, give "
            "the objective another name, or choose another --output_dir",
        ),
        ({"endpoint": "entropy"}, "its endpoint, chosen before its runs, is accuracy, not entropy"),
    ],
)
def test_runs_with_another_recipe_are_refused_and_nothing_is_lost(settings, message, out, tmp_path, capsys):
    before, study = files(out), (out / "study.json").read_text()
    assert main(["compare", write_study(tmp_path, **settings), "--output_dir", str(out)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert error.startswith("lambda-grpo: error: ")
    assert files(out) == before
    assert (out / "study.json").read_text() == study


def test_a_key_that_is_spelt_out_changes_nothing(out, tmp_path):
    before = files(out)
    arms = {"dapo": {"objective": "dapo", "beta": 0.0}, "lambda_grpo": {"objective": "lambda_grpo", "lambda_lr": 0.1}}
    assert main(["compare", write_study(tmp_path, objectives=arms), "--output_dir", str(out)]) == 0
    assert files(out) == before


def test_problems_that_have_changed_are_refused(out, tmp_path, capsys):
    file = next(out.glob("runs/arithmetic/dapo/*seed-1.json"))
    write_json(file, json.loads(file.read_text()) | {"problems": "another"})
    assert main(["compare", write_study(tmp_path), "--output_dir", str(out)]) == 2
    assert "holds runs on other problems: those of arithmetic have changed" in capsys.readouterr().err


def test_what_has_changed_is_named():
    before = json.loads(json.dumps(simulated_study(["dapo", "slow"], seeds=2).to_dict()))
    after = simulated_study(["dapo", "grpo"], seeds=3, tasks=["arithmetic", "neutral"])
    assert changes(before, after) == ["objectives + grpo, - slow", "tasks + neutral", "seeds + 3"]
    assert changes(json.loads(json.dumps(after.to_dict())), after) == []


def test_a_copy_of_the_results_is_enough_to_resume(whole, tmp_path):
    """As in a published study: no run is made again."""
    study, undisturbed = whole
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy2(undisturbed / "results.json", out)
    assert main(["compare", study, "--output_dir", str(out)]) == 0
    assert results(out) == results(undisturbed)
    assert not finished(out)
    assert len(list(out.glob("runs/*/*/*.json"))) == RUNS


def test_results_of_an_earlier_version_are_refused(whole, tmp_path, capsys):
    study, undisturbed = whole
    found = results(undisturbed)
    del found["problems"]
    out = tmp_path / "out"
    write_json(out / "results.json", found)
    for command_line in (["compare", study, "--output_dir", str(out)], ["report", str(out)]):
        assert main(command_line) == 2
        assert "earlier version" in capsys.readouterr().err
    assert list(out.iterdir()) == [out / "results.json"] or not list(out.glob("runs/*/*/*"))


@pytest.mark.timeout(600)
def test_runs_that_are_not_kept_leave_their_figures(whole, tmp_path):
    study = write_study(tmp_path / "study", keep_runs=False, learning_rates=[3e-4])
    out = tmp_path / "out"
    assert main(["compare", study, "--output_dir", str(out)]) == 0
    left = sorted(path.name for path in out.glob("runs/arithmetic/*/*"))
    assert left == sorted(["lr-0.0003-seed-1.json", "lr-0.0003-seed-2.json"] * 2)
    kept = {(run["objective"], run["seed"]): run for run in results(whole[1])["runs"] if run["learning_rate"] == 3e-4}
    for run in results(out)["runs"]:
        assert run | {"chosen": None} == kept[run["objective"], run["seed"]] | {"chosen": None}
    # one rate: nothing is chosen, and all problems are reported
    (row,) = results(out)["comparisons"]
    by_hand = [kept["lambda_grpo", seed]["accuracy"] - kept["dapo", seed]["accuracy"] for seed in (1, 2)]
    assert row["difference"] == pytest.approx(sum(by_hand) / 2)


@pytest.mark.timeout(600)
def test_the_sweep_goes_on_beyond_an_end(whole, tmp_path, capsys):
    """At far too small rates the highest is best, or all are alike and the lowest is."""
    out = tmp_path / "out"
    study = write_study(tmp_path / "study", learning_rates=[1e-4, 3e-4], more_rates=2, seeds=1, keep_runs=False)
    assert main(["compare", study, "--output_dir", str(out)]) == 0
    found = results(out)
    for arm in ("dapo", "lambda_grpo"):
        rows = [row for row in found["sweep"] if row["objective"] == arm]
        rates = [row["learning_rate"] for row in rows]
        chosen = next(row["learning_rate"] for row in rows if row["chosen"])
        assert 3 <= len(rates) <= 4
        assert all(later / earlier == pytest.approx(3, rel=0.01) for earlier, later in itertools.pairwise(rates))
        at_an_end = chosen in (rates[0], rates[-1])
        assert at_an_end == (f"{arm} on arithmetic ({chosen:g})" in " ".join(found["verdict"]))
        assert at_an_end <= (len(rates) == 4)
