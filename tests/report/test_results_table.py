"""`lambda-grpo report --table`: one table of results in three languages."""

import json
import math

import pytest

from lambda_grpo.cli import main
from lambda_grpo.errors import UserError
from lambda_grpo.report.results_table import results_table


def write_result(directory, model, task, value, *, objective=None, n=100, samples=1, template="boxed_system", **more):
    se = math.sqrt(value * (1 - value) / n)
    estimate = {"value": value, "ci95": [value - 2 * se, value + 2 * se], "se": se}
    result = {
        "task": task, "model": model, "n": n, "samples": samples, "finished": True, "data": {"whole": True},
        "trained": objective and {"objective": objective, "step": 10, "run": "r", "lambda": 0.1},
        "template": {"name": template}, "metrics": {"accuracy": estimate, "pass@1": estimate}, "shots": None,
        "sampling": {"temperature": 0.0 if samples == 1 else 0.6}, **more,
    }  # fmt: skip
    directory.mkdir(exist_ok=True, parents=True)
    (directory / f"{task}.json").write_text(json.dumps(result))
    return str(directory)


@pytest.fixture
def results(tmp_path):
    for name, objective, values in (("base", None, (0.5, 0.2)), ("runs/a_b", "lambda_grpo", (0.6, 0.4))):
        for task, value in zip(("gsm8k", "math500"), values, strict=True):
            directory = write_result(tmp_path / name, name, task, value, objective=objective)
        (tmp_path / name / "gsm8k.samples.jsonl").write_text("{}\n")
    return [str(tmp_path / "base"), directory]


def test_a_row_for_each_model_and_the_mean(results):
    lines = results_table(results).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["model", "objective", "template", "sampling", "gsm8k (n = 100)", "math500 (n = 100)", "mean"]
    assert cells[2][:5] == ["base", "–", "boxed_system", "greedy", "50.0 (40.0 – 60.0)"]
    assert cells[3][:3] == ["runs/a_b", "lambda_grpo", "boxed_system"]
    # by hand: each half is 2·sqrt(0.24/100) = 0.09798; sqrt(2)·0.09798/2 = 0.06928
    assert cells[3][6] == "50.0 (43.1 – 56.9)"


def test_how_was_sampled_makes_a_row_of_its_own(tmp_path):
    paths = [
        write_result(tmp_path / "greedy", "m", "gsm8k", 0.5),
        write_result(tmp_path / "sampled", "m", "gsm8k", 0.5, samples=32),
        write_result(tmp_path / "shots", "m", "gsm8k", 0.5, shots={"count": 5, "digest": "x"}),
    ]
    table = results_table(paths)
    assert "T = 0.6, 32 each" in table
    assert "boxed_system, 5 shots" in table


def test_the_mean_of_all_right_has_an_interval(tmp_path):
    for task in ("a", "b"):
        path = write_result(tmp_path / "r", "m", task, 1.0, n=100)
        result = json.loads((tmp_path / "r" / f"{task}.json").read_text())
        result["metrics"]["accuracy"]["ci95"] = [0.96, 1.0]
        (tmp_path / "r" / f"{task}.json").write_text(json.dumps(result))
    assert "100.0 (97.2 – 100.0)" in results_table([path])  # 4·sqrt(2)/2 = 2.83


def test_a_format_is_of_a_table(capsys):
    assert main(["report", "somewhere", "--format", "html"]) == 2
    assert "--format and --metric need --table" in capsys.readouterr().err


def test_latex_and_html_escape_what_users_chose(tmp_path):
    path = write_result(tmp_path / "r", "my_model & <b>", "gsm8k", 0.5)
    latex = results_table([path], format="latex")
    assert r"my\_model \& " in latex
    assert latex.startswith(r"\begin{tabular}")
    assert r"\toprule" in latex
    html = results_table([path], format="html")
    assert "my_model &amp; &lt;b&gt;" in html
    assert html.startswith("<table>")


