"""Random batches for hypothesis: uneven groups in any order, uneven lengths, masked tokens with garbage values.

And what the tests do with them.
"""

import torch
from hypothesis import strategies as st

from lambda_grpo import PRESETS, policy_loss
from tests.objective import reference

NAMES = st.sampled_from(sorted(PRESETS))
LAMBDAS = st.floats(-9, 9)


@st.composite
def batches(draw, max_groups=4, max_size=6, max_tokens=7, min_length=0, equal_sizes=False):
    sizes = draw(st.lists(st.integers(1, max_size), min_size=1, max_size=max_groups))
    sizes = [sizes[0]] * len(sizes) if equal_sizes else sizes
    ids = [g * 1000003 - 7 for g, size in enumerate(sizes) for _ in range(size)]  # arbitrary integers
    ids = draw(st.permutations(ids))
    B, T = len(ids), max_tokens
    lengths = draw(st.lists(st.integers(min_length, T), min_size=B, max_size=B))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))

    def noise(*shape, scale=1.0):
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    old = -noise(B, T).abs()
    logps = old + noise(B, T, scale=0.3)
    return {
        "per_token_logps": logps,
        "old_per_token_logps": old,
        "advantages": noise(B),
        "completion_mask": mask.int(),
        "group_ids": torch.tensor(ids),
        "ref_per_token_logps": old + noise(B, T, scale=0.2),
        "entropies": noise(B, T).abs() + 0.01,
        # of few symbols, so that responses share prefixes; rubbish behind their ends
        "completion_ids": torch.randint(0, draw(st.integers(1, 4)), (B, T), generator=generator),
    }


def prepared(batch, name):
    """DARO counts right answers, those with A > 0: its advantages are those of rewards of 0 and 1."""
    if name != "daro":
        return batch
    rewards = [float(a > 0) for a in batch["advantages"].tolist()]
    advantages = reference.advantages(rewards, batch["group_ids"].tolist(), "group")
    return {**batch, "advantages": torch.tensor(advantages, dtype=torch.float64)}


def needs(batch):
    """What preferences may read beside the lengths."""
    return {name: batch[name] for name in ("advantages", "entropies", "completion_ids")}


def our_loss(batch, name, lam, **settings):
    settings = {"epsilon_high": 0.28, "max_completion_length": reference.LMAX, **settings}
    return policy_loss(**batch, objective=name, lambda_=lam, **settings)


def gradients(loss, *inputs):
    """Of a loss in each input, zeros where it doesn't depend on it."""
    if not (isinstance(loss, torch.Tensor) and loss.requires_grad):
        return [torch.zeros_like(x) for x in inputs]
    return torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
