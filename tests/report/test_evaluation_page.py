"""The pages of evaluations, made by the program from real ones and opened in a real browser."""

import json

import pytest

from lambda_grpo.cli import main
from tests.report.test_paired import write

HOSTILE = "</script><b>$x$</b>"


@pytest.mark.browser
def test_an_evaluation_and_two_side_by_side(open_page, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    for directory, seed in ((first, "0"), (second, "1")):
        arguments = ["eval", "--model", "builtin", "--task", "arithmetic", "--n", "40", "--temperature", "1"]
        assert main([*arguments, "--seed", seed, "--output_dir", str(directory)]) == 0
    log = first / "arithmetic.samples.jsonl"
    samples = [json.loads(line) for line in log.read_text().splitlines()]
    samples[0]["completion"] = HOSTILE
    log.write_text("".join(json.dumps(sample) + "\n" for sample in samples))

    assert main(["report", str(first)]) == 0
    assert "arithmetic.html" in capsys.readouterr().out
    page = open_page(first / "arithmetic.html")
    assert page.locator(".groups button").count() == 40
    body = page.locator(".completion .body")
    assert body.inner_text().startswith("</script><b>")
    assert body.locator("b").count() == 0
    assert body.locator("math").count() == 1
    assert page.locator(".completion dt").all_inner_texts() == ["extracted", "why"]
    page.get_by_label("problem", exact=True).fill(str(samples[7]["id"]))
    assert page.locator("article h3").inner_text() == f"Problem {samples[7]['id']}"
    page.get_by_label("problem", exact=True).fill("")
    page.get_by_label("problems").first.select_option("all wrong")
    wrong = sum(not sample["correct"] for sample in samples)
    assert page.locator(".groups button").count() == wrong

    others = [json.loads(line) for line in (second / "arithmetic.samples.jsonl").read_text().splitlines()]
    both = list(zip(samples, others, strict=True))
    changed = [one["problem"] for one, other in both if one["correct"] != other["correct"]]
    out = tmp_path / "pair.html"
    assert main(["report", "--paired", str(first), str(second), "--page", str(out)]) == 0
    pair = open_page(out)
    ids = [int(one) for one in pair.locator(".groups button").evaluate_all("all => all.map(one => one.dataset.group)")]
    assert ids[: len(changed)] == changed  # what changed comes first
    pair.get_by_label("problems").first.select_option("only the second is right")
    gained = [one["problem"] for one, other in both if other["correct"] and not one["correct"]]
    assert pair.locator(".groups button").count() == len(gained)
    assert pair.locator(".completion header b").all_inner_texts() == ["first", "✗ wrong", "second", "✓ right"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: lines[:-1], "doesn't have 1 of each of 3 problems"),
        (lambda lines: [*lines[:-1], lines[-1][:40]], "can't be read (JSONDecodeError"),
        (lambda lines: [*lines[:-1], "[]"], "can't be read (TypeError"),
        (lambda lines: [*lines[:-1], lines[-1].replace('"completion"', '"text"')], "can't be read (KeyError"),
        (lambda lines: [*lines[:-1], lines[-1].replace('"2"', "2")], "can't be read (TypeError: unexpected '2'"),
        (lambda lines: [*lines, lines[-1].replace('"problem": 2', '"problem": 9')], "can't be read (KeyError: 9"),
    ],
)
def test_samples_that_are_broken(spoil, message, tmp_path, capsys):
    write(tmp_path, "sums", [1, 0, 1])
    log = tmp_path / "sums.samples.jsonl"
    assert main(["report", str(tmp_path)]) == 0
    log.write_text("\n".join(spoil(log.read_text().splitlines())) + "\n")
    assert main(["report", str(tmp_path)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert message in line
    assert line.endswith("evaluate again")
