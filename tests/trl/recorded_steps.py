"""The samples and gradients of a trainer's steps, recorded for comparison with a float64 reference.

Each of these optimiser steps takes a whole generated batch, so the references' loops apply as they are.
"""

import math
from dataclasses import dataclass

import pytest
import torch

from lambda_grpo.trl import LambdaGRPOTrainer
from tests.objective import reference
from tests.trl.test_gradients import in_float64, logps

G = 8


@dataclass
class Sampled:
    policy: torch.nn.Module
    prompt_ids: list
    completion_ids: list
    logprobs: list | None

    @property
    def group_ids(self):
        return [i // G for i in range(len(self.completion_ids))]


@dataclass
class Step:
    policy: torch.nn.Module
    lambda_: float
    gradient: list
    lambda_gradient: float


class Recorded(LambdaGRPOTrainer):
    """Keeps each generated batch, and the policy, λ and their gradients at each optimiser step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sampled, self.steps = [], []

    def _generate(self, prompts):
        output = super()._generate(prompts)
        self.sampled.append(Sampled(in_float64(self.model), output[0], output[1], output[4]))
        return output

    def _measure_lambda(self):
        super()._measure_lambda()
        gradient = [p.grad.double().clone() for p in self.model.parameters()]
        self.steps.append(Step(in_float64(self.model), self.lambda_state.value, gradient, self.fold.lambda_grad.item()))


def batch_of(sampled, policy, advantages, by_policy=None, reference_policy=None):
    """The references' batch: one unpadded row at a time. by_policy: 1 for each token that isn't a tool's."""
    rows = list(zip(sampled.prompt_ids, sampled.completion_ids, strict=True))
    T = max(len(completion) for _, completion in rows)

    def of(model):
        return torch.stack([torch.nn.functional.pad(own, (0, T - len(own))) for own in (logps(model, r) for r in rows)])

    masks = by_policy or [[1] * len(completion) for _, completion in rows]
    with torch.no_grad():
        old = of(sampled.policy)
        ref = None if reference_policy is None else of(reference_policy)
    return reference.Batch(
        of(policy), old, advantages, [[*mask, *[0] * (T - len(mask))] for mask in masks], sampled.group_ids,
        [sum(mask) for mask in masks], epsilon=(0.2, 0.2), ref=ref,
    )  # fmt: skip


def assert_step_is(step, loss_of):
    """The step's gradients of policy and λ are those of a loss, given as a function of λ on float64."""
    lambda_ = torch.tensor(step.lambda_, dtype=torch.float64, requires_grad=True)
    expected, *theirs = torch.autograd.grad(loss_of(lambda_), [lambda_, *step.policy.parameters()])
    assert abs(expected.item()) > 1e-6
    assert step.lambda_gradient == pytest.approx(expected.item(), rel=1e-4)
    assert distance(step.gradient, theirs) < 1e-4 * distance(theirs)


def distance(ours, theirs=None):
    """Over all parameters; to 0 where nothing else is given."""
    theirs = [0.0] * len(ours) if theirs is None else theirs
    return math.sqrt(sum(((a - b) ** 2).sum().item() for a, b in zip(ours, theirs, strict=True)))
