"""Prefill and decoding steps in PyTorch: on any device, in any floating dtype."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lambda_grpo.fast.architectures import UnsupportedError
from lambda_grpo.fast.sampler.decoder import Decoder


class TorchStep:
    """Reads the prompts with the model's own forward, then decodes a token of every sequence at each call.

    Sequences with the same prompt share its keys and values: their queries are multiplied by them in one product.

    Args:
        prompts: token ids of U different prompts.
        prompt: (n,) index of each sequence's prompt; sequences with the same prompt are adjacent.
        max_new: greatest number of new tokens.

    Attributes:
        prompt_logits: (U, V) after the prompts' last tokens.
    """

    drop_threshold = 0.25  # share of finished sequences from which on dropping them is worth moving the others

    def __init__(self, decoder: Decoder, prompts: list[list[int]], prompt: Tensor, max_new: int):
        self.decoder = decoder
        self.lengths = torch.tensor([len(ids) for ids in prompts], device=decoder.device)
        positions = torch.arange(int(self.lengths.max()), device=decoder.device)
        self.is_padding = positions >= self.lengths[:, None]  # (U, P)
        self.cos, self.sin = decoder.rotation(len(positions) + max_new)
        # (layers, U, kv_heads, P, head_dim), keys rotated
        self.prompt_keys, self.prompt_values, self.prompt_logits = self._read(prompts)
        shape = (len(decoder.layers), len(prompt), decoder.kv_heads, max_new, decoder.head_dim)
        self.keys, self.values = self.prompt_keys.new_zeros(2, *shape)
        self._group(prompt)

    def _read(self, prompts: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        ids = torch.zeros(self.is_padding.shape, dtype=torch.long)
        for padded, prompt in zip(ids, prompts, strict=True):
            padded[: len(prompt)] = torch.tensor(prompt)
        base = self.decoder.base
        checkpoints = any(getattr(module, "gradient_checkpointing", False) for module in base.modules())
        if base.training and checkpoints:  # the cache of keys and values stays empty
            raise UnsupportedError("gradient checkpointing while training")
        # padded on the right: no token attends to the padding behind it, so no mask is needed
        output = base.model(input_ids=ids.to(self.decoder.device), use_cache=True)
        last = output.last_hidden_state[torch.arange(len(prompts), device=self.decoder.device), self.lengths - 1]
        caches = output.past_key_values.layers
        keys, values = (torch.stack([getattr(cache, name) for cache in caches]) for name in ("keys", "values"))
        return keys, values, base.get_output_embeddings()(last)

    def _group(self, prompt: Tensor) -> None:
        """Number the sequences of each prompt."""
        self.prompt = prompt
        count = torch.bincount(prompt, minlength=len(self.is_padding))
        self.index_in_group = torch.arange(len(prompt), device=prompt.device) - (count.cumsum(0) - count)[prompt]
        self.group_size = int(count.max())

    def keep(self, sequences: Tensor) -> None:
        """Drop all other sequences; (m,) indices in ascending order."""
        self.keys, self.values = self.keys[:, sequences], self.values[:, sequences]
        prompt = self.prompt[sequences]
        used, prompt = torch.unique(prompt, return_inverse=True)
        if len(used) < len(self.is_padding):
            self.prompt_keys, self.prompt_values = self.prompt_keys[:, used], self.prompt_values[:, used]
            self.is_padding, self.lengths = self.is_padding[used], self.lengths[used]
        self._group(prompt)

    def __call__(self, tokens: Tensor, t: int) -> Tensor:
        """(n,) token t of each sequence -> (n, V) logits of the next one."""
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
        """(n, heads, d) queries of layer i -> (n, heads · d) attention to their prompts and their own tokens 0 .. t."""
        n, heads, d = q.shape
        kv, prompts = self.decoder.kv_heads, len(self.is_padding)
        q = q.view(n, kv, heads // kv, d) * d**-0.5
        own_scores = q @ self.keys[i, :, :, : t + 1].transpose(2, 3)  # (n, kv, heads/kv, t + 1)
        grouped = q.new_zeros(prompts, self.group_size, kv, heads // kv, d)
        grouped[self.prompt, self.index_in_group] = q
        grouped = grouped.permute(0, 2, 1, 3, 4).reshape(prompts, kv, -1, d)
        prompt_scores = grouped @ self.prompt_keys[i].transpose(2, 3)  # (U, kv, group_size · heads/kv, P)
        prompt_scores = prompt_scores.masked_fill(self.is_padding[:, None, None], -torch.inf)
        prompt_scores = prompt_scores.view(prompts, kv, self.group_size, heads // kv, -1)[
            self.prompt, :, self.index_in_group
        ]
        weights = torch.cat([prompt_scores, own_scores], -1).softmax(-1, dtype=torch.float32).to(q.dtype)
        prompt_weights, own_weights = weights.split((prompt_scores.size(-1), t + 1), -1)
        grouped = q.new_zeros(prompts, self.group_size, kv, heads // kv, prompt_scores.size(-1))
        grouped[self.prompt, self.index_in_group] = prompt_weights
        grouped = grouped.permute(0, 2, 1, 3, 4).reshape(prompts, kv, self.group_size * heads // kv, -1)
        from_prompt = (grouped @ self.prompt_values[i]).view(prompts, kv, self.group_size, heads // kv, d)
        total = from_prompt[self.prompt, :, self.index_in_group] + own_weights @ self.values[i, :, :, : t + 1]
        return total.reshape(n, heads * d)


def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return functional.rms_norm(x.float(), x.shape[-1:], None, epsilon).to(x.dtype) * weight


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.size(-1) // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin
