"""`lambda-grpo train` on several processes.

torchrun --nproc_per_node N -m tests.invariant.recipe_run OUT_DIR --output_dir OUT_DIR/run …
"""

import sys

import torch

from lambda_grpo import cli


def main(_, *settings):
    torch.set_num_threads(1)
    assert cli.main(["train", *settings]) == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
