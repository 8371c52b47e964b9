"""Every method's loss as its paper prints it: plain loops over responses and tokens, on float64 scalars.

Nothing here is shared with the code, and no method goes through f and Z unless its paper does. The scalars are
torch's, so that autograd gives each formula's own gradients; `.detach()` stands where a paper writes stop-gradient.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch

R, LMAX = 1 / 9, 16


@dataclass
class Batch:
    """B responses; logps (B, T) may require gradients. epsilon is the caller's clip range."""

    logps: torch.Tensor
    old: torch.Tensor
    advantages: list
    mask: list
    group_ids: list
    lengths: list
    epsilon: tuple = (0.2, 0.28)
    max_length: int = LMAX
    ref: torch.Tensor | None = None
    entropies: list | None = None
    ids: list | None = None

    @classmethod
    def of(cls, tensors, lengths=None):
        """From the arguments of `policy_loss`."""
        mask = tensors["completion_mask"].tolist()
        return cls(
            tensors["per_token_logps"],
            tensors["old_per_token_logps"],
            tensors["advantages"].tolist(),
            mask,
            tensors["group_ids"].tolist(),
            [sum(row) for row in mask] if lengths is None else lengths.tolist(),
            ref=tensors.get("ref_per_token_logps"),
            entropies=None if "entropies" not in tensors else tensors["entropies"].tolist(),
            ids=None if "completion_ids" not in tensors else tensors["completion_ids"].tolist(),
        )

    def groups(self):
        return groups(self.group_ids)

    def tokens(self, i):
        return [t for t in range(len(self.mask[i])) if self.mask[i][t]]

    def log_ratio(self, i, t):
        return self.logps[i, t] - self.old[i, t]

    def responses(self):
        """Those that have tokens to sum over."""
        return [i for i in range(len(self.advantages)) if self.tokens(i)]


def groups(group_ids):
    members = {}
    for i, g in enumerate(group_ids):
        members.setdefault(g, []).append(i)
    return list(members.values())


# -- advantages ------------------------------------------------------------------------------------------------------


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


# -- surrogates of one token, or of one response ----------------------------------------------------------------------


def ppo_min(ratio, A, low, high):
    return torch.min(ratio * A, ratio.clamp(low, high) * A)


def token_clip(b, i, t):
    return ppo_min(b.log_ratio(i, t).exp(), b.advantages[i], 1 - b.epsilon[0], 1 + b.epsilon[1])


def sequence_clip(b, i, low, high):
    mean = sum(b.log_ratio(i, t) for t in b.tokens(i)) / len(b.tokens(i))
    return ppo_min(mean.exp(), b.advantages[i], 1 - low, 1 + high)


def geometric_mean(b, i, epsilon=0.4):
    product, sign = 1.0, math.copysign(1, b.advantages[i])
    for t in b.tokens(i):
        signed = sign * b.log_ratio(i, t)
        product = product * (sign * torch.min(signed, signed.clamp(-epsilon, epsilon))).exp()
    return product ** (1 / len(b.tokens(i))) * b.advantages[i]


def length_band(b, i, c=0.03):
    total = sum(b.log_ratio(i, t) for t in b.tokens(i))
    band = c * math.sqrt(len(b.tokens(i)))
    return torch.min(total.exp() * b.advantages[i], total.clamp(-band, band).exp() * b.advantages[i])


def traced_clip(b, i, t, both, decay=0.99, least=-0.1):
    """min(ρ̃A, clip(ρ̃)A) with ρ̃ = exp(Σ_k w_tk log ρ_k), A at least −0.1; k and t count from 0."""
    total = 0.0
    for k in b.tokens(i):
        if k <= t:
            w = max(decay ** (t - k), decay**k) if both else decay ** (t - k)
            total = total + w * b.log_ratio(i, k)
    return ppo_min(total.exp(), max(b.advantages[i], least), 1 - b.epsilon[0], 1 + b.epsilon[1])


