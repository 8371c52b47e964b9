"""The page of a study, from results made up here, one of them with hostile names, opened in a real browser."""

import copy
import hashlib
import random
import re

import numpy as np
import pytest

from lambda_grpo.report.study_charts import band
from lambda_grpo.report.study_figure import arms
from lambda_grpo.report.study_page import write_study_report

HOSTILE = "<b>x</b>"
FAILURE = "ValueError: <script>document.title='hacked'</script> $x"


def figure(values):
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean = sum(known) / len(known)
    spread = max(known) - min(known)
    return {"mean": mean, "ci95": [mean - spread, mean + spread] if len(known) > 1 else None, "n": len(known)}


def make_run(objective, task, seed, *, steps, has_lambda):
    rng = random.Random(f"{objective} {task} {seed}")
    accuracy = 0.9 + rng.uniform(-0.03, 0.03)
    shares = [rng.uniform(0.1, 0.4) for _ in range(4)]

    def curve(first, last, noise):
        return [first + (last - first) * (1 - 0.9**step) + rng.gauss(0, noise) for step in range(steps)]

    return {
        "objective": objective, "task": task, "seed": seed, "learning_rate": 0.0003,
        "accuracy": accuracy, "accuracy_area": None, "score_mean": accuracy, "graded": False,
        "choosing": {"accuracy": accuracy, "accuracy_area": None}, "informative_groups": 0.5, "chosen": True,
        "reported": {"accuracy": accuracy, "accuracy_area": None}, "git_commit": "abc", "machine": "a CPU, 1 thread",
        "held_out": {"step": [0, steps], "accuracy": [0.558, accuracy], "length": [9.9, 19.0]},
        "limits": {"reward": [0.0, 1.0]},
        "completion_length_mean": 19 + rng.gauss(0, 1), "entropy": 0.1 + rng.uniform(0, 0.05),
        "lambda": 0.07 if has_lambda else None, "accuracy_before": 0.558, "completion_length_mean_before": 9.9,
        "num_tokens": rng.randint(100_000, 130_000), "tokens_to_target": 45_000 if accuracy > 0.9 else None,
        "clip_fraction": 0.0, "grad_clip_fraction": 0.4,
        "share_by_length_quartile": [share / sum(shares) for share in shares], "share_right": rng.uniform(0.4, 0.6),
        "curve": {
            "step": list(range(1, steps + 1)), "tokens": [1300 * step for step in range(1, steps + 1)],
            "reward": curve(0.55, accuracy, 0.01), "length": curve(9.9, 19, 0.3), "entropy": curve(0.5, 0.1, 0.01),
            "lambda": curve(0, 0.07, 0.002) if has_lambda else [None] * steps,
            "weight_min": curve(1, 0.99, 0), "weight_max": curve(1, 1.02, 0), "accuracy": [None] * steps,
        },
    }  # fmt: skip


def summarise(runs, objective, task):
    own = [run for run in runs if (run["objective"], run["task"]) == (objective, task)]
    if not own:
        return []
    figures = (
        "accuracy", "completion_length_mean", "entropy", "lambda", "tokens_to_target", "num_tokens", "clip_fraction",
        "grad_clip_fraction", "share_right",
    )  # fmt: skip
    shares = [run["share_by_length_quartile"] or [None] * 4 for run in own]
    return [
        {
            "objective": objective, "task": task, "learning_rate": 0.0003,
            **{name: figure([run[name] for run in own]) for name in figures},
            "accuracy_area": None, "score_mean": figure([run["score_mean"] for run in own]),
            "reached_target": sum(run["tokens_to_target"] is not None for run in own),
            "share_by_length_quartile": [figure(quarter) for quarter in zip(*shares, strict=True)],
        }
    ]  # fmt: skip


def compare(runs, objective, task):
    by_arm = [{run["seed"]: run["accuracy"] for run in runs if (run["objective"], run["task"]) == (name, task)}
              for name in (objective, "grpo")]  # fmt: skip
    seeds = by_arm[0].keys() & by_arm[1].keys()
    if not seeds:
        return []
    found = figure([by_arm[0][seed] - by_arm[1][seed] for seed in seeds])
    tested = found["ci95"] is not None
    verdict = "no detectable difference" if tested else "no interval"
    return [
        {
            "objective": objective, "against": "grpo", "task": task, "endpoint": "accuracy",
            "difference": found["mean"], "ci95": found["ci95"], "n": found["n"], "fixed_ci95": found["ci95"],
            "effect": 0.5 if tested else None,
            "by_rate": [{"learning_rate": 0.0003, "difference": 0.0123, "ci95": None, "p": None, "n": 3}],
            "p": 0.3 if tested else None, "p_holm": 0.9 if tested else None,
            "detectable_difference": 0.05 if tested else None, "verdict": verdict,
            "sentence": f"{objective} against grpo on {task}: {verdict}.",
        }
    ]  # fmt: skip


def make_results(*, seeds=3, steps=12, names=("grpo", "dapo", "lambda_grpo", HOSTILE), tasks=("arithmetic", "my:Task"),
                 failed=()):  # fmt: skip
    """Of (objective, task) pairs in `failed` no run finished."""
    runs = [
        make_run(name, task, seed, steps=steps, has_lambda=name == "lambda_grpo")
        for task in tasks for name in names for seed in range(1, seeds + 1) if (name, task) not in failed
    ]  # fmt: skip
    pairs = [(name, task) for task in tasks for name in names]
    rates = [0.0001, 0.0003, 0.001]
    return {
        "study": {
            "objectives": {name: {"objective": "dapo" if name == HOSTILE else name} for name in names},
            "against": "grpo", "tasks": list(tasks), "model": "builtin", "seeds": list(range(1, seeds + 1)),
            "learning_rates": rates, "more_rates": 1, "budget": {"max_steps": steps, "max_generated_tokens": None},
            "endpoint": "accuracy", "better": "higher", "target_accuracy": 0.9, "recipe": {},
        },
        "runs": runs,
        "failures": [
            {"objective": name, "task": task, "seed": seed, "learning_rate": 0.0003, "failure": FAILURE}
            for name, task in failed for seed in (1, 2)
        ],
        "sweep": [
            {"objective": name, "task": task, "learning_rate": rate, "value": 0.95 if rate == 0.001 else 0.96,
             "figure": "accuracy", "n": 2 if rate == 0.001 else seeds, "chosen": rate == 0.0003}
            for name, task in pairs for rate in rates
        ],
        "same_methods": {}, "problems": dict.fromkeys(tasks, "digest"),
        "readings": {name: f"{name} is no better" for name in names if name != "grpo"},
        "objectives": [row for pair in pairs for row in summarise(runs, *pair)],
        "comparisons": [row for name, task in pairs if name != "grpo" for row in compare(runs, name, task)],
        "verdict": ["No objective differs detectably from grpo.", "2 runs failed."],
        "versions": {"lambda-grpo": "0.1.0", "torch": "2.13.0", "peft": None}, "git_commit": "abc",
    }  # fmt: skip


def write(results, path):
    return write_study_report(results, path).read_text()


