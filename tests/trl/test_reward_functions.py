"""Reward functions that can't be called, that raise, or that return something other than rewards."""

import functools
import re
import sys

import numpy as np
import pytest
import torch

from lambda_grpo.cli import main
from lambda_grpo.errors import UserError
from lambda_grpo.trl.reward_functions import as_rewards
from tests.trl.setup import config, logged, make_trainer

COLUMNS = "and the data set's other columns: answer, solution, index, split"

RETURNED = [
    ([1, 0.5, None, True], [1.0, 0.5, None, 1.0]),
    ((0, 1, 0, 1), [0.0, 1.0, 0.0, 1.0]),
    (np.array([1, 2, 3, 4]), [1.0, 2.0, 3.0, 4.0]),
    (np.array([True, False, True, False]), [1.0, 0.0, 1.0, 0.0]),
    (torch.tensor([0.5, 0.25, 0.0, 1.0]), [0.5, 0.25, 0.0, 1.0]),
    ([torch.tensor(1.0), np.float32(0.5), np.int64(2), np.bool_(True)], [1.0, 0.5, 2.0, 1.0]),
    (np.array([1.0, None, 0.0, None], dtype=object), [1.0, None, 0.0, None]),
    (map(float, [1, 2, 3, 4]), [1.0, 2.0, 3.0, 4.0]),
]
WRONG = [
    (None, "returned None"),
    (0.5, "returned a float (0.5)"),
    (torch.tensor(0.5), "returned a Tensor of shape ()"),
    (torch.zeros(4, 1), "returned a Tensor of shape (4, 1)"),
    (np.zeros((2, 2)), "returned a ndarray of shape (2, 2)"),
    ([1.0, 0.0], "returned 2 rewards for 4 completions"),
    ([], "returned 0 rewards for 4 completions"),
    (torch.zeros(5), "returned 5 rewards for 4 completions"),
    (["1", "0", "1", "0"], "returned a str ('1') for completion 0"),
    ([1.0, [0.0], 1.0, 0.0], "returned a list ([0.0]) for completion 1"),
    ([[1.0], [0.0], [1.0], [0.0]], "returned a list ([1.0]) for completion 0"),
    ([1.0, 0.0, float("inf"), 0.0], "returned a float (inf) for completion 2"),
    ([1.0, 0.0, 1j, 0.0], "returned a complex (1j) for completion 2"),
    ([1.0, 0.0, 0.0, {"score": 1}], "returned a dict ({'score': 1}) for completion 3"),
    ("1010", "returned a str ('1010')"),
    ({0: 1.0, 1: 0.0, 2: 0.0, 3: 1.0}, "returned a dict ({0: 1.0, 1: 0.0, 2: 0.0, 3: 1.0})"),
]


@pytest.mark.parametrize(("returned", "rewards"), RETURNED)
def test_what_may_be_returned(returned, rewards):
    assert as_rewards(returned, 4) == rewards


@pytest.mark.parametrize(("returned", "message"), WRONG)
def test_what_may_not(returned, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        as_rewards(returned, 4)


def reads_a_column(completions, gold, **_):
    return [0.0] * len(completions)


def takes_too_little(completions, answer):
    return [0.0] * len(completions)


def by_position(completions, /, **_):
    return [0.0] * len(completions)


class Judge:
    def __call__(self, completions, gold, **_):
        return [0.0] * len(completions)


async def judged(completions, gold, **_):
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (reads_a_column, "reward function 'reads_a_column' needs gold, and the data set has no such column: "),
        (functools.partial(reads_a_column), "reward function 'reads_a_column' needs gold, "),
        (Judge(), "reward function 'Judge' needs gold, "),
        (judged, "reward function 'judged' needs gold, "),
        (
            takes_too_little,
            "reward function 'takes_too_little' doesn't take prompts, completion_ids, trainer_state, log_extra, "
            "log_metric, solution, index, split: add **kwargs to its parameters",
        ),
        (by_position, "reward function 'by_position' takes completions by its position"),
    ],
)
def test_what_cannot_be_called_is_refused_when_the_trainer_is_made(function, message, tmp_path):
    with pytest.raises(UserError) as caught:
        make_trainer(config(tmp_path), reward=function)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(COLUMNS)


def filtering(function):
    """A decorator that passes on what the function takes: its own signature is the one that counts."""

    @functools.wraps(function)
    def passed(*, completions, answer, **_):
        return function(completions, answer)

    return passed


def looked_up(scores, answer):
    return scores[answer]


def raises(completions, answer, **_):
    return [looked_up({}, one) for one in answer]


async def raises_async(completions, **_):
    raise RuntimeError("no answer\nfrom the judge")


async def returns_too_few(completions, **_):
    return [0.0]


@pytest.mark.parametrize(
    ("function", "cause", "message"),
    [
        (raises, KeyError, r"reward function 'raises' failed: KeyError: '\S+' \(.*test_reward_functions.py, line "
                           r"\d+, in raises; .*line \d+, in looked_up: `return scores\[answer\]`\)\. "),
        (raises_async, RuntimeError, "reward function 'raises_async' failed: RuntimeError: no answer from the judge "),
        (returns_too_few, ValueError, "reward function 'returns_too_few' returned 1 reward for 32 completions: "
                                      "return a list with a number for each completion, or None where"),
    ],
)  # fmt: skip
def test_what_fails_says_where_and_what_it_was_called_with(function, cause, message, tmp_path):
    trainer = make_trainer(config(tmp_path, max_completion_length=4), reward=function)
    with pytest.raises(UserError, match=message) as caught:
        trainer.train()
    assert str(caught.value).endswith(COLUMNS)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, cause)
    assert trainer.reward_funcs == [function]


def test_what_is_right_trains_as_before(tmp_path):
    """A tensor, and an async function that doesn't apply to each sample; their means are TRL's metrics."""

    @filtering
    def tensor(completions, answer):
        return torch.arange(len(completions), dtype=torch.float32)

    async def half(completions, **_):
        return [None if i % 2 else 1 for i in range(len(completions))]

    trainer = make_trainer(config(tmp_path, max_completion_length=4, max_steps=1), reward=[tensor, half])
    trainer.train()
    assert logged(trainer, "rewards/tensor/mean") == [15.5]
    assert logged(trainer, "rewards/half/mean") == [1.0]


RECIPE = (
    "use_cpu: true\nbf16: false\nreport_to: none\nnum_generations: 4\nper_device_train_batch_size: 8\nmax_steps: 1\n"
    "max_completion_length: 4\ndataset_name: ./data\n"
)


@pytest.mark.parametrize(
    ("source", "message", "began"),
    [
        (
            "def f(completions, **_):\n    return texts",
            "reward function 'f' failed: NameError: name 'texts' is not defined (own_rewards.py, line 2, in f: "
            "`return texts`). Reward functions are called with",
            True,
        ),
        (
            "def f(completions, **_):\n    return",
            "reward function 'f' returned None: return a list with a number",
            True,
        ),
        (
            "def f(completions, gold, **_):\n    return",
            "reward function 'f' needs gold, and the data set has no",
            False,
        ),
    ],
)
def test_the_command_says_it_in_a_line(source, message, began, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n' * 4)
    (tmp_path / "recipe.yaml").write_text(RECIPE + "reward_funcs: [own_rewards.f]\n")
    (tmp_path / "own_rewards.py").write_text(source)
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)
    assert main(["train", "recipe.yaml", "--output_dir", "run"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"lambda-grpo: error: {message}")
    assert error.endswith("and the data set's other columns: answer")
    assert (tmp_path / "run").exists() == began
