"""What λ would have done: λ-GRPO's gradient on samples that another objective was trained on, and the steps of λ."""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_grpo.objective import LambdaState, Objective, loss_normalizer, response_weights


class Replay:
    """An objective with a λ, applied to a run's steps one after another.

    The policy is that of the run, so this is what λ would have seen, not what it would have caused. The gradient is the
    loss's where the ratio is 1: dL/dλ = − Σ_i ∂f_i/∂λ · A_i · |o_i| / Z_i, of one optimiser step for each step.
    """

    def __init__(self, objective: Objective, max_completion_length: int, state: LambdaState):
        self.objective, self.max_completion_length = objective, max_completion_length
        self.state = state

    def step(self, lengths: Tensor, group_ids: Tensor, advantages: Tensor) -> Tensor:
        """(B,) f at the current λ, after which λ takes its step."""
        leaf = self.state.leaf()
        weights = response_weights(lengths, group_ids, self.objective, leaf, advantages=advantages)
        z = loss_normalizer(lengths, group_ids, self.objective, max_completion_length=self.max_completion_length)
        loss = -(weights * (advantages * lengths / z)).sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        self.state.step(gradient)
        return weights.detach()
