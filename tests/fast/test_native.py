"""How the native code is built and loaded, and that it stays inside its memory."""

import ctypes
import os
import shutil
import subprocess
import sys

import pytest

from lambda_grpo.fast.native import build, structures

# Models whose sizes fill no vector and no panel, one and two threads, prompts longer than a block
PROGRAM = """
import torch
from transformers import GenerationConfig
from trl.trainer.utils import add_fused_lm_head

from lambda_grpo.fast import packing
from lambda_grpo.fast.native import build
from lambda_grpo.fast.packing import native_layers, products
from lambda_grpo.fast.sampler import FastSampler
from tests.fast.models import make_model
from tests.fast.test_packing import batch, packed_pass

build.FLAGS = FLAGS
products.is_mkl_slow = lambda: True  # linear layers in C, too
build.library()
for threads, name in enumerate(("llama, odd sizes", "llama, biases", "qwen3", "qwen2, wide heads")):
    torch.set_num_threads(1 + threads % 2)
    model = make_model(name)
    prompts = [[5, 9, 3, 12, 8], [5, 9, 3], [7] * 70, [5, 9, 3]]
    for options in ({"do_sample": True, "top_k": 4}, {"do_sample": False}):
        config = GenerationConfig(max_new_tokens=21, eos_token_id=[1, 9], **options)
        assert len(FastSampler(config)(model, prompts).ids) == 4
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    packing.prepare(model)
    for padded in (batch(11), batch(3, 9, 70, 70)):
        packed_pass(model, *padded)[0].sum().backward()
print("done")
"""


@pytest.fixture
def library():
    return ctypes.CDLL(str(build._built()))


def test_every_structure_has_the_size_that_it_has_in_c(library):
    assert set(build.BY_SIZE_FUNCTION.values()) == {
        kind for kind in vars(structures).values() if isinstance(kind, type) and issubclass(kind, ctypes.Structure)
    }
    build._check_sizes(library)


def test_a_structure_of_another_size_is_refused(library, monkeypatch):
    class Layer(ctypes.Structure):
        _fields_ = [*structures.Layer._fields_, ("one_more", ctypes.c_void_p)]

    monkeypatch.setitem(build.BY_SIZE_FUNCTION, "lgrpo_sizeof_layer", Layer)
    with pytest.raises(RuntimeError, match=r"structure Layer has 96 bytes in the C code .* and 104 in structures\.py"):
        build._check_sizes(library)
    build._library.cache_clear()
    with pytest.raises(RuntimeError, match="give both the same fields"):  # not taken for a missing compiler
        build.library()
    build._library.cache_clear()


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm isn't installed")
def test_every_exported_name_has_the_prefix():
    symbols = subprocess.run(["nm", "-D", "--defined-only", build._built()], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in symbols.stdout.splitlines()} - {"_init", "_fini"}
    assert build.ARGUMENTS.keys() | build.BY_SIZE_FUNCTION.keys() <= names
    assert all(name.startswith("lgrpo_") for name in names)


def sanitizer_library():
    """gcc's AddressSanitizer, to be loaded before anything else; None if there is none."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    found = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    return os.path.realpath(found) if os.path.isabs(found) and os.path.exists(found) else None


def test_sampler_and_packed_pass_under_sanitizers(tmp_path):
    """No access outside of what was allocated, and no undefined behaviour; either one would end the process."""
    preload = sanitizer_library()
    if preload is None:
        pytest.skip("the compiler has no libasan.so")
    flags = ("-O1", "-g", "-march=native", "-fno-math-errno", "-fPIC", "-shared", "-fsanitize=address,undefined",
             "-fno-sanitize-recover=all")  # fmt: skip
    environment = {
        **os.environ, "LD_PRELOAD": preload, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path),
        "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1",  # Python itself leaks
    }  # fmt: skip
    program = PROGRAM.replace("FLAGS\n", f"{flags}\n", 1)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.endswith("done\n"), done.stderr[-4000:]
    assert len(list((tmp_path / "lambda-grpo").iterdir())) == 1
