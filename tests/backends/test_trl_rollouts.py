"""Dynamic sampling, error correction and selection in the trainer, on completions that follow from their prompt."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import AutoTokenizer
from trl.rewards import get_soft_overlong_punishment

from lambda_grpo import PRESETS, group_advantages
from lambda_grpo.backends import trl_correction
from lambda_grpo.backends.fresh_prompts import FreshPrompts
from lambda_grpo.backends.trl_correction import KINDS
from lambda_grpo.backends.trl_rollouts import ROLLOUT_STATE_FILE, Sample
from lambda_grpo.backends.trl_trainer import LambdaGRPOTrainer
from lambda_grpo.models import BUILTIN, resolve_model
from lambda_grpo.training_data import task_dataset
from tests.backends.trl_setup import TASK, config, logged, make_trainer, parameters
from tests.invariant.scripted_run import TOKENIZER, G, Scripted, of, one_third, rare


def scripted(path, reward, **settings):
    trainer = make_trainer(config(path, num_generations=G, **{"max_steps": 1, **settings}), Scripted, reward)
    trainer.train()
    return trainer


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


def start_of(name):
    return 0.5 if name == "daro" else 2.0


NAMES = [
    "dapo", "grpo", "dr_grpo", "luspo", "gmpo", "lambda_grpo", "lambda_grpo_prm", "lite_ppo", "prompt_mean", "daro",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_when_the_budget_is_spent_sits_out(name, tmp_path):
    """The step is the one that the informative groups alone would make."""
    settings = {
        "lambda_init": start_of(name),
        "optim": "sgd",
        "learning_rate": 0.01,
        "dynamic_sampling": True,
        "max_resample_times": 1,
        "seed": 6,
    }
    trainer = scripted(tmp_path, rare, objective=name, **settings)
    (missing,) = logged(trainer, "dynamic_sampling/missing_groups")
    assert 0 < missing < 4
    batch, (_, output, _, _) = trainer._generated["train"], trainer.batches[0]
    sits_out = ~batch.takes_part
    assert sits_out.sum() == missing * G
    assert (output["advantages"][sits_out] == 0).all()
    assert (output["tool_mask"][sits_out] == 0).all()
    assert (output["completion_mask"].sum(1) == batch.lengths).all()  # attention sees what it saw
    assert (batch.weights(trainer.objective, torch.tensor(0.0))[sits_out] == 0).all()
    assert logged(trainer, "selected_share") == [1 - missing / 4]
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
    assert np.any(np.array(trainer.lambda_state.value) != start_of(name)) == PRESETS[name].learnable
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


@pytest.mark.parametrize("name", ["dapo_full", "dr_grpo", "gmpo", "daro", "fspo", "lambda_grpo_prm"])
def test_a_batch_without_any_variance_has_no_gradient(name, tmp_path):
    trainer = scripted(
        tmp_path, lambda completions, **_: [0.5] * len(completions), objective=name, dynamic_sampling=True,
        optim="sgd", max_steps=2,
    )  # fmt: skip
    assert all(loss == 0.0 for loss in logged(trainer, "loss")[:2])
    start = parameters(make_trainer(config(tmp_path / "start"), Scripted, rare))
    assert all(torch.equal(value, start[key]) for key, value in parameters(trainer).items())
    assert logged(trainer, "dynamic_sampling/missing_groups") == [4, 4]
    assert logged(trainer, "dynamic_sampling/extra_groups") == [40, 40]
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
    for settings in ({"objective": "dapo_full"}, {"overlong_buffer_length": 4}, {"select_best_and_worst": 2}):
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
    """Fresh prompts go on where they were, and the chances of a correction are the same."""
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
        with pytest.raises(FileNotFoundError, match="written without dynamic sampling"):
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
    assert torch.equal(trainer._generated["train"].takes_part, kept)
    expected = torch.zeros(32)
    if baseline == "group":
        expected[kept] = group_advantages(rewards, groups)[kept]
    else:
        expected[kept] = group_advantages(rewards[kept], groups[kept])
    torch.testing.assert_close(output["advantages"], expected)


# -- error correction --------------------------------------------------------------------------------------------------


EDGE = {"objective": "edge_grpo", "reflection_prompt": ",", "answer_template": "#{answer}"}


def test_corrections_are_written_as_they_should(tmp_path):
    trainer = scripted(tmp_path, one_third, **EDGE, max_completion_length=14, per_device_train_batch_size=128)
    inputs, output, after, _ = trainer.batches[0]
    own = [row for prompt in after[::G] for row in of(prompt)]
    final = [
        row[mask.bool()].tolist() for row, mask in zip(output["completion_ids"], output["completion_mask"], strict=True)
    ]
    wrong = [i for i, reward in enumerate(one_third(own)) if reward < 1]
    assert [i for i, (a, b) in enumerate(zip(own, final, strict=True)) if a != b and i not in wrong] == []
    comma, (hash_sign,) = TOKENIZER(",")["input_ids"][0], TOKENIZER("#")["input_ids"]
    kinds = Counter()
    for i in wrong:
        body, answer = own[i][:-1], TOKENIZER(f"#{inputs[i]['answer']}")["input_ids"]
        solution = [*TOKENIZER(inputs[i]["solution"])["input_ids"], 1]
        if final[i] == [*body, *answer, 1]:
            kinds["answer"] += 1
        elif final[i] == solution:
            kinds["solution"] += 1
        elif final[i][: len(body) + 1] == [*body, comma]:
            kinds["reflect"] += 1
            assert final[i] != own[i]
        else:  # the answer or the solution didn't fit
            assert final[i] == own[i]
            assert len(body) + 3 > 14 or len(solution) > 14
            kinds["none"] += 1
    assert hash_sign != comma
    assert len(wrong) > 120
    assert kinds["reflect"] / len(wrong) == pytest.approx(0.5, abs=0.13)  # three standard deviations
    assert (kinds["answer"] + kinds["solution"] + kinds["none"]) / len(wrong) == pytest.approx(0.5, abs=0.13)
    counts = [logged(trainer, f"error_correction/{name}") for name in ("reflected", "answered", "replaced")]
    assert counts == [[kinds["reflect"]], [kinds["answer"]], [kinds["solution"]]]
    assert max(map(len, final)) <= 14
    # graded again; what is logged as the policy's reward is the policy's
    rewards = torch.tensor(one_third(final))
    torch.testing.assert_close(output["advantages"], group_advantages(rewards, torch.arange(len(own)) // G))
    assert logged(trainer, "reward") == pytest.approx([sum(one_third(own)) / len(own)])


def test_tokens_that_were_not_sampled_start_at_a_ratio_of_one(tmp_path):
    trainer = make_trainer(
        config(tmp_path, num_generations=G, num_iterations=2, max_steps=1, **EDGE), Scripted, one_third
    )
    start = parameters(trainer)
    trainer.train()
    _, output, _, _ = trainer.batches[0]
    trainer.model.load_state_dict(start, strict=False)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    attention = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    with torch.no_grad():
        logps = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, attention, output["completion_ids"].size(1)
        )[0]
    mask = output["completion_mask"].bool()
    torch.testing.assert_close(output["old_per_token_logps"][mask], logps[mask], rtol=1e-4, atol=1e-5)
    assert logged(trainer, "error_correction/replaced")[0] > 0


def test_only_what_has_changed_is_graded_again_and_all_that_is_read_is_counted(tmp_path):
    graded, metrics = [], []

    def reward(completion_ids, log_metric, log_extra, **_):
        graded.append(len(completion_ids))
        log_metric("calls", float(len(graded)))
        log_extra("call", [len(graded)] * len(completion_ids))
        metrics.append(1)
        return rare(None, completion_ids)

    trainer = scripted(tmp_path, reward, **EDGE, dynamic_sampling=True, max_resample_times=2)
    reflected, answered, replaced = (logged(trainer, f"error_correction/{kind}")[0] for kind in KINDS)
    draws = [prompts for size, prompts, _ in trainer.drawn if size == G]
    continued = [prompts for size, prompts, _ in trainer.drawn if size == 1]
    assert len(draws) > 1  # corrections of all draws are counted
    assert sum(map(len, continued)) >= reflected > 0
    assert reflected + answered + replaced == sum(graded) - sum(map(len, draws))
    assert logged(trainer, "calls") == [1.0]  # what the policy drew for the batch's own prompts
    assert logged(trainer, "num_tokens") == [
        sum(len(p) + len(c) for _, *columns in trainer.drawn for p, c in zip(*columns, strict=True))
    ]


def test_what_is_logged_of_a_sample_is_of_the_grading_that_counts(tmp_path):
    """Of the first where it stays as it was, of the second where it is corrected."""
    graded = []

    def reward(completion_ids, log_extra, **_):
        graded.append(len(completion_ids))
        log_extra("call", [len(graded)] * len(completion_ids))
        return one_third(completion_ids)

    trainer = scripted(tmp_path, reward, **EDGE)
    inputs, _, _, completions = trainer.batches[0]
    own = [row for example in inputs[::G] for row in of(example["prompt"])]
    changed = [
        TOKENIZER.decode(row, skip_special_tokens=True) != text for row, text in zip(own, completions, strict=True)
    ]
    assert list(trainer._logs["extra"]["call"]) == [2 if change else 1 for change in changed]
    assert graded == [32, sum(changed)]


def test_a_completion_ends_as_the_sample_did():
    """Of several tokens that end one, not the first in some list."""
    sample = Sample({}, [5], [6, 7, 9], "", None, {})
    trainer = SimpleNamespace(eos_token_ids=[4, 9], _tokenizer=SimpleNamespace(eos_token_id=4))
    assert trl_correction._end(trainer, sample) == 9
    assert trl_correction._body(trainer, sample) == [6, 7]
    cut = Sample({}, [5], [6, 7], "", None, {})
    assert trl_correction._end(trainer, cut) == 4
    assert trl_correction._body(trainer, cut) == [6, 7]


def test_a_solution_may_be_a_message():
    message = [{"role": "assistant", "content": "#4"}]
    assert trl_correction._column({"solution": message}, "solution") == "#4"
    assert trl_correction._column({"solution": 4}, "solution") == "4"
    with pytest.raises(ValueError, match=r"none that is text \(its columns: solution\)"):
        trl_correction._column({"solution": message * 2}, "solution")


def test_a_column_that_is_missing_is_named(tmp_path):
    def trainer(rows, **settings):
        return LambdaGRPOTrainer(
            model=resolve_model(BUILTIN), reward_funcs=one_third, processing_class=TOKENIZER, train_dataset=rows,
            args=config(tmp_path, max_steps=1, **{**EDGE, **settings}),
        )  # fmt: skip

    whole = task_dataset(TASK)
    without = whole.remove_columns("solution")
    with pytest.raises(ValueError, match="add a column 'solution', or set error_correction"):
        trainer(without)
    trainer(without, error_correction=[0.5, 0.5, 0.0])
    gap = Dataset.from_list([whole[0]] + [{**row, "solution": None} for row in whole.select(range(1, 64))])
    with pytest.raises(ValueError, match="add a column 'solution', or set error_correction"):
        trainer(gap, error_correction=[0.0, 0.0, 1.0]).train()


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
