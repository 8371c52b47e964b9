"""C for what PyTorch is slow at on a CPU, compiled when it is first used and kept in the user's cache folder.

Threads are those of OpenMP in torch, `torch.set_num_threads`: the compiled files find it already loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from importlib.resources import files
from pathlib import Path

import torch  # noqa: F401  its OpenMP is to be there first
from torch import Tensor

SOURCES = ("vectors.h", "attention.c", "layers.c", "step.c")
FLAGS = ("-O3", "-march=native", "-funroll-loops", "-fno-math-errno", "-fPIC", "-shared")
OPENMP = ("-fopenmp",)
TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_long, "f": ctypes.c_float}
ARGUMENTS = {
    "attention": "ppppppp",
    "weight_gradient": "lpipip",
    "norm_forward": "lippfpp",
    "norm_backward": "liipppppp",
    "swiglu_forward": "lppp",
    "step": "piippppip",
    "swiglu_backward": "lppppp",
}


class CannotCompileError(RuntimeError):
    """There is no C compiler, or it fails; the message says what it said."""


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled files, for this processor. Raises CannotCompileError."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise CannotCompileError("there is no C compiler: install gcc or clang, or set CC")
    sources = {name: files("lambda_grpo.compiled").joinpath(name).read_text() for name in SOURCES}
    # what the compiler says of itself and the processor: a cache may be shared between machines
    macros = _run(compiler, *FLAGS, "-dM", "-E", "-x", "c", os.devnull)
    name = hashlib.sha256("\n".join([*sources.values(), *FLAGS, *OPENMP, macros]).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lambda-grpo"
    path = folder / f"compiled-{name}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for file, text in sources.items():
                (Path(scratch) / file).write_text(text)
            built = Path(scratch) / "built.so"
            code = [str(Path(scratch) / file) for file in SOURCES if file.endswith(".c")]
            try:
                _run(compiler, *FLAGS, *OPENMP, "-o", str(built), *code, "-lm")
            except CannotCompileError:  # a compiler without OpenMP, as Apple's: one thread
                _run(compiler, *FLAGS, "-o", str(built), *code, "-lm")
            os.replace(built, path)  # whole or not at all, also where several processes build at once
    loaded = ctypes.CDLL(str(path))
    for function, arguments in ARGUMENTS.items():
        getattr(loaded, function).argtypes = [TYPES[letter] for letter in arguments]
    return loaded


def is_available(what_instead: str) -> bool:
    """Whether `library` can be had; if not, says once what takes its place, and why."""
    try:
        library()
    except CannotCompileError as error:
        _say_once(f"{what_instead}, which is slower: {error}")
        return False
    return True


def address(values: Tensor) -> ctypes.c_void_p:
    """Of a contiguous tensor's first number."""
    return ctypes.c_void_p(values.data_ptr())


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotCompileError(f"{' '.join(command[:2])} … fails: {done.stderr.strip()[:500]}")
    return done.stdout


@functools.cache
def _say_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)
