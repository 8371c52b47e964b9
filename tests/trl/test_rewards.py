"""TRL's reward functions: an advantage of exactly 0 where a group's rewards are equal, and each under its own name."""

import math
from functools import partial

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOTrainer

from lambda_grpo.training.data import task_dataset
from lambda_grpo.trl import LambdaGRPOTrainer
from lambda_grpo.trl.advantages import equal_groups
from lambda_grpo.trl.rewards import distinct_names
from tests.invariant.scripted_run import G, Scripted, completion, of
from tests.objective import reference
from tests.trl.setup import TASK, config, logged, make_trainer, parameters, stock_config

# -- equal rewards -----------------------------------------------------------------------------------------------------


class StockScripted(GRPOTrainer):
    """TRL's own trainer on the same completions; its batches are written down."""

    def _generate_single_turn(self, prompt_ids, images, fields, num_generations, has_tool_images=False):
        self.batches = []
        return [completion(ids, i % num_generations) for i, ids in enumerate(prompt_ids)], None

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.batches.append((inputs, output))
        return output


def is_easy(prompt):
    """Whether every answer gets the same."""
    return sum(map(ord, prompt)) % 2 == 0


def easy(prompts, completion_ids, value=0.7, **_):
    """One reward for half of the prompts, whatever is answered; a mean of eight of it is off by rounding."""
    return [value if is_easy(p) else float(sum(ids) % 2) for p, ids in zip(prompts, completion_ids, strict=True)]


def in_parts(prompts, completion_ids, **_):
    """Rest of `parts`: with it 0.7 in sum, or what `easy` gives."""
    whole = easy(prompts, completion_ids)
    return [w - p for w, p in zip(whole, parts(prompts, completion_ids), strict=True)]


def parts(prompts, completion_ids, **_):
    """Parts of one sum that differ among equal ones, some of which float32 doesn't add up to it."""
    return [0.1 * (sum(ids) % 7) for ids in completion_ids]


REWARDS = {"one function": easy, "the sum of two": [parts, in_parts]}


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("rewards", REWARDS)
def test_advantages_are_trls_bit_for_bit_but_for_groups_of_equal_rewards(rewards, scale, tmp_path):
    """There TRL's are off 0 by rounding. In the trainer's log as well."""
    shared = {"num_generations": G, "max_steps": 1, "scale_rewards": scale, "seed": 1}
    peer = make_trainer(stock_config(tmp_path / "stock", loss_type="dapo", **shared), StockScripted, REWARDS[rewards])
    peer.train()
    ours = make_trainer(config(tmp_path / "ours", objective="dapo", **shared), Scripted, REWARDS[rewards])
    ours.train()
    (inputs, theirs), (_, output, _, _) = peer.batches[0], ours.batches[0]
    equal = torch.tensor([is_easy(example["prompt"]) for example in inputs])
    assert 0 < equal.sum() < len(equal)
    found, expected = output["advantages"], theirs["advantages"]
    assert torch.equal(found[~equal], expected[~equal])
    assert (found[equal] == 0).all()
    assert not (expected[equal] == 0).all()  # TRL's departure from 0, the reason for ours from TRL
    assert list(ours._logs["advantages"]) == pytest.approx(found.tolist(), abs=0)
    assert logged(ours, "frac_reward_zero_std") == pytest.approx([equal.double().mean().item()])
    assert logged(ours, "informative_groups") == pytest.approx([1 - equal.double().mean().item()])


NORMALISED = {
    "num_generations": G, "max_steps": 1, "multi_objective_aggregation": "normalize_then_sum",
    "reward_weights": [1.0, 0.5], "seed": 1,
}  # fmt: skip


