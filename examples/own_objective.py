"""An objective of your own: a preference is a function of whole groups, an objective is a value.

    python examples/own_objective.py [--key value ...]

Here tokens of the responses in the middle of their group count most, by how much λ decides.
"""

import sys

from torch import Tensor

from lambda_grpo import PRESETS, Objective
from lambda_grpo.cli import main
from lambda_grpo.objective.groups import Groups


def middle(groups: Groups, lambda_: Tensor) -> Tensor:
    """f = G · softmax(−λ z²): far from the group's mean length counts less where λ > 0."""
    return groups.softmax(-lambda_ * groups.standardised_length**2)


# From here on it has a name, in recipes and on the command line.
PRESETS["middle"] = Objective("middle", middle, normalizer="batch", learnable=True)

if __name__ == "__main__":
    sys.exit(main(["train", "--objective", "middle", *(sys.argv[1:] or ["--max_steps", "3"])]))
