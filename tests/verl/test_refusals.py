"""What is refused before Ray starts: one line that says how to mend it. verl's own configuration, its own check."""

import contextlib
import subprocess
import sys

import hydra
import pytest
import verl.utils.config
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

from lambda_grpo import PRESETS
from lambda_grpo.backends import verl_plugin
from lambda_grpo.backends.verl_settings import FOLDING_LOSSES, VerlSettings
from lambda_grpo.backends.verl_trainer import LambdaGRPOVerlTrainer
from lambda_grpo.errors import UserError
from tests.verl.main_ppo import main_ppo
from tests.verl.test_fold import FOLDING

ACTOR = "actor_rollout_ref.actor"
OURS = ["trainer.v1.trainer_mode=lambda_grpo", "actor_rollout_ref.rollout.n=8"]
VERL_NEEDS = [
    f"{ACTOR}.ppo_micro_batch_size_per_gpu=8", "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
]  # fmt: skip


def configuration(*overrides):
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose("ppo_trainer", [*VERL_NEEDS, "algorithm.adv_estimator=grpo", *overrides])


def verls_check(config):
    verl.utils.config.validate_config(config=config, use_reference_policy=False, use_critic=False)


def settings(*overrides):
    return VerlSettings.of(configuration(*OURS, *overrides))


def objective(name):
    return f"+algorithm.lambda_grpo.objective={name}"


SURROGATES = {
    "gspo": ("gspo", 3e-4, 4e-4),
    "luspo": ("gspo", 2e-3, 2.5e-3),
    "cispo": ("cispo", 1.0, 4.0),
}


def settings_for(name):
    """What the documentation says to set beside an objective."""
    given = [objective(name)]
    if PRESETS[name].advantage_scale != "group":
        given.append("algorithm.norm_adv_by_std_in_grpo=False")
    if name in SURROGATES:
        mode, low, high = SURROGATES[name]
        given += [
            f"{ACTOR}.policy_loss.loss_mode={mode}", f"{ACTOR}.clip_ratio_low={low}", f"{ACTOR}.clip_ratio_high={high}",
        ]  # fmt: skip
    return given


@pytest.mark.parametrize("name", FOLDING)
def test_presets_that_fold_are_taken(name):
    assert settings(*settings_for(name)).resolve_objective() == PRESETS[name]


@pytest.mark.parametrize("loss_mode", FOLDING_LOSSES)
def test_losses_that_fold_are_taken(loss_mode):
    settings(f"{ACTOR}.policy_loss.loss_mode={loss_mode}")


def test_defaults_are_the_trl_trainers():
    found = settings()
    assert (found.objective, found.lambda_init, found.lambda_lr, found.lambda_optimizer) == (
        "lambda_grpo", 0.0, 0.1, "sgd",
    )  # fmt: skip
    state = settings(objective("daro"), "actor_rollout_ref.rollout.n=8").make_lambda_state(8)
    assert (state.value, state.bounds) == ([0.0] * 7, (-2.0, 2.0))


def test_keys_are_read():
    found = settings(
        "+algorithm.lambda_grpo={objective: lambda_grpo_paper, lambda_init: 0.5, lambda_lr: 1, lambda_optimizer: adam,"
        " lambda_bounds: [-1, 1], lambda_r: 0.2, weight_norm: tokens}"
    )
    state, chosen = found.make_lambda_state(8), found.resolve_objective()
    assert (state.value, state.lr, state.optimizer, state.bounds) == (0.5, 1, "adam", (-1.0, 1.0))
    assert (chosen.name, chosen.preference.r, chosen.weight_norm) == ("lambda_grpo_paper", 0.2, "tokens")


