"""Recipes: an ordinary TRL YAML plus the project's few keys, overridden by `--key value`."""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import yaml
from trl import DatasetMixtureConfig, ModelConfig, TrlParser
from trl.scripts.grpo import GRPOScriptArguments

from lambda_grpo.errors import UserError
from lambda_grpo.options.option import check_options
from lambda_grpo.options.training import TaskOptions
from lambda_grpo.suggestions import check_choice, did_you_mean, did_you_mean_option
from lambda_grpo.training.validation import check_ranges, check_types
from lambda_grpo.trl import LambdaGRPOConfig

DEMO = "demo"  # the name of the built-in recipe
# Of `lambda-grpo train` without a recipe alone: at λ's default learning rate, 0.1, f would lie within 1 ± 0.03, and a
# newcomer would see nothing of what this is about. docs/training.md says what it does to the result.
SHOW_LAMBDA = {"lambda_lr": 1.0}


@dataclass
class TaskConfig(TaskOptions):
    """What to train on and how to evaluate: the keys that TRL doesn't have."""

    def __post_init__(self) -> None:
        # how a command line gives no value
        self.task = None if self.task == "none" else self.task
        self.check_overlap = [] if self.check_overlap == ["none"] else self.check_overlap
        check_options(self)


KINDS: tuple[type, ...] = (TaskConfig, LambdaGRPOConfig, ModelConfig, GRPOScriptArguments, DatasetMixtureConfig)


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe. `keys` are the settings that were given, from which it can be parsed again."""

    keys: dict[str, Any]
    task: TaskConfig
    training: LambdaGRPOConfig
    model: ModelConfig
    data: GRPOScriptArguments
    mixture: DatasetMixtureConfig

    def settings(self) -> dict[str, Any]:
        """Every setting by its key, defaults included."""
        parts = (self.task, self.training, self.model, self.data, self.mixture)
        return {f.name: getattr(part, f.name) for part in parts for f in fields(part)}

    @staticmethod
    def known_keys() -> set[str]:
        """Every key that a recipe may hold."""
        return {f.name for kind in KINDS for f in fields(kind)}

    @classmethod
    def parse(
        cls, keys: dict[str, Any], overrides: Sequence[str] = (), *, other_options: Iterable[str] = ("resume",)
    ) -> Recipe:
        """A recipe from its keys and a command line's `--key value`.

        Args:
            other_options: options that the caller handles itself, for suggestions.

        Raises:
            UserError: a setting is unknown or can't be used; the message names it.
        """
        parser, values = parse_settings(KINDS, keys, overrides, other_options=other_options)
        recipe = cls(keys, *values)
        written = written_keys(parser, overrides)
        resolved = {**recipe.settings(), "datasets": asdict(recipe.mixture)["datasets"]}  # JSON values, for run.json
        keys = {**keys, **{key: resolved[key] for key in written}}
        # Tokens are secrets: they aren't written into the run directory.
        return replace(recipe, keys={key: value for key, value in keys.items() if not key.endswith("_token")})


def parse_settings(
    kinds: Sequence[type], keys: dict[str, Any], overrides: Sequence[str] = (), *, other_options: Iterable[str] = ()
) -> tuple[TrlParser, tuple[Any, ...]]:
    """TRL's parser for some dataclasses, and an instance of each.

    Args:
        kinds: the dataclasses whose fields are the keys.
        keys: of a recipe.
        overrides: a command line's `--key value`.
        other_options: options that the caller handles itself, for suggestions.

    Raises:
        UserError: a setting is unknown or can't be used; the message names it.
    """
    parser = _Parser(kinds)
    known = [action.dest for action in parser._actions]
    options = [*known, *other_options]
    environment = _environment(keys)
    # A copy: TRL's classes convert their arguments in place, and `keys` may be parsed again.
    settings = copy.deepcopy({key: value for key, value in keys.items() if key != "env"})
    for key in settings:
        if key not in known:
            raise UserError(f"the recipe has an unknown key {key!r}{did_you_mean(str(key), options)}")
    parser.set_defaults_with_config(**settings)
    values, unknown = parser.parse_known_args(list(overrides))
    if unknown:
        if unknown[0].endswith((".yaml", ".yml")):
            raise UserError(f"recipes must stand before all --keys: {unknown[0]} doesn't")
        raise UserError(f"unknown argument {unknown[0]!r}{did_you_mean_option(unknown[0], options)}")
    hints = {key: hint for kind in kinds for key, hint in get_type_hints(kind).items()}
    check_types({key: getattr(values, key) for key in settings}, hints)  # argparse checks a command line's
    check_ranges(vars(values))
    try:
        parsed = parser.parse_args_into_dataclasses(list(overrides), look_for_args_file=False)
    except (ValueError, TypeError) as error:  # settings that contradict each other
        raise UserError(_one_line(error)) from error
    os.environ.update(environment)
    return parser, tuple(parsed)


def written_keys(parser: TrlParser, overrides: Sequence[str]) -> set[str]:
    """The keys that a command line sets; --learning-rate and --no_bf16 are other spellings of keys."""
    actions = parser._option_string_actions
    return {actions[name].dest for argument in overrides if (name := argument.split("=")[0]) in actions}


def model_init_kwargs(model: ModelConfig, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """How a model is loaded, as in `trl grpo`; `given` is the trainer's own setting, which overrides."""
    return {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(given or {}),
    }


