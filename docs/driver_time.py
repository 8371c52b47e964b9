"""The time that the verl plug-in takes on the driver, next to that of verl itself: the table of docs/cluster.md.

    .venv-verl/bin/python docs/driver_time.py

Batches of random lengths in groups of 8, in random order. The peer is verl's own GRPO advantage on the same batch,
without the rest of its step on the driver. Both alternate in one process; each ratio is that of one pair.
"""

import statistics
import time

import numpy as np
import torch
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from lambda_grpo import PRESETS
from lambda_grpo.verl.fold import fold

GROUP = 8
SIZES = [(1_000, 1_000, 9), (1_000, 64, 9), (100_000, 64, 5), (1_000_000, 64, 3)]  # responses, their tokens, pairs


def batch(count, mean_length):
    """Jagged advantages and masks, prompt ids, padded rewards and masks."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 2 * mean_length, (count,), generator=generator)
    order = torch.randperm(count, generator=generator) // GROUP
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    tokens = int(offsets[-1])
    advantages = torch.nested.nested_tensor_from_jagged(torch.randn(tokens, generator=generator), offsets)
    mask = torch.nested.nested_tensor_from_jagged(torch.ones(tokens, dtype=torch.long), offsets)
    padded_mask = (torch.arange(2 * mean_length) < lengths[:, None]).long()
    rewards = torch.zeros(padded_mask.shape)
    rewards[:, 0] = torch.rand(count, generator=generator)
    return advantages, mask, [f"prompt-{i}" for i in order.tolist()], rewards, padded_mask


def seconds(function):
    """How long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    """Print the table."""
    print(f"λ-GRPO, {GROUP} responses a prompt; {torch.get_num_threads()} threads\n")
    print("| responses | tokens, on average | plug-in | verl's own advantage | ratio: median (least – most) | pairs |")
    print("|---|---|---|---|---|---|")
    for count, mean_length, pairs in SIZES:
        advantages, mask, uids, rewards, padded_mask = batch(count, mean_length)
        is_kept = torch.ones(count, dtype=torch.bool)
        index = np.array(uids, dtype=object)

        def plugin(advantages=advantages, mask=mask, uids=uids, is_kept=is_kept):
            lambda_ = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
            fold(advantages, mask, uids, is_kept, PRESETS["lambda_grpo"], lambda_, max_completion_length=4096)

        def verl_advantage(rewards=rewards, padded_mask=padded_mask, index=index):
            compute_grpo_outcome_advantage(rewards, padded_mask, index)

        for _ in range(3):  # warm-up
            seconds(plugin), seconds(verl_advantage)
        times = [(seconds(plugin), seconds(verl_advantage)) for _ in range(pairs)]
        ratios = [plugin_seconds / verl_seconds for plugin_seconds, verl_seconds in times]
        plugin_time, verl_time = (statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"| {count:,} | {mean_length:,} | {plugin_time:.3g} s | {verl_time:.3g} s "
            f"| {statistics.median(ratios):.2g} ({min(ratios):.2g} – {max(ratios):.2g}) | {pairs} |"
        )


if __name__ == "__main__":
    main()
