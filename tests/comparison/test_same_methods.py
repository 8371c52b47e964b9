"""Which arms of a study are the same method: against the papers' loops, against real training, and by hand."""

import time
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_grpo import PRESETS, Objective
from lambda_grpo.comparison import read_study
from lambda_grpo.comparison.loss_gradients import ModelFreeTrainer, make_batch, with_fewer_samples
from lambda_grpo.comparison.same_methods import describe, same_methods
from lambda_grpo.objective import Clip, Preference, Surrogate, Uniform
from lambda_grpo.training.recipe import Recipe
from tests.objective import reference
from tests.trl.setup import make_trainer, parameters

SMALL = ["--max_completion_length", "24", "--per_device_train_batch_size", "32"]
ON_POLICY = {"gspo": "grpo", "gmpo": "grpo", "sapo": "grpo", "cispo": "dapo", "vespo": "dapo", "fspo": "luspo"}
TWICE = ["--num_iterations", "2"]


def make_study(objectives, *overrides):
    return read_study(None, {"objectives": objectives, "tasks": ["arithmetic"], "seeds": 1}, [*SMALL, *overrides])


def settings_of(study, arm):
    keys = study.recipe_keys(arm, "arithmetic", study.learning_rates[0], 1)
    return Recipe.parse({**keys, "output_dir": "unused"})


@pytest.mark.parametrize(
    ("overrides", "expected"),
    {
        "one micro-batch": ([], ON_POLICY | {"bnpo": "dapo"}),
        "two micro-batches": (["--per_device_train_batch_size", "16", "--gradient_accumulation_steps", "2"], ON_POLICY),
        "a group in several micro-batches": (
            ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "8"], ON_POLICY
        ),
        "two batches in a step": (
            ["--gradient_accumulation_steps", "2", "--steps_per_generation", "1"], ON_POLICY | {"bnpo": "dapo"}
        ),
        "one prompt": (
            ["--per_device_train_batch_size", "8"],
            ON_POLICY
            | {"bnpo": "dapo", "prompt_mean": "dapo", "lite_ppo": "dapo", "lambda_grpo_paper": "lambda_grpo"},
        ),
        "frozen": (
            ["--lambda_lr", "0"],
            ON_POLICY | dict.fromkeys(("bnpo", "lambda_grpo", "lambda_grpo_linear", "lambda_grpo_exp"), "dapo"),
        ),
        "frozen elsewhere": (["--lambda_lr", "0", "--lambda_init", "0.5"], ON_POLICY | {"bnpo": "dapo"}),
        "truncated": (["--mask_truncated_completions", "true"], ON_POLICY | {"bnpo": "dapo"}),
        # FSPO and LUSPO average the KL term differently
        "kl": (
            ["--beta", "0.04", "--use_bias_correction_kl", "false"],
            {arm: other for arm, other in ON_POLICY.items() if arm != "fspo"} | {"bnpo": "dapo"},
        ),
        # TRL multiplies it by the ratio, whose gradient is GSPO's own
        "kl with ratios": (
            ["--beta", "0.04"],
            {arm: other for arm, other in ON_POLICY.items() if arm not in ("fspo", "gspo")} | {"bnpo": "dapo"},
        ),
        "two iterations": (TWICE, {"bnpo": "dapo"}),
        "two steps": (["--steps_per_generation", "2", "--per_device_train_batch_size", "16"], {}),
    }.values(),
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_which_presets_are_the_same(overrides, expected):
    """By hand: at ρ = 1 a surrogate's gradient is A, A/|o| with one ratio for a response, A·|o| with FSPO's product."""
    study = make_study(list(PRESETS), *overrides)
    started = time.process_time()
    found = same_methods(study)
    assert time.process_time() - started < 5
    assert found == expected
    assert len(describe(found, study)) <= len(found)


