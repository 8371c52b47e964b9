"""A run without a learning signal says so, and what to check: in sentences, in the terminal and on its page."""

import pytest

from lambda_grpo.cli import main
from lambda_grpo.runs.directory import Run
from lambda_grpo.runs.learning_signal import missing_signal
from lambda_grpo.tasks.arithmetic import Arithmetic
from tests.invariant.scripted_run import Scripted, one_third
from tests.trl.setup import config, make_trainer

NEVER = "Nothing to learn from: no group of this run had differing rewards"
AT_THE_END = "Nothing to learn from at the end: no group of the last"
LAMBDA = "λ's gradient was exactly 0 at every step, so λ never moved."


def rows(shares, gradients=None, every=1):
    gradients = [None] * len(shares) if gradients is None else gradients
    return [
        {"step": every * (i + 1), "reward": 0.5, "informative_groups": share, "lambda_grad": gradient}
        for i, (share, gradient) in enumerate(zip(shares, gradients, strict=True))
    ]


@pytest.mark.parametrize(
    ("logged", "expected"),
    [
        ([], []),
        (rows([0.5, 0.0, 0.25]), []),
        (rows([0.0] * 3), [f"{NEVER} in any of its 3 steps, so every advantage was 0. Look at the reward function"]),
        (rows([0.0] * 3, every=20), [f"{NEVER} in any of its 60 steps"]),
        (rows([0.0, 0.1, *[0.0] * 9]), []),
        (rows([0.0, 0.1, *[0.0] * 10]), [f"{AT_THE_END} 10 steps"]),
        (rows([0.1, *[0.0]], every=10), [f"{AT_THE_END} 10 steps"]),
        (rows([0.0] * 3, [0.0] * 3), [NEVER, LAMBDA]),
        (rows([0.5] * 3, [0.0] * 3), [f"{LAMBDA} It is other than 0 in groups with differing rewards where"]),
        (rows([0.5] * 3, [0.0, 1e-9, 0.0]), []),
        (rows([0.5] * 3, [0.0, None, 0.0]), []),  # one wasn't finite
        ([{"step": 1, "reward": 0.1}, *rows([0.0] * 3)[1:]], []),  # of a run that logged less, in its first step
        ([{"step": 3, "train_loss": 0.0}, {"step": 3, "eval_reward": 0.0}], []),
    ],
)  # fmt: skip
def test_sentences(logged, expected):
    found = missing_signal(logged)
    assert len(found) == len(expected)
    for sentence, start in zip(found, expected, strict=True):
        assert sentence.startswith(start)
    assert all(not sentence.startswith("Nothing") or "num_generations" in sentence for sentence in found)


class OneReward(Arithmetic):
    """Whatever is answered."""

    def grade(self, completion, example):
        return 0.7


SETTINGS = [
    "--task", "tests.runs.test_learning_signal:OneReward", "--max_steps", "2", "--save_steps", "1", "--eval_size", "8",
    "--per_device_train_batch_size", "16", "--max_completion_length", "16",
]  # fmt: skip


@pytest.mark.parametrize("objective", ["lambda_grpo", "grpo"])
def test_a_run_without_anything_to_learn_from_says_so_and_when_it_is_resumed(objective, tmp_path, capsys):
    arguments = ["train", "--output_dir", str(tmp_path / "run")]
    assert main([*arguments, *SETTINGS, "--objective", objective]) == 0
    assert main([*arguments, "--resume", "--max_steps", "3"]) == 0
    first, second = capsys.readouterr().out.split("Report: ")[:2]
    page = (tmp_path / "run" / "report.html").read_text()
    for steps, shown in ((2, first), (3, second)):
        assert shown.count(f"{NEVER} in any of its {steps} steps") == 1
        assert (LAMBDA in shown) == (objective == "lambda_grpo")
    assert f"{NEVER} in any of its 3 steps" in page
    assert (LAMBDA.replace("'", "&#39;") in page) == (objective == "lambda_grpo")
    run = Run.open(tmp_path / "run")
    assert {row["frac_reward_zero_std"] for row in run.metrics()} == {1.0}
    assert set(run.completions()["advantage"].to_pylist()) == {0.0}


def test_a_script_is_warned_at_the_end_of_its_training(tmp_path):
    """Also where no step was logged on its own."""
    args = config(tmp_path, objective="lambda_grpo", max_steps=2, logging_steps=50)
    trainer = make_trainer(args, Scripted, lambda completions, **_: [0.3] * len(completions))
    with pytest.warns(UserWarning, match=f"{NEVER} in any of its 2 steps"), pytest.warns(UserWarning, match=LAMBDA):
        trainer.train()


def test_where_there_was_something_to_learn_from_nothing_is_said(tmp_path, recwarn):
    make_trainer(config(tmp_path, objective="lambda_grpo", max_steps=2), Scripted, one_third).train()
    assert not [warning for warning in recwarn if "learn" in str(warning.message) or "λ" in str(warning.message)]