def text(page):
    """What a reader sees outside of the charts."""
    return re.sub(r"<(style|svg)\b.*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)


def section(page, heading):
    """The page from a heading to the next one of the same level."""
    return re.split(rf"<h2 [^>]*>{heading}</h2>", page)[1].split("<h2")[0]


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.*"))
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The directory of a study with everything in it."""
    directory = tmp_path_factory.mktemp("study")
    write_study_report(make_results(failed=[(HOSTILE, "my:Task")]), directory)
    return directory


@pytest.mark.browser
def test_the_page_opens_offline_and_names_stay_text(browser, study):
    path = study / "report.html"
    page = browser.new_page(viewport={"width": 1200, "height": 1400})
    requests, problems = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.goto(path.as_uri())
    assert requests == [path.as_uri()]
    assert problems == []
    assert page.title() == "4 objectives – lambda-grpo study"
    assert page.locator("img, b").count() == 0
    assert page.locator("td", has_text=HOSTILE).count() > 0
    assert page.locator("svg text", has_text=HOSTILE).count() > 0
    assert page.locator("td", has_text="<script>").count() == 2

    # the verdict comes first, then each task's differences as a chart, and below it in numbers
    tops = [page.locator(selector).first.bounding_box()["y"] for selector in (".verdict", "svg", "table")]
    assert tops == sorted(tops)
    assert page.locator(".verdict p").first.inner_text() == "No objective differs detectably from grpo."
    assert page.locator("h2").all_inner_texts() == [
        "Differences in accuracy", "Each objective", "Learning curves", "λ", "Length and entropy",
        "What the gradient listens to", "Learning rates", "Failures", "How it was done",
    ]  # fmt: skip
    for chart in page.locator("svg").all():
        box = chart.bounding_box()
        assert 350 < box["width"] < 700
        assert box["height"] > 80
    for table in page.locator(".scroll").all():  # nothing has to be scrolled to on a desk's screen
        assert table.evaluate("element => element.scrollWidth <= element.clientWidth")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


@pytest.mark.browser
def test_one_legend_switches_an_objective_off_in_all_charts_and_one_cursor_reads_them(browser, study):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto((study / "report.html").as_uri())
    charts = page.locator("figure.chart")
    assert charts.count() == 14
    assert page.locator("svg [id^=series]").count() == 0  # ids would not be unique
    page.locator("button", has_text="lambda_grpo").click()
    drawn = page.locator('svg [data-series="2"], svg [data-series="2-band"]')
    assert drawn.count() > 20
    assert not any(one.is_visible() for one in drawn.all())
    assert any(one.is_visible() for one in page.locator('svg [data-series="1"]').all())  # a level line has no height
    page.locator("figure.chart", has_text="Entropy").first.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    read = [one for one in page.locator(".readout").all_inner_texts() if one]
    assert len(read) == 6  # of two tasks, reward, length and entropy; only lambda_grpo has a λ
    assert all(one.startswith("step 2: ") for one in read)
    assert not any("lambda_grpo" in one for one in read)
    reward = [run["curve"]["reward"][1] for run in make_results()["runs"] if run["objective"] == "grpo"][:3]
    assert f"grpo {sum(reward) / 3:.3g}"[:9] in read[0]
    page.close()


def test_each_task_shows_its_differences_before_their_table(study):
    differences = section((study / "report.html").read_text(), "Differences in accuracy")
    for task in differences.split("<h3>")[1:]:
        assert 0 < task.index("<svg") < task.index("<table")


def test_figures_for_a_paper_and_the_same_bytes_again(study, tmp_path):
    names = [f"{task}-{kind}" for task in ("arithmetic", "my-Task")
             for kind in ("differences", "rates", "reward", "length", "entropy", "lambda", "shares")]  # fmt: skip
    expected = {f"{name}.{suffix}" for name in names for suffix in ("svg", "pdf", "png")}
    assert {path.name for path in (study / "figures").iterdir()} == expected  # and nothing half written
    for path in (study / "figures").glob("*.png"):
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert b"pHYs" in content[:200]
        assert not re.search(rb"tEXt|iTXt|tIME", content)
    for path in (study / "figures").glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF")
        assert b"/FontFile2" in content  # embedded, as TrueType
        assert not re.search(rb"/Type3|CreationDate|ModDate", content)
    write_study_report(make_results(failed=[(HOSTILE, "my:Task")]), tmp_path)
    assert digests(tmp_path) == digests(study)
    tables = {f"{task}-{kind}.tex" for task in ("arithmetic", "my-Task") for kind in ("differences", "objectives")}
    assert {path.name for path in (study / "tables").iterdir()} == tables
    write_study_report(make_results(tasks=["my:Task"], names=["grpo", "dapo"], steps=2), tmp_path)
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {name for name in tables if "my-Task" in name}
    left = {path.name for path in (tmp_path / "figures").iterdir()}
    assert left == {name for name in expected if name.startswith("my-Task") and "lambda" not in name}


@pytest.mark.parametrize("kind", ["reward", "length", "entropy"])
def test_each_objective_is_in_the_curves(kind, study):
    chart = (study / "figures" / f"arithmetic-{kind}.svg").read_text()
    for name in ("grpo (n = 3)", "dapo (n = 3)", "lambda_grpo (n = 3)", "&lt;b&gt;x&lt;/b&gt; (n = 3)"):
        assert f">{name}</text>" in chart
    assert "mean over seeds with its 95 % band" in text((study / "report.html").read_text())


def test_the_band_is_the_t_interval_of_the_mean():
    runs = [
        {"curve": curve, "limits": {}}
        for curve in (
            {"step": [1, 2, 3], "lambda": [1.0, 5.0, 7.0]},
            {"step": [1, 2, 3], "lambda": [2.0, None, 7.0]},  # step 2 isn't every run's
            {"step": [1, 2, 3, 4], "lambda": [3.0, 5.0, 7.0, 9.0]},
            {"step": [1, 2], "lambda": [None, None]},  # nor has this one any
        )
    ]
    found = band(runs, "lambda")
    assert (found.steps, found.mean, found.n) == ([1, 3], [2.0, 7.0], 3)
    # by hand: s = 1, and 97.5 % of Student's t with 2 degrees of freedom is 4.30265 in any table
    half = 4.30265 / 3**0.5
    np.testing.assert_allclose((found.low, found.high), [[2 - half, 7.0], [2 + half, 7.0]], rtol=1e-5)
    assert band(runs, "lambda", scale=100).high[0] == pytest.approx(100 * (2 + half), rel=1e-5)
    assert band(runs[:1], "lambda").low is None
    assert band(runs[3:], "lambda") is None
    limited = [run | {"limits": {"lambda": [0.0, 9.0]}} for run in runs]
    found = band(limited, "lambda")
    np.testing.assert_allclose([found.low[0], found.high[0]], [0.0, 2 + half], rtol=1e-5)
    rewards = [{"curve": {"step": [1], "reward": [v]}, "limits": {"reward": [0.0, 1.0]}} for v in (0.9, 1.0, 1.0)]
    found = band(rewards, "reward")
    assert 0.8 < found.low[0] < 0.97
    assert found.high == [1.0]


def test_an_objective_looks_the_same_everywhere_and_no_two_look_alike():
    names = [f"objective_{i}" for i in range(27)]
    assert len({arm.style for arm in arms(names).values()}) == 27


def test_tables_say_what_the_results_hold(study):
    page = text((study / "report.html").read_text())
    results = make_results(failed=[(HOSTILE, "my:Task")])
    row = results["comparisons"][0]
    assert f"{100 * row['difference']:+.2f}".replace("-", "−") in page
    assert f"{100 * row['ci95'][0]:+.2f} to {100 * row['ci95'][1]:+.2f}".replace("-", "−") in page
    accuracy = results["objectives"][0]["accuracy"]
    assert f"{100 * accuracy['mean']:.1f}" in page
    assert f"{100 * accuracy['ci95'][0]:.1f} – {100 * accuracy['ci95'][1]:.1f}" in page
    assert page.count("96.0 ✓") == 8  # each objective's rate on each task
    assert row["sentence"] in page
    assert "dapo is no better" in page
    assert "+1.23" in page  # the difference at a rate
    assert "lambda-grpo 0.1.0, torch 2.13.0; commit abc" in re.sub(r"\s+", " ", page)


def test_an_objective_whose_runs_all_failed_is_named(study):
    page = (study / "report.html").read_text()
    assert "&lt;b&gt;x&lt;/b&gt;: no run finished." in section(page, "Each objective")
    assert (
        "my:Task: Entropy (nats per token): mean over seeds with its 95 % band. Not drawn, without values: &lt;b"
        in page
    )
    assert "no seed was finished by both: &lt;b&gt;x&lt;/b&gt;." in section(page, "Differences in accuracy")
    failures = text(section(page, "Failures"))
    assert failures.count("ValueError") == 2


def test_one_seed_has_no_interval_and_the_page_says_why(tmp_path):
    page = text(write(make_results(seeds=1, tasks=["arithmetic"]), tmp_path))
    assert "one seed doesn&#39;t show how much runs differ by chance" in page
    assert "95 %" not in page
    assert "bootstrap" not in page
    assert "one run each" in page
    assert "95 %" not in (tmp_path / "figures" / "arithmetic-differences.svg").read_text()


def test_what_is_missing_is_left_out_or_said(tmp_path):
    results = make_results(names=["grpo", "dapo"], failed=[("grpo", "my:Task"), ("dapo", "my:Task")], steps=3)
    for run in results["runs"]:
        run["share_by_length_quartile"] = run["share_right"] = None
        run["curve"]["entropy"] = [None] * 3
    for row in results["objectives"]:
        row["share_by_length_quartile"], row["share_right"], row["entropy"] = [None] * 4, None, None
    page = write(results | {"failures": [], "sweep": []}, tmp_path)
    for heading in ("λ", "What the gradient listens to", "Failures"):
        assert f">{heading}</h2>" not in page
    assert "No run logged its entropy." in page
    assert "No run finished on this task." in page
    assert "Nothing to compare" in page
    figures = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert figures == {f"arithmetic-{kind}" for kind in ("differences", "reward", "length")}


def test_a_seed_that_only_one_objective_finished(tmp_path):
    """Two of dapo's three seeds failed: its figures have no interval, the others' do."""
    results = make_results(names=["grpo", "dapo", "lambda_grpo"], tasks=["arithmetic"], steps=3)
    runs = [run for run in results["runs"] if run["objective"] != "dapo" or run["seed"] == 1]
    results |= {
        "runs": runs,
        "objectives": [row for name in results["study"]["objectives"] for row in summarise(runs, name, "arithmetic")],
        "comparisons": [row for name in ("dapo", "lambda_grpo") for row in compare(runs, name, "arithmetic")],
    }
    page = text(write(results, tmp_path))
    assert "fewer than two seeds have this figure" in page
    assert "no interval" in page
    assert "1 of 3" in page
    legend = (tmp_path / "figures" / "arithmetic-reward.svg").read_text()
    assert "dapo (n = 1)" in legend
    assert "lambda_grpo (n = 3)" in legend


def test_the_results_are_left_as_they_are(tmp_path):
    results = make_results(names=["grpo", "lambda_grpo"], tasks=["arithmetic"], steps=2)
    before = copy.deepcopy(results)
    write_study_report(results, tmp_path)
    assert results == before


def with_accuracy(results, shift, graded):
    """Results of this version: with the accuracy of the samples, `shift` below the reward."""
    for run in results["runs"]:
        run["curve"]["accuracy"] = [reward - shift for reward in run["curve"]["reward"]]
        run |= {"graded": graded, "score_mean": run["accuracy"] + shift}
    for row in results["objectives"]:
        row["score_mean"] = figure(
            [run["score_mean"] for run in results["runs"] if run["objective"] == row["objective"]]
        )
    return results


def test_a_reward_that_is_the_accuracy_is_drawn_once_and_the_caption_says_so(tmp_path):
    results = make_results(names=["grpo", "dapo"], tasks=["arithmetic"])
    page = write(with_accuracy(results, 1e-7, graded=False), tmp_path)
    curves = section(page, "Learning curves")
    assert curves.count("<svg") == 1
    assert "Accuracy of the samples (%), which is the mean reward, 1 for right answers and 0 for others: mean" in curves
    assert not list(tmp_path.glob("figures/*-reward.*"))
    assert "mean grade" not in page


def test_graded_answers_are_not_said_to_be_right_or_wrong(tmp_path):
    results = make_results(names=["grpo", "dapo"], tasks=["spelling"])
    page = write(with_accuracy(results, 0.3, graded=True), tmp_path)
    curves = section(page, "Learning curves")
    assert curves.count("<svg") == 2
    assert ">samples with full marks (%)</text>" in curves
    assert "which is the mean reward" not in curves
    assert "full marks: difference from grpo (points)" in section(page, "Differences in accuracy")
    assert "the share of answers with full marks, a grade of 1" in section(page, "Differences in accuracy")
    numbers = text(section(page, "Each objective"))
    assert "full marks (%)" in numbers
    assert "accuracy (%)" not in numbers
    assert f"{results['objectives'][0]['score_mean']['mean']:.3f}" in numbers
    shares = section(page, "What the gradient listens to")
    assert ">wrong</text>" not in shares
    assert ">less</text>" in shares


def test_tasks_whose_names_differ_in_punctuation_keep_their_figures(tmp_path):
    write(make_results(names=["grpo", "dapo"], tasks=["a:b", "a/b"], steps=2), tmp_path)
    found = {path.stem.rpartition("-")[0] for path in (tmp_path / "figures").iterdir()}
    assert found == {"a-b", "a-b-2"}


def test_another_endpoint_has_its_own_unit(tmp_path):
    results = make_results(names=["grpo", "dapo"], tasks=["arithmetic"], steps=2)
    results["study"] |= {
        "endpoint": "completion_length_mean",
        "budget": {"max_steps": None, "max_generated_tokens": None},
        "better": None,
    }
    results["comparisons"][0] |= {"difference": 1.25, "ci95": [-0.5, 3.0], "verdict": "no detectable difference"}
    page = write(results, tmp_path)
    table = text(section(page, "Differences in length"))
    for cell in ("difference (tokens)", "+1.25", "−0.50 to +3.00"):
        assert cell in table
    assert "the recipe&#39;s epochs a run" in page
    assert "length: difference from grpo (tokens)" in (tmp_path / "figures" / "arithmetic-differences.svg").read_text()
