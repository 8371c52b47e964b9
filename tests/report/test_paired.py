"""`lambda-grpo report --paired`: statistics against plain loops, published figures and real evaluations."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from lambda_grpo.cli import main
from lambda_grpo.errors import UserError
from lambda_grpo.report.paired_evaluations import pair_evaluations
from lambda_grpo.report.paired_statistics import compare_shares, score_interval

Z = 1.959963984540054


def test_the_interval_and_the_test_of_a_published_table():
    """161 patients before and after therapy: 6 changed one way, 16 the other (Cavo et al., Blood 120, 2012).

    The figures are those of M. W. Fagerland, S. Lydersen and P. Laake's R package contingencytables.
    """
    before = [1.0] * 59 + [1.0] * 6 + [0.0] * 16 + [0.0] * 80
    after = [1.0] * 59 + [0.0] * 6 + [1.0] * 16 + [0.0] * 80
    found = compare_shares(after, before, one_sample=True)
    assert found.ci95 == pytest.approx((-0.1240, -0.0054), abs=5e-5)
    assert found.mcnemar_p == pytest.approx(0.052479, abs=5e-7)
    assert (found.both_right, found.only_first, found.only_second, found.both_wrong) == (59, 16, 6, 80)
    assert not found.is_clear  # by the test, although the interval excludes 0


def likeliest_loss(gained, lost, n, d):
    """The probability of a loss with the highest likelihood, given that a gain's is larger by d."""
    low, high = max(0.0, -d), (1 - d) / 2

    def cost(q):
        counts = ((gained, q + d), (lost, q), (n - gained - lost, 1 - 2 * q - d))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in counts if count)

    inner = minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return min((low, high, inner), key=cost)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 30))
def test_the_score_interval_is_where_the_score_test_doesnt_reject(gained, lost, others):
    n = gained + lost + others
    assume(n)
    low, high = score_interval(gained, lost, n)
    assert -1 <= low <= (gained - lost) / n <= high <= 1
    assert low < high
    assert score_interval(lost, gained, n) == pytest.approx((-high, -low), abs=1e-7)
    for limit in (low, high):
        for d, is_inside in ((limit + 1e-3, limit == low), (limit - 1e-3, limit == high)):
            if -1 < d < 1:
                variance = n * (2 * likeliest_loss(gained, lost, n, d) + d - d * d)
                distance = (gained - lost - n * d) ** 2
                assert (distance < Z**2 * variance) == is_inside


def test_the_score_interval_where_no_verdict_differs_is_wilsons_limit():
    assert score_interval(0, 0, 500) == pytest.approx((-(Z**2) / (500 + Z**2), Z**2 / (500 + Z**2)))


@pytest.mark.parametrize(("gain", "loss"), [(0.1, 0.05), (0.3, 0.1), (0.02, 0.02), (0.5, 0.4)])
def test_score_intervals_cover(gain, loss):
    """Exactly, over all tables of 40 problems."""
    n, covered = 40, 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            low, high = score_interval(gained, lost, n)
            if low <= gain - loss <= high:
                ways = math.comb(n, gained) * math.comb(n - gained, lost)
                covered += ways * gain**gained * loss**lost * (1 - gain - loss) ** (n - gained - lost)
    assert 0.93 <= covered <= 0.995


