"""Dynamic sampling, error correction and selection in the trainer, on completions determined by their prompt."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import AutoTokenizer
from trl.rewards import get_soft_overlong_punishment

from lambda_grpo import PRESETS, group_advantages
from lambda_grpo.errors import UserError
from lambda_grpo.models import BUILTIN, resolve_model
from lambda_grpo.training.data import task_dataset
from lambda_grpo.trl import LambdaGRPOTrainer
from lambda_grpo.trl.fresh_prompts import ROLLOUT_STATE_FILE, FreshPrompts
from tests.invariant.scripted_run import TOKENIZER, G, Scripted, of, one_third, rare, scripted
from tests.trl.setup import TASK, config, logged, make_trainer, parameters

# -- fresh prompts -----------------------------------------------------------------------------------------------------


def rows(count):
    return Dataset.from_dict({"prompt": [str(i) for i in range(count)]})


def prompts(examples):
    return [example["prompt"] for example in examples]


def test_fresh_prompts_come_in_passes_and_go_on_where_they_were():
    stream = FreshPrompts(rows(10), seed=3)
    first = prompts(stream.take(4, set()))
    state = json.loads(json.dumps(stream.state_dict()))
    rest = prompts(stream.take(6, set()))
    assert sorted(first + rest) == sorted(prompts(rows(10)))
    second_pass = prompts(stream.take(10, set()))
    assert sorted(second_pass) == sorted(first + rest)
    assert second_pass != first + rest
    again = FreshPrompts(rows(10), seed=3)
    again.load_state_dict(state)
    assert prompts(again.take(6, set())) == rest
    assert prompts(again.take(10, set())) == second_pass
    assert prompts(FreshPrompts(rows(10), seed=4).take(10, set())) != first + rest
    assert prompts(FreshPrompts(rows(10), seed=4, shuffle=False).take(3, set())) == ["0", "1", "2"]


def test_fresh_prompts_are_not_among_those_of_the_batch():
    seen = {json.dumps(str(i)) for i in range(7)}
    assert sorted(prompts(FreshPrompts(rows(10), seed=0).take(3, seen))) == ["7", "8", "9"]
    assert len(seen) == 10
    assert len(FreshPrompts(rows(2), seed=0).take(5, set())) == 5  # too few: some come again


def test_fresh_prompts_of_a_stream_go_on_where_they_were():
    stream = FreshPrompts(rows(12).to_iterable_dataset(num_shards=3), seed=3)
    assert isinstance(stream.dataset, IterableDataset)
    first, state = prompts(stream.take(5, set())), stream.state_dict()
    rest = prompts(stream.take(9, set()))
    assert sorted(first + rest[:7]) == sorted(prompts(rows(12)))
    again = FreshPrompts(rows(12).to_iterable_dataset(num_shards=3), seed=3)
    again.load_state_dict(state)
    assert prompts(again.take(9, set())) == rest


# -- dynamic sampling --------------------------------------------------------------------------------------------------


def test_groups_without_variance_are_replaced(tmp_path):
    """Against a loop over the prompts that the batch has and the ones that follow."""
    plain = scripted(tmp_path / "plain", rare)
    trainer = scripted(tmp_path / "dynamic", rare, dynamic_sampling=True, max_resample_times=50)
    (_, _, before, _), (_, output, after, completions) = plain.batches[0], trainer.batches[0]
    assert len(after) == 32
    fresh = FreshPrompts(task_dataset(TASK), trainer.args.seed + 1)
    seen, extra, unused, rounds = {json.dumps(p) for p in before}, 0, 0, 0
    expected = before[::G]
    while missing := [slot for slot, prompt in enumerate(expected) if len(set(rare(None, of(prompt)))) == 1]:
        new = prompts(fresh.take(len(missing), seen))
        good = [prompt for prompt in new if len(set(rare(None, of(prompt)))) == 2]
        for slot, prompt in zip(missing, good, strict=False):
            expected[slot] = prompt
        extra, unused, rounds = extra + len(new), unused + max(0, len(good) - len(missing)), rounds + 1
    assert rounds > 1
    assert after == [prompt for prompt in expected for _ in range(G)]
    ids = [row for prompt in expected for row in of(prompt)]
    assert completions == TOKENIZER.batch_decode(ids, skip_special_tokens=True)
    rewards = torch.tensor(rare(None, ids))
    groups = torch.arange(32) // G
    torch.testing.assert_close(output["advantages"], group_advantages(rewards, groups))
    assert output["num_items_in_batch"] == sum(map(len, ids))
    (found,) = [entry for entry in trainer.state.log_history if "dynamic_sampling/rounds" in entry]
    counts = {name: found[f"dynamic_sampling/{name}"] for name in ("rounds", "extra_groups", "missing_groups")}
    assert counts == {"rounds": rounds, "extra_groups": extra, "missing_groups": 0}
    assert found["dynamic_sampling/unused_groups"] == unused
    # what the policy does is told from the batch's own prompts, as without dynamic sampling
    for key in ("reward", "reward_std", "rewards/rare/mean", "frac_reward_zero_std", "completions/mean_length"):
        assert logged(trainer, key) == pytest.approx(logged(plain, key)), key
    drawn = sum(len(p) + len(c) for _, *rows in trainer.drawn for p, c in zip(*rows, strict=True))
    assert logged(trainer, "num_tokens") == [drawn]
    assert logged(trainer, "generated_tokens") == [sum(len(c) for _, _, rows in trainer.drawn for c in rows)]


def start_of(name):
    return 0.5 if name == "daro" else 2.0


NAMES = [
    "dapo", "grpo", "dr_grpo", "luspo", "gmpo", "lambda_grpo", "lambda_grpo_prm", "lite_ppo", "prompt_mean", "daro",
]  # fmt: skip


WAYS = {"drawn": {"dynamic_sampling": True, "max_resample_times": 1}, "dropped": {"drop_zero_variance": True}}


@pytest.mark.parametrize(
    ("name", "way"),
    [*((name, "drawn") for name in NAMES), *((name, "dropped") for name in NAMES if name not in ("luspo", "gmpo"))],
)
def test_groups_without_variance_are_filtered_out(name, way, tmp_path):
    """The step is the one that the informative groups alone would make."""
    settings = {"lambda_init": start_of(name), "optim": "sgd", "learning_rate": 0.01, "seed": 6, **WAYS[way]}
    trainer = scripted(tmp_path, rare, objective=name, **settings)
    missing = sum(len(set(rare(None, of(prompt)))) == 1 for prompt in trainer.batches[0][2][::G])
    assert 0 < missing < 4
    assert logged(trainer, "dynamic_sampling/missing_groups") == ([missing] if way == "drawn" else [])
    if way == "dropped":  # and none is drawn in their place
        assert len(trainer.drawn) == 1
        assert logged(trainer, "frac_reward_zero_std") == logged(trainer, "selected_share") == [1 - missing / 4]
    batch, (_, output, _, _) = trainer.fold.batches["train"], trainer.batches[0]
    filtered_out = ~batch.is_kept
    assert filtered_out.sum() == missing * G
    assert (output["advantages"][filtered_out] == 0).all()
    assert (output["tool_mask"][filtered_out] == 0).all()
    assert (output["completion_mask"].sum(1) == batch.lengths).all()  # attention sees what it saw
    assert (batch.weights(trainer.objective, torch.tensor(0.0))[filtered_out] == 0).all()
    assert logged(trainer, "selected_share") == logged(trainer, "informative_groups") == [1 - missing / 4]
    assert output["num_items_in_batch"] == batch.lengths[~filtered_out].sum()
    kept = [example for example in trainer.batches[0][2][::G] if len(set(rare(None, of(example)))) == 2]

    class Alone(Scripted):
        def get_train_dataloader(self):
            rows = {example["prompt"]: example for example in task_dataset(TASK)}
            return [[rows[prompt] for prompt in kept for _ in range(G)]]

    alone = make_trainer(
        config(
            tmp_path / "alone", num_generations=G, max_steps=1, objective=name, lambda_init=start_of(name), optim="sgd",
            learning_rate=0.01, per_device_train_batch_size=len(kept) * G, gradient_accumulation_steps=1,
        ),
        Alone,
        rare,
    )  # fmt: skip
    alone.train()
    assert trainer.lambda_state.value == pytest.approx(alone.lambda_state.value, rel=1e-6)
    assert np.any(np.array(trainer.lambda_state.value) != start_of(name)) == PRESETS[name].preference.learnable
    theirs = parameters(alone)
    start = parameters(make_trainer(config(tmp_path / "start"), Scripted, rare))
    for key, value in parameters(trainer).items():
        torch.testing.assert_close(value - start[key], theirs[key] - start[key], rtol=1e-3, atol=3e-7)


def test_the_length_penalty_makes_no_group_informative_and_is_added_to_the_reward(tmp_path):
    trainer = scripted(
        tmp_path, rare, objective="dapo_full", max_completion_length=12, overlong_buffer_length=6, max_resample_times=50
    )
    _, output, after, _ = trainer.batches[0]
    ids = [row for prompt in after[::G] for row in of(prompt)]
    task = torch.tensor(rare(None, ids))
    assert all(len(set(group)) == 2 for group in task.view(-1, G).tolist())
    penalty = torch.tensor([min(0.0, (6 - len(row)) / 6) for row in ids])
    assert (penalty < 0).any()
    expected = group_advantages(task + penalty, torch.arange(32) // G)
    torch.testing.assert_close(output["advantages"], expected, rtol=1e-4, atol=1e-5)
    assert logged(trainer, "rewards/soft_overlong_punishment_reward/mean")[0] < 0


@pytest.mark.parametrize("way", [{"dynamic_sampling": True}, {"drop_zero_variance": True}, {}], ids=str)
@pytest.mark.parametrize("name", ["dapo_full", "dr_grpo", "gmpo", "daro", "fspo", "lambda_grpo_prm", "lambda_grpo"])
def test_a_batch_without_any_variance_has_no_gradient(name, way, tmp_path):
    """Nothing is divided by 0, and Adam, which makes whole steps of the least gradient, makes none."""
    trainer = scripted(
        tmp_path, lambda completions, **_: [0.7] * len(completions), objective=name, max_steps=2,
        lambda_optimizer="adam", **{"dynamic_sampling": False, "overlong_buffer_length": 0, **way},
    )  # fmt: skip
    assert logged(trainer, "loss")[:2] == logged(trainer, "grad_norm") == [0.0, 0.0]
    start = parameters(make_trainer(config(tmp_path / "start"), Scripted, rare))
    assert all(torch.equal(value, start[key]) for key, value in parameters(trainer).items())
    assert logged(trainer, "frac_reward_zero_std") == [1.0, 1.0]
    assert logged(trainer, "informative_groups") == [0.0, 0.0]
    if PRESETS[name].preference.learnable:
        assert not np.any(logged(trainer, "lambda_grad"))
        assert trainer.lambda_state.state_dict()["moments"] == {}
    if "dynamic_sampling" in way:
        assert logged(trainer, "dynamic_sampling/missing_groups") == [4, 4]
        assert logged(trainer, "dynamic_sampling/extra_groups") == [40, 40]
    if way:
        assert logged(trainer, "weight_min") == [None, None]


def test_samples_are_reported_with_the_examples_that_they_answer(tmp_path):
    batches, by_prompt = [], {TASK[i].prompt: TASK[i] for i in range(len(TASK))}
    args = config(tmp_path, max_steps=1, dynamic_sampling=True, max_resample_times=50)
    make_trainer(args, Scripted, rare, on_samples=batches.append).train()
    (batch,) = batches
    assert [by_prompt[prompt].answer for prompt in batch["prompt"]] == batch["answer"]
    ids = [row for prompt in batch["prompt"][::G] for row in of(prompt)]
    assert batch["reward"] == rare(None, ids)
    assert batch["length"] == [len(row) for row in ids]


@pytest.mark.parametrize("dynamic", [False, True])
def test_what_nobody_could_score_is_no_wrong_answer(dynamic, tmp_path):
    """Also where a length penalty could be told."""

    def reward(completion_ids, **_):
        return [None if len(ids) % 2 else float(sum(ids) % 3 == 0) for ids in completion_ids]

    trainer = scripted(
        tmp_path, reward, objective="dapo_full", dynamic_sampling=dynamic, max_completion_length=12,
        overlong_buffer_length=6,
    )  # fmt: skip
    _, output, after, _ = trainer.batches[0]
    ids = [row for prompt in after[::G] for row in of(prompt)]
    rewards = [
        float("nan") if r is None else r + min(0.0, (6 - len(i)) / 6) for r, i in zip(reward(ids), ids, strict=True)
    ]
    expected = group_advantages(torch.tensor(rewards), torch.arange(32) // G)
    torch.testing.assert_close(output["advantages"], expected, rtol=1e-4, atol=1e-5)
    assert any(r is None for r in reward(ids))


def test_what_does_not_go_together_is_refused(tmp_path):
    with pytest.raises(ValueError, match="soft_overlong_punishment_reward is a reward function already"):
        make_trainer(config(tmp_path, objective="dapo_full"), reward=get_soft_overlong_punishment(40, 8))
    for settings in (
        {"objective": "dapo_full"}, {"overlong_buffer_length": 4}, {"select_best_and_worst": 2},
        {"drop_zero_variance": True},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="need multi_objective_aggregation 'sum_then_normalize'"):
            config(tmp_path, multi_objective_aggregation="normalize_then_sum", **settings)


def test_nothing_is_drawn_for_an_evaluation(tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 4, "per_device_eval_batch_size": 8}
    args = config(tmp_path, objective="dapo_full", max_steps=1, **settings)
    trainer = make_trainer(args, Scripted, rare, eval_dataset=task_dataset(TASK).select(range(4)))
    trainer.evaluate()
    assert [len(prompts) for _, prompts, _ in trainer.drawn] == [8, 8]


@pytest.mark.parametrize("name", ["dapo_full", "edge_grpo"])
def test_resume_is_exact(name, tmp_path):
    """Fresh prompts continue where they were, and the chances of a correction are the same."""
    settings = {
        "objective": name, "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "reflection_prompt": ",",
        "answer_template": "#{answer}",
    }  # fmt: skip
    whole = make_trainer(config(tmp_path, **settings))
    whole.train()
    resumed = make_trainer(config(tmp_path, **settings))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    key = "dynamic_sampling/extra_groups" if name == "dapo_full" else "error_correction/reflected"
    assert sum(logged(whole, key)) > 0
    assert logged(resumed, key) == logged(whole, key)
    theirs = parameters(whole)
    assert all(torch.equal(value, theirs[key]) for key, value in parameters(resumed).items())
    if name == "dapo_full":
        (tmp_path / "checkpoint-3" / ROLLOUT_STATE_FILE).unlink()
        with pytest.raises(UserError, match=r"it lacks rollout_state\.json \(written without dynamic sampling\?\)"):
            make_trainer(config(tmp_path, **settings)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_the_data_keep_their_order(tmp_path):
    """Every objective sees the same prompts first, whatever dynamic sampling draws beside them."""
    plain = scripted(tmp_path / "plain", rare, max_steps=3)
    dynamic = scripted(tmp_path / "dynamic", rare, max_steps=3, dynamic_sampling=True)
    theirs = [prompts(inputs) for inputs, *_ in plain.batches]
    assert [prompts(inputs) for inputs, *_ in dynamic.batches] == theirs


# -- selection ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["group", "selected"])
def test_selected_samples_have_the_advantages_of_their_baseline(baseline, tmp_path):
    trainer = scripted(tmp_path, one_third, objective="devis_grpo", selection_baseline=baseline)
    _, output, after, _ = trainer.batches[0]
    ids = [row for prompt in after[::G] for row in of(prompt)]
    rewards, groups = torch.tensor(one_third(ids)), torch.arange(32) // G
    kept = PRESETS["devis_grpo"].rollouts.selection(rewards, groups)
    assert kept.sum() == 16
    assert torch.equal(trainer.fold.batches["train"].is_kept, kept)
    expected = torch.zeros(32)
    if baseline == "group":
        expected[kept] = group_advantages(rewards, groups)[kept]
    else:
        expected[kept] = group_advantages(rewards[kept], groups[kept])
    torch.testing.assert_close(output["advantages"], expected)


def test_what_reward_functions_log_stays_with_its_sample(tmp_path):
    def reward(completion_ids, log_extra, **_):
        log_extra("ids", [str(ids) for ids in completion_ids])
        return rare(None, completion_ids)

    trainer = make_trainer(
        config(tmp_path, num_generations=G, max_steps=2, dynamic_sampling=True, max_resample_times=50), Scripted, reward
    )
    trainer.train()
    own = [str(row) for prompt in trainer.batches[-1][2][::G] for row in of(prompt)]
    assert list(trainer._logs["extra"]["ids"]) == own


def refused(tmp_path, what, **arguments):
    given = {"train_dataset": task_dataset(TASK), "processing_class": TOKENIZER, **arguments}
    args = config(tmp_path, objective="dapo_full")
    with pytest.raises(ValueError, match=f"take text of a single turn: leave {what} out"):
        LambdaGRPOTrainer(model=resolve_model(BUILTIN), reward_funcs=rare, args=args, **given)


def test_several_turns_are_refused(tmp_path):
    refused(tmp_path, "rollout_func", rollout_func=lambda prompts, trainer: {})
    refused(tmp_path, "images", train_dataset=Dataset.from_dict({"prompt": ["1+1="] * 8, "image": [None] * 8}))
    parsing = AutoTokenizer.from_pretrained(resolve_model(BUILTIN))
    parsing.response_schema = {"type": "object"}
    refused(tmp_path, "the tokenizer's response template", processing_class=parsing)
