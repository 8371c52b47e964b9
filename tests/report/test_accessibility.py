"""Every kind of page under axe-core: on a desk's screen, in the dark, and on a phone."""

import json

import pytest
from axe_playwright_python.sync_playwright import Axe

from lambda_grpo.cli import main
from lambda_grpo.report.run_page import write_report
from lambda_grpo.report.study_page import write_study_report
from tests.report.test_paired import write
from tests.report.test_run_page import make_run
from tests.report.test_sample_viewer import CHAT, write_samples
from tests.report.test_study_page import make_results


def run_page(folder):
    run = make_run(folder, steps=0, learnable=False, after=None)
    write_samples(run, prompt=CHAT)
    return write_report(run)


def study_page(folder):
    write_study_report(make_results(), folder)
    return folder / "report.html"


def inspection_page(folder):
    rows = [
        {"prompt": f"{step}+{i // 4}", "completion": "b" * (i + 1), "reward": i % 2, "length": i + 1, "step": step}
        for step in (1, 2) for i in range(8)
    ]  # fmt: skip
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["inspect", str(folder / "log.jsonl"), "--page", str(folder / "page.html")]) == 0
    return folder / "page.html"


def evaluation_page(folder):
    write(folder, "sums", [1, 0, 1])
    assert main(["report", str(folder)]) == 0
    return folder / "sums.html"


def paired_page(folder):
    one, other = (write(folder, name, shares) for name, shares in (("one", [1, 0, 1]), ("other", [1, 1, 1])))
    assert main(["report", "--paired", one, other, "--page", str(folder / "pair.html")]) == 0
    return folder / "pair.html"


@pytest.mark.browser
@pytest.mark.parametrize("make_page", [run_page, study_page, inspection_page, evaluation_page, paired_page])
def test_pages_are_accessible(make_page, tmp_path, open_page):
    path = make_page(tmp_path)
    for context in ({}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 800}}):
        found = Axe().run(open_page(path, **context))
        serious = [one for one in found.response["violations"] if one["impact"] in ("serious", "critical")]
        assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in serious] == [], context