def read_recipes(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """The keys of layered recipes, where later ones override; without any, the demonstration's.

    With several recipes, `base: demo` is ignored: each is based on those before it.

    Raises:
        UserError: as `read_recipe`.
    """
    if not paths:
        return read_recipe(DEMO) | SHOW_LAMBDA
    keys: dict[str, Any] = {}
    for path in paths:
        keys |= read_recipe(path, with_demo=len(paths) < 2 or str(path) == DEMO)
    return keys


def read_recipe(
    path: str | os.PathLike[str] | None, *, with_demo: bool = True, _based_on: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """The keys of a recipe file, which override those of its `base`; None is the demonstration.

    `base` is a path relative to the file, or "demo" for the built-in recipe.

    Args:
        with_demo: whether `base: demo` adds the demonstration's keys.

    Raises:
        UserError: no such file, not a YAML mapping, or a recipe that is its own base.
    """
    if path is None or str(path) == DEMO:
        return yaml.safe_load(files("lambda_grpo.training").joinpath("demo.yaml").read_text()) if with_demo else {}
    try:
        keys = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"can't read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the recipe {path} isn't UTF-8 text, see its byte {error.start}") from error
    except yaml.YAMLError as error:
        raise UserError(f"the recipe {path} isn't valid YAML: {_one_line(error)}") from error
    if not isinstance(keys, dict):
        raise UserError(f"the recipe {path} must hold `key: value` lines")
    base = keys.pop("base", None)
    if base is None:
        return keys
    if not isinstance(base, str):
        raise UserError(f"the recipe {path}: base must be the path of a recipe, or {DEMO}, got {base!r}")
    based_on = (*_based_on, Path(path).resolve())
    base_path: str | Path = base if base == DEMO else Path(path).parent / base
    if base != DEMO and Path(base_path).resolve() in based_on:
        raise UserError(f"the recipe {path} is its own base: {base} leads back to it")
    return {**read_recipe(base_path, with_demo=with_demo, _based_on=based_on), **keys}


def write_recipe(path: Path, keys: Mapping[str, Any]) -> Path:
    """Write a recipe file with these keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(keys, default=str))  # such as TRL's enumerations
    path.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def _environment(keys: dict[str, Any]) -> dict[str, str]:
    """The environment variables of TRL's key `env`."""
    environment = keys.get("env", {})
    if not (isinstance(environment, dict) and all(isinstance(name, str) for name in environment)):
        raise UserError(f"env must be a mapping of environment variables (`NAME: value` lines), got {environment!r}")
    return {name: str(value) for name, value in environment.items()}


class _Parser(TrlParser):
    """TrlParser that raises UserError, where argparse would print a usage of 300 options and exit."""

    def __init__(self, dataclasses: Sequence[type]):
        super().__init__(dataclasses, allow_abbrev=False, add_help=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(_one_line(message))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        check_choice(action, value)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
