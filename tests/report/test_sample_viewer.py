"""The samples on a run's page, in a real browser."""

import base64
import gzip
import json
import random
import re

import pytest

from lambda_grpo.report.run_page import write_report
from lambda_grpo.runs.directory import Run
from tests.report.test_run_page import make_run

CHAT = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is $\\frac{1}{2}$?"}])
# lengths and rewards by group: equal rewards, equal lengths, and one that says something about length
GROUPS = {0: ([4, 8], [1, 1]), 1: ([6, 6], [1, 0]), 2: ([3, 9], [0, 1])}


def write_samples(run, *, rewards=None, texts=None, prompt="1+1=", step=4, penalty=0.0):
    """penalty: what the reward may differ by from the task's own grade."""
    columns = {
        name: [] for name in ("prompt", "completion", "answer", "reward", "advantage", "length", "weight", "group")
    }
    tokens, logprobs, entropies, clipped = [], [], [], []
    for group, (lengths, scores) in GROUPS.items():
        for i, (length, score) in enumerate(zip(lengths, scores, strict=True)):
            columns["prompt"].append(prompt)
            text = texts[i] if texts else "ab" * length
            columns["completion"].append(text)
            columns["answer"].append("2")
            columns["reward"].append(float(score if rewards is None else rewards[i]))
            columns["advantage"].append(0.0 if scores[0] == scores[1] else 0.7 * (2 * score - 1))
            columns["length"].append(length)
            columns["weight"].append(1.0)
            columns["group"].append(group + 100)
            tokens.append(None if texts else ["ab"] * length)
            logprobs.append(None if texts else [-0.5] * length)
            entropies.append(None if texts else [0.25] * length)
            clipped.append(None if texts else [False] * (length - 1) + [True])
    if penalty:
        columns["reward/arithmetic"] = [float(advantage > 0) for advantage in columns["advantage"]]
    run.log_completions(
        step, {**columns, "tokens": tokens, "logprobs": logprobs, "entropies": entropies, "clipped": clipped}
    )
    run.log_metrics({"step": step, "reward": 0.5, "lambda": None, "weight_min": 1.0, "weight_max": 1.0})


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path / "run", steps=0, learnable=False, after=None)
    return run


def listed(page):
    return [int(one) for one in page.locator(".groups button").evaluate_all("all => all.map(one => one.dataset.group)")]


@pytest.mark.browser
def test_groups_that_say_something_about_length_come_first(run, open_page):
    write_samples(run)
    page = open_page(write_report(run))
    assert listed(page) == [102, 101, 100]
    page.get_by_label("answers").select_option("all right")
    assert listed(page) == [100]
    assert page.locator("article h3").inner_text() == "Step 4, group 100"
    page.get_by_label("answers").select_option("any")
    page.get_by_label("to … tokens").fill("3")
    assert listed(page) == [102]
    page.get_by_label("to … tokens").fill("")
    page.get_by_label("order").select_option("by group")
    assert listed(page) == [100, 101, 102]
    page.get_by_role("spinbutton", name="step").fill("3")
    assert listed(page) == []
    page.get_by_role("spinbutton", name="step").fill("")
    page.get_by_role("spinbutton", name="group").fill("101")
    assert listed(page) == [101]
    page.get_by_role("spinbutton", name="group").fill("1")
    assert listed(page) == []
    assert "0 of 3 groups match." in page.locator("#viewer").inner_text()


