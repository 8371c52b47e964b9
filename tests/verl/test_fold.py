"""Weights folded into verl's advantages give each paper's loss through verl's own: value, gradient, and that of λ.

A batch is split over mini-batches, ranks and micro-batches as verl does, and goes through the workers' loss.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.utils import tensordict_utils as tu
from verl.workers.config import PolicyLossConfig

from lambda_grpo import PRESETS
from lambda_grpo.errors import UserError
from lambda_grpo.verl.fold import fold
from lambda_grpo.verl.loss import GRADIENT, SHARE, SLOPE, TOKENS, lambda_grpo_loss
from lambda_grpo.verl.settings import check_objective
from tests.objective import reference
from tests.objective.strategies import batches, prepared
from tests.verl.test_core_algos import actor_config

PROMPT = 2  # tokens
CLIPS = {"gspo": ("gspo", 3e-4, 4e-4), "luspo": ("gspo", 2e-3, 2.5e-3), "cispo": ("cispo", 1.0, 4.0)}
CLOSE = {"rtol": 1e-6, "atol": 1e-10}


def folds(objective):
    try:
        check_objective(objective)
    except UserError:
        return False
    return True


FOLDING = [name for name, objective in PRESETS.items() if folds(objective)]


def test_those_that_fold():
    assert FOLDING == [
        "grpo", "dapo", "dr_grpo", "lambda_grpo", "lambda_grpo_paper", "lambda_grpo_linear", "lambda_grpo_exp",
        "prompt_mean", "lite_ppo", "gspo", "cispo", "luspo", "delta_l", "balanced", "daro", "grpo_lambda_tail",
        "lambda_grpo_prm",
    ]  # fmt: skip


def jagged(rows):
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def rows_of(values, widths):
    return jagged([row[:width] for row, width in zip(values, widths, strict=True)])


def last_token(width, reward):
    return torch.cat([torch.zeros(width - 1, dtype=torch.float64), reward[None]])


class Verl:
    """A batch as verl holds it, and verl's way through it."""

    def __init__(self, batch, name, lam, padding=0):
        self.objective, self.name = PRESETS[name], name
        self.logps = batch["per_token_logps"].clone().requires_grad_()
        self.batch, self.padding, count = batch, padding, len(batch["group_ids"])
        mask = batch["completion_mask"]
        # a response without a token is one that isn't the policy's
        self.widths = [max([1, *(t + 1 for t, m in enumerate(row) if m)]) for row in mask.tolist()] + [1] * padding
        advantages, rewards = batch["advantages"], torch.zeros(count, dtype=torch.float64)
        if self.objective.advantage_scale == "batch":  # what is left to divide by
            rewards = torch.arange(count).double()
            advantages = advantages * (reference._sample_std(rewards.tolist()) + 1e-4)
        self.lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=self.objective.preference.learnable)
        self.mask = self.padded(mask)
        self.folded = fold(
            rows_of(self.padded(advantages[:, None] * mask), self.widths),
            rows_of(self.mask, self.widths),
            [*map(str, batch["group_ids"].tolist()), *[f"pad{i}" for i in range(padding)]],
            torch.arange(count + padding) < count,
            self.objective,
            self.lambda_,
            rewards=jagged([last_token(*row) for row in zip(self.widths, self.padded(rewards), strict=True)]),
            completion_ids=rows_of(self.padded(batch["completion_ids"]), self.widths),
            max_completion_length=reference.LMAX,
        )

    def padded(self, values):
        return torch.cat([values, values.new_zeros(self.padding, *values.shape[1:])])

    def micro_batch(self, rows, batch_tokens, ranks):
        widths = [self.widths[i] for i in rows]
        pick = lambda values: rows_of(self.padded(values)[rows], widths)  # noqa: E731
        columns = {
            "prompts": jagged([torch.zeros(PROMPT, dtype=torch.long)] * len(rows)),
            "responses": pick(self.batch["completion_ids"]),
            "loss_mask": rows_of(self.mask[rows], widths),
            "response_mask": rows_of(self.mask[rows], widths),
            "old_log_probs": pick(self.batch["old_per_token_logps"]),
            "advantages": jagged([self.folded.advantages[i] for i in rows]),
        }
        if self.folded.slope is not None:
            columns[SLOPE] = jagged([self.folded.slope[i] for i in rows])
        data = TensorDict(columns, batch_size=len(rows))
        tu.assign_non_tensor(data, batch_num_tokens=batch_tokens, dp_size=ranks, global_batch_size=len(self.widths))
        return data

    def log_probs(self, rows):
        """As the model gives them: of all tokens, each one's at the token before."""
        logps = self.padded(self.logps)
        parts = []
        for i in rows:
            parts += [torch.zeros(PROMPT - 1).double(), logps[i, : self.widths[i]], torch.zeros(1).double()]
        return torch.cat(parts)

    def penalty(self):
        """What is added once for λ itself, and its gradient."""
        value = self.folded.batch.penalty(self.objective, self.lambda_)
        return value.item(), torch.autograd.grad(value, self.lambda_)[0] if value.requires_grad else 0.0

    def updates(self, minis, pieces):
        """Mean over mini-batches of verl's loss, and of the metric that is λ's gradient.

        pieces: (B,) for each row its rank and its micro-batch there.
        """
        mode, low, high = CLIPS.get(self.name, ("vanilla", 0.2, 0.28))
        config = actor_config(policy_loss=PolicyLossConfig(loss_mode=mode), clip_ratio_low=low, clip_ratio_high=high)
        size, ranks = len(self.widths) // minis, len({rank for rank, _ in pieces})
        total, gradient = 0.0, torch.zeros(max(self.lambda_.numel(), 1), dtype=torch.float64)
        for mini in range(minis):
            rows = range(mini * size, (mini + 1) * size)
            tokens, share = int(self.mask[list(rows)].sum()), 0.0
            for piece in sorted({pieces[row] for row in rows}):
                micro = [row for row in rows if pieces[row] == piece]
                data = self.micro_batch(micro, tokens, ranks)
                if self.folded.verl_z is not None:
                    tu.assign_non_tensor(data, **{TOKENS: self.folded.verl_z / minis})
                loss, metrics = lambda_grpo_loss(config, {"log_probs": self.log_probs(micro)}, data)
                total = total + loss / ranks / minis  # FSDP's mean over ranks
                if self.objective.preference.learnable:
                    found = [metrics[f"{GRADIENT}_{k}"].aggregate() for k in range(len(gradient))]
                    gradient += torch.tensor(found, dtype=torch.float64) / ranks / minis
                    share += metrics[SHARE].aggregate() / ranks
            assert share == pytest.approx(1.0) or not self.objective.preference.learnable
        return total, gradient


