"""C for what PyTorch is slow at on a CPU, compiled when it is first used and kept in the user's cache folder.

It has as many threads as torch, `torch.set_num_threads`, and where torch's OpenMP is the system's the same ones.
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

SOURCES = ("vectors.h", "decoder.h", "attention.c", "sample.c", "layers.c", "prompts.c", "step.c")
FLAGS = ("-O3", "-march=native", "-funroll-loops", "-fno-math-errno", "-fPIC", "-shared")
OPENMP = ("-fopenmp",)
TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_int64, "f": ctypes.c_float}
ARGUMENTS = {
    "attention": "ppppppp",
    "choose": "lilppppp",
    "set_threads": "i",
    "linear": "lpipiipp",
    "weight_gradient": "lpipip",
    "norm_forward": "lippfpp",
    "norm_backward": "liipppppp",
    "read_prompts": "pipppp",
    "swiglu_forward": "lppp",
    "step": "piippppip",
    "swiglu_backward": "lppppp",
}


class CannotCompileError(LambdaGRPOError, RuntimeError):
    """There is no C compiler, or it fails; the message says what it said."""


def library() -> ctypes.CDLL:
    """The compiled files, for this processor, with as many threads as torch has. Raises CannotCompileError."""
    loaded = _library()
    if isinstance(loaded, CannotCompileError):
        raise loaded
    loaded.set_threads(torch.get_num_threads())
    return loaded


@functools.cache
def _library() -> ctypes.CDLL | CannotCompileError:
    try:
        loaded = ctypes.CDLL(str(_built()))
    except (CannotCompileError, OSError, RuntimeError) as error:  # OSError: no place to write, RuntimeError: no home
        return error if isinstance(error, CannotCompileError) else CannotCompileError(str(error))
    for function, arguments in ARGUMENTS.items():
        getattr(loaded, function).argtypes = [TYPES[letter] for letter in arguments]
    return loaded


def _built() -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise CannotCompileError("there is no C compiler: install gcc or clang, or set CC")
    sources = {name: files("lambda_grpo.fast.native").joinpath(name).read_text() for name in SOURCES}
    # what the compiler says of itself and the processor: a cache may be shared between machines
    macros = _run(compiler, *FLAGS, "-dM", "-E", "-x", "c", os.devnull)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lambda-grpo"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _compiled(compiler, [*FLAGS, *OPENMP], sources, macros, folder)
    except CannotCompileError:  # a compiler without OpenMP, as Apple's: one thread
        return _compiled(compiler, [*FLAGS], sources, macros, folder)


def _compiled(compiler: str, flags: list[str], sources: dict[str, str], macros: str, folder: Path) -> Path:
    name = hashlib.sha256("\n".join([*sources.values(), *flags, macros]).encode()).hexdigest()[:16]
    path = folder / f"compiled-{name}.so"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for file, text in sources.items():
            (Path(scratch) / file).write_text(text)
        built = Path(scratch) / "built.so"
        code = [str(Path(scratch) / file) for file in SOURCES if file.endswith(".c")]
        _run(compiler, *flags, "-o", str(built), *code, "-lm")
        os.replace(built, path)  # whole or not at all, also where several processes build at once
    return path


def is_available(what_instead: str) -> bool:
    """Whether `library` can be had; if not, says once what takes its place, and why."""
    try:
        library()
    except CannotCompileError as error:
        warn_once(f"{what_instead}, which is slower: {error}")
        return False
    return True


def up(n: int, multiple: int) -> int:
    """The least multiple that isn't below n."""
    return (n + multiple - 1) // multiple * multiple


def address(values: Tensor) -> ctypes.c_void_p:
    """Of a contiguous tensor's first number."""
    return ctypes.c_void_p(values.data_ptr())


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotCompileError(f"{' '.join(command[:2])} … fails: {done.stderr.strip()[:500]}")
    return done.stdout
