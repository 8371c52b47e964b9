"""Recipes: an ordinary TRL YAML plus the project's few keys, overridden by `--key value`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import ModelConfig, TrlParser
from trl.scripts.grpo import GRPOScriptArguments

from lambda_grpo.backends.trl_trainer import LambdaGRPOConfig
from lambda_grpo.errors import UserError

DEMO = "demo"  # the name of the built-in recipe


@dataclass
class TaskConfig:
    """What to train on and how to evaluate, beside TRL's own keys."""

    task: str | None = field(
        default=None, metadata={"help": "A built-in task, a reasoning-gym data set, or module:attribute for your own."}
    )
    task_size: int = field(default=4096, metadata={"help": "Number of training examples."})
    task_seed: int = field(default=0, metadata={"help": "Seed of the examples, for training and held-out ones."})
    eval_size: int = field(default=500, metadata={"help": "Held-out examples before and after; 0 for no evaluation."})


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe. `keys` are the settings that were written down, enough to parse it again."""

    keys: dict[str, Any]
    task: TaskConfig
    training: LambdaGRPOConfig
    model: ModelConfig
    data: GRPOScriptArguments

    @classmethod
    def parse(cls, keys: dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
        """A recipe from its keys and a command line's `--key value`. Raises UserError, naming what is wrong."""
        parser = _Parser((TaskConfig, LambdaGRPOConfig, ModelConfig, GRPOScriptArguments))
        known = [action.dest for action in parser._actions]
        environment = keys.get("env", {})  # TRL's key for environment variables
        settings = {key: value for key, value in keys.items() if key != "env"}
        for key in settings:
            if key not in known:
                raise UserError(f"the recipe has an unknown key {key!r}{_did_you_mean(key, known)}")
        parser.set_defaults_with_config(**settings)
        try:
            *parsed, unknown = parser.parse_args_into_dataclasses(
                list(overrides), return_remaining_strings=True, look_for_args_file=False
            )
        except (ValueError, TypeError) as error:  # TypeError: a value of the wrong kind in a recipe
            raise UserError(_one_line(error)) from error
        if unknown:
            raise UserError(f"unknown argument {unknown[0]!r}{_did_you_mean(unknown[0].lstrip('-'), known)}")
        os.environ.update({name: str(value) for name, value in environment.items()})
        values = {f.name: getattr(part, f.name) for part in parsed for f in fields(part)}
        actions = parser._option_string_actions  # --learning-rate and --no_bf16 are spellings of keys, too
        written = {actions[name].dest for argument in overrides if (name := argument.split("=")[0]) in actions}
        keys = {**keys, **{key: values[key] for key in written}}
        # A token is a secret: it doesn't go into the run directory.
        return cls({key: value for key, value in keys.items() if not key.endswith("_token")}, *parsed)


def read_recipe(path: str | os.PathLike[str] | None) -> dict[str, Any]:
    """The keys of a recipe file, with those of its `base` below them; None is the demonstration.

    `base` is a path relative to the file, or "demo" for the built-in recipe.

    Raises:
        UserError: no such file, or not a YAML mapping.
    """
    if path is None or str(path) == DEMO:
        return yaml.safe_load(files("lambda_grpo").joinpath("demo.yaml").read_text())
    try:
        keys = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UserError(f"can't read the recipe {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"the recipe {path} isn't valid YAML: {_one_line(error)}") from error
    if not isinstance(keys, dict):
        raise UserError(f"the recipe {path} must hold `key: value` lines")
    base = keys.pop("base", None)
    if base is None:
        return keys
    return {**read_recipe(base if base == DEMO else Path(path).parent / base), **keys}


class _Parser(TrlParser):
    """TrlParser with errors of one line: argparse would print a usage of 300 options, then exit."""

    def __init__(self, dataclasses: Sequence[type]):
        super().__init__(dataclasses, allow_abbrev=False, add_help=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(_one_line(message))


def _did_you_mean(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f": did you mean {close[0]!r}?" if close else ""


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