def any_pieces(rows):
    """Rows on two ranks, in two micro-batches each."""
    return st.lists(st.sampled_from([(0, 0), (0, 1), (1, 0), (1, 1)]), min_size=rows, max_size=rows)


def with_tools(batch, draw):
    """Some tokens in the middle of responses are a tool's."""
    mask = batch["completion_mask"]
    keep = torch.tensor(draw(st.lists(st.booleans(), min_size=mask.numel(), max_size=mask.numel()))).view(mask.shape)
    last = torch.arange(mask.size(1)) == mask.sum(1, keepdim=True) - 1
    return {**batch, "completion_mask": mask * (keep | last)}


def expected(batch, name, lam):
    logps = batch["per_token_logps"].clone().requires_grad_()
    lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
    b = reference.Batch.of({**batch, "per_token_logps": logps})
    b.epsilon = (0.2, 0.28)
    loss = torch.as_tensor(reference.loss(b, name, lambda_))
    gradients = torch.autograd.grad(loss, [logps, lambda_], allow_unused=True) if loss.requires_grad else (None, None)
    return loss.item(), *gradients


@pytest.mark.parametrize("name", FOLDING)
@settings(max_examples=25, deadline=None)
@given(batches(min_length=1, equal_sizes=True), st.floats(-4, 4), st.integers(0, 2), st.sampled_from([1, 2]), st.data())
def test_verls_loss_is_the_papers(name, batch, lam, padding, ranks, data):
    batch = prepared(batch, name)
    if "completion_ids" not in PRESETS[name].preference.needs:
        batch = with_tools(batch, data.draw)
    rows = len(batch["group_ids"]) + padding
    of_whole_batches = PRESETS[name].normalizer != "batch"  # the others average over a mini-batch's own tokens
    minis = data.draw(st.sampled_from([n for n in (1, 2, 3) if rows % n == 0])) if of_whole_batches else 1
    verl = Verl(batch, name, lam, padding)
    if any(verl.mask[i * (rows // minis) : (i + 1) * (rows // minis)].sum() == 0 for i in range(minis)):
        return  # verl itself divides by their number
    loss, gradient = verl.updates(minis, data.draw(any_pieces(rows)))
    value, of_logps, of_lambda = expected(batch, name, lam)
    penalty, of_penalty = verl.penalty()
    assert loss.item() + penalty == pytest.approx(value, rel=1e-6, abs=1e-9)
    if of_logps is not None:
        torch.testing.assert_close(torch.autograd.grad(loss, verl.logps)[0], of_logps, **CLOSE)
    if PRESETS[name].preference.learnable:
        expected_gradient = 0.0 if of_lambda is None else of_lambda.item()
        assert (gradient + of_penalty).item() == pytest.approx(expected_gradient, rel=1e-6, abs=1e-9)


@given(batches(min_length=1, equal_sizes=True), st.floats(-4, 4), st.data())
def test_each_mini_batch_has_a_token_mean_of_its_own(batch, lam, data):
    """λ-GRPO's normaliser is verl's own: f is of the whole batch, N of the update."""
    rows = len(batch["group_ids"])
    minis = data.draw(st.sampled_from([n for n in (1, 2, 3) if rows % n == 0]))
    verl = Verl(batch, "lambda_grpo", lam)
    loss, gradient = verl.updates(minis, data.draw(any_pieces(rows)))
    lambda_ = torch.tensor(lam, dtype=torch.float64, requires_grad=True)
    b, value = reference.Batch.of(batch), 0.0
    f = reference.weights(b.lengths, b.group_ids, "lambda_grpo", lambda_)
    for mini in range(minis):
        own = range(mini * rows // minis, (mini + 1) * rows // minis)
        total = sum(f[i] * reference.token_clip(b, i, t) for i in own for t in b.tokens(i))
        value = value - total / sum(b.lengths[i] for i in own) / minis
    assert loss.item() == pytest.approx(value.item(), rel=1e-6, abs=1e-9)
    (expected_gradient,) = torch.autograd.grad(value, lambda_)
    assert gradient.item() == pytest.approx(expected_gradient.item(), rel=1e-6, abs=1e-9)


@given(batches(min_length=1, equal_sizes=True), st.data())
def test_several_lambdas(batch, data):
    batch = prepared(batch, "daro")
    size = len(batch["group_ids"]) // len(set(batch["group_ids"].tolist()))
    lam = data.draw(st.lists(st.floats(-2, 2), min_size=max(size - 1, 1), max_size=max(size - 1, 1)))
    if size < 2:
        return
    verl = Verl(batch, "daro", lam)
    assert verl.folded.slope.shape == (len(batch["group_ids"]), size - 1)
    gradient = verl.updates(1, [(0, 0)] * len(batch["group_ids"]))[1] + verl.penalty()[1]
    of_lambda = expected(batch, "daro", lam)[2]
    of_lambda = torch.zeros(size - 1, dtype=torch.float64) if of_lambda is None else of_lambda
    torch.testing.assert_close(gradient, of_lambda, **CLOSE)


def test_groups_of_another_size_are_filtered_out_where_each_pass_rate_has_a_lambda():
    """verl trains on groups of which a sample failed."""
    adv = jagged([torch.tensor([a] * n) for a, n in ((1.0, 3), (-1.0, 2), (1.0, 1), (1.0, 4), (-1.0, 2))])
    mask = jagged([torch.ones(n, dtype=torch.long) for n in (3, 2, 1, 4, 2)])
    lambda_ = torch.tensor([0.5, 0.2], dtype=torch.float64, requires_grad=True)
    uids, part = ["a", "a", "a", "b", "b"], torch.ones(5, dtype=torch.bool)
    found = fold(adv, mask, uids, part, PRESETS["daro"], lambda_, max_completion_length=8)
    assert found.batch.is_kept.tolist() == [True, True, True, False, False]
    alone = fold(
        jagged(list(adv.unbind())[:3]), jagged(list(mask.unbind())[:3]), uids[:3], part[:3], PRESETS["daro"], lambda_,
        max_completion_length=8,
    )  # fmt: skip
    torch.testing.assert_close(found.weights[:3], alone.weights)
    assert found.weights[3:].tolist() == [0.0, 0.0]
    assert torch.cat(list(found.advantages.unbind())[3:]).abs().sum() == 0


@pytest.mark.parametrize("divides", [True, False])
def test_groups_of_equal_rewards_have_no_advantage(divides):
    """verl's own estimator leaves some: its mean of eight times 0.7 is off by rounding, and is divided by 1e-6."""
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).repeat(12, 1)
    rewards = torch.zeros(24, 3)
    rewards[:, 0] = torch.tensor([0.7] * 8 + [0.3, 0.7, 0.7, 0.3] * 2 + [0.1] * 7 + [0.9])
    uids = np.array(["a"] * 8 + ["b"] * 8 + ["c"] * 7 + ["alone"])
    theirs, _ = compute_grpo_outcome_advantage(rewards, mask, uids, norm_adv_by_std_in_grpo=divides)
    widths = mask.sum(1).tolist()
    lambda_ = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    found = fold(
        rows_of(theirs, widths), rows_of(mask, widths), uids, torch.ones(24, dtype=torch.bool), PRESETS["lambda_grpo"],
        lambda_, max_completion_length=8,
    )  # fmt: skip
    folded = list(found.advantages.unbind())
    assert (theirs[:8] != 0).any()
    assert torch.cat(folded[:8]).tolist() == [0.0] * sum(widths[:8])
    assert torch.cat(folded[16:23]).tolist() == [0.0] * sum(widths[16:23])
    for i in (*range(8, 16), 23):  # verl's, to the bit
        assert torch.equal(folded[i], theirs[i, : widths[i]] * found.weights[i].to(theirs.dtype))


def test_rejected_tokens_keep_their_place_in_the_lengths():
    """verl's rollout correction empties a response's mask and advantage; what was generated stays what it was."""
    mask = jagged([torch.ones(n, dtype=torch.long) for n in (3, 2, 6, 1)])
    advantages = [torch.full((n,), a) for n, a in ((3, 1.0), (2, -1.0), (6, 1.0), (1, -1.0))]
    rejected = [*advantages[:2], torch.zeros(6), advantages[3]]
    lambda_ = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    arguments = (["a"] * 4, torch.ones(4, dtype=torch.bool), PRESETS["lambda_grpo"], lambda_)
    whole, some = (fold(jagged(a), mask, *arguments, max_completion_length=8) for a in (advantages, rejected))
    torch.testing.assert_close(some.weights, whole.weights)
    torch.testing.assert_close(some.slope, whole.slope)


@given(batches(min_length=1, equal_sizes=True), st.floats(0.1, 3))
def test_importance_weights_reach_lambda_too(batch, weight):
    """Those of verl's rollout correction multiply the loss of each token."""
    verl = Verl(batch, "lambda_grpo", 0.7)
    rows = list(range(len(batch["group_ids"])))
    data = verl.micro_batch(rows, int(verl.mask.sum()), 1)
    plain = lambda_grpo_loss(actor_config(), {"log_probs": verl.log_probs(rows)}, data)[1]
    data["rollout_is_weights"] = data["old_log_probs"] * 0 + weight
    weighed = lambda_grpo_loss(actor_config(), {"log_probs": verl.log_probs(rows)}, data)[1]
    before, after = (metrics[f"{GRADIENT}_0"].aggregate() for metrics in (plain, weighed))
    assert after == pytest.approx(weight * before, rel=1e-9, abs=1e-15)
    assert plain[SHARE].aggregate() == pytest.approx(1.0)
