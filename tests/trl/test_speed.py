"""The fast sampler and the packed pass in the trainer: what they change, and when TRL takes over."""

import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOTrainer

from lambda_grpo.models import BUILTIN, resolve_model
from lambda_grpo.training.data import task_dataset, task_reward
from lambda_grpo.trl import LambdaGRPOTrainer
from tests.invariant.injected_run import Injected, reward
from tests.invariant.skipping_run import easy
from tests.trl.setup import TASK, config, logged, make_trainer, parameters


def trajectory(path, **settings):
    trainer = make_trainer(config(path, learning_rate=0.001, optim="sgd", **settings), Injected, reward)
    trainer.steps = []
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "lambda_grpo"},
        {"objective": "grpo", "beta": 0.04},
        {"objective": "gmpo", "num_iterations": 2, "max_steps": 4},
        {"objective": "dapo", "mask_truncated_completions": True},
        {"objective": "edge_grpo", "error_correction": [0.0, 0.0, 0.0], "gradient_checkpointing": True},
        {"objective": "dapo", "temperature": 0.7, "top_entropy_quantile": 0.5},
    ],
    ids=["lambda", "kl", "own loss, two iterations", "truncated", "entropies, checkpointing", "temperature, quantile"],
)
def test_the_packed_pass_makes_the_same_steps(settings, tmp_path):
    """On given completions: policy, λ and what is logged."""
    settings = {**settings, "lambda_init": 0.5, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
    packed = trajectory(tmp_path / "packed", packing=True, **settings)
    padded = trajectory(tmp_path / "padded", packing=False, **settings)
    assert packed.packer.is_on
    assert not padded.packer.is_on
    for ours, theirs in zip(packed.steps, padded.steps, strict=True):
        assert (ours["policy"] - theirs["policy"]).norm() < 3e-4 * theirs["policy"].norm()
        torch.testing.assert_close(ours["lambda"], theirs["lambda"], rtol=1e-3, atol=1e-7)
    for key in ("loss", "entropy", "grad_norm"):
        assert logged(packed, key) == pytest.approx(logged(padded, key), rel=1e-3, abs=1e-5)


def test_a_batch_without_a_token_that_carries_loss(tmp_path):
    class Truncated(Injected):
        def _completion(self, row):
            return [5, 6, 7]

    trainer = make_trainer(config(tmp_path, mask_truncated_completions=True, max_steps=1), Truncated, reward)
    trainer.steps = []
    trainer.train()
    assert logged(trainer, "loss") == [0.0]
    assert trainer.packer.is_on


class Counted(LambdaGRPOTrainer):
    """Notes each forward pass: whether it is for old log-probabilities, its result, and how many rows it read."""

    def __init__(self, *args, **kwargs):
        self.passes, self.rows = [], []
        super().__init__(*args, **kwargs)
        self._packed_pass, self.packer._packed_pass = self.packer._packed_pass, self._counted_pass

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        output = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self.passes.append((torch.is_grad_enabled(), args[1:3], output[0].detach()))
        return output

    def _counted_pass(self, model, ids, mask, keep):
        self.rows.append(int(mask[:, -keep:].any(1).sum()))
        return self._packed_pass(model, ids, mask, keep)


@pytest.mark.parametrize(
    ("settings", "is_known"),
    [
        ({}, True),
        ({"temperature": 0.7}, True),
        ({"top_k": 5}, False),  # drawn from another distribution than the model's
        ({"sampler": "trl"}, False),
        ({"error_correction": [1.0, 0.0, 0.0], "reflection_prompt": ","}, False),  # nobody sampled what is corrected
        ({"gradient_accumulation_steps": 2}, None),  # the policy that drew them is the one that learns from them
    ],
    ids=["plain", "temperature", "top k", "TRL's sampler", "corrected", "not needed"],
)
def test_old_log_probabilities_are_the_samplers(settings, is_known, tmp_path):
    settings = {"gradient_accumulation_steps": 1, "steps_per_generation": 2, "max_steps": 2, **settings}
    trainer = make_trainer(config(tmp_path, beta=0.04, learning_rate=0.0, **settings), Counted)
    trainer.train()
    of_samples = [(args, logps) for has_grad, args, logps in trainer.passes if not has_grad]
    if is_known is None:
        assert len(of_samples) == 2  # the reference model's, at each generation
        return
    assert len(of_samples) == 2
    assert len(trainer.rows) == (0 if is_known else 2) + 2 + 2  # old ones, the reference's, two steps; 16 rows each
    (_, old), (_, reference) = of_samples
    assert old.shape == reference.shape
    torch.testing.assert_close(old, reference, rtol=1e-4, atol=1e-4)  # the reference is what the policy was
    assert logged(trainer, "kl") == pytest.approx([0.0, 0.0], abs=1e-6)


def test_what_the_reference_says_is_never_the_samplers(tmp_path):
    """With LoRA the reference is the policy itself without its adapter."""
    from peft import LoraConfig

    trainer = make_trainer(
        config(
            tmp_path, beta=0.04, learning_rate=0.05, gradient_accumulation_steps=1, steps_per_generation=2, max_steps=4
        ),
        Counted,
        peft_config=LoraConfig(target_modules="all-linear"),
    )
    trainer.train()
    *_, (_, old), (_, reference) = [(args, logps) for has_grad, args, logps in trainer.passes if not has_grad]
    assert (old - reference).abs().max() > 1e-3


def test_rows_that_carry_no_loss_are_not_computed(tmp_path):
    settings = {"objective": "devis_grpo", "select_best_and_worst": 1, "num_generations": 8, "learning_rate": 1e-3}
    settings |= {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 16, "num_iterations": 2}
    found = {}
    for packing in (True, False):
        trainer = make_trainer(config(tmp_path, packing=packing, max_steps=4, **settings), Counted)
        trainer.train()
        assert trainer.rows == ([4, 4] * 2 if packing else [])  # two of each group
        found[packing] = [logged(trainer, key) for key in ("loss", "grad_norm", "entropy", "reward")]
    for ours, theirs in zip(found[True], found[False], strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-5)


def test_what_is_saved_loads_in_transformers_as_it_was(tmp_path):
    trainer = trajectory(tmp_path, max_steps=1)
    trainer.save_model(str(tmp_path / "model"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert loaded.config._attn_implementation == "sdpa"
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, trainer.model(ids).logits)


def sampled_by(trainer):
    return "fast" if trainer.fast_generation.is_on else "trl"


def test_the_sampler_is_what_is_asked_for(tmp_path):
    assert sampled_by(make_trainer(config(tmp_path))) == "fast"
    assert sampled_by(make_trainer(config(tmp_path, sampler="trl"))) == "trl"


def test_what_the_sampler_does_not_know_goes_to_trl_and_is_said_once(tmp_path):
    with pytest.warns(UserWarning, match=r"doesn't know repetition_penalty = 1\.2\. TRL's generation takes its place"):
        trainer = make_trainer(config(tmp_path, repetition_penalty=1.2, max_steps=1))
    assert sampled_by(trainer) == "trl"
    model = AutoModelForCausalLM.from_pretrained(resolve_model(BUILTIN))
    model.config.model_type = "other"  # only seen when it is to sample
    with pytest.warns(UserWarning, match="the packed training pass doesn't know models of type 'other'"):
        trainer = LambdaGRPOTrainer(
            model=model, reward_funcs=task_reward(TASK), args=config(tmp_path, max_steps=2),
            train_dataset=task_dataset(TASK), processing_class=AutoTokenizer.from_pretrained(resolve_model(BUILTIN)),
        )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    assert len([w for w in caught if "doesn't know models of type 'other'" in str(w.message)]) == 1
    assert len(logged(trainer, "reward")) == 2


def test_the_fast_sampler_learns_as_trls_does(tmp_path):
    """The same rewards within what two seeds differ by: nothing of the policy is lost on the way."""
    rewards = {}
    for sampler in ("fast", "trl"):
        trainer = make_trainer(
            config(tmp_path, sampler=sampler, max_steps=12, learning_rate=3e-4, per_device_train_batch_size=64)
        )
        trainer.train()
        found = logged(trainer, "reward")
        rewards[sampler] = sum(found[-4:]) / 4 - sum(found[:2]) / 2
    assert min(rewards.values()) > 0.05
    assert abs(rewards["fast"] - rewards["trl"]) < 0.2


def test_lora_with_both(tmp_path):
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = make_trainer(config(tmp_path, max_steps=2), peft_config=lora)
    before = parameters(trainer)
    trainer.train()
    changed = {name for name, value in parameters(trainer).items() if not torch.equal(value, before[name])}
    assert sampled_by(trainer) == "fast"
    assert trainer.packer.is_on
    assert changed
    assert all("lora_" in name for name in changed)
    assert isinstance(trainer, GRPOTrainer)


@pytest.mark.parametrize(
    ("settings", "skips"),
    [
        ({}, True),
        ({"objective": "grpo_lambda", "gradient_accumulation_steps": 4, "per_device_train_batch_size": 8}, True),
        ({"objective": "gspo", "num_generations": 4}, True),
        ({"temperature": 0.7}, True),
        ({"beta": 0.04}, False),  # the KL term is theirs, too
        ({"entropy_coef": 0.01}, False),
        ({"num_iterations": 2}, False),  # by then it is another policy
        ({"top_p": 0.9}, False),  # what is known is of another distribution
        ({"sampler": "trl"}, False),
    ],
    ids=[
        "dapo",
        "own loss, accumulated",
        "sequences",
        "temperature",
        "kl",
        "entropy bonus",
        "two iterations",
        "top p",
        "TRL's sampler",
    ],
)
def test_rows_without_an_advantage_are_known_from_sampling(settings, skips, tmp_path):
    """Policy, λ and what is logged are those of the pass over all rows."""
    found = {}
    for packing in (True, False):
        trainer = make_trainer(
            config(
                tmp_path, **{"objective": "dapo", "packing": packing, "learning_rate": 1e-4, "max_steps": 4, **settings}
            ),
            Counted,
            easy,
        )
        trainer.train()
        found[packing] = [
            torch.cat([value.flatten() for value in parameters(trainer).values()]),
            *(logged(trainer, key) for key in ("loss", "grad_norm", "entropy", "clip_ratio/region_mean", "reward")),
            logged(trainer, "frac_reward_zero_std"),
        ]
        if packing:
            rows = trainer.args.per_device_train_batch_size
            assert (min(trainer.rows) < rows) == skips
            assert all(0 < count <= rows for count in trainer.rows)
    (ours, *our_logs), (theirs, *their_logs) = found[True], found[False]
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()
    for mine, other in zip(our_logs, their_logs, strict=True):
        assert mine == pytest.approx(other, rel=2e-3, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize(
    "settings", [{}, {"per_device_train_batch_size": 1, "beta": 0.04}], ids=["whole", "one by one"]
)
def test_truncated_rows_beside_rows_that_are_not_computed(settings, tmp_path):
    """All wrong, some too long: what is left to compute has no token."""
    settings = {"mask_truncated_completions": True, "max_completion_length": 12, "max_steps": 2, **settings}
    trainer = make_trainer(
        config(tmp_path, gradient_accumulation_steps=16, **settings), Counted, lambda prompts, **_: [0.0] * len(prompts)
    )
    trainer.train()
    assert min(logged(trainer, "completions/clipped_ratio")) > 0
    assert logged(trainer, "loss") == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("settings", [{"bf16": True}, {"model_init_kwargs": {"dtype": "bfloat16"}}])
def test_in_another_precision_nothing_is_known_from_sampling(settings, tmp_path):
    settings = {"gradient_accumulation_steps": 1, "steps_per_generation": 2, "max_steps": 2, **settings}
    trainer = Counted(
        model=resolve_model(BUILTIN), reward_funcs=task_reward(TASK), train_dataset=task_dataset(TASK),
        args=config(tmp_path, learning_rate=0.0, **settings),
    )  # fmt: skip
    trainer.train()
    assert [has_grad for has_grad, *_ in trainer.passes] == [False, True, True]
    assert len(trainer.rows) == 4  # computed, two batches of 16 together


def test_a_model_of_another_trainer_is_packed_too(tmp_path):
    first = make_trainer(config(tmp_path, max_steps=1))
    second = LambdaGRPOTrainer(
        model=first.model, reward_funcs=task_reward(TASK), args=config(tmp_path, max_steps=1),
        train_dataset=task_dataset(TASK), processing_class=first.processing_class,
    )  # fmt: skip
    assert second.packer.is_on
    second.train()
    assert logged(second, "entropy")[0] > 0


def test_a_batch_in_which_no_row_has_an_advantage(tmp_path):
    trainer = make_trainer(config(tmp_path, max_steps=2), Counted, lambda prompts, **_: [1.0] * len(prompts))
    trainer.train()
    assert logged(trainer, "loss") == logged(trainer, "grad_norm") == [0.0, 0.0]
    assert set(trainer.rows) == {1}  # there has to be a loss to differentiate
    assert min(logged(trainer, "entropy")) > 0
