"""Which model a name stands for, and loading it."""

from __future__ import annotations

import hashlib
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lambda_grpo.errors import UserError
from lambda_grpo.runs.directory import RECORDS, Run, is_run
from lambda_grpo.suggestions import did_you_mean

BUILTIN = "builtin"
BUILTIN_LLAMA = "builtin-llama"
PIECE, PIECES = 2**16, 1000  # bytes; of a file
_FOLDERS = {BUILTIN: "qwen2", BUILTIN_LLAMA: "llama"}


def resolve_model(name: str) -> str:
    """What `from_pretrained` can load: a built-in policy, a directory, a run's policy (`Run.model`) or a hub id.

    Raises:
        UserError: there is no such model.
    """
    if name in _FOLDERS:
        return str(files("lambda_grpo.models.builtin").joinpath(_FOLDERS[name]))
    path = Path(name)
    if path.is_dir():
        policy = Run(path).model() if is_run(path) else None
        if policy not in (None, path):  # a run that goes on, or was killed
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
            f"no model {name!r}{did_you_mean(name, _FOLDERS)}: it is neither a directory here, nor "
            f"{' or '.join(map(repr, _FOLDERS))}, nor could it be loaded from the hub"
        ) from error
    return name


def model_name(path: str) -> str:
    """What a user calls the model that is loaded from a path: a built-in policy by its name, others by the path."""
    for name in _FOLDERS:
        if path and Path(path).resolve() == Path(resolve_model(name)).resolve():
            return name
    return path


def load_model(path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, on the best device there is. Raises UserError if the directory doesn't hold them."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        model = _with_adapter(path) if _is_adapter(path) else AutoModelForCausalLM.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"can't load a model from {path}: {' '.join(str(error).split())}") from error
    return model.to(device), load_tokenizer(path)


def _is_adapter(path: str) -> bool:
    return (Path(path) / "adapter_config.json").is_file()


def _with_adapter(path: str) -> Any:
    """By PEFT: transformers' own loader doesn't know all of its adapters."""
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(path)


def load_tokenizer(path: str, **settings: Any) -> PreTrainedTokenizerBase:
    """A model's tokenizer; settings as of `from_pretrained`. Raises UserError if the directory doesn't hold one."""
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
    """Write a LoRA checkpoint as a whole model, for engines that take no adapter. Returns where: other models stay.

    Raises UserError if the adapter isn't one that can be merged (a learned prompt).
    """
    if not _is_adapter(path):
        return path
    model = _with_adapter(path)
    if not hasattr(model, "merge_and_unload"):
        raise UserError(f"{path} is an adapter that can't be merged into its model: use --engine transformers")
    model.merge_and_unload().save_pretrained(folder)
    load_tokenizer(path).save_pretrained(folder)
    return folder


def weights_id(path: str) -> str:
    """What tells a model from one that lay there before: its commit on the hub, or a digest of its files.

    Of a large file it reads PIECES pieces, evenly spaced: training changes all of a matrix. What a run records beside
    its model doesn't count.
    """
    if not Path(path).is_dir():
        return str(AutoConfig.from_pretrained(path)._commit_hash or "unknown")
    digest = hashlib.sha256()
    for file in sorted(Path(path).iterdir()):
        if file.suffix in (".safetensors", ".bin", ".json") and file.name not in RECORDS:
            with open(file, "rb") as content:
                size = content.seek(0, os.SEEK_END)
                digest.update(f"{file.name} {size}\n".encode())
                for start in range(0, size, max(PIECE, size // PIECES)):
                    content.seek(start)
                    digest.update(content.read(PIECE))
    return digest.hexdigest()[:16]


def training_of(path: str) -> dict[str, Any] | None:
    """What a run's final model, or a checkpoint of it, was trained with. None for other models.

    The run, its objective, the step, λ there, and how problems of a data set were put.
    """
    folder = Path(path)
    run = Run(folder.parent if re.fullmatch(r"checkpoint-\d+", folder.name) else folder)
    if not is_run(run.path) or (folder == run.path and run.model() != folder):
        return None
    config, step = run.config(), run.step_of(folder)
    data = config.get("data", {})
    lambdas = [row["lambda"] for row in run.metrics() if row["step"] <= step]
    return {
        "run": str(run.path),
        "objective": config["objective"]["name"],
        "step": step,
        "lambda": lambdas[-1] if lambdas else None,
        "template": data["template"]["name"] if data.get("source") else None,
        "chat_template_kwargs": data["template"]["options"] if data.get("source") else None,
    }
