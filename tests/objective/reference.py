"""The formulas as their papers print them, in plain Python loops over floats. Nothing here is shared with the code.

Gradients come from differences of these losses, or from float64 autograd over `torch` scalars where a test says so.
"""

import math


def groups(group_ids):
    members = {}
    for i, g in enumerate(group_ids):
        members.setdefault(g, []).append(i)
    return list(members.values())


def advantages(rewards, group_ids, scale):
    """(R − mean)/(std + 1e-4), sample std; NaN rewards are left out and get 0."""
    out = [0.0] * len(rewards)
    known = [r for r in rewards if not math.isnan(r)]
    for members in groups(group_ids):
        scored = [rewards[i] for i in members if not math.isnan(rewards[i])]
        if not scored:
            continue
        mean = sum(scored) / len(scored)
        spread = _sample_std(known if scale == "batch" else scored)
        for i in members:
            if not math.isnan(rewards[i]):
                out[i] = (rewards[i] - mean) / (1.0 if scale == "none" else spread + 1e-4)
    return out


def _sample_std(values):
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def weights(lengths, group_ids, method, lam, r=1 / 9):
    """Token preference of each response. Only valid where h stays above 0.005."""
    f = [1.0] * len(lengths)
    for members in groups(group_ids):
        G = len(members)
        mu = sum(lengths[i] for i in members) / G
        if method == "grpo":
            for i in members:
                f[i] = mu / lengths[i] if lengths[i] else 1.0
        elif method.startswith("lambda_grpo"):
            sigma = math.sqrt(sum((lengths[i] - mu) ** 2 for i in members) / G)
            g = {i: (1 + r * (lengths[i] - mu) / (sigma + 1e-6)) ** lam for i in members}
            top = max(g.values())
            total = sum(math.exp(g[i] - top) for i in members)
            for i in members:
                f[i] = G * math.exp(g[i] - top) / total if lengths[i] else 1.0
    return f


def loss(
    logps, old, adv, mask, group_ids, method, lam, eps_low, eps_high, lengths=None, max_length=None, ref=None, beta=0
):
    """The loss of `method`, written the way its own paper writes it (not through f and Z where the paper doesn't)."""
    B = len(adv)
    counts = [sum(m) for m in mask]
    lengths = counts if lengths is None else lengths

    def surrogate(i, t):
        ratio = math.exp(logps[i][t] - old[i][t])
        clipped = min(max(ratio, 1 - eps_low), 1 + eps_high)
        return min(ratio * adv[i], clipped * adv[i])

    def kl(i, t):
        d = ref[i][t] - logps[i][t]
        return math.exp(d) - d - 1

    def tokens(i):
        return [t for t in range(len(mask[i])) if mask[i][t]]

    def kl_sum(i):
        return beta * sum(kl(i, t) for t in tokens(i)) if beta else 0.0

    s = [sum(surrogate(i, t) for t in tokens(i)) for i in range(B)]
    total = 0.0
    if method == "grpo":  # 1/P Σ_q 1/G Σ_i 1/|o_i| Σ_t
        parts = groups(group_ids)
        for members in parts:
            for i in members:
                if lengths[i]:
                    total += (s[i] - kl_sum(i)) / lengths[i] / len(members) / len(parts)
        return -total
    f = weights(lengths, group_ids, method, lam)
    if method == "lambda_grpo_paper":  # 1/P Σ_q 1/Σ_j|o_j| Σ_i f_i Σ_t
        parts = groups(group_ids)
        for members in parts:
            N = max(sum(lengths[i] for i in members), 1 / len(parts))
            total += sum(f[i] * s[i] - kl_sum(i) for i in members) / N / len(parts)
        return -total
    Z = B * max_length if method == "dr_grpo" else max(sum(counts), 1)
    return -sum(f[i] * s[i] - kl_sum(i) for i in range(B)) / Z
