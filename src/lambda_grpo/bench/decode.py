"""What limits a decoding step: its time for several batch sizes, on one thread.

    python -m lambda_grpo.bench.decode     # prints one JSON object for each batch size

A small batch reads all of the weights for little arithmetic; each further sequence reads its own keys and values.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from lambda_grpo.bench import workloads

PROMPTS, PROMPT_LENGTH, MAX_NEW = 8, 24, 64  # as in the workload `short`


def measure(sequences: int) -> dict[str, Any]:
    """Milliseconds of the median step of a completion of 64 tokens, and billions of operations and bytes per second.

    The bytes are the weights and the keys and values of half a completion, each read once.
    """
    import torch

    from lambda_grpo.fast.sampler.decoder import Decoder
    from lambda_grpo.fast.sampler.native_step import NativeStep

    model = workloads.make_policy(workloads.WORKLOADS["short"])
    decoder = Decoder(model)
    with torch.no_grad():
        prompts = [[5] * PROMPT_LENGTH] * PROMPTS
        step = NativeStep(decoder, prompts, (torch.arange(sequences) % PROMPTS).sort().values, MAX_NEW)
        tokens, seconds = torch.full((sequences,), 7), []
        for t in range(MAX_NEW):
            start = time.perf_counter()
            step(tokens, t)
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    weights = sum(parameter.numel() for parameter in model.parameters())
    cache = sequences * len(decoder.layers) * 2 * decoder.kv_heads * decoder.head_dim * MAX_NEW / 2
    return {
        "sequences": sequences,
        "milliseconds": 1e3 * median,
        "gflops": 2e-9 * weights * sequences / median,
        "gigabytes": 4e-9 * (weights + cache) / median,
    }


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    print("\n".join(json.dumps(measure(sequences)) for sequences in (1, 4, 16, 64)))
