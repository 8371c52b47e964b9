"""The settings of a study, read from a file and a command line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from trl import GRPOConfig

from lambda_grpo.errors import UserError
from lambda_grpo.objective import PRESETS, get_objective
from lambda_grpo.options.option import OptionFacts, options_of
from lambda_grpo.options.study import StudyOptions
from lambda_grpo.suggestions import did_you_mean
from lambda_grpo.training.recipe import Recipe, read_recipe
from lambda_grpo.trl import LambdaGRPOConfig


@dataclass(frozen=True)
class Endpoint:
    """A primary endpoint: the unit of a difference for readers, its factor, and which direction is better, if any."""

    unit: str
    factor: float
    better: Literal["higher", "lower"] | None


ENDPOINTS = {
    "accuracy": Endpoint("points", 100.0, "higher"),
    "accuracy_area": Endpoint("points", 100.0, "higher"),
    "tokens_to_target": Endpoint("thousand tokens", 1e-3, "lower"),
    "completion_length_mean": Endpoint("tokens", 1.0, None),
    "entropy": Endpoint("nats", 1.0, None),
}
RATE_FACTORS = (1 / 3, 1.0, 3.0)  # times the recipe's learning rate: a study's default
# The keys of TRL that an arm may set, besides the keys that this package adds; all others are the same for all arms
LOSS_KEYS = {
    "beta", "delta", "entropy_coef", "epsilon", "epsilon_high", "importance_sampling_level", "loss_type",
    "mask_truncated_completions", "max_grad_norm", "num_iterations", "off_policy_mask_threshold", "reward_weights",
    "scale_rewards", "top_entropy_quantile", "use_bias_correction_kl",
}  # fmt: skip
SPEED_KEYS = {"packing", "sampler"}
# Which checkpoints are written, and how many are kept: a run is the same with any of them
STORAGE_KEYS = ("save_strategy", "save_steps", "save_total_limit")
# What is recorded of a run, and where: likewise
RECORD_KEYS = ("report_to", "run_name", "record_tokens")


@dataclass(frozen=True)
class Study:
    """Arms, tasks and seeds, and the settings that all runs share.

    arms: each arm's name and its own recipe keys, including `objective`.
    against: the arm that the others are compared with.
    keys: the recipe keys that all runs share.
    learning_rates: all arms run at all of them, with all seeds.
    more_rates: how many are added beyond an end, while an arm's best rate is there.
    endpoint: the primary endpoint, chosen before any run.
    target_accuracy: accuracy of the training samples; the number of tokens to reach it is reported.
    keep_runs: whether the directories of finished runs are kept.
    """

    arms: Mapping[str, Mapping[str, Any]]
    against: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    more_rates: int
    keys: Mapping[str, Any]
    endpoint: str
    target_accuracy: float
    keep_checkpoints: bool
    keep_runs: bool

    @property
    def chooses_rates(self) -> bool:
        """Whether there is more than one learning rate to choose from."""
        return len(self.learning_rates) > 1

    @property
    def choice(self) -> str:
        """The held-out figure by which learning rates are chosen: the highest."""
        evaluated_during = self.keys.get("eval_every", 0) > 0
        return "accuracy_area" if evaluated_during and self.endpoint != "accuracy" else "accuracy"

    def recipe_keys(self, arm: str, task: str, learning_rate: float, seed: int) -> dict[str, Any]:
        """The recipe keys of one run."""
        own = {"task": task, "learning_rate": learning_rate, "seed": seed}
        return {**self.keys, **self.arms[arm], **own}

    def number_of_runs(self) -> int:
        """All runs, without those at learning rates that may be added."""
        return len(self.arms) * len(self.tasks) * len(self.learning_rates) * len(self.seeds)

    def describe(self) -> str:
        """The planned runs in one line."""
        arms = f"{len(self.arms)} objectives on {', '.join(self.tasks)}"
        seeds = "one seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        rates = "one learning rate" if not self.chooses_rates else f"{len(self.learning_rates)} learning rates"
        more = (
            f", and at up to {self.more_rates} rates more where the best one is at an end"
            if self.chooses_rates and self.more_rates
            else ""
        )
        return (
            f"{arms}: {self.number_of_runs()} runs ({rates}, {seeds} each){more}. "
            f"Primary endpoint: {self.endpoint}, against {self.against}."
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_study(path: str | None, options: Mapping[str, Any], overrides: Sequence[str] = ()) -> Study:
    """A study from a file, which is a recipe with a few more keys, and a command line.

    Args:
        path: the file; None for the demonstration's recipe.
        options: study keys of the command line, which override the file's.
        overrides: `--key value` pairs of the recipe.

    Raises:
        UserError: a setting is unknown, or settings contradict each other.
    """
    keys = read_recipe(path)
    if "output_dir" in keys:
        raise UserError("a study file has no output_dir: give --output_dir on the command line")
    known = options_of(StudyOptions)
    settings = StudyOptions(**{**{key: keys.pop(key) for key in known if key in keys}, **options})
    other_options = (*known, "task", "processes", "output_dir")
    recipe = Recipe.parse({**keys, "output_dir": "unused"}, overrides, other_options=other_options)
    shared = {key: value for key, value in recipe.keys.items() if key != "output_dir"}
    if not settings.keep_checkpoints:
        shared["save_total_limit"] = 1  # they serve to resume
    if recipe.task.eval_size < 1:
        raise UserError("a study compares held-out accuracy: set eval_size above 0")
    arms = _arms(settings.objectives)
    against = next(iter(arms)) if settings.against is None else settings.against
    if isinstance(against, str) and against not in arms:  # the import path of an arm with a shorter name
        against = next((arm for arm, own in arms.items() if own["objective"] == against), against)
    if not isinstance(against, str) or against not in arms:
        raise UserError(
            f"against names {against!r}, which isn't one of the study's objectives{did_you_mean(str(against), arms)}: "
            f"{', '.join(arms)}"
        )
    try:
        known["endpoint"].check(settings.endpoint, "endpoint")
    except ValueError as error:
        raise UserError(str(error)) from error
    if not isinstance(settings.keep_checkpoints, bool):
        raise UserError(f"keep_checkpoints must be true or false, got {settings.keep_checkpoints!r}")
    if not isinstance(settings.keep_runs, bool):
        raise UserError(f"keep_runs must be true or false, got {settings.keep_runs!r}")
    if settings.keep_checkpoints and not settings.keep_runs:
        raise UserError("keep_checkpoints keeps those of the runs: leave it out, or set keep_runs to true")
    if not isinstance(settings.more_rates, int) or isinstance(settings.more_rates, bool):
        raise UserError(f"more_rates must be a whole number, got {settings.more_rates!r}")
    try:
        known["more_rates"].check(settings.more_rates, "more_rates")
    except ValueError as error:
        raise UserError(str(error)) from error
    if settings.endpoint == "accuracy_area" and not recipe.task.eval_every:
        raise UserError("endpoint accuracy_area is a mean over evaluations during training: set eval_every above 0")
    seeds = _seeds(settings.seeds)
    tasks: Any = settings.tasks or [recipe.task.task]
    if tasks == [None]:
        raise UserError("a study needs tasks: name some (--task)")
    tasks = _distinct("tasks", tasks)
    _check_file_names("tasks", tasks)
    return Study(
        arms=arms,
        against=against,
        tasks=tasks,
        seeds=seeds,
        learning_rates=_rates(settings.learning_rates, recipe.training.learning_rate, known["learning_rates"]),
        more_rates=settings.more_rates,
        keys=shared,
        endpoint=settings.endpoint,
        target_accuracy=_number(settings.target_accuracy, known["target_accuracy"]),
        keep_checkpoints=settings.keep_checkpoints,
        keep_runs=settings.keep_runs,
    )


def _arms(objectives: Any) -> dict[str, dict[str, Any]]:
    """The arms, from a list of objectives or from a mapping of names to recipe keys."""
    if isinstance(objectives, Mapping):
        for name, keys in objectives.items():
            if not isinstance(keys, Mapping | None):
                raise UserError(f"objective {name!r} must hold `key: value` lines, or nothing, got {keys!r}")
        arms = {str(name): {"objective": str(name), **(keys or {})} for name, keys in objectives.items()}
    else:
        arms = {name: {"objective": name} for name in _distinct("objectives", objectives)}
    arms = _with_readable_names(arms)
    if len(arms) < 2:
        raise UserError("a study compares two objectives or more")
    _check_file_names("objectives", arms)
    added = {field.name for field in fields(LambdaGRPOConfig)} - {field.name for field in fields(GRPOConfig)}
    allowed = (added | LOSS_KEYS) - SPEED_KEYS
    for name, keys in arms.items():
        for key in keys:
            if key not in Recipe.known_keys():
                raise UserError(f"objective {name!r} has an unknown key {key!r}{did_you_mean(str(key), allowed)}")
            if key not in allowed:
                raise UserError(f"objective {name!r} sets {key}, which must be the same for all objectives of a study")
    return arms


def _with_readable_names(arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The arms, with an import path as name replaced by its objective's own name if that is unambiguous."""
    found = {arm: get_objective(arm) for arm, keys in arms.items() if ":" in arm and keys["objective"] == arm}
    taken = [*(arm for arm in arms if arm not in found), *(objective.name for objective in found.values())]
    names = {}
    for arm, objective in found.items():
        is_preset = PRESETS.get(objective.name, objective) is not objective
        names[arm] = arm if is_preset or taken.count(objective.name) > 1 else objective.name
    return {names.get(arm, arm): keys for arm, keys in arms.items()}


