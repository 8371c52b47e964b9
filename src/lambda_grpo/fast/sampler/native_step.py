"""Prefill and decoding steps in native code: float32 on a CPU, several times as fast as PyTorch."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn import functional

from lambda_grpo.fast.native import address, library, structures, up
from lambda_grpo.fast.sampler.decoder import Decoder, Layer

# The threads of a decoding step divide the sequences if each gets more than FEW, and the weights, of at most CACHED
# bytes, stay in a cache. Else they divide the columns of the weights: a kernel's tile has 8 rows, and memory is slow.
FEW, CACHED = 8, 2**26


class NativeStep:
    """Does what `TorchStep` does."""

    drop_threshold = 0.0  # dropping finished sequences costs nothing: nothing is moved

    def __init__(self, decoder: Decoder, prompts: list[list[int]], prompt: Tensor, max_new: int):
        self.library = library()
        self.panel_width, self.vector_width = self.library.lgrpo_panel_width(), self.library.lgrpo_vector_width()
        self.decoder, self.prompt, self.slot = decoder, prompt, torch.arange(len(prompt))
        lengths = torch.tensor([len(ids) for ids in prompts])
        self.length = lengths[prompt]
        width, room = up(int(lengths.max()), self.panel_width), up(max_new, self.vector_width)
        layers, kv_heads, head_dim = len(decoder.layers), decoder.kv_heads, decoder.head_dim
        prompt_cache = (layers, len(prompts), kv_heads, width)
        cache = (layers, len(prompt), kv_heads, room, head_dim)
        cos, sin = decoder.rotation(int(lengths.max()) + max_new)
        self._held: list[Tensor] = []  # tensors that the C code points to
        self.model = structures.Model(
            layers, decoder.hidden, decoder.heads, kv_heads, head_dim, decoder.intermediate, len(decoder.head),
            len(prompts), width, len(prompt), room, decoder.epsilon, head_dim**-0.5,
            (structures.Layer * layers)(*(self._layer(layer) for layer in decoder.layers)),
            self._hold(decoder.final_norm), self._panels(decoder.head), self._hold(cos), self._hold(sin),
            self._hold(torch.empty(*prompt_cache, head_dim)),
            self._hold(torch.empty(*prompt_cache, up(head_dim, self.panel_width))),
            self._hold(torch.empty(cache)), self._hold(torch.empty(cache)),
        )  # fmt: skip
        self.is_cached = sum(weight.nbytes for weight in decoder.weights) <= CACHED
        self.prompt_logits = self._read(prompts, lengths)

    def _read(self, prompts: list[list[int]], lengths: Tensor) -> Tensor:
        x = self.decoder.embedding[torch.tensor([token for ids in prompts for token in ids])]
        start = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        position = torch.arange(len(x)) - start[:-1].repeat_interleave(lengths)
        logits = torch.empty(len(prompts), up(len(self.decoder.head), self.panel_width))
        if self.library.lgrpo_prefill(
            ctypes.byref(self.model), len(x), address(start), address(position), address(x), address(logits)
        ):
            raise MemoryError("out of memory while reading the prompts")
        return logits[:, : len(self.decoder.head)]

    @staticmethod
    def supports(decoder: Decoder) -> bool:
        """Whether native code can compute this model."""
        is_float = all(weight.dtype == torch.float32 for weight in decoder.weights)
        return is_float and decoder.device.type == "cpu" and decoder.head_dim % 16 == 0

    def keep(self, sequences: Tensor) -> None:
        """Drop all other sequences; (m,) indices in ascending order."""
        self.prompt, self.slot, self.length = self.prompt[sequences], self.slot[sequences], self.length[sequences]

    def __call__(self, tokens: Tensor, t: int) -> Tensor:
        """(n,) token t of each sequence -> (n, V) logits of the next one."""
        n, vocabulary = len(tokens), len(self.decoder.head)
        x = self.decoder.embedding[tokens]
        logits = torch.empty(n, up(vocabulary, self.panel_width))
        by_columns = not self.is_cached or n <= FEW * torch.get_num_threads()
        failed = self.library.lgrpo_decode_step(
            ctypes.byref(self.model), n, by_columns, address(x),
            address(self.slot), address(self.prompt), address(self.length), t, address(logits),
        )  # fmt: skip
        if failed:
            raise MemoryError("out of memory in a decoding step")
        return logits[:, :vocabulary]

    # -- the weights as the C code reads them ------------------------------------------------------------------------

    def _hold(self, values: Tensor) -> int:
        values = values.detach().contiguous()
        self._held.append(values)
        return values.data_ptr()

    def _panels(self, matrix: Tensor) -> int:
        """(…, columns, depth) as panels of W columns, (…, columns / W, depth, W)."""
        *batch, columns, depth = matrix.shape
        padded = functional.pad(matrix.detach(), (0, 0, 0, -columns % self.panel_width))
        return self._hold(padded.reshape(*batch, -1, self.panel_width, depth).transpose(-1, -2))

    def _bias(self, bias: Tensor | None) -> int | None:
        if bias is None:
            return None
        return self._hold(functional.pad(bias.detach(), (0, -len(bias) % self.panel_width)))

    def _layer(self, layer: Layer) -> structures.Layer:
        return structures.Layer(
            self._hold(layer.norm), self._panels(layer.qkv), self._bias(layer.qkv_bias),
            None if layer.q_norm is None else self._hold(layer.q_norm),
            None if layer.k_norm is None else self._hold(layer.k_norm),
            self._panels(layer.out), self._bias(layer.out_bias), self._hold(layer.mlp_norm),
            self._panels(self._halves(layer.gate_up)),
            None if layer.gate_up_bias is None else self._bias(self._halves(layer.gate_up_bias)),
            self._panels(layer.down), self._bias(layer.down_bias),
        )  # fmt: skip

    def _halves(self, joined: Tensor) -> Tensor:
        """Gate and up projections, each padded to whole panels."""
        half = joined.detach().view(2, -1, *joined.shape[1:])
        room = (0, 0) * (half.dim() - 2) + (0, -half.size(1) % self.panel_width)
        return functional.pad(half, room).flatten(0, 1)
