"""Train on given completions under ZeRO-2 and ZeRO-3, and record λ and the policy after each step.

torchrun --nproc_per_node N -m tests.distributed.deepspeed_run OUT_DIR
"""

import gc
import os
import sys
from pathlib import Path

import deepspeed
import torch
from deepspeed.runtime.zero.utils import is_zero_param

from tests.invariant.trajectory_run import RUNS, Recorder, train


class GatheringRecorder(Recorder):
    """ZeRO-3's parameters lie in parts."""

    def whole(self, parameter):
        with deepspeed.zero.GatheredParameters([parameter], enabled=is_zero_param(parameter)):
            return super().whole(parameter)


def zero(stage):
    return {
        "zero_optimization": {"stage": stage},
        "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,  # SGD is the Trainer's own
    }  # fmt: skip


def main(out):
    torch.set_num_threads(1)
    gc.freeze()  # the Trainer collects garbage whenever it trains
    found = {}
    for stage in (2, 3):
        for name in ("grpo", "lambda_grpo", "saved"):
            directory = Path(out, f"{name}{stage}")
            settings = {**RUNS[name], "deepspeed": zero(stage)}
            found[name, stage] = train(directory, recorder_class=GatheringRecorder, **settings)
        checkpoint = str(directory / "checkpoint-3")
        found["resumed", stage] = train(directory, checkpoint, recorder_class=GatheringRecorder, **settings)
    if os.environ["RANK"] == "0":
        torch.save(found, Path(out, "found.pt"))


if __name__ == "__main__":
    main(*sys.argv[1:])
