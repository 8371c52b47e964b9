"""The page of an inspection, in a real browser."""

import json

import pytest

from lambda_grpo.cli import main


@pytest.mark.browser
def test_rollouts_of_another_engine(open_page, tmp_path, capsys):
    rows = []  # out of order, with a row that can't be used: the texts must still be those of their samples
    for step in (2, 1):
        for i in range(8):
            length = 5 + 3 * i
            rows.append(
                {"input": f"question {i % 2}", "output": f"step {step} row {i} <b>", "score": i % 3 == 0, "n": length,
                 "step": step}
            )  # fmt: skip
    rows.insert(3, {**rows[0], "n": -1})
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = tmp_path / "page.html"
    assert main(["inspect", str(log), "--columns", "length=n", "--page", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 16
    opened = open_page(page, viewport={"width": 1200, "height": 900})
    assert opened.locator("h1").inner_text() == f"What the gradient listened to: {log}"
    assert "1 rows left out: with a length below 0" in opened.locator("main").inner_text()
    assert opened.get_by_label("objective").locator("option").first.inner_text() == "grpo"
    assert opened.locator(".groups button").count() == 4
    for button in opened.locator(".groups button").all():
        button.click()
        step = int(opened.locator("article h3").inner_text().split()[1].strip(","))
        question = int(opened.locator(".prompt").inner_text().split()[1])
        for card in opened.locator(".completion").all():
            words = card.locator(".body").inner_text().split()
            assert int(words[1]) == step
            row = int(words[3])
            assert row % 2 == question
            header = card.locator("header").inner_text()
            assert f"{5 + 3 * row} tokens" in header
            assert ("right" in header) == (row % 3 == 0)