def test_several_samples_by_hand():
    found = compare_shares([0.0, 0.5, 1.0, 0.25], [0.5, 0.5, 0.75, 1.0], one_sample=False)
    # differences 0.5, 0, −0.25, 0.75: mean 0.25, squared deviations 0.0625 + 0.0625 + 0.25 + 0.25 = 0.625
    half = 3.182446305284263 * math.sqrt(0.625 / 3 / 4)  # t quantile of 3 degrees of freedom
    assert found.difference == 0.25
    assert found.ci95 == pytest.approx((0.25 - half, 0.25 + half))
    assert (found.both_right, found.only_first, found.only_second, found.both_wrong, found.as_often) == (0, 1, 2, 0, 1)
    assert found.mcnemar_p is None
    assert found.no_mcnemar == "it takes one sample per problem"
    assert not found.is_clear


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=40))
def test_counts_and_difference_are_those_of_a_plain_loop(right):
    first, second = [a / 4 for a, _ in right], [b / 2 for _, b in right]
    found = compare_shares(first, second, one_sample=False)
    both_right = both_wrong = more = fewer = same = total = 0
    for a, b in right:
        total += 2 * b - a  # in quarters
        if a == 4 and b == 2:
            both_right += 1
        elif a == b == 0:
            both_wrong += 1
        elif 2 * b > a:
            more += 1
        elif 2 * b < a:
            fewer += 1
        else:
            same += 1
    assert (found.both_right, found.both_wrong, found.only_second, found.only_first, found.as_often) == (
        both_right, both_wrong, more, fewer, same,
    )  # fmt: skip
    assert found.difference == pytest.approx(total / 4 / len(right))
    assert (found.ci95 is None) == (len({2 * b - a for a, b in right}) == 1)
    if found.ci95 is not None:
        assert -1 <= found.ci95[0] <= found.difference <= found.ci95[1] <= 1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_a_binomial_test_of_the_problems_that_changed(right):
    found = compare_shares([float(a) for a, _ in right], [float(b) for _, b in right], one_sample=True)
    gained, lost = sum(b > a for a, b in right), sum(a > b for a, b in right)
    tail = sum(math.comb(gained + lost, i) for i in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
    assert found.mcnemar_p == pytest.approx(min(1.0, 2 * tail))
    assert found.ci95 == score_interval(gained, lost, len(right))
    assert found.as_often == 0


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    """Real ones: of two models, of one with another seed, and of one with several samples and another temperature."""
    folder = tmp_path_factory.mktemp("evaluations")
    for name, *options in (
        ("a", "--model", "builtin"),
        ("b", "--model", "builtin", "--seed", "1"),
        ("llama", "--model", "builtin-llama"),
        ("four", "--model", "builtin", "--samples", "4", "--temperature", "0.7"),
        ("fewer", "--model", "builtin", "--n", "32"),
    ):
        size = [] if "--n" in options else ["--n", "48"]
        where = ["--task", "arithmetic", "--output_dir", str(folder / name)]
        assert main(["eval", *options, *size, *where]) == 0
    return folder


def shares_of(folder):
    right = {}
    for line in (folder / "arithmetic.samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        right.setdefault(sample["problem"], []).append(sample["correct"])
    return [sum(one) / len(one) for one in right.values()]


@pytest.mark.parametrize(("other", "samples"), [("b", 1), ("llama", 1), ("four", 4)])
def test_two_real_evaluations(evaluations, other, samples, capsys):
    (pair,) = pair_evaluations(str(evaluations / "a"), str(evaluations / other / "arithmetic.json"))
    first, second = shares_of(evaluations / "a"), shares_of(evaluations / other)
    assert pair.statistics == compare_shares(first, second, one_sample=samples == 1)
    assert pair.second.samples == samples
    assert pair.statistics.difference == pytest.approx(pair.second.accuracy - pair.first.accuracy)
    assert [(one.problem, one.first, one.second) for one in pair.changed] == [
        (i, a, b) for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b
    ]
    result = json.loads((evaluations / other / "arithmetic.json").read_text())
    assert pair.second.completion_length_mean == result["completion_length_mean"]
    assert list(pair.second.ci95) == result["ci95"]

    paths = [str(evaluations / "a"), str(evaluations / other)]
    assert main(["report", "--paired", *paths]) == 0
    shown = capsys.readouterr().out
    assert pair.verdict in shown
    assert f"{100 * pair.second.accuracy:.1f} %" in shown
    assert ("(Tango's score interval)" if samples == 1 else "(paired t interval)") in shown
    assert ("McNemar's exact test: p = " in shown) == (samples == 1)
    assert main(["report", "--paired", *paths, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(pair.to_dict()))


def test_what_else_differs_is_said(evaluations):
    def between(one, other):
        (pair,) = pair_evaluations(str(evaluations / one), str(evaluations / other))
        return pair

    pair = between("a", "four")
    assert pair.settings == {"samples": ("1", "4"), "temperature": ("1", "0.7")}
    assert any("samples (1 / 4); temperature (1 / 0.7)" in note for note in pair.notes)
    assert pair.first.name == pair.first.file  # the models have the same name
    assert between("a", "b").notes == []
    pair = between("a", "llama")
    assert (pair.first.name, pair.second.name) == ("builtin", "builtin-llama")
    assert pair.notes == ["This compares two models on these problems, not the methods that trained them."]
    same = between("a", "a")
    assert same.verdict.startswith("No clear difference in accuracy between")
    assert same.changed == []
    assert same.statistics.mcnemar_p == 1


def write(folder, name, shares, **more):
    """Files as `lambda-grpo eval` writes them, of one sample per problem."""
    accuracy = sum(shares) / len(shares)
    result = {
        "task": "sums", "n": len(shares), "samples": 1, "model": name, "trained": None, "data": {"digest": "x"},
        "template": {"name": "plain"}, "shots": None, "sampling": {"temperature": 0.0}, "engine": "auto",
        "accuracy": accuracy, "ci95": [accuracy, accuracy], "completion_length_mean": 5.0, "finished": True,
        "unanswered": None, "truncated": 0.0, "timed_out": 0, "versions": {}, "git_commit": None,
        "metrics": {"accuracy": {"value": accuracy, "ci95": [accuracy, accuracy]}}, **more,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result))
    lines = [
        json.dumps(
            {
                "problem": i, "id": f"p{i}", "prompt": "1+1", "completion": "2", "answer": "2", "extracted": "2",
                "score": share, "correct": bool(share), "timed_out": False, "length": 1, "ended": True,
            }
        )
        for i, share in enumerate(shares)
    ]  # fmt: skip
    (folder / f"{name}.samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return str(folder / f"{name}.json")


def test_the_verdict_in_words(tmp_path):
    before = write(tmp_path, "before", [0] * 20 + [1] * 20)
    after = write(tmp_path, "after", [1] * 38 + [0] * 2)
    (pair,) = pair_evaluations(before, after)
    assert pair.verdict.startswith(
        "The accuracy of after on sums is higher than that of before: 95.0 % against 50.0 % of 40 problems, +45.0 "
        "points (95 % interval +"
    )
    assert [one.id for one in pair.changed if one.second < one.first] == ["p38", "p39"]
    (pair,) = pair_evaluations(after, before)
    assert "is lower than that of after" in pair.verdict
    # 5 of 40 better, none worse: the interval excludes 0, the exact test's p is 2/32
    (pair,) = pair_evaluations(before, write(tmp_path, "later", [1] * 5 + [0] * 15 + [1] * 20))
    assert pair.verdict.startswith("No clear difference")
    assert "McNemar's exact test (p = 0.062) disagree" in pair.notes[0]


def test_what_cant_be_paired_is_refused(evaluations, tmp_path, capsys):
    good = write(tmp_path, "good", [1, 0, 1])
    for other, message in (
        (write(tmp_path, "others", [1, 0, 1], data={"digest": "y"}), "are of different problems"),
        (write(tmp_path, "running", [1, 0, 1], finished=False), "isn't finished, run its command again"),
        (write(tmp_path, "cut", [1, 0], n=3), "doesn't have 1 of each of 3 problems"),
        (write(tmp_path, "longer", [1, 0, 1, 1], n=3), "can't be read (KeyError"),
        (str(tmp_path / "nowhere.json"), "no result"),
        (str(write_many(tmp_path / "many")), "no task in common: "),
    ):
        with pytest.raises(UserError, match=message.replace("(", r"\(")):
            pair_evaluations(good, other)
    alone = write(tmp_path, "alone", [1, 0, 1])
    Path(alone).with_suffix(".samples.jsonl").unlink()
    with pytest.raises(UserError, match="is missing: it belongs to"):
        pair_evaluations(good, alone)
    with pytest.raises(
        UserError, match=r"48 of arithmetic, digest .*; 32 of arithmetic, digest .*the same --task, --n"
    ):
        pair_evaluations(str(evaluations / "a"), str(evaluations / "fewer"))
    for arguments, message in (
        (["--paired", good], "--paired compares the results at two PATHs, got 1"),
        ([good, "--json"], "--json and --page need --paired"),
        (["--paired", "--table", good, good], "not allowed with argument --paired"),
    ):
        assert main(["report", *arguments]) == 2
        assert message in capsys.readouterr().err


def write_many(folder):
    for name in ("p", "q"):
        write(folder, name, [1, 0, 1], task=name)
    return folder


def test_directories_are_paired_by_task(tmp_path):
    write_many(tmp_path / "one")
    write_many(tmp_path / "other")
    write(tmp_path / "other", "r", [1, 0, 1], task="r")
    pairs = pair_evaluations(str(tmp_path / "one"), str(tmp_path / "other"))
    assert [pair.task for pair in pairs] == ["p", "q"]