# -- the gradients that are compared ----------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [[], TWICE], ids=["on policy", "off policy"])
@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("dapo_full", "devis_grpo")])
def test_gradients_are_those_of_the_papers_loops(name, overrides, tmp_path):
    """From rewards on; the two that are left out filter samples, which the trainer's own tests check."""
    whole = settings_of(make_study([name, "dapo"] if name != "dapo" else [name, "grpo"], *overrides), name).settings()
    trainer = ModelFreeTrainer(with_fewer_samples(whole), str(tmp_path))
    batch = make_batch(with_fewer_samples(whole), 1, on_policy=not overrides)
    learns = trainer.objective.preference.learnable
    lambda_ = torch.full_like(trainer.fold.lambda_, 0.7 if learns else 0.0)
    found = trainer.gradients(batch, [lambda_])

    lengths = torch.tensor([len(ids) for ids in batch.completions])
    ids = torch.arange(len(lengths)) // 8
    scale = reference.ADVANTAGE_SCALES.get(name, "group")
    logps, leaf = batch.logps.clone().requires_grad_(), lambda_.clone().requires_grad_()
    width = batch.logps.size(1)
    loops = reference.Batch.of(
        {
            "per_token_logps": logps,
            "old_per_token_logps": batch.old_logps,
            "advantages": torch.tensor(reference.advantages(batch.rewards[:, 0].tolist(), ids.tolist(), scale)),
            "completion_mask": (torch.arange(width) < lengths[:, None]).int(),
            "group_ids": ids,
            "entropies": batch.entropies,
            "completion_ids": torch.tensor([[*row, *[0] * (width - len(row))] for row in batch.completions]),
        }
    )
    loops.epsilon, loops.max_length = (0.2, 0.2), 24
    loss = reference.loss(loops, name, leaf if learns else 0.0)
    expected = torch.autograd.grad(loss, [logps, leaf], allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(found.policy[0], expected[0], rtol=2e-5, atol=1e-7)
    torch.testing.assert_close(found.lambda_[0], expected[1], rtol=2e-5, atol=1e-6)


def test_equal_gradients_are_far_from_others(tmp_path):
    """The tolerance has room on both sides: any pair of presets, the greatest relative difference of a token."""
    names = [name for name, preset in PRESETS.items() if not preset.rollouts.filters_samples]
    study = make_study(names)
    found, same = {}, same_methods(study)
    for name in names:
        fewer = with_fewer_samples(settings_of(study, name).settings())
        trainer = ModelFreeTrainer(fewer, str(tmp_path))
        lambda_ = torch.full_like(trainer.fold.lambda_, 5.0)
        batches = [make_batch(fewer, seed, on_policy=True) for seed in range(3)]
        found[name] = torch.cat([trainer.gradients(batch, [lambda_]).policy[0] for batch in batches])
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            a, b = found[first], found[second]
            difference = ((a - b).abs() / (a.abs() + b.abs()).clamp(min=1e-12)).max()
            is_same = same.get(first, first) == same.get(second, second)
            assert difference < 1e-6 if is_same else difference > 1e-2, (first, second)


@given(st.integers(1, 12), st.sampled_from([2, 4, 8]), st.integers(1, 12), st.integers(1, 12), st.integers(1, 3))
def test_fewer_samples_are_split_in_the_same_way(rows, size, pieces, updates, iterations):
    pieces *= size  # whole groups
    whole = {
        "num_generations": size, "per_device_train_batch_size": rows,
        "steps_per_generation": pieces, "gradient_accumulation_steps": updates,
    }  # fmt: skip
    fewer = with_fewer_samples(whole)
    fewer_rows, fewer_pieces = fewer["per_device_train_batch_size"], fewer["steps_per_generation"]
    assert fewer_rows * fewer_pieces <= rows * pieces
    assert fewer_rows * fewer_pieces % size == 0
    assert fewer_rows * fewer_pieces >= min(4 * size, rows * pieces)
    assert (fewer_pieces > 1) == (pieces > 1)
    assert (fewer_rows % size == 0) == (rows % size == 0)
    assert fewer_pieces * updates == pieces * fewer["gradient_accumulation_steps"]
    on_policy = updates % (pieces * iterations) == 0
    assert (fewer["gradient_accumulation_steps"] % (fewer_pieces * iterations) == 0) == on_policy


def test_batches_have_what_a_study_may_have():
    whole = settings_of(make_study(["dapo", "grpo"], *TWICE), "dapo").settings()
    batches = [make_batch(whole, seed, on_policy=False) for seed in range(6)]
    ratios = torch.cat([(batch.logps - batch.old_logps).flatten() for batch in batches]).exp()
    assert ((ratios > 1.28) | (ratios < 0.8)).any()
    assert ((ratios > 0.9) & (ratios < 1.1) & (ratios != 1)).any()
    assert (ratios == 1).any()
    rewards = torch.cat([batch.rewards.view(-1, 8) for batch in batches])
    equal = (rewards == rewards[:, :1]).all(1)
    assert equal.any()
    assert not equal.all()
    binary = ((rewards == 0) | (rewards == 1)).all(1)
    assert (binary & ~equal).any()
    assert (~binary & ~equal).any()
    ends = [ids[-1] == 1 for batch in batches for ids in batch.completions]
    assert any(ends)
    assert not all(ends)
    on_policy = make_batch(whole, 0, on_policy=True)
    assert torch.equal(on_policy.logps, on_policy.old_logps)


# -- settings ---------------------------------------------------------------------------------------------------------

CHANGES = {
    "beta": st.floats(1e-6, 1.0),
    "num_iterations": st.integers(2, 4),
    "max_grad_norm": st.floats(0.01, 0.9),
    "mask_truncated_completions": st.just(True),
    "scale_rewards": st.sampled_from(["batch", "none"]),
    "top_entropy_quantile": st.floats(0.1, 0.9),
    "entropy_coef": st.floats(1e-4, 0.1),
    "advantage_min": st.floats(-0.5, 0.0),
    "dynamic_sampling": st.just(True),
    "drop_zero_variance": st.just(True),
    "select_best_and_worst": st.integers(1, 3),
    "select_min_reward": st.floats(0.1, 0.9),
    "overlong_buffer_length": st.integers(1, 24),
    "max_prompt_length": st.integers(20, 40),
    "stop_strings": st.just(["."]),
}
CHANGES_OF_LAMBDA = {
    "lambda_init": st.floats(0.01, 9.0),
    "lambda_lr": st.floats(0.0, 0.09),
    "lambda_optimizer": st.just("adam"),
    "lambda_bounds": st.floats(1.0, 9.0).map(lambda high: [-high, high]),
    "lambda_r": st.floats(0.01, 0.1),
    "lambda_lr_scheduler_type": st.sampled_from(["linear", "cosine"]),
    "lambda_warmup_steps": st.integers(1, 9),
    "weight_norm": st.just("tokens"),
}


@settings(max_examples=25)
@given(st.sampled_from(sorted(CHANGES)), st.sampled_from(["dapo", "lambda_grpo"]), st.data())
def test_another_setting_is_another_method(key, objective, data):
    value = data.draw(CHANGES[key])
    study = make_study({"a": {"objective": objective}, "b": {"objective": objective, key: value}})
    assert same_methods(study) == {}


@settings(max_examples=12)
@given(st.sampled_from(sorted(CHANGES_OF_LAMBDA)), st.data())
def test_another_setting_of_a_learned_lambda_is_another_method(key, data):
    change = {key: data.draw(CHANGES_OF_LAMBDA[key])}
    study = make_study({"a": {"objective": "lambda_grpo"}, "b": {"objective": "lambda_grpo", **change}})
    assert same_methods(study) == {}
    study = make_study({"a": {"objective": "dapo"}, "b": {"objective": "dapo", **change}})
    assert same_methods(study) == {"b": "a"}  # which has no λ


def test_settings_without_effect():
    arms = {
        "a": {"objective": "dapo"},
        "b": {"loss_type": "dapo", "objective": "dapo", "epsilon": 0.2, "epsilon_high": 0.2, "record_tokens": 5},
        "c": {"objective": "lambda_grpo", "lambda_lr": 0.0, "lambda_optimizer": "adam"},
        "d": {"objective": "dapo_full", "dynamic_sampling": False, "overlong_buffer_length": 0},
        "e": {"objective": "dapo", "dynamic_sampling": True, "overlong_buffer_length": 12},
        "f": {"objective": "dapo", "delta": 4.0},
        "g": {"objective": "dapo", "dynamic_sampling": True, "overlong_buffer_length": 12, "max_resample_times": 3},
        "h": {"objective": "dapo_full", "overlong_buffer_length": 12},
    }
    study = make_study(arms)
    found = same_methods(study)
    assert found == {"b": "a", "c": "a", "d": "a", "f": "a", "h": "e"}
    assert describe(found, study) == [
        "b: the same method as a here, since their settings say the same; run once",
        "c: the same method as a here, since λ isn't trained (lambda_lr is 0); run once",
        "d, f: the same method as a here, since each batch serves one optimiser step (on policy), so that ratios are "
        "1; run once",
        "h: the same method as e here, since each batch serves one optimiser step (on policy), so that ratios are 1; "
        "run once",
    ]
    assert same_methods(make_study(arms, *TWICE)) == {"b": "a", "c": "a"}  # clip ranges of 0.2 and 0.28 for d and h


def test_close_clip_ranges_differ_where_no_ratio_lies_between_them():
    arms = {"a": {"objective": "dapo", "epsilon_high": 0.28}, "b": {"objective": "dapo", "epsilon_high": 0.2800001}}
    assert same_methods(make_study(arms)) == {"b": "a"}
    assert same_methods(make_study(arms, *TWICE)) == {}


def test_vespo_alone_uses_the_engines_ratio_in_another_way(tmp_path):
    """vLLM's importance sampling correction multiplies the loss; VESPO has it in its own weight."""
    gradients = {}
    for name in ("dapo", "cispo", "vespo"):
        whole = settings_of(make_study(["dapo", "cispo", "vespo"]), name).settings()
        whole |= {"use_vllm": True, "vllm_importance_sampling_mode": "token_truncate"}
        trainer = ModelFreeTrainer(with_fewer_samples(whole), str(tmp_path))
        batch = make_batch(with_fewer_samples(whole), 0, on_policy=True)
        gradients[name] = trainer.gradients(batch, [torch.zeros(())]).policy
    torch.testing.assert_close(gradients["cispo"], gradients["dapo"], rtol=1e-5, atol=1e-9)
    assert not torch.allclose(gradients["vespo"], gradients["dapo"], rtol=1e-3, atol=1e-9)


# -- objectives of one's own ------------------------------------------------------------------------------------------


class Broken(Preference):
    def __call__(self, groups, lambda_):
        raise KeyError("no such thing")


class InOtherWords(Preference):
    """f = 1."""

    def __call__(self, groups, lambda_):
        return groups.mean_length / groups.mean_length


@dataclass(frozen=True)
class Unclipped(Surrogate):
    def __call__(self, inputs):
        return inputs.log_ratio.exp() * inputs.advantages, torch.zeros_like(inputs.mask)


AGAIN = replace(PRESETS["dapo"], name="again")
NARROW = replace(PRESETS["dapo"], name="narrow", surrogate=Clip("token", 0.1, 0.1))
UNCLIPPED = Objective("unclipped", Uniform(), surrogate=Unclipped())
UNIFORM = Objective("uniform", InOtherWords())
globals().update({f"COPY_{name}": replace(objective, name=f"copy_{name}") for name, objective in PRESETS.items()})
BROKEN, BROKEN_TOO = (Objective(name, Broken()) for name in ("broken", "broken_too"))
OWN = [f"{__name__}:{name}" for name in ("AGAIN", "NARROW", "UNCLIPPED", "UNIFORM", "BROKEN", "BROKEN_TOO")]


def test_objectives_of_ones_own():
    study = make_study(["dapo", *OWN])
    found = same_methods(study)
    assert found == dict.fromkeys(("again", "narrow", "unclipped", "uniform"), "dapo")
    assert describe(found, study) == [
        "again: the same method as dapo here, since their settings say the same; run once",
        "narrow, unclipped: the same method as dapo here, since each batch serves one optimiser step (on policy), so "
        "that ratios are 1; run once",
        "uniform: the same method as dapo here, since their losses have the same gradients under this study's "
        "settings; run once",
    ]
    off_policy = make_study(["dapo", *OWN], *TWICE)
    found = same_methods(off_policy)
    assert found == {"again": "dapo", "uniform": "dapo"}
    assert not any("policy" in sentence for sentence in describe(found, off_policy))


@pytest.mark.parametrize("overrides", [[], TWICE], ids=["on policy", "off policy"])
def test_a_copy_of_a_preset_is_the_same_method(overrides):
    """Each can be evaluated: with several λ, of entropies, of shared prefixes, of selected or corrected samples."""
    study = make_study([*PRESETS, *(f"{__name__}:COPY_{name}" for name in PRESETS)], *overrides)
    found = same_methods(study)
    assert {name: found[f"copy_{name}"] for name in PRESETS} == {name: found.get(name, name) for name in PRESETS}


# -- real training ----------------------------------------------------------------------------------------------------

REAL = ["--max_steps", "3", "--optim", "sgd", "--max_grad_norm", "1.0", "--save_strategy", "no"]


def trained(study, arm, folder):
    """The change of the weights in three steps of the real trainer."""
    keys = study.recipe_keys(arm, "arithmetic", 0.05, 1)
    trainer = make_trainer(Recipe.parse({**keys, "output_dir": str(folder)}).training)
    before = parameters(trainer)
    trainer.train()
    return torch.cat([(value - before[name]).flatten() for name, value in parameters(trainer).items()])


@pytest.mark.parametrize(
    "overrides",
    [[], ["--per_device_train_batch_size", "16", "--steps_per_generation", "2", "--gradient_accumulation_steps", "1"]],
    ids=["on policy", "off policy"],
)
def test_real_training_agrees(overrides, tmp_path):
    names = ["grpo", "dapo", "bnpo", "sapo", "vespo", "dr_grpo", "gspo"]
    study = make_study(names, *REAL, *overrides)
    found = same_methods(study)
    assert set(found) == (set() if overrides else {"bnpo", "sapo", "vespo", "gspo"})
    updates = {name: trained(study, name, tmp_path / name) for name in names}
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            difference = (updates[first] - updates[second]).norm() / updates[first].norm()
            if found.get(first, first) == found.get(second, second):
                assert difference < 1e-4, (first, second)
            else:
                assert difference > 1e-2, (first, second)