def file_name(name: str) -> str:
    """The folder name of an arm or a task."""
    return re.sub(r"[^\w.+-]", "_", name)


def _check_file_names(key: str, names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        plain = file_name(name).casefold()  # some file systems ignore case
        if not plain.strip("."):
            raise UserError(f"{key}: {name!r} can't be the name of a folder: rename it")
        if plain in seen:
            raise UserError(f"{key}: {seen[plain]!r} and {name!r} would share a folder: rename one of them")
        seen[plain] = name


def _distinct(name: str, values: Any) -> tuple[str, ...]:
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_list or not values or not all(isinstance(value, str) for value in values):
        raise UserError(f"{name} must be a list of names, got {values!r}")
    if len(set(values)) < len(values):
        raise UserError(f"{name} names one of them twice: {', '.join(values)}")
    return tuple(values)


def _seeds(value: Any) -> tuple[int, ...]:
    """A list of seeds, or a number of seeds that begin with 1."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return tuple(range(1, 1 + value))
    is_list = isinstance(value, list) and value and all(isinstance(seed, int) for seed in value)
    if is_list and len(set(value)) == len(value) and min(value) >= 0 and max(value) < 2**32:
        return tuple(value)
    raise UserError(f"seeds must be a number of at least 1, or a list of different seeds below 2^32, got {value!r}")


def _rates(value: Any, default: float, facts: OptionFacts) -> tuple[float, ...]:
    # three digits, so that a third of 3e-4 is 1e-4, also in folder names
    given = [float(f"{default * factor:.3g}") for factor in RATE_FACTORS] if value is None else value
    if not isinstance(given, list) or not given:
        raise UserError(f"learning_rates must be a list, got {given!r}")
    rates = [_number(rate, facts) for rate in given]
    if len({f"{rate:g}" for rate in rates}) < len(rates):
        raise UserError(f"learning_rates must be different ones, got {', '.join(f'{rate:g}' for rate in rates)}")
    return tuple(sorted(rates))


def _number(value: Any, facts: OptionFacts) -> float:
    try:  # YAML reads 1e-4 as text
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not facts.holds(number):
        raise UserError(f"{facts.name}: {value!r} isn't a number {facts.range}")
    return number
