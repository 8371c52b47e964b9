"""What limits a decoding step: its time for several batch sizes.

    python -m lambda_grpo.bench.decode WORKLOAD THREADS     # prints one JSON object for each batch size

A small batch reads all of the weights for little arithmetic; each further sequence reads its own keys and values.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

from lambda_grpo.bench import workloads

STEPS = 64


def measure(workload: workloads.Workload, sequences: int) -> dict[str, Any]:
    """Milliseconds of the median of 64 steps, and billions of operations and bytes per second.

    The bytes are the weights and the keys and values of half these steps, each read once.
    """
    import torch

    from lambda_grpo.fast.sampler.decoder import Decoder
    from lambda_grpo.fast.sampler.native_step import NativeStep

    model = workloads.make_policy(workload)
    decoder = Decoder(model)
    with torch.no_grad():
        prompts = [[5] * workload.prompt_length] * workload.prompts
        step = NativeStep(decoder, prompts, (torch.arange(sequences) % len(prompts)).sort().values, STEPS)
        tokens, seconds = torch.full((sequences,), 7), []
        for t in range(STEPS):
            start = time.perf_counter()
            step(tokens, t)
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    weights = sum(parameter.numel() for parameter in model.parameters())
    cache = sequences * len(decoder.layers) * 2 * decoder.kv_heads * decoder.head_dim * STEPS / 2
    return {
        "sequences": sequences,
        "milliseconds": 1e3 * median,
        "gflops": 2e-9 * weights * sequences / median,
        "gigabytes": 4e-9 * (weights + cache) / median,
    }


if __name__ == "__main__":
    import torch

    name, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    for sequences in (1, 4, 16, 64):
        print(json.dumps(measure(workloads.WORKLOADS[name], sequences)), flush=True)
