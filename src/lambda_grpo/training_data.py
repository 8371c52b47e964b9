"""What a run trains on: a task, problems of maths, or a data set and reward functions as TRL takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetsError
from datasets.utils.logging import CRITICAL, set_verbosity
from jinja2 import TemplateError
from trl import DatasetMixtureConfig, get_dataset
from trl.data_utils import is_conversational
from trl.rewards import get_soft_overlong_punishment
from trl.scripts.grpo import GRPOScriptArguments

from lambda_grpo.errors import UserError
from lambda_grpo.imports import import_callable
from lambda_grpo.models import load_tokenizer
from lambda_grpo.recipe import Recipe
from lambda_grpo.runs import digest
from lambda_grpo.tasks import Task, grade_all, load_task, load_test_task
from lambda_grpo.tasks.benchmarks import BENCHMARKS
from lambda_grpo.tasks.overlap import Overlap, find_overlap
from lambda_grpo.tasks.problems import MathProblems, is_file_of_problems
from lambda_grpo.tasks.rewards import text_of
from lambda_grpo.tasks.templates import TEMPLATES, Template, find_template
from lambda_grpo.tasks.training_sets import (
    TRAINING_SETS,
    hub_training_set,
    load_training_set,
    local_training_set,
)

RewardFunction = Callable[..., list[float | None]]

MADE = 4096  # training examples of a task that makes them, where no number is given

# Those that `trl grpo` names, and ours
REWARDS = {
    "accuracy_reward": "trl.rewards", "reasoning_accuracy_reward": "trl.rewards", "think_format_reward": "trl.rewards",
    "math_accuracy": "lambda_grpo.tasks.rewards", "boxed_format": "lambda_grpo.tasks.rewards",
}  # fmt: skip


@dataclass(frozen=True)
class TrainingData:
    """All that a run is trained and evaluated on.

    Attributes:
        dataset, eval_dataset: rows as TRL reads them; for training, and for its evaluation during training.
        rewards: as TRL takes them.
        held_out: what is evaluated before and after.
        template: how a problem is put.
        has_tasks: whether the rows are a task's, and not a data set as TRL reads it.
        description: what there is to say of it, for config.json and the model card.
        overlaps: what the training problems share with test sets.
    """

    dataset: Dataset | IterableDataset
    eval_dataset: Dataset | IterableDataset | None
    rewards: list[RewardFunction | str]
    held_out: Task | None
    template: Template
    has_tasks: bool
    description: dict[str, Any]
    overlaps: tuple[Overlap, ...] = ()

    def for_card(self) -> dict[str, Any]:
        """The description as rows of the model card."""
        found = self.description
        source, template = found.get("source") or {}, found.get("template") or {}
        removed = " (left out)" if any(overlap["removed"] for overlap in found.get("overlaps", ())) else ""
        return {
            "trained on": found["name"],
            "problems": found.get("problems"),
            "from": source.get("data"),
            "rows, duplicates, contradictory": ", ".join(
                str(source[key]) for key in ("rows", "duplicates", "contradictory") if key in source
            )
            or None,
            "seed of the examples": found.get("seed"),
            "template": f"{template['name']}: {template['source']}" if template else None,
            "held out": found.get("held_out"),
            f"in test sets{removed}": "; ".join(map(str, self.overlaps)) or None,
        }


def read_training_data(recipe: Recipe, model_path: str) -> TrainingData:
    """What the recipe says to train on.

    Raises:
        UserError: it names nothing, or too much, or what it names can't be used.
    """
    settings, data = recipe.task, recipe.data
    given = {"a task": settings.task, "a dataset_name": data.dataset_name, "datasets": recipe.mixture.datasets}
    named = [name for name, value in given.items() if value]
    if not named:
        raise UserError("the recipe names nothing to train on: set task (or TRL's dataset_name and reward_funcs)")
    if len(named) > 1:
        raise UserError(f"the recipe names both {named[0]} and {named[1]}: give one of them")
    has_columns = settings.question_column is not None or settings.answer_column is not None
    if settings.task or (data.dataset_name and has_columns):
        return _of_task(recipe, model_path)
    for key in ("template", "question_column", "answer_column", "eval_task", "check_overlap"):
        if getattr(settings, key):
            raise UserError(
                f"{key} is for a task, or a dataset_name with question_column and answer_column: without them its rows "
                "are taken as TRL takes them"
            )
    rewards = trl_rewards(data)
    dataset, eval_dataset = trl_datasets(data, recipe.mixture, recipe.training.eval_strategy)
    name = data.dataset_name or "datasets"
    return TrainingData(dataset, eval_dataset, rewards, None, TEMPLATES["plain"], False, {"name": name})


def _of_task(recipe: Recipe, model_path: str) -> TrainingData:
    settings, data = recipe.task, recipe.data
    task, held_out = _training_task(recipe), _held_out(recipe)
    is_problems = isinstance(task, MathProblems)
    if not is_problems and (data.reward_funcs or data.reward_model_name_or_path):
        raise UserError("a task grades by itself: leave reward_funcs and reward_model_name_or_path out")
    chosen, template = "plain", TEMPLATES["plain"]
    if is_problems or settings.template is not None:
        tokenizer = load_tokenizer(model_path)
        chosen, template = find_template(settings.template, tokenizer, recipe.training.chat_template_kwargs)
        try:
            template.render(task[0].prompt, tokenizer)
        except TemplateError as error:  # some models' chat templates know no system role
            raise UserError(
                f"the model's chat template refuses template {chosen!r} ({error}): set another template"
            ) from error
    overlaps = _overlaps(task, recipe, held_out)
    if settings.remove_overlap:
        if not (overlaps and isinstance(task, MathProblems)):
            raise UserError("remove_overlap needs test sets to look into: set check_overlap, or leave it out")
        task = task.without({pair.training for overlap in overlaps for pair in overlap.pairs})
    named = trl_rewards(data) if data.reward_funcs or data.reward_model_name_or_path else None
    problems = [(task[i].prompt, task[i].answer) for i in range(len(task))]
    return TrainingData(
        task_dataset(task, template=template),
        None if held_out is None else task_dataset(held_out, "test", template=template),
        named or [task_reward(task, held_out, template)],
        held_out,
        template,
        True,
        {
            "name": task.name,
            "problems": len(task),
            "digest": digest(problems),
            "source": getattr(task, "source", None),
            "seed": None if is_problems else settings.task_seed,
            "template": {"name": chosen, **asdict(template)},
            "held_out": None if held_out is None else held_out.name,
            "overlaps": [{**overlap.summary(), "removed": settings.remove_overlap} for overlap in overlaps],
        },
        overlaps,
    )


def _training_task(recipe: Recipe) -> Task:
    settings, data = recipe.task, recipe.data
    columns = {"question": settings.question_column, "answer": settings.answer_column}
    if data.dataset_name:
        name = data.dataset_name.strip("./").rsplit("/", 1)[-1]
        split = data.dataset_train_split
        return hub_training_set(name, data.dataset_name, data.dataset_config, split, size=settings.task_size, **columns)
    assert settings.task is not None
    if is_file_of_problems(settings.task):
        return local_training_set(settings.task, size=settings.task_size, **columns)
    if any(columns.values()):
        raise UserError(
            "question_column and answer_column are for a file of problems, or a dataset_name: leave them out"
        )
    if settings.task in TRAINING_SETS:
        return load_training_set(settings.task, size=settings.task_size)
    return load_task(settings.task, "train", size=settings.task_size or MADE, seed=settings.task_seed)


def _held_out(recipe: Recipe) -> Task | None:
    """What is evaluated before and after: what eval_task names, or what belongs to the task."""
    settings = recipe.task
    if settings.eval_size == 0:
        return None
    name = settings.eval_task
    if name is None and settings.task in TRAINING_SETS:
        name = TRAINING_SETS[settings.task].held_out
    elif name is None and settings.task and not is_file_of_problems(settings.task):
        name = settings.task
    if name is None:
        return None
    columns: dict[str, str | None] = {}
    if settings.eval_task is not None and is_file_of_problems(settings.eval_task):
        columns = {"question": settings.question_column, "answer": settings.answer_column}
    return load_test_task(name, size=settings.eval_size, seed=settings.task_seed, **columns)


def _overlaps(task: Task, recipe: Recipe, held_out: Task | None) -> tuple[Overlap, ...]:
    """What the training problems share with the test sets that check_overlap names, or with the held-out problems."""
    named = recipe.task.check_overlap
    if named and not isinstance(task, MathProblems):
        raise UserError(
            f"check_overlap is for problems of a data set, and task {task.name!r} makes its own: leave it out"
        )
    if named is not None:
        names = [name for chosen in named for name in (BENCHMARKS if chosen == "benchmarks" else [chosen])]
        tests = [load_test_task(name) for name in names]
    else:
        tests = [held_out] if isinstance(held_out, MathProblems) and isinstance(task, MathProblems) else []
    problems = [task[i].prompt for i in range(len(task))]
    return tuple(find_overlap(problems, [test[i].prompt for i in range(len(test))], test.name) for test in tests)


def task_dataset(task: Task, split: str = "train", *, template: Template = TEMPLATES["plain"]) -> Dataset:
    """A task as TRL reads it: columns prompt, answer, solution, and index and split to find the example again."""
    examples = [task[i] for i in range(len(task))]
    return Dataset.from_dict(
        {
            "prompt": [template.prompt(example.prompt) for example in examples],
            "answer": [example.answer for example in examples],
            "solution": [example.solution for example in examples],
            "index": list(range(len(examples))),
            "split": [split] * len(examples),
        }
    )


def task_reward(task: Task, held_out: Task | None = None, template: Template = TEMPLATES["plain"]) -> RewardFunction:
    """A task's grader as TRL calls it, up to the template's stop. Named after the task: TRL logs it as rewards/NAME."""
    tasks = {"train": task, "test": held_out or task}

    def reward(completions: list[Any], index: list[int], split: list[str], **_: Any) -> list[float | None]:
        graded = tasks[split[0]]  # a batch is all of one split
        texts = [template.cut(text_of(completion)) for completion in completions]
        return [grade.score for grade in grade_all(graded, texts, [graded[i] for i in index])]

    reward.__name__ = task.name
    return reward


def trl_datasets(
    data: GRPOScriptArguments, mixture: DatasetMixtureConfig, eval_strategy: str
) -> tuple[Dataset, Dataset | None]:
    """Training and evaluation rows, loaded as `trl grpo` loads them.

    Raises:
        UserError: they can't be loaded, or their first row is none that can be trained on.
    """
    name = "datasets" if mixture.datasets else f"dataset_name {data.dataset_name!r}"
    set_verbosity(CRITICAL)  # what it would log as an error it raises, too
    try:
        if mixture.datasets:
            splits = get_dataset(mixture)
        else:
            splits = load_dataset(data.dataset_name, name=data.dataset_config, streaming=data.dataset_streaming)
    except (OSError, ValueError, DatasetsError) as error:
        reason = str(error.__cause__ or error)  # an error "occurred while generating the dataset" has its cause
        raise UserError(f"can't load {name}: {' '.join(reason.split())}") from error

    def rows(key: str, split: str) -> Dataset:
        if split not in splits:
            raise UserError(f"{key} is {split!r}, but {name} has no such split: it has {', '.join(splits)}")
        _check_rows(f"{name}, split {split!r},", splits[split])
        return splits[split]

    train = rows("dataset_train_split", data.dataset_train_split)
    return train, None if eval_strategy == "no" else rows("dataset_test_split", data.dataset_test_split)


def is_conversation(dataset: Dataset | IterableDataset) -> bool:
    """Whether the prompts are lists of messages, which only a chat template makes text of."""
    return is_conversational({"prompt": next(iter(dataset))["prompt"]})


def _check_rows(name: str, dataset: Dataset | IterableDataset) -> None:
    row = next(iter(dataset), None)
    if row is None:
        raise UserError(f"{name} holds no examples")
    if "prompt" not in row:
        raise UserError(f"{name} needs a column 'prompt', it has {', '.join(row)}: rename the one that holds prompts")
    prompt = row["prompt"]
    if not isinstance(prompt, str) and not (prompt and is_conversational({"prompt": prompt})):
        raise UserError(f"{name} needs text or lists of messages (role, content) as prompts, got {prompt!r}")


def trl_rewards(data: GRPOScriptArguments) -> list[RewardFunction | str]:
    """The rewards that a TRL configuration names: of trl.rewards, import paths, or a reward model."""
    rewards: list[RewardFunction | str] = []
    if data.reward_model_name_or_path:
        rewards.append(data.reward_model_name_or_path)  # the trainer loads it
    for name in data.reward_funcs or []:
        rewards.append(_reward_function(name))
    if not rewards:
        raise UserError("dataset_name needs reward_funcs: names from trl.rewards, or import paths (package.module.f)")
    return rewards


def _reward_function(name: str) -> RewardFunction:
    if name == "get_soft_overlong_punishment":  # a factory; the numbers are those of `trl grpo`
        return get_soft_overlong_punishment(max_completion_len=1280, soft_punish_cache=256)
    module_name, _, attribute = name.rpartition(".")
    if not module_name and name not in REWARDS:
        raise UserError(
            f"unknown reward function {name!r}: use {', '.join(REWARDS)}, get_soft_overlong_punishment, or the import "
            "path of your own (package.module.function)"
        )
    return import_callable(f"reward function {name!r}", module_name or REWARDS[name], attribute)
