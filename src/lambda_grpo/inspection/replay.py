"""What λ would have done: its exact gradient on samples that another objective was trained on, and its steps.

The policy is that of the run, so this is what λ would have seen, not what it would have caused. The gradient is the
loss's where the ratio is 1, dL/dλ = − Σ_i ∂f_i/∂λ · A_i · |o_i| / Z_i, plus that of the penalty; λ takes one step of
SGD for each step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lambda_grpo.inspection.part import Part
from lambda_grpo.inspection.samples import Array
from lambda_grpo.inspection.weights import PassRates
from lambda_grpo.objective import LambdaState, Objective, lambda_penalty, response_weights
from lambda_grpo.objective.preferences import LambdaExp, LambdaLinear, LambdaSoftmax, PassRateWeights

TOLERANCE = 1e-13  # by how much a λ of the path may differ from the step that leads to it
ROUNDS = 8  # of Newton's method until the steps that it is tried on are halved
LEAST_MOVE = 1e-9  # of λ between two rounds, from which a slope is known


class Replay(ABC):
    """An objective with a λ, applied to a run's steps one after another.

    Args:
        lr: learning rate of λ.

    Attributes:
        value: λ, or several, after the steps so far.
    """

    def __init__(self, objective: Objective, lr: float):
        self.objective, self.lr = objective, lr
        self.low, self.high = objective.preference.lambda_bounds
        self.value: Any = 0.0

    @abstractmethod
    def advance(self, part: Part) -> tuple[Tensor, Array]:
        """Take the steps of a part. Returns (n,) f at the λ that each step had, and this λ, (S,) or (S, K)."""

    def forces(self, part: Part) -> Tensor:
        """(n,) A·|o|/Z: what multiplies f in −L where the ratio is 1."""
        return part.advantages(self.objective) * part.lengths / torch.from_numpy(part.normalizer(self.objective))


def replay(objective: Objective, lr: float, group_sizes: tuple[int, int]) -> Replay | None:
    """The replay of an objective's λ.

    Args:
        group_sizes: the least and greatest size of the groups that λ learns from.

    Returns:
        None if the objective has a λ for each pass rate, and groups differ in size.
    """
    preference = objective.preference
    if type(preference) in (LambdaSoftmax, LambdaExp, LambdaLinear):
        return PathReplay(objective, lr)
    shape = preference.lambda_shape(group_sizes[1])
    if shape and group_sizes[0] < group_sizes[1]:
        return None
    if type(preference) is PassRateWeights:
        return PassRateReplay(objective, lr, shape[0])
    return StepReplay(objective, lr, shape)


class PathReplay(Replay):
    """λ-GRPO's forms, whose f of a sample depends on its own λ alone: all steps of a part at once.

    λ_{t+1} = clip(λ_t − lr · g_t(λ_t)) is solved for the whole path by Newton's method, with slopes from the last two
    rounds: at a guess of all λ_t one call gives all g_t, and the guess is corrected by the steps that they make. Each
    round makes at least one more step exact, and usually four make all of them exact, however many there are. So time
    depends on the number of samples, not on that of their steps.
    """

    def advance(self, part: Part) -> tuple[Tensor, Array]:
        """See `Replay`."""
        f, path = torch.empty_like(part.lengths), np.empty(part.steps)
        forces = self.forces(part)
        first, count = 0, part.steps
        while first < part.steps:
            last = min(first + count, part.steps)
            done = self._solve(part, forces, f, path, first, last)
            count = 2 * count if done == last - first else max(1, count // 2)
            first += done
        return f, path

    def _solve(self, part: Part, forces: Tensor, f: Tensor, path: Array, first: int, last: int) -> int:
        """Find f and λ of the steps first .. last − 1, or of the first few of them. Returns of how many."""
        ends = part.samples.step_start
        rows, starts = slice(int(ends[first]), int(ends[last])), ends[first:last] - ends[first]

        def evaluate(guess: Array) -> tuple[Tensor, Array]:
            """(n,) f and (S,) gradients at the λ of each step."""
            leaf = torch.from_numpy(np.repeat(guess, part.step_sizes[first:last]))
            weights, each = torch.empty_like(leaf), torch.empty_like(leaf)
            for piece in part.pieces(rows):
                own = slice(piece.start - rows.start, piece.stop - rows.start)
                at = leaf[own].requires_grad_()
                found = response_weights(part.lengths[piece], part.ids[piece], self.objective, at)
                weights[own] = found.detach()
                (each[own],) = torch.autograd.grad(found, at, forces[piece])
            return weights, -np.add.reduceat(each.numpy(), starts)

        guess, slope = np.full(last - first, self.value), np.zeros(last - first)
        weights, gradient = evaluate(guess)
        for rounds_left in reversed(range(ROUNDS)):
            stepped = np.clip(guess - self.lr * gradient, self.low, self.high)
            wrong = np.flatnonzero(np.abs(stepped[:-1] - guess[1:]) > TOLERANCE)
            done = int(wrong[0]) + 1 if len(wrong) else last - first
            if done == last - first or rounds_left == 0:
                break
            before, gradient_before = guess, gradient
            guess = self._corrected(guess, gradient, slope)
            weights, gradient = evaluate(guess)
            moved = np.abs(guess - before) > LEAST_MOVE
            slope[moved] = (gradient - gradient_before)[moved] / (guess - before)[moved]
        path[first : first + done] = guess[:done]
        count = int(ends[first + done]) - rows.start
        f[rows.start : rows.start + count] = weights[:count]
        self.value = float(stepped[done - 1])
        return done

    def _corrected(self, guess: Array, gradient: Array, slope: Array) -> Array:
        """The path on which each λ follows from the one before, each gradient being linear around the guess."""
        value, lr, low, high = self.value, self.lr, self.low, self.high
        path = []
        for at, g, s in zip(guess.tolist(), gradient.tolist(), slope.tolist(), strict=True):
            path.append(value)
            value -= lr * (g + s * (value - at))
            value = low if value < low else high if value > high else value
        return np.array(path)


class PassRateReplay(Replay):
    """DARO's λ, one for each number k of right answers: f = e^{λ_k} · f at λ = 0, and the penalty's gradient is −1.

    Args:
        count: K, numbers of right answers that a group with right and wrong ones can have.
    """

    def __init__(self, objective: Objective, lr: float, count: int):
        super().__init__(objective, lr)
        self.value = [0.0] * count

    def advance(self, part: Part) -> tuple[Tensor, Array]:
        """See `Replay`."""
        count = len(self.value)
        rates = PassRates.of(part, self.objective)
        forces = part.group_sums(rates.weights * self.forces(part).numpy())[rates.is_mixed]
        cell = (part.group_step * count + rates.right - 1)[rates.is_mixed]
        force = np.bincount(cell, forces, part.steps * count).reshape(part.steps, count)
        occurs = np.bincount(cell, minlength=part.steps * count).reshape(part.steps, count) > 0
        path = np.empty((part.steps, count))
        for k in range(count):
            path[:, k] = self._path(k, force[:, k], occurs[:, k])
        return torch.from_numpy(rates.at(path, part)), path

    def _path(self, k: int, force: Array, occurs: Array) -> Array:
        """(S,) the k-th λ, which only moves in steps in which k occurs; `value` is then that after these steps."""
        values = [self.value[k]]
        for pull in force[occurs].tolist():
            value = values[-1] + self.lr * (math.exp(values[-1]) * pull + 1)
            values.append(min(max(value, self.low), self.high))
        self.value[k] = values[-1]
        return np.array(values)[np.cumsum(occurs) - occurs]


class StepReplay(Replay):
    """Any preference: step by step.

    Args:
        shape: of its λ.
    """

    def __init__(self, objective: Objective, lr: float, shape: tuple[int, ...]):
        super().__init__(objective, lr)
        self.state = LambdaState(np.zeros(shape).tolist(), lr, bounds=(self.low, self.high))
        self.value = self.state.value

    def advance(self, part: Part) -> tuple[Tensor, Array]:
        """See `Replay`."""
        advantages, forces = part.advantages(self.objective), self.forces(part)
        f, path = [], []
        for rows in part.rows():
            leaf = self.state.leaf()
            batch = part.lengths[rows], part.ids[rows], self.objective, leaf
            weights = response_weights(*batch, advantages=advantages[rows])
            loss = lambda_penalty(*batch, advantages=advantages[rows]) - (weights * forces[rows]).sum()
            f.append(weights.detach())
            path.append(self.state.value)
            self.state.step(torch.autograd.grad(loss, leaf)[0])
        self.value = self.state.value
        return torch.cat(f), np.array(path)
