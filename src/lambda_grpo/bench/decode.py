"""What bounds a decoding step: its time for several numbers of rows, on one thread.

    python -m lambda_grpo.bench.decode     # prints one JSON object for each number of rows

Few rows read all of the weights for little arithmetic; each further row reads keys and values of its own.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from lambda_grpo.bench import steps

PROMPTS, PROMPT_LENGTH, PLACES = 8, 24, 64  # as the `short` workload's


def measure(rows: int) -> dict[str, Any]:
    """The median step of a completion of 64 tokens: milliseconds, and billions of operations and bytes a second.

    Bytes are those of the weights and of the keys and values of half of the completion, each read once.
    """
    import torch

    from lambda_grpo.fast.sampler.compiled_step import CompiledStep
    from lambda_grpo.fast.sampler.decoder import Decoder

    model = steps._model(steps.WORKLOADS["short"])
    decoder = Decoder(model)
    with torch.no_grad():
        prompts = [[5] * PROMPT_LENGTH] * PROMPTS
        step = CompiledStep(decoder, prompts, (torch.arange(rows) % PROMPTS).sort().values, PLACES)
        tokens, seconds = torch.full((rows,), 7), []
        for t in range(PLACES):
            start = time.perf_counter()
            step(tokens, t)
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    weights = sum(parameter.numel() for parameter in model.parameters())
    own = rows * len(decoder.layers) * 2 * decoder.kv_heads * decoder.head_dim * PLACES / 2
    return {
        "rows": rows,
        "milliseconds": 1e3 * median,
        "gflops": 2e-9 * weights * rows / median,
        "gigabytes": 4e-9 * (weights + own) / median,
    }


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    print("\n".join(json.dumps(measure(rows)) for rows in (1, 4, 16, 64)))
