"""What a run contributes, by hand."""

import numpy as np
import pytest

from lambda_grpo.comparison.measures import _tokens_to, at_steps, measure, share_by_length_quartile
from lambda_grpo.runs.directory import Run


def write_run(path, grades, penalties, score_mean, **settings):
    """A run of two steps with two samples each, half of the held-out answers right."""
    path.mkdir()
    run = Run(path)
    run.write_config(
        {
            "objective": {"name": "dapo", "learnable": False}, "data": {"name": "words"}, "git_commit": None,
            "resolved": {
                "training": {"max_completion_length": 8, "max_grad_norm": 1.0, "objective": "dapo", **settings},
            },
        }
    )  # fmt: skip
    totals = [grade + penalty for grade, penalty in zip(grades, penalties, strict=True)]
    for step in (1, 2):
        own = slice(2 * step - 2, 2 * step)
        run.log_completions(
            step,
            {
                "reward": totals[own], "reward/words": grades[own], "reward/overlong": penalties[own],
                "length": [4, 8], "weight": [1.0, 1.0], "advantage": [1.0, -1.0],
            },
        )  # fmt: skip
        run.log_metrics({"step": step, "reward": sum(totals[own]) / 2, "num_tokens": 50.0 * step, "grad_norm": 0.5})
    for name, step, verdicts in (("before", 0, "0001"), ("after", 2, "0011")):
        tokens = {"generated_tokens": 12 * step, "num_tokens": 50 * step}
        figures = {"accuracy": verdicts.count("1") / 4, "score_mean": score_mean, "completion_length_mean": 6.0}
        run.log_evaluation(name, {**figures, **tokens, "step": step, "verdicts": verdicts})
    return run


def test_an_answer_is_right_by_its_grade_whatever_penalty_its_length_has(tmp_path):
    """Right answers at the lengths 8 and 4, of which the longer one is penalised."""
    run = write_run(tmp_path / "run", [0.0, 1.0, 1.0, 0.0], [0.0, -0.5, 0.0, -0.5], 0.5)
    found = measure(run, 0.5)
    assert found["accuracy_area"] is found["choosing"]["accuracy_area"] is None
    assert found["curve"]["reward"] == [0.25, 0.25]
    assert found["curve"]["accuracy"] == [0.5, 0.5]
    assert found["share_right"] == pytest.approx((8 + 4) / 24)
    assert found["graded"] is False
    assert found["limits"] == {
        "completion_length_mean": [0.0, 8.0], "reward": [-0.5, 1.0], "tokens_to_target": [0.0, 100.0],
    }  # fmt: skip


@pytest.mark.parametrize(("grades", "score_mean"), [([0.0, 0.4, 1.0, 0.0], 0.5), ([0.0, 0.0, 1.0, 0.0], 0.7)])
def test_graded_answers_are_known_by_the_samples_or_the_held_out_ones(tmp_path, grades, score_mean):
    found = measure(write_run(tmp_path / "run", grades, [0.0] * 4, score_mean), 0.5)
    assert found["graded"] is True
    assert found["score_mean"] == score_mean
    assert found["curve"]["accuracy"] == [0.0, 0.5]


@pytest.mark.parametrize(("settings", "weights"), [({}, (1, 1)), ({"max_generated_tokens": 99}, (36, 12))])
def test_the_area_is_over_steps_or_tokens_and_every_second_problem_chooses_the_rate(settings, weights, tmp_path):
    """Four problems: of the first and the third 0.5, 0.5 are right at the two evaluations, of the others 0 and 1."""
    run = write_run(tmp_path / "run", [0.0, 1.0, 1.0, 0.0], [0.0] * 4, 0.5, **settings)
    during = {"step": 1, "generated_tokens": 36, "num_tokens": 50, "verdicts": "1000", "accuracy": 0.25}
    run.log_evaluation(
        "after", run.evaluation("after") | {"generated_tokens": 48, "verdicts": "1101", "accuracy": 0.75}
    )
    run.log_evaluation_during({**during, "score_mean": 0.25, "completion_length_mean": 6.0})
    found = measure(run, 0.5)
    assert found["choosing"] == {"accuracy": 0.5, "accuracy_area": 0.5}
    assert found["reported"] == {"accuracy": 1.0, "accuracy_area": pytest.approx(weights[1] / sum(weights))}
    by_hand = (0.25 * weights[0] + 0.75 * weights[1]) / sum(weights)
    assert found["accuracy_area"] == pytest.approx(by_hand)
    assert found["held_out"] == {"step": [0, 1, 2], "accuracy": [0.25, 0.25, 0.75], "length": [6.0] * 3}


def test_generations_between_logged_steps_are_averaged():
    assert at_steps([(1, 0.25), (3, 0.75), (4, 1.0)], [3, 5, 6]) == [0.5, 1.0, None]


def test_shares_of_quarters_by_hand():
    """Lengths 1 to 8: two in each quarter."""
    lengths, mass = np.arange(1, 9), np.array([1.0, 1.0, 0.0, 2.0, 3.0, 0.0, 0.0, 1.0])
    assert share_by_length_quartile(lengths, mass) == pytest.approx([2 / 8, 2 / 8, 3 / 8, 1 / 8])
    assert share_by_length_quartile(lengths, 0 * mass) is None
    assert share_by_length_quartile(np.full(8, 5), mass) == pytest.approx([1, 0, 0, 0])  # equal lengths stay together


def test_tokens_to_the_target_by_hand():
    """Two samples a generation; a mean of five generations of 0.9 is first reached at the eighth."""
    rights = [0, 1, 1, 2, 2, 2, 2, 2, 2]
    accuracy = [(step, right / 2) for step, right in enumerate(rights, start=1)]
    curve = {"step": list(range(1, 10)), "tokens": [100 * step for step in range(1, 10)]}
    assert _tokens_to(0.9, accuracy, curve) == 700
    assert _tokens_to(0.95, accuracy, curve) == 800
    assert _tokens_to(1.1, accuracy, curve) is None
    # a generation for every second step, and a log at every third
    curve = {"step": [3, 6, 9, 12, 15, 18], "tokens": [300, 600, 900, 1200, 1500, 1800]}
    assert _tokens_to(0.9, [(2 * step - 1, share) for step, share in accuracy], curve) == 1500