@pytest.mark.browser
def test_another_objective_shades_the_same_tokens_otherwise(run, open_page):
    write_samples(run)
    page = open_page(write_report(run), "#group=102&sample=1")
    cards = page.locator(".completion")
    assert "target" in cards.nth(1).get_attribute("class")
    # the run's own: f = 1, so both completions weigh as their advantages do
    assert [card.locator("header").inner_text().split("f·A ")[1].split()[0] for card in cards.all()] == ["-0.7", "+0.7"]
    colours = "all => all.map(one => getComputedStyle(one).backgroundColor)"
    own = cards.nth(1).locator(".tokens span").evaluate_all(colours)
    assert len(set(own)) == 1
    page.get_by_label("objective").select_option("dr_grpo")
    page.get_by_label("objective").select_option("grpo (this run's)")
    assert cards.nth(1).locator(".tokens span").evaluate_all(colours) == own
    page.get_by_label("objective").select_option("lambda_grpo, λ = −5")
    # of two responses the shorter one has nearly all the weight at λ = −5
    shown = [card.locator("header").inner_text() for card in cards.all()]
    weights = [float(text.split("f ")[1].split(" ")[0]) for text in shown]
    h = [1 + (-1) / 9, 1 + 1 / 9]  # 1 + r z, with z = ±1 in a group of two
    powers = [2.718281828 ** (x**-5) for x in h]
    assert weights == pytest.approx([2 * power / sum(powers) for power in powers], rel=0.01)
    assert cards.nth(1).locator(".tokens span").evaluate_all(colours) != own
    assert "objective=lambda_grpo" in page.url


@pytest.mark.browser
def test_a_token_has_its_numbers(run, open_page):
    write_samples(run)
    page = open_page(write_report(run), "#group=102")
    body = page.locator(".completion .body").nth(1)
    body.locator("span").last.hover()
    tip = page.locator(".tip")
    assert tip.inner_text().split("\n") == [
        '"ab", token 9 of 9', "log-probability -0.5 (p 0.61)", "entropy 0.25 nats", "weight × advantage +0.7",
        "clipped: no gradient",
    ]  # fmt: skip
    body.focus()
    page.keyboard.press("ArrowRight")
    assert "token 1 of 9" in tip.inner_text()
    assert "not clipped" in tip.inner_text()


@pytest.mark.browser
def test_conversations_code_and_maths(run, open_page):
    fence = "`" * 3
    texts = [
        f"So $x^2$ and \\(\\frac{{1}}{{2}}\\), \\boxed{{42}}.\n{fence}python\nprint('<b>')\n{fence}\nIt costs $5 and $6.",  # noqa: E501
        "\\[\\undefinedmacro{\\] \u202egnp.exe\u202c",
    ]
    write_samples(run, texts=texts, prompt=CHAT)
    page = open_page(write_report(run), "#group=102")
    prompt = page.locator(".prompt")
    assert prompt.locator(".role").all_inner_texts() == ["system", "user"]
    assert prompt.locator("math mfrac").count() == 1
    page.get_by_label("show").select_option("text, with code and maths")
    first, second = page.locator(".completion .body").all()
    assert first.locator("math").count() == 3
    assert first.locator("pre.code").inner_text() == "print('<b>')"
    assert "It costs $5 and $6." in first.inner_text()
    assert second.inner_text() == "\\[\\undefinedmacro{\\] U+202Egnp.exeU+202C"


