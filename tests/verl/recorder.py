"""Records the inputs of a worker's loss; and a worker that is killed in the middle of a step.

RECORD_DIR: where each micro-batch's tensors go. KILL_AT: the step in which rank 1 kills itself, at its first update.
"""

import functools
import os
import signal
from pathlib import Path

import torch
from verl.workers.utils.padding import no_padding_2_padding

COLUMNS = ["prompts", "responses", "loss_mask", "old_log_probs", "advantages", "rm_scores"]


def recorded(loss):
    count = 0

    @functools.wraps(loss)
    def wrapper(config, model_output, data, dp_group=None):
        nonlocal count
        rank, steps = torch.distributed.get_rank(), list(data["global_steps"])
        if os.environ.get("KILL_AT") == str(steps[0]) and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        result, metrics = loss(config=config, model_output=model_output, data=data, dp_group=dp_group)
        columns = {name: data[name].to_padded_tensor(0).cpu() for name in COLUMNS}
        columns["log_probs"] = no_padding_2_padding(model_output["log_probs"], data).detach().cpu()
        record = {
            **columns,
            "batch_num_tokens": data["batch_num_tokens"],
            "uid": [str(uid) for uid in data["uid"]],
            "step": int(steps[0]),
        }
        torch.save(record, Path(os.environ["RECORD_DIR"], f"{rank}-{os.getpid()}-{count:04}.pt"))
        count += 1
        return result, metrics

    return wrapper