def capped_weight(b, i, t, cap=5.0):
    return b.log_ratio(i, t).exp().clamp(max=cap).detach() * b.advantages[i] * b.logps[i, t]


def soft_gate(b, i, t):
    tau = 1.0 if b.advantages[i] > 0 else 1.05
    return torch.sigmoid(tau * (b.log_ratio(i, t).exp() - 1)) * 4 / tau * b.advantages[i]


def gamma_weight(b, i, t):
    W = sum(b.log_ratio(i, u) for u in b.tokens(i)).exp().detach()
    k, c = (2.0, 3.0) if b.advantages[i] >= 0 else (3.0, 2.0)
    return W**k * torch.exp(c * (1 - W)) * b.advantages[i] * b.logps[i, t]


# -- token preferences of λ-GRPO, and of the methods that it is compared with -----------------------------------------


def weights(lengths, group_ids, method, lam, r=R):
    """f of each response; a torch λ gives torch values. Only where h stays above 0.005."""
    f = [1.0] * len(lengths)
    lam = torch.as_tensor(lam, dtype=torch.float64)
    for members in groups(group_ids):
        G = len(members)
        mu = sum(lengths[i] for i in members) / G
        sigma = math.sqrt(sum((lengths[i] - mu) ** 2 for i in members) / G)
        z = {i: (lengths[i] - mu) / (sigma + 1e-6) for i in members}
        if method in ("lambda_grpo", "lambda_grpo_paper"):
            own = softmax({i: (1 + r * z[i]) ** lam for i in members})
        elif method == "lambda_grpo_exp":
            own = softmax({i: r * lam * z[i] for i in members})
        elif method == "lambda_grpo_linear":
            positive = {i: torch.clamp(1 + r * lam * z[i], min=0.005) for i in members}
            own = {i: G * positive[i] / sum(positive.values()) for i in members}
        else:
            own = {i: mu / lengths[i] if lengths[i] and method == "grpo" else 1.0 for i in members}
        for i in members:
            f[i] = own[i] if lengths[i] else 1.0
    return f


def softmax(values):
    top = max(v.item() for v in values.values())
    total = sum((v - top).exp() for v in values.values())
    return {i: len(values) * (v - top).exp() / total for i, v in values.items()}


# -- the methods ------------------------------------------------------------------------------------------------------


def response_mean(b, term):
    """1/P Σ_q 1/G Σ_i of a term of response i."""
    parts = b.groups()
    return sum(term(i) / len(members) / len(parts) for members in parts for i in members if b.tokens(i))


def grpo(b, lam):
    return -response_mean(b, lambda i: sum(token_clip(b, i, t) for t in b.tokens(i)) / b.lengths[i])


def token_mean(b, term=token_clip):
    count = sum(len(b.tokens(i)) for i in b.responses())
    return -sum(term(b, i, t) for i in b.responses() for t in b.tokens(i)) / max(count, 1)


def dapo(b, lam):
    return token_mean(b)


def dr_grpo(b, lam):
    total = sum(token_clip(b, i, t) for i in b.responses() for t in b.tokens(i))
    return -total / (len(b.advantages) * b.max_length)


def lambda_grpo(b, lam, form="lambda_grpo"):
    f = weights(b.lengths, b.group_ids, form, lam)
    count = sum(len(b.tokens(i)) for i in b.responses())
    return -sum(f[i] * token_clip(b, i, t) for i in b.responses() for t in b.tokens(i)) / max(count, 1)


def lambda_grpo_paper(b, lam):
    f, parts, total = weights(b.lengths, b.group_ids, "lambda_grpo", lam), b.groups(), 0.0
    for members in parts:
        inner = sum(f[i] * token_clip(b, i, t) for i in members for t in b.tokens(i))
        total = total + inner / max(sum(b.lengths[i] for i in members), 1) / len(parts)
    return -total


