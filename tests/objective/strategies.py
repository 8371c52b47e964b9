"""Random batches for hypothesis: uneven groups in any order, uneven lengths, masked tokens full of rubbish."""

import torch
from hypothesis import strategies as st


@st.composite
def batches(draw, max_groups=4, max_size=6, max_tokens=7, min_length=0):
    sizes = draw(st.lists(st.integers(1, max_size), min_size=1, max_size=max_groups))
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
    }
