"""verl's own `main_ppo`, with Ray and two FSDP2 workers over gloo: λ's gradient, checkpoints, a worker that dies."""

import json
import os
import subprocess

import pytest
import torch

from lambda_grpo.objective.lambda_file import LAMBDA_STATE_FILE
from tests.objective import reference
from tests.verl import recorded_run, tiny
from tests.verl.main_ppo import GROUP, PROMPTS, REPOSITORY, main_ppo, metrics

pytestmark = pytest.mark.timeout(900)

LAMBDA_LR, LAMBDA_INIT = 2.0, 0.5
OURS = {
    "+algorithm.lambda_grpo.objective": "lambda_grpo",
    "+algorithm.lambda_grpo.lambda_lr": LAMBDA_LR,
    "+algorithm.lambda_grpo.lambda_init": LAMBDA_INIT,
}
FOUR_STEPS = {**OURS, "trainer.total_training_steps": 4, "trainer.save_freq": 2}


def finished(policy, out, settings):
    """Where a run that ended well left what it has."""
    done = main_ppo(policy, out, settings)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    tiny.make(folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(policy, tmp_path_factory):
    """Four steps of one update each."""
    out = tmp_path_factory.mktemp("uninterrupted")
    return finished(policy, out, FOUR_STEPS)


@pytest.fixture(scope="module")
def many_updates(policy, tmp_path_factory):
    """Two mini-batches and two epochs a step, a KL term, micro-batches by their number of tokens."""
    out = tmp_path_factory.mktemp("many_updates")
    settings = {
        **OURS,
        "trainer.total_training_steps": 2,
        "actor_rollout_ref.actor.ppo_mini_batch_size": PROMPTS // 2,
        "actor_rollout_ref.actor.ppo_epochs": 2,
        "actor_rollout_ref.actor.optim.lr": 0.02,  # so that ratios leave the clip range
        "actor_rollout_ref.actor.use_kl_loss": True,
        "actor_rollout_ref.actor.kl_loss_coef": 0.1,
        "actor_rollout_ref.actor.use_dynamic_bsz": True,
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 22,  # two or three micro-batches of four responses
        "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz": True,
        "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu": 22,
    }
    return finished(policy, out, settings)


@pytest.fixture(scope="module")
def several_lambdas(policy, tmp_path_factory):
    """DARO: a λ for each pass rate, and a normaliser that isn't a mini-batch's tokens."""
    out = tmp_path_factory.mktemp("several_lambdas")
    settings = {
        "+algorithm.lambda_grpo.objective": "daro",
        "reward.custom_reward_function.name": "right_or_wrong",
        "trainer.total_training_steps": 2,
        "actor_rollout_ref.actor.ppo_mini_batch_size": PROMPTS // 2,
        "actor_rollout_ref.actor.optim.lr": 0.02,
    }
    return finished(policy, out, settings)


# -- the gradient ------------------------------------------------------------------------------------------------------


def test_one_update_has_the_drivers_formula(uninterrupted):
    """On policy dL/dλ = −Σ_i ∂ln f_i/∂λ · f_i A_i |o_i| / N."""
    logged = metrics(uninterrupted)
    assert sorted(logged) == [1, 2, 3, 4]
    for step in recorded_run.steps(uninterrupted):
        assert len(step.responses) == PROMPTS * GROUP
        lam = torch.tensor(logged[step.number]["lambda"], dtype=torch.float64, requires_grad=True)
        f = reference.weights(step.lengths, step.uids, "lambda_grpo", lam)
        gradient = 0.0
        for f_i, advantage, length in zip(f, step.advantages, step.lengths, strict=True):
            (slope,) = torch.autograd.grad(f_i.log(), lam, retain_graph=True)
            gradient -= slope.item() * f_i.item() * advantage * length / sum(step.lengths)
        assert abs(gradient) > 1e-4
        assert logged[step.number]["lambda_grad"] == pytest.approx(gradient, rel=1e-6)


@pytest.mark.parametrize("run", ["uninterrupted", "many_updates"])
def test_gradient_is_autograds(run, request):
    out = request.getfixturevalue(run)
    logged = metrics(out)
    for step in recorded_run.steps(out):
        lam = torch.tensor(logged[step.number]["lambda"], dtype=torch.float64, requires_grad=True)
        f = reference.weights(step.lengths, step.uids, "lambda_grpo", lam)
        loss = sum(f_i * part for f_i, part in zip(f, step.losses(), strict=True))
        (gradient,) = torch.autograd.grad(loss, lam)
        assert logged[step.number]["lambda_grad"] == pytest.approx(gradient.item(), rel=1e-6)


def test_the_updates_were_many_and_off_policy(many_updates):
    found = recorded_run.steps(many_updates)
    assert [step.updates for step in found] == [4, 4]
    assert len({len(record["uid"]) for step in found for record in step.records}) > 1  # micro-batches by tokens
    assert all(step.clipped > 0 for step in found)
    for line in metrics(many_updates).values():
        assert line["actor/kl_loss"] >= 0
        assert line["actor/pg_clipfrac"] > 0


def test_gradient_of_several_lambdas_is_autograds(several_lambdas):
    logged, steps = metrics(several_lambdas), recorded_run.steps(several_lambdas)
    for step in steps:
        line = logged[step.number]
        names = [f"lambda/{k}" for k in range(1, GROUP)]
        lam = torch.tensor([line[name] for name in names], dtype=torch.float64, requires_grad=True)
        assert line["lambda"] == pytest.approx(lam.mean().item())
        loss = torch.zeros((), dtype=torch.float64)
        rates = {}
        for members in reference.groups(step.uids):
            right = sum(step.advantages[i] > 0 for i in members)
            if 0 < right < len(members):
                rates.setdefault(right, []).extend(members)
        for right, members in rates.items():  # each pass rate has a token mean of its own over the whole batch
            tokens = sum(step.lengths[i] for i in members)
            total = -sum(s for i in members for s in step.surrogates[i])
            loss = loss + lam[right - 1].exp() * total / tokens - lam[right - 1]
        (gradient,) = torch.autograd.grad(loss, lam)
        assert line["lambda_grad"] == pytest.approx(gradient.mean().item(), rel=1e-6)
        after = [logged[step.number + 1][name] for name in names] if step.number + 1 in logged else None
        if after is not None:
            moved = (torch.tensor(after, dtype=torch.float64) - lam.detach()) / -0.1  # SGD's default rate
            torch.testing.assert_close(moved, gradient, rtol=1e-6, atol=1e-9)
    assert len(steps) == 2


# -- what is folded, logged and saved ----------------------------------------------------------------------------------


def test_advantages_hold_the_weights(uninterrupted):
    logged = metrics(uninterrupted)
    for step in recorded_run.steps(uninterrupted):
        f = reference.weights(step.lengths, step.uids, "lambda_grpo", logged[step.number]["lambda"])
        f = [float(value) for value in f]
        folded = [a * b for a, b in zip(f, step.advantages, strict=True)]
        assert step.folded == pytest.approx(folded, rel=1e-5, abs=1e-6)
        assert logged[step.number]["weight_min"] == pytest.approx(min(f))
        assert logged[step.number]["weight_max"] == pytest.approx(max(f))
        assert logged[step.number]["actor/pg_loss"] == pytest.approx(sum(step.losses(folded_in=True)), rel=1e-4)


def test_lambda_moves_by_its_gradient(uninterrupted):
    logged = metrics(uninterrupted)
    assert logged[1]["lambda"] == LAMBDA_INIT
    for n in (1, 2, 3):
        expected = logged[n]["lambda"] - LAMBDA_LR * logged[n]["lambda_grad"]
        assert logged[n + 1]["lambda"] == pytest.approx(expected, rel=1e-12)
    assert abs(logged[4]["lambda"] - LAMBDA_INIT) > 1e-3


def test_what_is_logged(uninterrupted):
    """The names that the TRL trainer logs λ under; nothing that only the plug-in needs."""
    names = set(metrics(uninterrupted)[1])
    assert {"lambda", "lambda_grad", "weight_min", "weight_max", "effective_sample_size"} <= names
    assert not [name for name in names if "lambda_grpo" in name]


def test_lambda_is_saved_with_each_checkpoint(uninterrupted):
    logged = metrics(uninterrupted)
    for n in (2, 4):
        saved = json.loads((uninterrupted / f"checkpoints/global_step_{n}" / LAMBDA_STATE_FILE).read_text())
        assert (saved["objective"], saved["optimizer"], saved["steps"]) == ("lambda_grpo", "sgd", n)
        expected = logged[n]["lambda"] - LAMBDA_LR * logged[n]["lambda_grad"]
        assert saved["value"] == pytest.approx(expected, rel=1e-12)


def test_trl_has_the_same_update(policy, uninterrupted, tmp_path):
    """The first step's rollouts through the TRL trainer, in its own environment: f, loss and both gradients."""
    step, logged = recorded_run.steps(uninterrupted)[0], metrics(uninterrupted)[1]
    order = [i for members in reference.groups(step.uids) for i in members]
    rows = [
        {
            "group": step.uids[i],
            "prompt": step.prompts[i],
            "completion": list(step.responses[i][1:]),
            "advantage": step.advantages[i],
        }
        for i in order
    ]
    rollouts = tmp_path / "rollouts.json"
    rollouts.write_text(json.dumps({"objective": "lambda_grpo", "lambda": logged["lambda"], "rows": rows}))
    python = os.environ.get("TRL_PYTHON", ".venv/bin/python")
    command = [python, "-m", "tests.verl.replay_in_trl", str(policy), str(rollouts), str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    found = json.loads((tmp_path / "found.json").read_text())
    folded = [f * row["advantage"] for f, row in zip(found["weights"], rows, strict=True)]
    assert [step.folded[i] for i in order] == pytest.approx(folded, rel=1e-5, abs=1e-6)
    assert min(found["weights"]) < 0.95
    assert max(found["weights"]) > 1.05
    assert found["loss"] == pytest.approx(logged["actor/pg_loss"], rel=1e-4)  # a sum of both signs, of float32
    assert found["lambda_grad"] == pytest.approx(logged["lambda_grad"], rel=1e-5)
    assert found["grad_norm"] == pytest.approx(logged["actor/grad_norm"], rel=1e-4)


# -- stops -------------------------------------------------------------------------------------------------------------


def test_stop_kill_and_resume(policy, uninterrupted, tmp_path):
    """Two of four steps; then on, until a worker is killed in the third; then on again: as if nothing had happened.

    But for rounding: verl orders a batch by names that it draws anew.
    """
    checkpoints = {"trainer.default_local_dir": tmp_path / "checkpoints"}
    whole = metrics(uninterrupted)

    first = finished(policy, tmp_path / "first", {**FOUR_STEPS, **checkpoints, "trainer.total_training_steps": 2})
    assert lambdas(first) == pytest.approx({n: whole[n]["lambda"] for n in (1, 2)}, rel=1e-6)

    killed = main_ppo(policy, tmp_path / "killed", {**FOUR_STEPS, **checkpoints}, {"KILL_AT": "3"})
    assert killed.returncode != 0
    assert "died" in killed.stderr or "ActorDiedError" in killed.stderr, killed.stderr[-3000:]
    assert f"resumed λ = {saved_lambda(tmp_path / 'checkpoints/global_step_2')}" in killed.stdout + killed.stderr
    assert not (tmp_path / "killed/metrics.jsonl").read_text()  # no step was finished
    assert (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").read_text() == "2"

    where = {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": tmp_path / "checkpoints/global_step_2"}
    found = metrics(finished(policy, tmp_path / "resumed", {**FOUR_STEPS, **checkpoints, **where}))
    assert sorted(found) == [3, 4]
    for n in (3, 4):
        for name in ("lambda", "weight_max", "response_length/mean"):
            assert found[n][name] == pytest.approx(whole[n][name], rel=1e-6), name
        for name in ("lambda_grad", "actor/pg_loss"):  # sums of both signs, of float32
            assert found[n][name] == pytest.approx(whole[n][name], rel=1e-4), name


def lambdas(out):
    return {n: line["lambda"] for n, line in metrics(out).items()}


def saved_lambda(checkpoint):
    return json.loads((checkpoint / LAMBDA_STATE_FILE).read_text())["value"]
