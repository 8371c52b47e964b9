"""What the trainer holds works without a trainer: plain functions stand in for TRL's generation and scoring."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from lambda_grpo import PRESETS, LambdaState
from lambda_grpo.errors import UserError
from lambda_grpo.objective.batch import GeneratedBatch
from lambda_grpo.trl.fold import Fold
from lambda_grpo.trl.fresh_prompts import FreshPrompts
from lambda_grpo.trl.losses import trl_loss
from lambda_grpo.trl.prompts import PromptLimit, room_for_prompts
from lambda_grpo.trl.rewards import RewardTable
from lambda_grpo.trl.rollouts import RolloutPipeline


class OneProcess:
    """An accelerator on one CPU process."""

    device, num_processes, process_index, is_main_process = torch.device("cpu"), 1, 0, True
    scaler, optimizer_step_was_skipped = None, False

    def gather(self, tensor):
        return tensor

    def reduce(self, tensor, reduction="sum"):
        return tensor


def pipeline(hard, fresh, **settings):
    """Prompts of `hard` are never answered right; of others every second sample is."""
    calls = []

    def generate(prompts):
        calls.append(list(prompts))
        ids = [[i] for i in range(len(prompts))]
        return [[0]] * len(prompts), ids, None, ["text"] * len(prompts), None

    def score(examples, prompts, completions, completion_ids):
        metrics["seen"].append(len(prompts))
        return torch.tensor(
            [[float(p not in hard and ids[0] % 2)] for p, ids in zip(prompts, completion_ids, strict=True)]
        )

    metrics = defaultdict(list)
    made = RolloutPipeline(
        SimpleNamespace(max_resample_times=3, correct_reward=1.0, **settings),
        OneProcess(),
        RewardTable(["right"], torch.ones(1)),
        generate=generate,
        score=score,
        logged=dict,
        group_size=2,
        metrics=metrics,
        pending_metrics=defaultdict(list),
        fresh_prompts=FreshPrompts(Dataset.from_list([{"prompt": p} for p in fresh]), seed=0, shuffle=False),
    )
    return made, calls


def test_the_pipeline_refills_the_groups_that_teach_nothing():
    made, calls = pipeline({"hard", "harder"}, ["a", "harder", "b", "c"])
    batch = made.draw([{"prompt": p} for p in ("a", "a", "hard", "hard")])
    assert [example["prompt"] for example in batch.examples] == ["a", "a", "b", "b"]
    assert batch.policy_rewards[:, 0].tolist() == [0, 1, 0, 0]
    assert batch.rewards[:, 0].tolist() == [0, 1, 0, 1]
    assert calls == [["a", "a", "hard", "hard"], ["harder", "harder"], ["b", "b"]]  # "a" is in the batch already
    assert made.metrics["seen"] == [4]  # what is drawn beyond the batch leaves the metrics as they are
    counts = {name: made.metrics[f"dynamic_sampling/{name}"] for name in ("rounds", "extra_groups", "missing_groups")}
    assert counts == {"rounds": [2], "extra_groups": [2], "missing_groups": [0]}


def test_the_pipeline_gives_up_when_the_budget_is_spent():
    made, calls = pipeline({"x", "y"}, ["x", "y"])
    batch = made.draw([{"prompt": "x"}, {"prompt": "x"}])
    assert len(calls) == 1 + 3
    assert made.metrics["dynamic_sampling/missing_groups"] == [1]
    assert batch.rewards[:, 0].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["lambda_grpo", "lambda_grpo_paper", "dr_grpo", "grpo"])
def test_the_fold_alone(name):
    """TRL's loss divides a sum over tokens of folded advantages: it has to be Σ f A / Z of the objective."""
    objective, lengths, groups = PRESETS[name], [3, 1, 2, 4], [0, 0, 1, 1]
    lambda_ = 1.5 if objective.preference.learnable else 0.0
    state = LambdaState(lambda_, lr=0.5)
    fold = Fold(objective, trl_loss(objective), state, OneProcess(), steps_per_generation=1, max_completion_length=4)
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5])
    batch = GeneratedBatch(
        torch.tensor(lengths, dtype=torch.float32), torch.tensor(groups), advantages, torch.ones(4, dtype=torch.bool)
    )
    fold.begin("train", batch)
    mask = torch.tensor([[1] * n + [0] * (4 - n) for n in lengths])
    inputs = {
        "advantages": advantages, "completion_mask": mask, "sample_index": torch.arange(4),
        "num_items_in_batch": torch.tensor(10),
    }  # fmt: skip
    folded = fold.advantages(inputs, "train", micro_batches=1)
    # each of TRL's losses, with a surrogate of A for each token
    of_tokens = (folded[:, None] * mask).sum(1)
    trl = {
        "batch": of_tokens.sum() / 10,
        "constant": of_tokens.sum() / (4 * 4),
        "response_mean": (of_tokens / torch.tensor(lengths)).mean(),
    }[fold.loss.divides_by]
    f = weights_by_hand(name, lengths, lambda_)
    total = 0.0
    for i, (length, group) in enumerate(zip(lengths, groups, strict=True)):
        tokens_of_group = sum(n for n, g in zip(lengths, groups, strict=True) if g == group)
        z = {"batch": 10, "group": 2 * tokens_of_group, "constant": 4 * 4}[objective.normalizer]
        total += f[i] * advantages[i].item() * length / z
    assert trl.item() == pytest.approx(total, rel=1e-5)
    if objective.preference.learnable:
        trl.backward()
        metrics = defaultdict(list)
        fold.measure(metrics)
        fold.step()
        assert metrics["lambda_grad"][0] != 0.0
        assert state.value == pytest.approx(1.5 - 0.5 * metrics["lambda_grad"][0])
        assert fold.lambda_.item() == state.value


def weights_by_hand(name, lengths, lambda_):
    """f of groups of two: z is ±1, to ε."""
    if name == "grpo":
        return [2.0 / n for n in lengths[:2]] + [3.0 / n for n in lengths[2:]]
    if name == "dr_grpo":
        return [1.0] * 4
    found = []
    for pair in (lengths[:2], lengths[2:]):
        mean = sum(pair) / 2
        sigma = (sum((n - mean) ** 2 for n in pair) / 2) ** 0.5
        g = torch.tensor([(1 + (n - mean) / (sigma + 1e-6) / 9) ** lambda_ for n in pair], dtype=torch.float64)
        found += (2 * torch.softmax(g, 0)).tolist()
    return found


def test_the_prompt_limit_alone():
    def limit(**settings):
        return PromptLimit(
            OneProcess(), max_length=3, room=None, has_chat_template=False, is_made_later=False, batch_prompts=1,
            tokenize=lambda prompts: [list(range(len(p.split()))) for p in prompts], **settings,
        )  # fmt: skip

    rows = Dataset.from_list([{"prompt": "one two"}, {"prompt": "one two three four five"}])
    assert len(limit(overflow="drop").fitting(rows, "training")) == 1
    with pytest.raises(UserError, match=r"row 1 of the training data: .* has 5 tokens, there is room for 3\."):
        limit(overflow=None).fitting(rows, "training")
    metrics = defaultdict(list)
    ids = limit(overflow="truncate_left").limited(["p", "q"], [[1, 2, 3, 4], [5]], metrics, is_stream=False)
    assert ids == [[2, 3, 4], [5]]
    assert metrics == {"prompts/truncated_ratio": [0.5]}
    assert room_for_prompts([None, 10], 4) == 6
    with pytest.raises(UserError, match="leaves no room for a prompt in the model's 4 positions"):
        room_for_prompts([4], 4)
