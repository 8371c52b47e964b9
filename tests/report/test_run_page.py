"""The page, built from a run directory whose model writes hostile text, and opened in a real browser."""

import pytest

from lambda_grpo.cli import main
from lambda_grpo.report.run_charts import run_charts
from lambda_grpo.report.run_page import write_report
from lambda_grpo.report.run_samples import read_run_samples
from lambda_grpo.report.summary import summarise
from lambda_grpo.runs.directory import Run

HOSTILE = "<script>document.title='hacked'</script><img src=http://127.0.0.1:9/x onerror=\"document.title='hacked'\">"


def make_run(path, *, steps=3, learnable=True, after=0.9, weight_max=1.01, final_lambda=0.2, during=()):
    run = Run(path)
    run.write_config(
        {
            "objective": {
                "name": "lambda_grpo" if learnable else "grpo",
                "learnable": learnable,
                "lambda_favours_length": True,
            },
            "model": "builtin",
            "resolved": {"task": {"task": "arithmetic"}, "training": {"seed": 1}, "data": {"dataset_name": None}},
            "versions": {"torch": "2.13.0", "peft": None},
            "git_commit": None,
            "data": {"name": "arithmetic"},
        }
    )
    for step in range(1, steps + 1):
        run.log_metrics(
            {
                "step": step, "reward": 0.5 + 0.1 * step, "completion_length_mean": 10.0 + step,
                "entropy": float("nan") if step == 1 else 0.3,
                "lambda": final_lambda * (step - 1) / max(steps - 1, 1) if learnable else None,
                "weight_min": 2 - weight_max, "weight_max": weight_max,
            }
        )  # fmt: skip
        run.log_completions(
            step,
            {
                "prompt": ["1+1="] * 4, "completion": [HOSTILE, "#2", "#3", "\x00\x1b[31m</table>"],
                "answer": ["2", "2", "2", None], "reward": [0.0, 1.0, 0.0, None], "advantage": [-0.5, 1.5, -0.5, 0.0],
                "length": [9, 2, 2, 5], "weight": [1.01, 0.99, 0.99, 1.0], "group": [step - 1] * 4,
            },
        )  # fmt: skip
    for step, name, accuracy in ((0, "before", 0.5), (steps, "after", after)):
        if accuracy is not None:
            run.log_evaluation(name, {"task": "arithmetic", **held_out(step, accuracy)})
    for step, accuracy in during:
        run.log_evaluation_during(held_out(step, accuracy))
    return run


def held_out(step, accuracy):
    return {
        "step": step, "num_tokens": 90 * step, "generated_tokens": 40 * step, "n": 500, "accuracy": accuracy,
        "ci95": [accuracy - 0.04, accuracy + 0.04], "score_mean": accuracy, "completion_length_mean": 12.0,
        "verdicts": "1" * round(500 * accuracy) + "0" * round(500 * (1 - accuracy)),
    }  # fmt: skip


def chart(run, title):
    """The chart whose title begins so; None if there is none."""
    charts = run_charts(run, read_run_samples(run))["learning"]
    return next((one for one in charts if one.title.startswith(title)), None)


@pytest.mark.browser
def test_the_page_opens_offline_and_model_output_stays_text(open_page, tmp_path):
    path = write_report(make_run(tmp_path / "run"))
    page = open_page(path, viewport={"width": 1000, "height": 1400})
    assert page.title() == "lambda_grpo – lambda-grpo run"
    assert page.locator("img, iframe, object, link").count() == 0
    assert page.locator(".body", has_text="<script>document.title").count() == 1
    assert page.locator(".body", has_text="␀␛[31m</table>").count() == 1  # NUL and escape, made visible
    # even a script that got into the page wouldn't run: only those with the hashes in its policy do
    blocked = page.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener("securitypolicyviolation", (event) => resolve(event.violatedDirective));
            const script = document.createElement("script");
            script.textContent = "document.title = 'hacked'";
            document.body.append(script);
        })"""
    )
    assert blocked == "script-src-elem"
    assert "violates the following Content Security Policy" in open_page.problems.pop()
    assert page.title() == "lambda_grpo – lambda-grpo run"

    # verdict first, then the numbers, the charts, the samples, the settings
    tops = [
        page.locator(one).first.bounding_box()["y"] for one in (".verdict", "#numbers", "svg", "#samples", "#settings")
    ]
    assert tops == sorted(tops)
    assert "Accuracy rose by 40.0 points" in page.locator(".verdict p").first.inner_text()
    for chart in page.locator("figure svg").all():
        box = chart.bounding_box()
        assert box["width"] > 250
        assert box["height"] > 100
    for text in page.locator("figure .unseen").all_text_contents():
        assert len(text) > 10  # what a chart shows, in words
    # nothing sticks out to the right, on a phone neither
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.browser
def test_one_cursor_reads_off_all_charts(open_page, tmp_path):
    page = open_page(write_report(make_run(tmp_path / "run", steps=5)))
    chart = page.locator("figure", has=page.locator("figcaption", has_text="Completion length"))
    entropy = page.locator("figure", has=page.locator("figcaption", has_text="Entropy")).locator("output")
    assert entropy.inner_text() == "last: 0.3 nats"
    box = chart.locator("svg").bounding_box()
    chart.locator("svg").hover(position={"x": box["width"] * 0.55, "y": box["height"] / 2})
    assert "step 3: all 13 · right 2 · wrong 5.5 tokens" in chart.locator("output").inner_text()
    assert entropy.inner_text() == "step 3: 0.3 nats"
    chart.focus()
    page.keyboard.press("Home")
    assert "step 1: all 11" in chart.locator("output").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert "step 2: all 12" in chart.locator("output").inner_text()


@pytest.mark.browser
def test_series_are_switched_off_and_on(open_page, tmp_path):
    page = open_page(write_report(make_run(tmp_path / "run")))
    scope = page.locator("[data-toggles]")
    grpo = scope.locator("svg [data-series=grpo]")
    assert grpo.count() == 1
    scope.get_by_role("button", name="grpo", exact=True).click()
    assert "off" in grpo.get_attribute("class")
    scope.get_by_role("button", name="grpo", exact=True).click()
    assert "off" not in grpo.get_attribute("class")


def test_the_same_run_gives_the_same_page(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    first = write_report(run).read_bytes()
    assert main(["report", str(run.path)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert (run.path / "report.html").read_bytes() == first


def test_a_run_without_lambda_has_no_chart_of_it(tmp_path):
    page = write_report(make_run(tmp_path / "run", learnable=False)).read_text()
    assert "<figcaption>λ<" not in page
    assert "λ went" not in page


def test_a_run_that_has_only_begun(tmp_path):
    page = write_report(make_run(tmp_path / "run", steps=0, after=None)).read_text()
    assert "The run hasn&#39;t ended" in page
    assert "<figure" not in page


def test_held_out_accuracy_is_a_curve_where_it_was_measured_during_training(tmp_path):
    run = make_run(tmp_path / "run", steps=6, during=[(2, 0.6), (4, 0.55)])
    found = chart(run, "Accuracy")
    assert found.title.endswith(": training samples, and held-out with 95 % interval")
    (training, measured) = found.data["series"]
    assert training["name"] == "training samples"
    assert measured == {
        "name": "held-out", "key": "held-out", "x": [0, 2, 4, 6], "y": [50, 60, 55, 90], "low": [46, 56, 51, 86],
        "high": [54, 64, 59, 94],
    }  # fmt: skip
    assert "held-out from 50 to 90\u00a0% (least 50, greatest 90)" in found.description
    ends = chart(make_run(tmp_path / "ends", steps=6), "Accuracy")
    assert ends.data["series"][1]["x"] == [0, 6]
    # lines between points, and none between before and after alone
    joined, alone = ([line for line in one.figure.axes[0].lines if len(line.get_xdata()) > 1] for one in (found, ends))
    assert [list(line.get_xdata()) for line in joined if line.get_marker() == "o"] == [[0, 2, 4, 6]]
    assert [line.get_linestyle() for line in alone if line.get_marker() == "o"] == ["None"]


def test_graded_answers_have_a_chart_of_the_held_out_accuracy_alone(tmp_path):
    run = make_run(tmp_path / "run", steps=1, during=[(1, 0.6)])
    graded = {name: [0.25, 0.5, 0.75, 1.0] for name in ("reward", "reward/arithmetic")}
    own = {"prompt": ["1+1="] * 4, "completion": ["#2"] * 4, "answer": ["2"] * 4, "advantage": [-1.0, 0.0, 0.0, 1.0],
           "length": [2] * 4, "weight": [1.0] * 4, "group": [1] * 4}  # fmt: skip
    run.log_completions(2, {**own, **graded})
    assert chart(run, "Accuracy") is None
    assert chart(run, "Held-out accuracy with 95 % interval, %").data["series"][0]["y"] == [50, 60, 90]
    run.rewind(0, run.metrics())
    assert run.evaluations_during() == []
    run.log_completions(2, {**own, **graded})
    assert chart(run, "Held-out accuracy") is None


def test_evaluations_of_an_earlier_version_lack_what_it_did_not_record(tmp_path):
    run = make_run(tmp_path / "run")
    new = ("num_tokens", "generated_tokens", "verdicts")
    before = {key: value for key, value in run.evaluation("before").items() if key not in new}
    run.log_evaluation("before", before)
    assert [run.evaluations()[0][key] for key in new] == [None] * 3
    assert chart(run, "Accuracy").data["series"][1]["y"] == [50, 90]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"after": 0.9}, "Accuracy rose by 40.0 points (arithmetic, 500 held-out problems: 50.0 % → 90.0 %)"),
        ({"after": 0.3}, "Accuracy fell by 20.0 points"),
        ({"after": 0.53}, "No clear change in accuracy"),
        ({"weight_max": 1.05}, "nearly f = 1"),
        ({"weight_max": 1.5}, "At the end, tokens of longer responses counted more"),
        ({"weight_max": 1.5, "final_lambda": -0.2}, "At the end, tokens of shorter responses counted more"),
        ({}, "One run with one seed shows whether the policy learned, not whether another objective"),
    ],
)
def test_the_verdict_says_no_more_than_the_numbers(settings, expected, tmp_path):
    assert expected in " ".join(summarise(make_run(tmp_path / "run", **settings)).verdict)