def prompt_mean(b, lam):
    parts, total = b.groups(), 0.0
    for members in parts:
        inner = sum(token_clip(b, i, t) for i in members for t in b.tokens(i))
        total = total + inner / max(sum(b.lengths[i] for i in members), 1) / len(parts)
    return -total


def gspo(b, lam):
    return -response_mean(b, lambda i: sequence_clip(b, i, 3e-4, 4e-4))


def gmpo(b, lam):
    return -response_mean(b, lambda i: geometric_mean(b, i))


def fspo(b, lam):
    return -response_mean(b, lambda i: length_band(b, i))


def cispo(b, lam):
    return token_mean(b, capped_weight)


def luspo(b, lam):
    total = sum(len(b.tokens(i)) * sequence_clip(b, i, 2e-3, 2.5e-3) for i in b.responses())
    return -total / len(b.advantages)


def sapo(b, lam):
    return -response_mean(b, lambda i: sum(soft_gate(b, i, t) for t in b.tokens(i)) / b.lengths[i])


def vespo(b, lam):
    return token_mean(b, gamma_weight)


def delta_l(b, lam, alpha=0.75):
    powers = [length**-alpha if length else 0.0 for length in b.lengths]
    total = 0.0
    for i in b.responses():
        x = powers[i] / sum(powers) / b.max_length
        total = total + x * sum(token_clip(b, i, t) for t in b.tokens(i))
    return -total


def balanced(b, lam):
    parts, total = b.groups(), 0.0
    for members in parts:
        for side in (1, -1):
            chosen = [i for i in members if side * b.advantages[i] > 0]
            count = sum(b.lengths[i] for i in chosen)
            if count:
                mean = sum(token_clip(b, i, t) for i in chosen for t in b.tokens(i)) / count
                total = total + len(chosen) / len(members) * mean / len(parts)
    return -total


def daro(b, lam):
    """λ holds ln w of each number of right answers, or one value for all."""
    lam = torch.as_tensor(lam, dtype=torch.float64)
    rates = {}
    for members in b.groups():
        right = sum(b.advantages[i] > 0 for i in members)
        if 0 < right < len(members):
            rates.setdefault(right, []).extend(members)
    total = torch.zeros((), dtype=torch.float64)
    for right, members in rates.items():
        log_w = lam if lam.dim() == 0 else lam[right - 1]
        count = max(sum(b.lengths[i] for i in members), 1)
        L = -sum(token_clip(b, i, t) for i in members for t in b.tokens(i)) / count
        total = total + log_w.exp() * L - log_w
    return total


def dapo_full(b, lam):
    return token_mean(b, lambda b, i, t: ppo_min(b.log_ratio(i, t).exp(), b.advantages[i], 0.8, 1.28))


def grpo_lambda(b, lam, both=False):
    return -response_mean(b, lambda i: sum(traced_clip(b, i, t, both) for t in b.tokens(i)) / b.lengths[i])


def grpo_lambda_tail(b, lam, decay=0.99):
    """The advantage of token t is A · decay^(T − 1 − t)."""

    def term(b, i, t):
        A = b.advantages[i] * decay ** (b.lengths[i] - 1 - t)
        return ppo_min(b.log_ratio(i, t).exp(), A, 1 - b.epsilon[0], 1 + b.epsilon[1])

    return token_mean(b, term)


def edge_grpo(b, lam):
    """Â_i = A_i / (H_i / mean of the group's H), H_i the mean entropy of the response's own tokens."""
    H = {i: sum(b.entropies[i][: b.lengths[i]]) / b.lengths[i] for i in range(len(b.lengths)) if b.lengths[i]}
    changed = list(b.advantages)
    for members in b.groups():
        own = [H[i] for i in members if i in H]
        for i in members:
            if i in H:
                changed[i] = b.advantages[i] / (H[i] / (sum(own) / len(own)))
    return grpo(dataclasses.replace(b, advantages=changed), lam)


