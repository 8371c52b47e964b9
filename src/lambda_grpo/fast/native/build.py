"""Compiles the C code when it is first used, keeps it in the user's cache folder, and loads it.

It uses as many threads as torch (`torch.set_num_threads`); where torch's OpenMP is the system's, the same ones.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from lambda_grpo.errors import LambdaGRPOError, warn_once
from lambda_grpo.fast.native.structures import BY_SIZE_FUNCTION
from lambda_grpo.files import cache_folder

SOURCES = (
    "vectors.h", "decoder.h", "packed_attention.c", "sample_tokens.c", "training_layers.c", "head.c", "prefill.c",
    "decode.c",
)  # fmt: skip
FLAGS = ("-O3", "-march=native", "-funroll-loops", "-fno-math-errno", "-fPIC", "-shared")
OPENMP = ("-fopenmp",)
TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_int64, "f": ctypes.c_float}
ARGUMENTS = {  # of the functions that take any, a letter of TYPES each
    "lgrpo_decode_step": "piippppip",
    "lgrpo_head_gradient": "liplpfpppp",
    "lgrpo_head_statistics": "liplpfp",
    "lgrpo_linear": "lpipiipp",
    "lgrpo_packed_attention": "ppppppp",
    "lgrpo_prefill": "pipppp",
    "lgrpo_rms_norm_backward": "liipppppp",
    "lgrpo_rms_norm_forward": "lippfpp",
    "lgrpo_sample_tokens": "lilppppp",
    "lgrpo_set_threads": "i",
    "lgrpo_swiglu_backward": "lpppppp",
    "lgrpo_swiglu_forward": "lppp",
    "lgrpo_weight_gradient": "lpipip",
}


class CannotCompileError(LambdaGRPOError, RuntimeError):
    """There is no C compiler, or it fails; the message says what it said."""


def library() -> ctypes.CDLL:
    """The native code, compiled for this processor, with as many threads as torch has.

    Raises:
        CannotCompileError: it can't be compiled or loaded.
        RuntimeError: a structure differs between Python and C.
    """
    loaded = _library()
    if isinstance(loaded, CannotCompileError):
        raise loaded
    loaded.lgrpo_set_threads(torch.get_num_threads())
    return loaded


@functools.cache
def _library() -> ctypes.CDLL | CannotCompileError:
    try:
        loaded = ctypes.CDLL(str(_built()))
    except (CannotCompileError, OSError, RuntimeError) as error:  # OSError: no place to write, RuntimeError: no home
        return error if isinstance(error, CannotCompileError) else CannotCompileError(str(error))
    for function, arguments in ARGUMENTS.items():
        getattr(loaded, function).argtypes = [TYPES[letter] for letter in arguments]
    _check_sizes(loaded)
    return loaded


def _check_sizes(loaded: ctypes.CDLL) -> None:
    """Raise RuntimeError if a structure has another size in C than in Python: its fields would be misread."""
    for function, structure in BY_SIZE_FUNCTION.items():
        get_size = getattr(loaded, function)
        get_size.restype = ctypes.c_size_t
        if get_size() != ctypes.sizeof(structure):
            raise RuntimeError(
                f"the structure {structure.__name__} has {get_size()} bytes in the C code of fast/native and "
                f"{ctypes.sizeof(structure)} in structures.py: give both the same fields"
            )


def _built() -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise CannotCompileError("there is no C compiler: install gcc or clang, or set CC")
    sources = {name: files("lambda_grpo.fast.native").joinpath(name).read_text() for name in SOURCES}
    # the compiler's own version and what it takes the processor to be: machines may share a cache folder
    macros = _run(compiler, *FLAGS, "-dM", "-E", "-x", "c", os.devnull)
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _compiled(compiler, [*FLAGS, *OPENMP], sources, macros, folder)
    except CannotCompileError:  # a compiler without OpenMP, such as Apple's: one thread
        return _compiled(compiler, [*FLAGS], sources, macros, folder)


def _compiled(compiler: str, flags: list[str], sources: dict[str, str], macros: str, folder: Path) -> Path:
    name = hashlib.sha256("\n".join([*sources.values(), *flags, macros]).encode()).hexdigest()[:16]
    path = folder / f"native-{name}.so"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for file, text in sources.items():
            (Path(scratch) / file).write_text(text)
        built = Path(scratch) / "built.so"
        code = [str(Path(scratch) / file) for file in SOURCES if file.endswith(".c")]
        _run(compiler, *flags, "-o", str(built), *code, "-lm")
        os.replace(built, path)  # atomic, also if several processes compile at the same time
    return path


def is_available(fallback: str) -> bool:
    """Whether `library` can be loaded. If not, one warning names the fallback, and why it is needed."""
    try:
        library()
    except CannotCompileError as error:
        warn_once(f"{fallback}, which is slower: {error}")
        return False
    return True


def up(n: int, multiple: int) -> int:
    """The least multiple that isn't below n."""
    return (n + multiple - 1) // multiple * multiple


def address(values: Tensor) -> ctypes.c_void_p:
    """The address of a contiguous tensor's first element."""
    return ctypes.c_void_p(values.data_ptr())


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotCompileError(f"{' '.join(command[:2])} … fails: {done.stderr.strip()[:500]}")
    return done.stdout
