"""The structures that Python passes to the C code, field by field as the C files declare them."""

from __future__ import annotations

import ctypes

POINTER, INT, FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_float


class Layer(ctypes.Structure):
    """The weights of a decoder's layer: `Layer` of decoder.h."""

    _fields_ = [
        (name, POINTER)
        for name in (
            "norm", "qkv", "qkv_bias", "q_norm", "k_norm", "out", "out_bias", "mlp_norm", "gate_up", "gate_up_bias",
            "down", "down_bias",
        )
    ]  # fmt: skip


class Model(ctypes.Structure):
    """A decoder and the cache of a batch: `Model` of decoder.h."""

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
        ("layer", ctypes.POINTER(Layer)),
        *(
            (name, POINTER)
            for name in ("final_norm", "head", "cos", "sin", "prompt_keys", "prompt_values", "keys", "values")
        ),
    ]  # fmt: skip


class PackedSequence(ctypes.Structure):
    """A packed sequence's queries, keys and values: `PackedSequence` of packed_attention.c."""

    _fields_ = [
        ("prompts", ctypes.c_int64),
        *(
            (name, POINTER)
            for name in ("prompt_start", "prompt_length", "first_segment", "segment_start", "segment_length")
        ),
        *((name, INT) for name in ("heads", "kv_heads", "head_dim")),
        ("scale", FLOAT),
        *((name, POINTER) for name in ("q", "k", "v", "cos", "sin")),
    ]


# By the C function that returns the size of each
BY_SIZE_FUNCTION: dict[str, type[ctypes.Structure]] = {
    "lgrpo_sizeof_layer": Layer,
    "lgrpo_sizeof_model": Model,
    "lgrpo_sizeof_packed_sequence": PackedSequence,
}