def test_markdown_has_a_models_bars_as_text(tmp_path):
    row = results_table([write_result(tmp_path / "r", "my|model", "gsm8k", 0.5)]).splitlines()[2]
    assert r"my\|model" in row
    assert row.replace(r"\|", "").count("|") == 6


def test_a_result_that_is_named_twice_is_one(results):
    assert results_table([*results, f"{results[0]}/gsm8k.json"]) == results_table(results)


def test_a_missing_task_leaves_a_gap_and_no_mean(results, tmp_path):
    other = write_result(tmp_path / "third", "third", "gsm8k", 0.3)
    lines = results_table([*results, other]).splitlines()
    assert "mean" not in lines[0]
    assert [cell.strip() for cell in lines[4].strip("|").split("|")][-1] == "–"


def test_a_metric_that_one_result_lacks_leaves_a_gap_and_no_mean(results):
    path = f"{results[0]}/math500.json"
    with open(path) as file:
        result = json.load(file)
    result["metrics"]["maj@4"] = {"value": 0.25, "ci95": [0.1, 0.5], "se": 0.1}
    with open(path, "w") as file:
        json.dump(result, file)
    lines = results_table(results, "maj@4").splitlines()
    assert "mean" not in lines[0]
    assert [[cell.strip() for cell in line.strip("|").split("|")][4:] for line in lines[2:]] == [
        ["–", "25.0 (10.0 – 50.0)"], ["–", "–"],
    ]  # fmt: skip


def test_what_isnt_finished_is_left_out_with_a_note(results, tmp_path, capsys):
    table = results_table(results)
    capsys.readouterr()
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "aime24.json").write_text(json.dumps({"task": "aime24", "finished": False}))
    for more in (begun, begun / "aime24.json"):
        assert results_table([*results, str(more)]) == table
        assert "aime24.json isn't finished" in capsys.readouterr().err
    (tmp_path / "killed").mkdir()
    assert results_table([*results, str(tmp_path / "killed")]) == table
    assert "killed holds no result of lambda-grpo eval" in capsys.readouterr().err
    (tmp_path / "base" / "aime24.json").write_text(json.dumps({"task": "aime24", "finished": False}))
    assert main(["report", "--table", *results]) == 0
    output = capsys.readouterr()
    assert output.out == table + "\n"
    assert output.err.count("isn't finished") == output.err.count("\n") == 1
    assert main(["report", "--table", str(begun)]) == 2
    assert "begun holds no finished result of lambda-grpo eval" in capsys.readouterr().err


def test_a_part_of_a_benchmark_is_said(tmp_path):
    path = write_result(tmp_path / "r", "m", "gsm8k", 0.5, n=7, data={"data": "x", "whole": False})
    assert "gsm8k (part of it, n = 7)" in results_table([path])


def test_the_command_prints_it(results, capsys):
    assert main(["report", "--table", *results, "--metric", "pass@1", "--format", "html"]) == 0
    assert "<th>mean" in capsys.readouterr().out


def test_what_cant_be_a_table_is_refused(results, tmp_path, capsys):
    with pytest.raises(UserError, match=r"has no maj@16: it has accuracy, pass@1"):
        results_table(results, "maj@16")
    with pytest.raises(UserError, match=r'has no acuracy.*did you mean "accuracy"'):
        results_table(results, "acuracy")
    with pytest.raises(UserError, match="no result"):
        results_table([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="have the same model and task: leave one out"):
        results_table([*results, write_result(tmp_path / "again", "base", "gsm8k", 0.1)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no finished result"):
        results_table([str(tmp_path / "empty")])
    (tmp_path / "running.json").write_text(json.dumps({"task": "gsm8k", "finished": False}))
    with pytest.raises(UserError, match="is no finished result"):
        results_table([str(tmp_path / "running.json")])
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="is no result of lambda-grpo eval"):
        results_table([str(tmp_path / "broken.json")])
    assert main(["report", "--table", str(tmp_path / "empty")]) == 2
    assert "holds no finished result" in capsys.readouterr().err
