"""Resolving model names, and loading models, tokenizers and adapters."""

from __future__ import annotations

import hashlib
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import TypedDict

from lambda_grpo.errors import UserError
from lambda_grpo.models.gguf import SMOLLM2, SUFFIX, smollm2_file, unpacked
from lambda_grpo.runs.directory import RECORDS, Run, is_run
from lambda_grpo.suggestions import did_you_mean

BUILTIN = "builtin"
BUILTIN_LLAMA = "builtin-llama"
CHUNK_BYTES, MAX_CHUNKS = 2**16, 1000  # read from each file for its digest
_FOLDERS = {BUILTIN: "qwen2", BUILTIN_LLAMA: "llama"}
NAMES = (*_FOLDERS, SMOLLM2)


def resolve_model(name: str) -> str:
    """The path or hub id that `from_pretrained` loads for a name.

    Args:
        name: a built-in policy, `smollm2` or a GGUF file (`gguf`), a model directory, a run directory (its policy is
            `Run.model`) or a hub id.

    Raises:
        UserError: there is no such model.
    """
    if name in _FOLDERS:
        return str(files("lambda_grpo.models.builtin").joinpath(_FOLDERS[name]))
    path = Path(name)
    if name == SMOLLM2 or path.suffix == SUFFIX:
        return str(unpacked(smollm2_file() if name == SMOLLM2 else path))
    if path.is_dir():
        policy = Run(path).model() if is_run(path) else None
        if policy not in (None, path):  # a run that is still training, or was killed
            return str(policy)
        if any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
            return name
        if is_run(path):
            raise UserError(f"{name} is a run without a complete checkpoint and without a final model")
        raise UserError(f"{name} is not a model directory: it has no config.json")
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise UserError(f"no model directory {name}")
    try:
        AutoConfig.from_pretrained(name)
    except OSError as error:
        raise UserError(
            f"no model {name!r}{did_you_mean(name, NAMES)}: it is neither a directory here, nor "
            f"{', '.join(map(repr, NAMES[:-1]))} or {NAMES[-1]!r}, nor could it be loaded from the hub"
        ) from error
    return name


def model_name(path: str) -> str:
    """The name for the model at a path: a built-in policy's name, or the path itself."""
    for name in _FOLDERS:
        if path and Path(path).resolve() == Path(resolve_model(name)).resolve():
            return name
    return path


def load_model(path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, on the accelerator if there is one. Raises UserError if the directory doesn't hold them."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        model = _load_with_adapter(path) if _is_adapter(path) else AutoModelForCausalLM.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"can't load a model from {path}: {' '.join(str(error).split())}") from error
    return model.to(device), load_tokenizer(path)


def _is_adapter(path: str) -> bool:
    return (Path(path) / "adapter_config.json").is_file()


def _load_with_adapter(path: str) -> Any:
    """An adapter with its base model, loaded by PEFT: transformers' own loader doesn't support all adapters."""
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(path)


def load_tokenizer(path: str, **settings: Any) -> PreTrainedTokenizerBase:
    """A model's tokenizer, with a padding token. Raises UserError if the directory doesn't hold one.

    settings: keyword arguments of `from_pretrained`.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **settings)
    except (OSError, ValueError) as error:
        raise UserError(f"can't load a tokenizer from {path}: {' '.join(str(error).split())}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # as TRL does
    if tokenizer.pad_token is None:
        raise UserError(f"the tokenizer in {path} has neither a padding nor an end-of-sequence token: give it one")
    return tokenizer


def merge_adapter(path: str, folder: str) -> str:
    """Merge an adapter into its base model, for engines without adapters, and save the result in `folder`.

    Returns the path to load: `folder`, or the given path if it isn't an adapter. Raises UserError if the adapter can't
    be merged (prompt tuning, for example).
    """
    if not _is_adapter(path):
        return path
    model = _load_with_adapter(path)
    if not hasattr(model, "merge_and_unload"):
        raise UserError(f"{path} is an adapter that can't be merged into its base model: use --engine transformers")
    model.merge_and_unload().save_pretrained(folder)
    load_tokenizer(path).save_pretrained(folder)
    return folder


def weights_id(path: str) -> str:
    """An identifier of a model's weights: its commit on the hub, or a digest of its files.

    Of a large file only MAX_CHUNKS evenly spaced chunks are read, as training changes the whole of a matrix. Files that
    a run records beside its model are ignored.
    """
    if not Path(path).is_dir():
        return str(AutoConfig.from_pretrained(path)._commit_hash or "unknown")
    digest = hashlib.sha256()
    for file in sorted(Path(path).iterdir()):
        if file.suffix in (".safetensors", ".bin", ".json") and file.name not in RECORDS:
            with open(file, "rb") as content:
                size = content.seek(0, os.SEEK_END)
                digest.update(f"{file.name} {size}\n".encode())
                for start in range(0, size, max(CHUNK_BYTES, size // MAX_CHUNKS)):
                    content.seek(start)
                    digest.update(content.read(CHUNK_BYTES))
    return digest.hexdigest()[:16]


# How a model was trained; `lambda`, `template` and `chat_template_kwargs` are None if the run had none.
TrainingInfo = TypedDict(
    "TrainingInfo",
    {
        "run": str,
        "objective": str,
        "step": int,
        "lambda": float | None,
        "template": str | None,
        "chat_template_kwargs": dict[str, Any] | None,
    },
)


def training_info(path: str) -> TrainingInfo | None:
    """How a run's final model, or one of its checkpoints, was trained; None for other models."""
    folder = Path(path)
    run = Run(folder.parent if re.fullmatch(r"checkpoint-\d+", folder.name) else folder)
    if not is_run(run.path) or (folder == run.path and run.model() != folder):
        return None
    config, step = run.config(), run.step_of(folder)
    data = config.get("data", {})
    lambdas = [record["lambda"] for record in run.metrics() if record["step"] <= step]
    return {
        "run": str(run.path),
        "objective": config["objective"]["name"],
        "step": step,
        "lambda": lambdas[-1] if lambdas else None,
        "template": data["template"]["name"] if data.get("source") else None,
        "chat_template_kwargs": data["template"]["options"] if data.get("source") else None,
    }