@pytest.mark.browser
@pytest.mark.parametrize(
    "line",
    [
        "x" * 100_000, "<script>document.title='hacked'</script>" * 2_500, "$" + "{" * 100_000, "`" * 100_000,
        "\\boxed{" * 15_000, "\u202e\u0000" * 50_000, "[" * 100_000, "e\u0301\u0489" * 33_000,
    ],
    ids=["letters", "scripts", "braces", "ticks", "boxes", "marks", "lists", "accents"],
)  # fmt: skip
def test_a_line_of_100_kilobytes_is_text_and_does_not_stick_out(line, run, open_page):
    write_samples(run, texts=[line, "ab"], prompt=line)
    page = open_page(write_report(run), "#group=102")
    page.get_by_label("show").select_option("text, with code and maths")
    body = page.locator(".completion .body").first
    assert len(body.inner_text()) > 1000
    assert "hacked" not in page.title()
    for width in (1200, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_graded_rewards_are_neither_right_nor_wrong(run, open_page):
    write_samples(run, rewards=[0.3, 0.8])
    page = open_page(write_report(run))
    assert page.locator(".completion header b").all_inner_texts() == ["reward 0.3", "reward 0.8"]
    assert page.locator(".completion .right, .completion .wrong, .bars .right, .bars .wrong").count() == 0
    assert [text for text in page.locator("figcaption").all_inner_texts() if "ccuracy" in text] == []


@pytest.mark.browser
def test_a_penalty_makes_no_answer_graded(run, open_page):
    write_samples(run, rewards=[0.5, -0.5], penalty=0.5)
    page = open_page(write_report(run), "#group=102")
    assert page.locator(".completion header b").all_inner_texts() == ["✗ wrong", "✓ right"]
    said = [" ".join(card.inner_text().split()) for card in page.locator(".completion header").all()]
    assert ["reward 0.5" in said[0], "reward -0.5" in said[1]] == [True, True]
    titles = [caption.split("\n")[0] for caption in page.locator("figcaption").all_inner_texts()]
    assert any(title.startswith("Accuracy, %") for title in titles)
    assert any(title.startswith("Reward, mean over samples") for title in titles)


WORDS = ["the", "of", "sum", "so", "then", "is", "equal", "to", "12", "7", "=", "therefore", "\\frac{1}{2}", "answer"]


def write_long_samples(run, *, steps, groups, least, most, word=None):
    """Groups of eight with words as tokens, from `least` to `most` of them, each with numbers of its own."""
    source = random.Random(0)
    for step in range(2, 2 + steps):
        rows = 8 * groups
        texts = [
            [word(source) if word else " " + source.choice(WORDS) for _ in range(source.randint(least, most))]
            for _ in range(rows)
        ]
        run.log_completions(
            step,
            {
                "prompt": ["word " * 40] * rows, "completion": ["".join(text) for text in texts],
                "answer": ["1"] * rows,
                "reward": [float(source.random() < 0.5) for _ in range(rows)],
                "advantage": [source.gauss(0, 1) for _ in range(rows)], "length": list(map(len, texts)),
                "weight": [1.0] * rows, "group": [step * 100 + i // 8 for i in range(rows)], "tokens": texts,
                "logprobs": [[-source.expovariate(2) for _ in text] for text in texts],
                "entropies": [[source.expovariate(2) for _ in text] for text in texts],
                "clipped": [[False] * len(text) for text in texts],
            },
        )  # fmt: skip


def test_a_page_with_many_samples_stays_small(tmp_path):
    run = make_run(tmp_path / "run", steps=1)
    write_long_samples(run, steps=10, groups=100, least=20, most=200)
    path = write_report(run)
    assert path.stat().st_size < 6e6
    page = path.read_text()
    assert "500 of 1,001 groups" in page
    assert re.search(r"Numbers for single tokens are here for \d+ of the groups", page)


@pytest.mark.parametrize(
    ("most", "word"),
    [
        (800, None),
        # text that can't be compressed
        (800, lambda source: "".join(chr(source.randint(0x4E00, 0x9FFF)) for _ in range(8))),
        (8000, None),
    ],
)
def test_a_page_with_long_samples_stays_small(most, word, tmp_path):
    run = make_run(tmp_path / "run", steps=1)
    write_long_samples(run, steps=2, groups=2 if most > 800 else 25, least=most // 2, most=most, word=word)
    path = write_report(run)
    assert path.stat().st_size < 6e6
    assert "groups" in path.read_text()


def test_one_group_of_very_long_samples_fits(tmp_path):
    run = make_run(tmp_path / "run", steps=1)
    write_long_samples(run, steps=1, groups=1, least=100_000, most=100_000)
    page = write_report(run)
    assert page.stat().st_size < 6e6
    (text,) = [sample["text"] for sample in shown(page)[0]["samples"]][:1]
    assert re.search(r"\n… and [\d,]+ more characters$", text)


def shown(page):
    """The groups in a page."""
    packed = re.search(r'id="samples-data">([^<]+)<', page.read_text())[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))["groups"]


def test_runs_of_earlier_versions_have_no_tokens(tmp_path):
    run = make_run(tmp_path / "run")
    assert "All 3 groups" in write_report(Run(run.path)).read_text()