REFUSED = {
    "an unknown objective": ([objective("lambda")], "unknown objective 'lambda': use one of grpo, dapo"),
    "an unknown key": (["+algorithm.lambda_grpo.lr=1"], "algorithm.lambda_grpo.lr isn't known: use objective, lambda_"),
    "a value out of range": (["+algorithm.lambda_grpo.lambda_init=11"], "λ must start inside its bounds: 11"),
    "a word for a number": (["+algorithm.lambda_grpo.lambda_lr=fast"], "algorithm.lambda_grpo: must be real number"),
    "one bound": (["+algorithm.lambda_grpo.lambda_bounds=[1]"], "lambda_bounds takes two values"),
    "r of an objective without": (
        [objective("grpo"), "+algorithm.lambda_grpo.lambda_r=1"], "objective 'grpo' has no r: leave lambda_r out",
    ),
    "dynamic sampling": ([objective("dapo_full")], "verl's own settings (algorithm.filter_groups"),
    "selection": ([objective("devis_grpo")], "it selects or corrects samples before the loss"),
    "correction": ([objective("edge_grpo")], "it selects or corrects samples before the loss"),
    "a micro-batch's tokens": ([objective("bnpo")], "it divides by each micro-batch's tokens"),
    "GMPO": ([objective("gmpo")], "its surrogate, GeometricMean, isn't one of verl's losses"),
    "SAPO": ([objective("sapo")], "its surrogate, SoftGate, isn't one of verl's losses"),
    "VESPO": ([objective("vespo")], "its surrogate, GammaWeight, isn't one of verl's losses"),
    "FSPO": ([objective("fspo")], "its surrogate, LengthBand, isn't one of verl's losses"),
    "traces": ([objective("grpo_lambda")], "its surrogate, TracedClip, isn't one of verl's losses"),
    "kl_cov": ([f"{ACTOR}.policy_loss.loss_mode=kl_cov"], "loss_mode is 'kl_cov', into which weights don't fold"),
    "clip_cov": ([f"{ACTOR}.policy_loss.loss_mode=clip_cov"], "loss_mode is 'clip_cov'"),
    "sapo's own average": ([f"{ACTOR}.policy_loss.loss_mode=sapo"], "loss_mode is 'sapo'"),
    "geo_mean's own average": ([f"{ACTOR}.policy_loss.loss_mode=geo_mean"], "loss_mode is 'geo_mean'"),
    "another aggregation": (
        [f"{ACTOR}.loss_agg_mode=seq-mean-token-mean"],
        "loss_agg_mode is 'seq-mean-token-mean': an objective brings its own average, which folds into the token mean; "
        "set actor_rollout_ref.actor.loss_agg_mode=token-mean",
    ),
    "an asynchronous loop": (
        [objective("lambda_grpo"), "trainer.v1.trainer_mode=separate_async"],
        "trainer.v1.trainer_mode is 'separate_async': set trainer.v1.trainer_mode=lambda_grpo (of verl's loops only "
        "the synchronous one is supported)",
    ),
    "the other asynchronous loop": (
        [objective("lambda_grpo"), "trainer.v1.trainer_mode=colocate_async"],
        "trainer.v1.trainer_mode is 'colocate_async'",
    ),
    "verl's own loop": (
        [objective("lambda_grpo"), "trainer.v1.trainer_mode=sync"],
        "trainer.v1.trainer_mode is 'sync': set trainer.v1.trainer_mode=lambda_grpo",
    ),
    "the old trainer": (["trainer.use_v1=False"], "set trainer.use_v1=True"),
    "an estimator": (["algorithm.adv_estimator=rloo"], "set algorithm.adv_estimator=grpo"),
    "Dr. GRPO with std": ([objective("dr_grpo")], "set algorithm.norm_adv_by_std_in_grpo=False"),
    "Lite-PPO with KL in the reward": (
        [objective("lite_ppo"), "algorithm.norm_adv_by_std_in_grpo=False", "algorithm.use_kl_in_reward=True"],
        "set algorithm.use_kl_in_reward=False",
    ),
    "GRPO with a KL term": ([objective("grpo"), f"{ACTOR}.use_kl_loss=True"], "verl averages the KL term over"),
    "no groups": (["actor_rollout_ref.rollout.n=1"], "actor_rollout_ref.rollout.n is 1"),
    "distillation": (["distillation.enabled=True"], "distillation.enabled=True brings a loss of its own"),
    "GSPO with verl's clip": (
        [objective("gspo"), f"{ACTOR}.policy_loss.loss_mode=gspo"],
        "policy_loss.loss_mode=gspo clip_ratio_low=0.0003 clip_ratio_high=0.0004",
    ),
    "CISPO without its loss": ([objective("cispo")], "policy_loss.loss_mode=cispo clip_ratio_low=1 clip_ratio_high=4"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_its_reason(case):
    overrides, message = REFUSED[case]
    with pytest.raises(UserError) as raised:
        settings(*overrides)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_verls_check_refuses_first(capsys):
    """`main_ppo` calls it before it starts Ray."""
    config = configuration(*OURS, objective("bnpo"))
    with pytest.raises(SystemExit) as raised:
        verls_check(config)
    assert raised.value.code == 2
    assert capsys.readouterr().err.startswith("lambda-grpo: error: objective 'bnpo' doesn't work on verl: it divides")


def test_runs_of_verls_own_are_left_alone(monkeypatch):
    monkeypatch.setattr(verl_plugin, "check_environment", lambda: pytest.fail("not asked for"))
    verls_check(configuration("algorithm.adv_estimator=rloo", f"{ACTOR}.loss_agg_mode=seq-mean-token-mean"))
    with pytest.raises(AssertionError, match="train_batch_size"):  # verl's own check goes on
        verls_check(configuration("data.train_batch_size=3"))


@pytest.mark.parametrize(("installed", "refused"), [("1.12.0", False), ("1.13.0", True), ("2.0.0", True)])
def test_a_trl_beside_verl_is_named(installed, refused, tmp_path, monkeypatch, capsys):
    folder = tmp_path / f"trl-{installed}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: trl\nVersion: {installed}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) if refused else contextlib.nullcontext():
        verls_check(configuration(*OURS))
    said = capsys.readouterr().err
    assert (f"trl {installed} is installed beside verl" in said) == refused
    assert ("pip uninstall trl" in said) == refused


def test_registered_once():
    before = verl.utils.config.validate_config
    verl_plugin.register()
    assert verl.utils.config.validate_config is before
    assert TRAINER_REGISTRY["lambda_grpo"] is LambdaGRPOVerlTrainer


def test_another_verl_is_named(monkeypatch):
    monkeypatch.setattr(verl_plugin, "version", lambda name: "0.10.0")
    with pytest.raises(ImportError, match=r"builds on verl 0\.9\.1, this is 0\.10\.0: pip install 'verl==0\.9\.1'"):
        verl_plugin.register()


def test_a_plug_in_that_fails_says_so(tmp_path):
    """verl itself hides it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as m\nreal = m.version\nm.version = lambda n: '0.1' if n == 'verl' else real(n)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import verl"],
        capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path), "VERL_USE_EXTERNAL_PLUGINS": "auto"},
    )  # fmt: skip
    assert done.returncode == 0
    assert "lambda-grpo isn't registered with verl: ImportError: lambda-grpo builds on verl 0.9.1" in done.stderr


@pytest.mark.timeout(600)
def test_main_ppo_refuses_before_ray_starts(tmp_path):
    done = main_ppo(tmp_path, tmp_path, {"+algorithm.lambda_grpo.objective": "gmpo"})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("lambda-grpo: error: objective 'gmpo' doesn't work on verl")
    assert "ray init kwargs" not in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(600)
def test_main_ppo_without_the_plug_in_names_the_trainer(tmp_path):
    done = main_ppo(tmp_path, tmp_path, {}, {"VERL_USE_EXTERNAL_PLUGINS": "none", "RECORD_DIR": ""})
    assert done.returncode != 0
    assert "Unknown trainer 'lambda_grpo'. Available trainers: colocate_async, separate_async, sync." in done.stderr
