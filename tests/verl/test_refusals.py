"""What is refused before Ray starts: one line that says how to fix it. verl's own configuration, its own check."""

import contextlib
import re
import subprocess
import sys

import hydra
import pytest
import verl.trainer.main_ppo as main_ppo_module
import verl.utils.config
from omegaconf import OmegaConf

from lambda_grpo import PRESETS
from lambda_grpo.errors import UserError
from lambda_grpo.verl import plugin
from lambda_grpo.verl.settings import FOLDING_LOSSES, VerlSettings, is_asked_for
from tests.verl.main_ppo import REPOSITORY, main_ppo
from tests.verl.test_fold import FOLDING

ACTOR = "actor_rollout_ref.actor"
OURS = ["trainer.v1.trainer_mode=lambda_grpo", "actor_rollout_ref.rollout.n=8"]
VERL_NEEDS = [
    f"{ACTOR}.ppo_micro_batch_size_per_gpu=8", "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
]  # fmt: skip


def configuration(*overrides):
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose("ppo_trainer", [*VERL_NEEDS, "algorithm.adv_estimator=grpo", *overrides])


@pytest.fixture
def started(monkeypatch):
    """Configurations with which `main_ppo` would start Ray."""
    found = []
    monkeypatch.setattr(main_ppo_module, "run_ppo", lambda config, **_: found.append(config))
    return found


def main(config):
    """What `python -m verl.trainer.main_ppo` does with a configuration."""
    main_ppo_module.main(config)


def settings(*overrides):
    return VerlSettings.of(configuration(*OURS, *overrides))


def objective(name):
    return f"+algorithm.lambda_grpo.objective={name}"


def documented():
    """docs/cluster.md's table: by objective, the settings that it needs, and those that are refused with it."""
    page = (REPOSITORY / "docs/cluster.md").read_text()
    _, table = page.split("| objective | set beside it | refused beside it |\n|---|---|---|\n")
    rows = [line.strip("|").split("|") for line in table.split("\n\n")[0].splitlines()]
    cells = [[re.findall("`([^`]+)`", cell) for cell in row] for row in rows]
    found = {name: (beside, refused) for names, beside, refused in cells for name in names}
    for name in ("lite_ppo", "prompt_mean"):  # "the same" as the row above
        found[name] = (found["dr_grpo"][0], found[name][1])
    return found


DOCUMENTED = documented()


def settings_for(name):
    given = [objective(name)]
    for setting in " ".join(DOCUMENTED[name][0]).split():
        given.append(setting if setting.startswith("algorithm.") else f"{ACTOR}.{setting}")
    return given


def test_the_page_has_every_objective():
    assert sorted(DOCUMENTED) == sorted(FOLDING)


@pytest.mark.parametrize("name", FOLDING)
def test_what_the_page_says_is_refused(name):
    switches = {
        "use_kl_loss": f"{ACTOR}.use_kl_loss=True",
        "use_kl_in_reward": "algorithm.use_kl_in_reward=True",
        "rollout_correction.rollout_rs": "algorithm.rollout_correction.rollout_rs=token_k1",
    }
    for key, override in switches.items():
        with pytest.raises(UserError) if key in DOCUMENTED[name][1] else contextlib.nullcontext():
            settings(*settings_for(name), override)


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


def test_an_objective_of_ones_own_by_its_import_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_verl_objectives.py").write_text(
        "from lambda_grpo.objective import Objective, Preference\n"
        "class Longer(Preference):\n"
        "    learnable = True\n"
        "    def __call__(self, groups, lambda_):\n"
        "        return groups.softmax(lambda_ * groups.standardised_length)\n"
        "LONGER = Objective('longer', Longer())\n"
    )
    assert settings(objective("my_verl_objectives:LONGER")).resolve_objective().name == "longer"