def lambda_grpo_prm(b, lam):
    """1/Σ|o| Σ_i Σ_t s_it / n_it, n_it the responses of the group with the same tokens 0 .. t."""

    def term(b, i, t):
        return token_clip(b, i, t) / prefix_count(b, i, t)

    return token_mean(b, term)


def prefix_count(b, i, t):
    prefix = b.ids[i][: t + 1]
    members = next(m for m in b.groups() if i in m)
    return sum(b.lengths[j] > t and b.ids[j][: t + 1] == prefix for j in members)


METHODS = {
    "grpo": grpo,
    "dapo": dapo,
    "dr_grpo": dr_grpo,
    "lambda_grpo": lambda_grpo,
    "lambda_grpo_paper": lambda_grpo_paper,
    "lambda_grpo_linear": lambda b, lam: lambda_grpo(b, lam, "lambda_grpo_linear"),
    "lambda_grpo_exp": lambda b, lam: lambda_grpo(b, lam, "lambda_grpo_exp"),
    "bnpo": dapo,  # of one micro-batch
    "prompt_mean": prompt_mean,
    "lite_ppo": dapo,  # its own part is the advantage
    "gspo": gspo,
    "gmpo": gmpo,
    "cispo": cispo,
    "luspo": luspo,
    "sapo": sapo,
    "vespo": vespo,
    "delta_l": delta_l,
    "balanced": balanced,
    "daro": daro,
    "fspo": fspo,
    "dapo_full": dapo_full,
    "grpo_lambda": grpo_lambda,
    "grpo_lambda_both": lambda b, lam: grpo_lambda(b, lam, both=True),
    "grpo_lambda_tail": grpo_lambda_tail,
    "edge_grpo": edge_grpo,
    "devis_grpo": grpo,  # of the samples that are kept
    "lambda_grpo_prm": lambda_grpo_prm,
}
# what divides R − mean, where it isn't the group's std
ADVANTAGE_SCALES = {"dr_grpo": "none", "prompt_mean": "batch", "lite_ppo": "batch"}
RESPONSE_MEANS = ("grpo", "gspo", "gmpo", "sapo", "fspo", "grpo_lambda", "grpo_lambda_both", "devis_grpo")
PROMPT_MEANS = ("lambda_grpo_paper", "prompt_mean", "balanced", "daro", "edge_grpo")


def kl(b, method):
    """The penalty against the reference policy, averaged as the method averages tokens, by no preference of its own."""

    def total(i):
        differences = [b.ref[i, t] - b.logps[i, t] for t in b.tokens(i)]
        return sum(d.exp() - d - 1 for d in differences)

    if method in RESPONSE_MEANS:
        return response_mean(b, lambda i: total(i) / b.lengths[i])
    if method in PROMPT_MEANS:
        parts = b.groups()
        return sum(
            total(i) / max(sum(b.lengths[j] for j in members), 1) / len(parts) for members in parts for i in members
        )
    if method == "lambda_grpo_prm":  # the one whose weights reach the KL token by token
        count = sum(len(b.tokens(i)) for i in b.responses())
        differences = {(i, t): b.ref[i, t] - b.logps[i, t] for i in b.responses() for t in b.tokens(i)}
        return sum((d.exp() - d - 1) / prefix_count(b, i, t) for (i, t), d in differences.items()) / max(count, 1)
    count = sum(len(b.tokens(i)) for i in b.responses())
    Z = {"dr_grpo": len(b.advantages) * b.max_length, "luspo": len(b.advantages)}
    Z["delta_l"] = Z["dr_grpo"]
    return sum(total(i) for i in b.responses()) / Z.get(method, max(count, 1))


def loss(b, method, lam=0.0, beta=0.0):
    value = METHODS[method](b, lam)
    return value + beta * kl(b, method) if beta else value
