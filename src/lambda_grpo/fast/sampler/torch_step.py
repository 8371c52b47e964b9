"""Prompts, and one new token for each row, in PyTorch: on any device, in any floating dtype."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lambda_grpo.fast.architectures import UnsupportedError
from lambda_grpo.fast.sampler.decoder import Decoder


class TorchStep:
    """Reads the prompts by the model's own forward, and has the rows' own keys and values, to which each step adds.

    Rows of one prompt share its keys and values: their queries meet them in one product.

    Args:
        prompts: U different ones, token ids.
        prompt: (n,) the prompt of each row, rows of one prompt together.
        max_new: greatest number of tokens.

    Attributes:
        prompt_logits: (U, V) after the prompts' last tokens.
    """

    worth_dropping = 0.25  # of the rows: fewer finished ones are carried along rather than cleared away

    def __init__(self, decoder: Decoder, prompts: list[list[int]], prompt: Tensor, max_new: int):
        self.decoder = decoder
        self.lengths = torch.tensor([len(ids) for ids in prompts], device=decoder.device)
        places = torch.arange(int(self.lengths.max()), device=decoder.device)
        self.is_outside = places >= self.lengths[:, None]  # (U, P)
        self.cos, self.sin = decoder.rotation(len(places) + max_new)
        # (layers, U, kv_heads, P, head_dim), keys rotated
        self.prompt_keys, self.prompt_values, self.prompt_logits = self._read(prompts)
        shape = (len(decoder.layers), len(prompt), decoder.kv_heads, max_new, decoder.head_dim)
        self.keys, self.values = self.prompt_keys.new_zeros(2, *shape)
        self._group(prompt)

    def _read(self, prompts: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        ids = torch.zeros(self.is_outside.shape, dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        base = self.decoder.base
        checkpoints = any(getattr(module, "gradient_checkpointing", False) for module in base.modules())
        if base.training and checkpoints:  # it keeps no keys and values then
            raise UnsupportedError("gradient checkpointing while training")
        # on the right no mask is needed but causality: nothing looks at what stands behind a prompt
        output = base.model(input_ids=ids.to(self.decoder.device), use_cache=True)
        last = output.last_hidden_state[torch.arange(len(prompts), device=self.decoder.device), self.lengths - 1]
        caches = output.past_key_values.layers
        keys, values = (torch.stack([getattr(cache, name) for cache in caches]) for name in ("keys", "values"))
        return keys, values, base.get_output_embeddings()(last)

    def _group(self, prompt: Tensor) -> None:
        """Give each row a place beside the other rows of its prompt."""
        self.prompt = prompt
        count = torch.bincount(prompt, minlength=len(self.is_outside))
        self.place = torch.arange(len(prompt), device=prompt.device) - (count.cumsum(0) - count)[prompt]
        self.width = int(count.max())

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, (m,) indices in ascending order."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        prompt = self.prompt[rows]
        used, prompt = torch.unique(prompt, return_inverse=True)
        if len(used) < len(self.is_outside):
            self.prompt_keys, self.prompt_values = self.prompt_keys[:, used], self.prompt_values[:, used]
            self.is_outside, self.lengths = self.is_outside[used], self.lengths[used]
        self._group(prompt)

    def __call__(self, tokens: Tensor, t: int) -> Tensor:
        """(n,) token t of each row -> (n, V) logits of the next one."""
        decoder = self.decoder
        x = decoder.embedding[tokens]
        position = self.lengths[self.prompt] + t
        cos, sin = self.cos[position][:, None], self.sin[position][:, None]
        for i, layer in enumerate(decoder.layers):
            h = _rms_norm(x, layer.norm, decoder.epsilon)
            heads = functional.linear(h, layer.qkv, layer.qkv_bias).view(len(x), -1, decoder.head_dim)
            q, k, v = heads.split((decoder.heads, decoder.kv_heads, decoder.kv_heads), 1)
            if layer.q_norm is not None:
                q = _rms_norm(q, layer.q_norm, decoder.epsilon)
            if layer.k_norm is not None:
                k = _rms_norm(k, layer.k_norm, decoder.epsilon)
            self.keys[i, :, :, t], self.values[i, :, :, t] = _rotated(k, cos, sin), v
            attended = self._attend(i, _rotated(q, cos, sin), t)
            x = x + functional.linear(attended, layer.out, layer.out_bias)
            gate, up = functional.linear(
                _rms_norm(x, layer.mlp_norm, decoder.epsilon), layer.gate_up, layer.gate_up_bias
            ).chunk(2, -1)
            x = x + functional.linear(functional.silu(gate) * up, layer.down, layer.down_bias)
        return functional.linear(_rms_norm(x, decoder.final_norm, decoder.epsilon), decoder.head)

    def _attend(self, i: int, q: Tensor, t: int) -> Tensor:
        """(n, heads, d) queries of layer i over their prompts and their own tokens 0 .. t -> (n, heads · d)."""
        n, heads, d = q.shape
        kv, prompts = self.decoder.kv_heads, len(self.is_outside)
        q = q.view(n, kv, heads // kv, d) * d**-0.5
        own = q @ self.keys[i, :, :, : t + 1].transpose(2, 3)  # (n, kv, heads/kv, t + 1)
        grouped = q.new_zeros(prompts, self.width, kv, heads // kv, d)
        grouped[self.prompt, self.place] = q
        grouped = grouped.permute(0, 2, 1, 3, 4).reshape(prompts, kv, -1, d)
        shared = grouped @ self.prompt_keys[i].transpose(2, 3)  # (U, kv, width · heads/kv, P)
        shared = shared.masked_fill(self.is_outside[:, None, None], -torch.inf)
        shared = shared.view(prompts, kv, self.width, heads // kv, -1)[self.prompt, :, self.place]
        weights = torch.cat([shared, own], -1).softmax(-1, dtype=torch.float32).to(q.dtype)
        over_prompt, over_own = weights.split((shared.size(-1), t + 1), -1)
        grouped = q.new_zeros(prompts, self.width, kv, heads // kv, shared.size(-1))
        grouped[self.prompt, self.place] = over_prompt
        grouped = grouped.permute(0, 2, 1, 3, 4).reshape(prompts, kv, self.width * heads // kv, -1)
        of_prompt = (grouped @ self.prompt_values[i]).view(prompts, kv, self.width, heads // kv, d)
        total = of_prompt[self.prompt, :, self.place] + over_own @ self.values[i, :, :, : t + 1]
        return total.reshape(n, heads * d)


def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return functional.rms_norm(x.float(), x.shape[-1:], None, epsilon).to(x.dtype) * weight


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.size(-1) // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin
