"""The page, built from a run directory whose model writes hostile text, and opened in a real browser."""

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

from lambda_grpo.cli import main
from lambda_grpo.report import summarise, write_report
from lambda_grpo.runs.directory import Run

HOSTILE = "<script>document.title='hacked'</script><img src=http://127.0.0.1:9/x onerror=\"document.title='hacked'\">"


def make_run(path, *, steps=3, learnable=True, after=0.9, weight_max=1.01, final_lambda=0.2):
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
    for name, accuracy in (("before", 0.5), ("after", after)):
        if accuracy is not None:
            run.log_evaluation(
                name,
                {
                    "task": "arithmetic", "n": 500, "accuracy": accuracy, "completion_length_mean": 12.0,
                    "ci95": [accuracy - 0.04, accuracy + 0.04],
                },
            )  # fmt: skip
    return run


@pytest.fixture(scope="module")
def browser():
    executable = shutil.which("chromium")
    if executable is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium: CI installs it")
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.browser
def test_the_page_opens_offline_and_model_output_stays_text(browser, tmp_path):
    path = write_report(make_run(tmp_path / "run"))
    page = browser.new_page(viewport={"width": 1000, "height": 1400})
    requests, problems = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(path.as_uri())
    assert requests == [path.as_uri()]
    assert problems == []
    assert page.title() == "lambda_grpo – lambda-grpo run"
    assert page.locator("script, img").count() == 0
    assert page.locator("pre", has_text="<script>").count() == 2  # the first and the last step

    # verdict first, then the curves, then the samples
    tops = [page.locator(selector).first.bounding_box()["y"] for selector in (".verdict", "svg", "pre")]
    assert tops == sorted(tops)
    assert "Accuracy rose by 40.0 points" in page.locator(".verdict p").first.inner_text()
    captions = page.locator("figcaption").all_inner_texts()
    assert [caption.split(" ")[0] for caption in captions] == ["Reward", "Accuracy", "Completion", "Entropy", "λ"]
    for chart in page.locator("svg").all():
        box = chart.bounding_box()
        assert box["width"] > 250
        assert box["height"] > 100
    # nothing sticks out to the right, on a phone neither
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_the_same_run_gives_the_same_page(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    first = write_report(run).read_bytes()
    assert main(["report", str(run.path)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert (run.path / "report.html").read_bytes() == first


def test_a_run_without_lambda_has_no_chart_of_it(tmp_path):
    page = write_report(make_run(tmp_path / "run", learnable=False)).read_text()
    assert "<figcaption>λ</figcaption>" not in page
    assert "λ went" not in page


def test_a_run_that_has_only_begun(tmp_path):
    page = write_report(make_run(tmp_path / "run", steps=0, after=None)).read_text()
    assert "The run hasn&#39;t ended" in page
    assert "<figure>" not in page


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
