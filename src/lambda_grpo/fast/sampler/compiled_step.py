"""Prompts, and one new token for each row, by `native/`: float32 on a CPU, several times as fast as PyTorch."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn import functional

from lambda_grpo.fast.native import address, library, up
from lambda_grpo.fast.sampler.decoder import Decoder, Layer

POINTER, INT, FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_float


class _Layer(ctypes.Structure):
    _fields_ = [
        (name, POINTER)
        for name in (
            "norm", "qkv", "qkv_bias", "q_norm", "k_norm", "out", "out_bias", "mlp_norm", "gate_up", "gate_up_bias",
            "down", "down_bias",
        )
    ]  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = [
        *(
            (name, INT)
            for name in (
                "layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocabulary",
                "prompts", "prompt_width", "slots", "max_new",
            )
        ),
        ("epsilon", FLOAT),
        ("scale", FLOAT),
        ("layer", ctypes.POINTER(_Layer)),
        *(
            (name, POINTER)
            for name in ("final_norm", "head", "cos", "sin", "prompt_keys", "prompt_values", "keys", "values")
        ),
    ]  # fmt: skip


class CompiledStep:
    """As `TorchStep`."""

    worth_dropping = 0.0  # finished rows cost nothing to drop: nothing is moved

    def __init__(self, decoder: Decoder, prompts: list[list[int]], prompt: Tensor, max_new: int):
        self.library = library()
        self.wide, self.vector = self.library.panel_width(), self.library.vector_width()
        self.decoder, self.prompt, self.slot = decoder, prompt, torch.arange(len(prompt))
        lengths = torch.tensor([len(ids) for ids in prompts])
        self.length = lengths[prompt]
        width, room = up(int(lengths.max()), self.wide), up(max_new, self.vector)
        layers, kv_heads, head_dim = len(decoder.layers), decoder.kv_heads, decoder.head_dim
        of_prompts = (layers, len(prompts), kv_heads, width)
        of_rows = (layers, len(prompt), kv_heads, room, head_dim)
        cos, sin = decoder.rotation(int(lengths.max()) + max_new)
        self._held: list[Tensor] = []  # what the C code points to
        self.model = _Model(
            layers, decoder.hidden, decoder.heads, kv_heads, head_dim, decoder.intermediate, len(decoder.head),
            len(prompts), width, len(prompt), room, decoder.epsilon, head_dim**-0.5,
            (_Layer * layers)(*(self._layer(layer) for layer in decoder.layers)),
            self._hold(decoder.final_norm), self._panels(decoder.head), self._hold(cos), self._hold(sin),
            self._hold(torch.empty(*of_prompts, head_dim)),
            self._hold(torch.empty(*of_prompts, up(head_dim, self.wide))),
            self._hold(torch.empty(of_rows)), self._hold(torch.empty(of_rows)),
        )  # fmt: skip
        self.prompt_logits = self._read(prompts, lengths)

    def _read(self, prompts: list[list[int]], lengths: Tensor) -> Tensor:
        x = self.decoder.embedding[torch.tensor([token for ids in prompts for token in ids])]
        start = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        position = torch.arange(len(x)) - start[:-1].repeat_interleave(lengths)
        logits = torch.empty(len(prompts), up(len(self.decoder.head), self.wide))
        if self.library.read_prompts(
            ctypes.byref(self.model), len(x), address(start), address(position), address(x), address(logits)
        ):
            raise MemoryError("no memory for reading the prompts")
        return logits[:, : len(self.decoder.head)]

    @staticmethod
    def is_for(decoder: Decoder) -> bool:
        """Whether the model is one that it computes."""
        is_float = all(weight.dtype == torch.float32 for weight in decoder.weights)
        return is_float and decoder.device.type == "cpu" and decoder.head_dim % 16 == 0

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, (m,) indices in ascending order."""
        self.prompt, self.slot, self.length = self.prompt[rows], self.slot[rows], self.length[rows]

    def __call__(self, tokens: Tensor, t: int) -> Tensor:
        """(n,) token t of each row -> (n, V) logits of the next one."""
        n, vocabulary = len(tokens), len(self.decoder.head)
        x = self.decoder.embedding[tokens]
        logits = torch.empty(n, up(vocabulary, self.wide))
        failed = self.library.step(
            ctypes.byref(self.model), n, min(torch.get_num_threads(), n), address(x),
            address(self.slot), address(self.prompt), address(self.length), t, address(logits),
        )  # fmt: skip
        if failed:
            raise MemoryError("no memory for a decoding step")
        return logits[:, :vocabulary]

    # -- what the C code reads ---------------------------------------------------------------------------------------

    def _hold(self, values: Tensor) -> int:
        values = values.detach().contiguous()
        self._held.append(values)
        return values.data_ptr()

    def _panels(self, matrix: Tensor) -> int:
        """(…, columns, depth) as panels of `wide` columns, (…, columns / wide, depth, wide)."""
        *batch, columns, depth = matrix.shape
        padded = functional.pad(matrix.detach(), (0, 0, 0, -columns % self.wide))
        return self._hold(padded.reshape(*batch, -1, self.wide, depth).transpose(-1, -2))

    def _bias(self, bias: Tensor | None) -> int | None:
        if bias is None:
            return None
        return self._hold(functional.pad(bias.detach(), (0, -len(bias) % self.wide)))

    def _layer(self, layer: Layer) -> _Layer:
        return _Layer(
            self._hold(layer.norm), self._panels(layer.qkv), self._bias(layer.qkv_bias),
            None if layer.q_norm is None else self._hold(layer.q_norm),
            None if layer.k_norm is None else self._hold(layer.k_norm),
            self._panels(layer.out), self._bias(layer.out_bias), self._hold(layer.mlp_norm),
            self._panels(self._halves(layer.gate_up)),
            None if layer.gate_up_bias is None else self._bias(self._halves(layer.gate_up_bias)),
            self._panels(layer.down), self._bias(layer.down_bias),
        )  # fmt: skip

    def _halves(self, joined: Tensor) -> Tensor:
        """Gate and up, each padded to whole panels."""
        half = joined.detach().view(2, -1, *joined.shape[1:])
        room = (0, 0) * (half.dim() - 2) + (0, -half.size(1) % self.wide)
        return functional.pad(half, room).flatten(0, 1)