@pytest.mark.parametrize("other", [parts, partial(easy, value=0.3)], ids=["informative", "equal"])
def test_no_function_leaves_a_residue_where_each_is_normalised(other, tmp_path):
    """Against a loop in float64. Beside one that tells a group's samples apart, the other must not."""
    rewards = [easy, other]
    trainer = make_trainer(config(tmp_path, objective="dapo", **NORMALISED), Scripted, rewards)
    trainer.train()
    inputs, output, _, _ = trainer.batches[0]
    prompts = [example["prompt"] for example in inputs]
    ids = [row for prompt in prompts[::G] for row in of(prompt)]
    total = [0.0] * len(ids)
    for function, weight in zip(rewards, NORMALISED["reward_weights"], strict=True):
        normalised = reference.advantages(function(prompts, ids), [i // G for i in range(len(ids))], "group")
        for i, value in enumerate(normalised):
            total[i] += weight * (0.0 if abs(value) < 1e-9 else value)  # a float64 mean rounds, too
    expected = reference.advantages(total, [0] * len(ids), "group")
    assert output["advantages"].tolist() == pytest.approx(expected, abs=2e-5)
    nothing = torch.tensor([is_easy(prompt) for prompt in prompts]) & (other is not parts)
    assert (output["advantages"][nothing] == 0).all()
    assert logged(trainer, "frac_reward_zero_std") == pytest.approx([nothing.double().mean().item()])


def test_normalised_rewards_are_trls_where_its_means_are_exact(tmp_path):
    rewards = [partial(easy, value=1.0), partial(easy, value=0.5)]
    peer = make_trainer(stock_config(tmp_path / "stock", **NORMALISED), StockScripted, rewards)
    ours = make_trainer(config(tmp_path / "ours", objective="dapo", **NORMALISED), Scripted, rewards)
    peer.train()
    ours.train()
    (inputs, theirs), (_, output, _, _) = peer.batches[0], ours.batches[0]
    equal = torch.tensor([is_easy(example["prompt"]) for example in inputs])
    assert torch.equal(output["advantages"][~equal], theirs["advantages"][~equal])
    assert (output["advantages"][equal] == 0).all()


DECIMALS = st.lists(st.lists(st.integers(-30, 30), min_size=3, max_size=3), min_size=4, max_size=4)


@given(DECIMALS, st.integers(-40, 40), st.lists(st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.0]), min_size=4, max_size=4))
def test_decimals_of_one_sum_are_equal(columns, total, weights):
    """Tenths in four functions, the last one what is left to the same sum: exact in integers, rounded in float32."""
    tenths = torch.tensor(columns, dtype=torch.float64)[:3]  # (F - 1, 3)
    weights = [1.0, *weights[1:]]
    rest = total - sum(w * t for w, t in zip(weights[1:], tenths, strict=True))
    rewards = torch.stack([rest, *tenths], 1) / 10
    found = equal_groups(rewards.float(), torch.tensor(weights), 3, "sum_then_normalize")
    assert not found.differs.any()
    apart = rewards.clone()
    apart[0, 0] += 1e-3
    assert equal_groups(apart.float(), torch.tensor(weights), 3, "sum_then_normalize").differs.all()


def test_what_could_not_be_scored_is_left_out():
    nan = math.nan
    rewards = torch.tensor([[0.7], [nan], [0.7], [nan], [nan], [nan], [0.7], [nan], [0.1]])
    for aggregation in ("sum_then_normalize", "normalize_then_sum"):
        found = equal_groups(rewards, torch.ones(1), 3, aggregation)
        assert found.differs.tolist() == [False] * 6 + [True] * 3


@pytest.mark.parametrize("eval_size", [4, 1])
def test_an_evaluation_has_the_same_advantages(eval_size, tmp_path):
    """Of a batch that is larger than what TRL keeps a log of, too."""
    settings = {
        "eval_strategy": "steps", "num_generations_eval": eval_size, "per_device_eval_batch_size": 64,
        "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1,
    }  # fmt: skip
    trainer = make_trainer(
        config(tmp_path, objective="dapo", max_steps=1, **settings), Scripted,
        lambda completions, **_: [0.7] * len(completions), eval_dataset=task_dataset(TASK).select(range(16)),
    )  # fmt: skip
    assert trainer.evaluate()["eval_loss"] == 0.0
    assert all((output["advantages"] == 0).all() for _, output, _, _ in trainer.batches)
    assert logged(trainer, "eval_frac_reward_zero_std") == [1.0]


def equal_rewards(inputs, *_):
    return torch.full((len(inputs), 1), 0.7)


class CalculatesItself(LambdaGRPOTrainer):
    def _calculate_rewards(self, inputs, *_):
        return equal_rewards(inputs)


@pytest.mark.parametrize("trainer_class", [CalculatesItself, LambdaGRPOTrainer])
def test_rewards_may_be_calculated_by_a_subclass_or_an_object(trainer_class, tmp_path):
    trainer = make_trainer(config(tmp_path, objective="lambda_grpo", max_steps=1), trainer_class)
    if trainer_class is LambdaGRPOTrainer:
        trainer._calculate_rewards = equal_rewards
    before = parameters(trainer)
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in parameters(trainer).items())
    assert logged(trainer, "frac_reward_zero_std") == [1.0]
    assert ("_calculate_rewards" in vars(trainer)) == (trainer_class is LambdaGRPOTrainer)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a"], ["a_1", "a_2"]),
        (["a", "b", "a", "a"], ["a_1", "b", "a_2", "a_3"]),
        (["a", "a_1", "a"], ["a_2", "a_1", "a_3"]),
        (["a_1", "a", "a_1", "a"], ["a_1_1", "a_2", "a_1_2", "a_3"]),
        (["<lambda>", "<lambda>"], ["<lambda>_1", "<lambda>_2"]),
        (["advantage", "completion"], ["advantage_1", "completion_1"]),  # TRL's table has columns of these names
        ([], []),
    ],
)
def test_names_are_told_apart(names, expected):
    assert distinct_names(names) == expected


@given(st.lists(st.sampled_from(["a", "a_1", "a_2", "a_1_1", "step"]), max_size=8))
def test_no_two_names_are_the_same(names):
    found = distinct_names(names)
    assert len({*found, "step"}) == len(names) + 1
    assert [new for old, new in zip(names, found, strict=True) if names.count(old) == 1 and old != "step"] == [
        old for old in names if names.count(old) == 1 and old != "step"
    ]


def length(completion_ids, factor=1.0, **_):
    return [factor * len(ids) for ids in completion_ids]


def length_1(completion_ids, **_):
    return [100.0 if len(ids) > 6 else None for ids in completion_ids]


class Length:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, completion_ids, **_):
        return length(completion_ids, self.factor)


FUNCTIONS = {
    "length_2": partial(length, factor=2.0),
    "length_3": length,
    "length_1": length_1,
    "Length_1": Length(-1.0),
    "<lambda>_1": lambda completion_ids, **_: length(completion_ids, -2.0),
    "Length_2": Length(-3.0),
    "<lambda>_2": lambda completion_ids, **_: length(completion_ids, -4.0),
}


def test_each_function_is_recorded_under_its_own_name(tmp_path):
    """In metrics, samples, TRL's table and the card, beside the weighted sum."""
    samples, weights = [], [1.0, 10.0, 0.5, 1.0, 1.0, 2.0, 1.0]
    trainer = make_trainer(
        config(tmp_path, num_generations=G, max_steps=1, reward_weights=weights, log_completions=True),
        Scripted, list(FUNCTIONS.values()), on_samples=samples.append,
    )  # fmt: skip
    trainer.train()
    (batch,) = samples
    ids = [row for prompt in batch["prompt"][::G] for row in of(prompt)]
    expected = {name: function(completion_ids=ids) for name, function in FUNCTIONS.items()}
    assert trainer.reward_func_names == list(expected)
    (table,) = (tmp_path / "completions").glob("completions_*.parquet")
    columns = pq.read_table(table).to_pydict()
    for name, values in expected.items():
        assert batch[f"reward/{name}"] == values
        known = [value for value in values if value is not None]
        assert logged(trainer, f"rewards/{name}/mean") == pytest.approx([sum(known) / len(known)])
        in_table = [None if value is None or math.isnan(value) else value for value in columns[name]]
        assert in_table == values
    sums = [
        sum(w * v for w, v in zip(weights, row, strict=True) if v is not None)
        for row in zip(*expected.values(), strict=True)
    ]
    assert batch["reward"] == pytest.approx(sums)
    assert logged(trainer, "reward") == pytest.approx([sum(sums) / len(sums)])
    trainer.create_model_card()
    assert ", ".join(expected) in (tmp_path / "README.md").read_text()
