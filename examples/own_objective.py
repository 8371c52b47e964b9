"""An objective of your own is a value, and a test.

    lambda-grpo train --objective own_objective:MIDDLE      # trains with it, from the folder that holds this file
    python examples/own_objective.py [--key value ...]      # the same for 30 steps, and prints λ at each step
    pytest examples/own_objective.py                        # checks it against its formula, in plain loops

Here responses whose length is close to their group's mean count most (λ decides by how much), and a token's ratio isn't
clipped but bent, s = (1 + b·tanh((ρ − 1)/b))·A. TRL has no such loss; everything else in TRL still works with it.
"""

import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from lambda_grpo.objective import Groups, Objective, Preference, Surrogate, SurrogateInputs, policy_loss


class Middle(Preference):
    """f = G · softmax(−λ z²): with λ > 0, responses far from the group's mean length count less."""

    learnable = True

    def __call__(self, groups: Groups, lambda_: Tensor) -> Tensor:
        """(B,) f."""
        return groups.softmax(-lambda_ * groups.standardised_length**2)


@dataclass(frozen=True)
class Bent(Surrogate):
    """s = (1 + bend · tanh((ρ − 1)/bend)) · A: the ratio's influence decreases with its distance from 1.

    At ρ = 1 it has to be A, not 0, since λ's gradient is proportional to s.
    """

    bend: float = 0.5

    def __call__(self, inputs: SurrogateInputs) -> tuple[Tensor, Tensor]:
        """(B, T) surrogate, and that nothing is clipped."""
        bent = 1 + self.bend * torch.tanh(inputs.log_ratio.expm1() / self.bend)
        return bent * inputs.advantages, torch.zeros_like(inputs.mask)


MIDDLE = Objective("middle", Middle(), surrogate=Bent())


def test_middle() -> None:
    """One group with responses of 1, 2 and 3 tokens, every ratio 1.2: L = − Σ f_i |o_i| s_i / Σ|o|."""
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    old = torch.full((3, 3), -2.0, dtype=torch.float64)
    A = [1.0, -0.5, 2.0]  # noqa: N806
    loss = policy_loss(old + math.log(1.2), old, torch.tensor(A), mask, torch.zeros(3), MIDDLE, 0.7).loss
    z2 = [1.5, 0.0, 1.5]  # the lengths' deviations are −1, 0, 1 and σ² is 2/3
    f = [3 * math.exp(-0.7 * z) / sum(math.exp(-0.7 * other) for other in z2) for z in z2]
    s = [(1 + 0.5 * math.tanh(0.2 / 0.5)) * a for a in A]
    expected = -sum(f[i] * (i + 1) * s[i] for i in range(3)) / 6
    assert math.isclose(loss.item(), expected, rel_tol=1e-5)


if __name__ == "__main__":
    from lambda_grpo.training.run import train

    run = train(overrides=["--objective", "own_objective:MIDDLE", "--max_steps", "30", *sys.argv[1:]])
    for row in run.metrics():
        print(f"step {row['step']:2}   reward {row['reward']:.2f}   λ {row['lambda']:+.4f}")
    print(f"Report: {run.path / 'report.html'}")