REFUSED = {
    "an objective in no module": (
        [objective("no_such_module:MINE")],
        "algorithm.lambda_grpo: objective 'no_such_module:MINE': no module 'no_such_module' in the working directory",
    ),
    "an unknown objective": (
        [objective("lambda")],
        "unknown objective 'lambda' (did you mean \"lambda_grpo\"?): use one of grpo, dapo",
    ),
    "an unknown key": (["+algorithm.lambda_grpo.lr=1"], "algorithm.lambda_grpo.lr isn't known: use objective, lambda_"),
    "groups left out": (
        ["+algorithm.lambda_grpo.drop_zero_variance=true"],
        "drop_zero_variance isn't for verl, which divides its loss by the tokens of all rows of a mini-batch: set "
        "algorithm.filter_groups",
    ),
    "a value out of range": (["+algorithm.lambda_grpo.lambda_init=11"], "λ must start inside its bounds: 11"),
    "a word for a number": (["+algorithm.lambda_grpo.lambda_lr=fast"], "algorithm.lambda_grpo: must be real number"),
    "a word for all keys": (["+algorithm.lambda_grpo=true"], "algorithm.lambda_grpo is True: it takes the keys"),
    "a number for the bounds": (["+algorithm.lambda_grpo.lambda_bounds=5"], "lambda_bounds takes two values, got 5"),
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
    "kl_cov": ([f"{ACTOR}.policy_loss.loss_mode=kl_cov"], "loss_mode is 'kl_cov', which isn't one of those that"),
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
    "rejection beside the sign of advantages": (
        [objective("daro"), "algorithm.rollout_correction.rollout_rs=token_k1"],
        "algorithm.rollout_correction.rollout_rs takes from responses that it rejects: set it to null",
    ),
    "one ratio a response for weights of tokens": (
        [objective("lambda_grpo_prm"), f"{ACTOR}.policy_loss.loss_mode=gspo"],
        "the loss gspo has one ratio for all of them: set actor_rollout_ref.actor.policy_loss.loss_mode=vanilla",
    ),
    "GSPO with verl's clip by its other name": (
        [
            objective("gspo"), f"{ACTOR}.policy_loss.loss_mode=gspo", f"{ACTOR}.clip_ratio_low=null",
            f"{ACTOR}.clip_ratio_high=null",
        ],
        "clip_ratio_low=0.0003 clip_ratio_high=0.0004",
    ),
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


def test_main_refuses_first(started, capsys):
    with pytest.raises(SystemExit) as raised:
        main(configuration(*OURS, objective("bnpo")))
    assert raised.value.code == 2
    assert capsys.readouterr().err.startswith("lambda-grpo: error: objective 'bnpo' doesn't work on verl: it divides")
    assert started == []
    main(configuration(*OURS))
    assert len(started) == 1


def test_runs_of_verls_own_are_left_alone(started, monkeypatch):
    monkeypatch.setattr(plugin, "check_environment", lambda: pytest.fail("not asked for"))
    main(configuration("algorithm.adv_estimator=rloo", f"{ACTOR}.loss_agg_mode=seq-mean-token-mean"))
    assert len(started) == 1
    with pytest.raises(AssertionError, match="train_batch_size"):  # verl's own check still runs
        main(configuration("data.train_batch_size=3"))


@pytest.mark.parametrize("lacking", [{"v1": None}, {}])
def test_other_programs_configurations_are_left_alone(lacking):
    assert not is_asked_for(OmegaConf.create({"trainer": lacking, "algorithm": {}}))
    assert not is_asked_for(OmegaConf.create({}))
    assert is_asked_for(OmegaConf.create({"trainer": lacking, "algorithm": {"lambda_grpo": {}}}))


def test_programs_with_a_loop_of_their_own_are_named(capsys):
    """Such as verl.experimental.one_step_off_policy.main_ppo, which checks its configuration in the same way."""
    with pytest.raises(SystemExit):
        verl.utils.config.validate_config(configuration(*OURS), use_reference_policy=False, use_critic=False)
    message = f"algorithm.lambda_grpo is for verl.trainer.main_ppo, and {__name__} has a loop of its own"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("installed", "refused"), [("1.12.0", False), ("1.13rc1", True), ("2.0.0", True)])
def test_a_trl_beside_verl_is_named(installed, refused, started, tmp_path, monkeypatch, capsys):
    folder = tmp_path / f"trl-{installed}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: trl\nVersion: {installed}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) if refused else contextlib.nullcontext():
        main(configuration(*OURS))
    said = capsys.readouterr().err
    assert (f"trl {installed} is installed beside verl" in said) == refused
    assert ("pip uninstall trl" in said) == refused
    assert len(started) == (not refused)


def test_the_trainer_comes_with_verls():
    """Not with `import verl`, which samplers and reward workers do, too."""
    code = (
        "import sys, verl; print('verl.trainer.ppo.v1' in sys.modules, 'verl.workers.engine' in sys.modules);"
        "from verl.trainer.ppo.v1 import get_trainer_cls; print(get_trainer_cls('lambda_grpo').__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-3:] == ["False", "False", "LambdaGRPOVerlTrainer"]


def test_another_verl_is_named(monkeypatch):
    monkeypatch.setattr(plugin, "version", lambda name: "0.10.0")
    with pytest.raises(ImportError, match=r"builds on verl 0\.9\.1, this is 0\.10\.0: pip install 'verl==0\.9\.1'"):
        plugin.install()


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
