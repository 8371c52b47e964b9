"""Training data: a task, mathematics problems, or a data set and reward functions for TRL."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import AutoConfig
from trl.scripts.grpo import GRPOScriptArguments
from trl.trainer.utils import get_callable_name, is_async_callable

from lambda_grpo.errors import UserError
from lambda_grpo.models import load_tokenizer
from lambda_grpo.runs.provenance import digest
from lambda_grpo.runs.record import DataRecord
from lambda_grpo.tasks import Task, grade_all, load_task, load_test_task
from lambda_grpo.tasks.maths.benchmarks import BENCHMARKS
from lambda_grpo.tasks.maths.columns import question_at, value_at
from lambda_grpo.tasks.maths.overlap import Overlap, find_overlap
from lambda_grpo.tasks.maths.problems import MathProblems, is_file_of_problems, read_rows
from lambda_grpo.tasks.maths.rewards import text_of
from lambda_grpo.tasks.maths.templates import TEMPLATES, Template, find_template
from lambda_grpo.tasks.maths.training_sets import (
    LEFT_OUT,
    TRAINING_SETS,
    hub_training_set,
    load_training_set,
    local_training_set,
)
from lambda_grpo.training.datasets import REWARDS, RewardFunction, trl_datasets, trl_rewards
from lambda_grpo.training.recipe import Recipe, TaskConfig

DEFAULT_TRAIN_SIZE = 4096  # examples of a generated task, unless a number is given
COUNTED_PROMPTS = 20  # the longest by characters, whose tokens are counted


@dataclass(frozen=True)
class TrainingData:
    """The data that a run trains and evaluates on.

    Attributes:
        dataset, eval_dataset: examples for TRL's trainer: to train on, and for its evaluation during training.
        rewards: reward functions, and the name of a reward model, for TRL's trainer.
        held_out: the problems that are evaluated before and after training.
        template: the prompt template.
        is_task: whether the examples are a task's; otherwise they are a data set in TRL's format.
        description: the `data` of run.json; the model card is made from it.
        overlaps: training problems that are in test sets.
    """

    dataset: Dataset | IterableDataset
    eval_dataset: Dataset | IterableDataset | None
    rewards: list[RewardFunction | str]
    held_out: Task | None
    template: Template
    is_task: bool
    description: DataRecord
    overlaps: tuple[Overlap, ...] = ()

    def for_card(self) -> dict[str, Any]:
        """The description in words, for the model card."""
        description = self.description
        source, template = description.get("source") or {}, description.get("template") or {}
        removed = " (left out)" if any(overlap["removed"] for overlap in description.get("overlaps", ())) else ""
        return {
            "trained on": source.get("title", description["name"]),
            "problems": description.get("problems"),
            "from": source.get("data"),
            "rows": source.get("rows"),
            "left out of them": ", ".join(f"{source[key]} {key}" for key in LEFT_OUT if source.get(key)) or None,
            "seed of the examples": description.get("seed"),
            "template": f"{template['name']}: {template['source']}" if template else None,
            "held out": description.get("held_out"),
            f"in test sets{removed}": "; ".join(map(str, self.overlaps)) or None,
        }

    def hub_data_sets(self) -> list[str] | None:
        """Ids of the data sets on the hub, for the card's metadata."""
        data = (self.description.get("source") or {}).get("data")
        return [data] if data and data.count("/") == 1 and not Path(data).exists() else None


def read_training_data(recipe: Recipe, model_path: str) -> TrainingData:
    """Load the training and held-out data that a recipe names.

    Raises:
        UserError: the recipe names no data, or several, or data that can't be used.
    """
    settings, data = recipe.task, recipe.data
    given = {"a task": settings.task, "a dataset_name": data.dataset_name, "datasets": recipe.mixture.datasets}
    named = [name for name, value in given.items() if value]
    if not named:
        raise UserError("the recipe names no training data: set task (or TRL's dataset_name and reward_funcs)")
    if len(named) > 1:
        raise UserError(f"the recipe names both {named[0]} and {named[1]}: give one of them (task: none for no task)")
    has_columns = settings.question_column is not None or settings.answer_column is not None
    if settings.task or (data.dataset_name and has_columns):
        return _task_data(recipe, model_path)
    for key in ("template", "question_column", "answer_column", "eval_task", "check_overlap"):
        if getattr(settings, key):
            raise UserError(
                f"{key} is for a task, or a dataset_name with question_column and answer_column: without them TRL "
                "reads its rows itself"
            )
    rewards = trl_rewards(data)
    dataset, eval_dataset = trl_datasets(data, recipe.mixture, recipe.training.eval_strategy)
    if "math_accuracy" in (data.reward_funcs or []):
        columns = list(next(iter(dataset)))
        if not {"answer", "solution"}.intersection(columns):
            raise UserError(
                "reward function 'math_accuracy' needs a column answer or solution, with the reference of each prompt; "
                f"the data set has {', '.join(columns)}"
            )
    name = data.dataset_name or "datasets"
    return TrainingData(dataset, eval_dataset, rewards, None, TEMPLATES["plain"], False, {"name": name})


def _task_data(recipe: Recipe, model_path: str) -> TrainingData:
    settings, data = recipe.task, recipe.data
    task, held_out = _training_task(recipe), _held_out(recipe)
    is_problems = isinstance(task, MathProblems)
    if not is_problems and (data.reward_funcs or data.reward_model_name_or_path):
        raise UserError("a task has its own grader: leave reward_funcs and reward_model_name_or_path out")
    template = TEMPLATES["plain"]
    if is_problems or settings.template is not None:
        template = _template(recipe, model_path, task, held_out)
    overlaps = _overlaps(task, recipe, held_out)
    if settings.remove_overlap:
        if not (overlaps and isinstance(task, MathProblems)):
            raise UserError("remove_overlap needs test sets to search: set check_overlap or eval_task")
        task = task.without({pair.training for overlap in overlaps for pair in overlap.pairs})
    named = trl_rewards(data) if data.reward_funcs or data.reward_model_name_or_path else None
    _check_rewards(data, template, task)
    return TrainingData(
        task_dataset(task, template=template),
        None if held_out is None else task_dataset(held_out, "test", template=template),
        [_truncate_at_stop(function, template) for function in named]
        if named
        else [task_reward(task, held_out, template)],
        held_out,
        template,
        True,
        {
            "name": task.name,
            "problems": len(task),
            "digest": digest([_problems(one) for one in (task, held_out) if one is not None]),
            "source": getattr(task, "source", None),
            "seed": None if is_problems else settings.task_seed,
            "template": asdict(template),
            "held_out": None if held_out is None else held_out.name,
            "overlaps": [{**overlap.summary(), "removed": settings.remove_overlap} for overlap in overlaps],
        },
        overlaps,
    )


def _problems(task: Task) -> list[tuple[str, str | None]]:
    return [(task[i].prompt, task[i].answer) for i in range(len(task))]


def _template(recipe: Recipe, model_path: str, task: Task, held_out: Task | None) -> Template:
    """The recipe's prompt template, checked on the problems.

    With max_prompt_overflow the trainer handles training problems that are too long.

    Raises:
        UserError: the model has no chat template, or it fails on these problems, or a prompt is too long for the model.
    """
    settings, training = recipe.task, recipe.training
    options = training.chat_template_kwargs
    if options is not None and not isinstance(options, dict):
        raise UserError(f"chat_template_kwargs must be a mapping, got {options!r}")
    sources = {"revision": recipe.model.model_revision, "trust_remote_code": training.trust_remote_code}
    tokenizer = load_tokenizer(model_path, **sources)
    _, template = find_template(settings.template, tokenizer, options)

    def most_tokens(task: Task) -> int:
        questions = sorted((question for question, _ in _problems(task)), key=len)[-COUNTED_PROMPTS:]
        return max(len(template.tokenize(template.render(question, tokenizer), tokenizer)) for question in questions)

    longest = most_tokens(task)
    if training.prompt_overflow is not None:
        longest = 0
    if held_out is not None:
        longest = max(longest, most_tokens(held_out))
    config = AutoConfig.from_pretrained(model_path, **sources)
    limits = (getattr(config, "max_position_embeddings", None), training.use_vllm and training.vllm_max_model_length)
    context = min((limit for limit in limits if limit), default=None)
    needed = longest + training.max_completion_length
    if context is not None and needed > context:
        raise UserError(
            f"the longest prompt has {longest} tokens, so that with a completion it may take {needed}; the model "
            f"has {context}: set max_completion_length lower, or leave that problem out"
        )
    return template


def _truncate_at_stop(function: RewardFunction | str, template: Template) -> RewardFunction | str:
    """A reward function that, like the grader, sees completions up to the template's stop. A reward model sees all."""
    if isinstance(function, str) or not template.stops:
        return function
    call: Any = function

    def cut(columns: dict[str, Any]) -> dict[str, Any]:
        return {**columns, "completions": [template.cut(completion) for completion in columns["completions"]]}

    def rewarded(**columns: Any) -> Any:
        return call(**cut(columns))

    async def rewarded_async(**columns: Any) -> Any:
        return await call(**cut(columns))

    taking: Any = rewarded_async if is_async_callable(function) else rewarded
    taking.__name__, taking.__module__ = get_callable_name(function), getattr(function, "__module__", "")
    with contextlib.suppress(ValueError, TypeError):  # some callables written in C don't tell
        taking.__signature__ = inspect.signature(function, follow_wrapped=False)
    return taking


def _check_rewards(data: GRPOScriptArguments, template: Template, task: Task) -> None:
    """Raise UserError for functions of trl.rewards that would fail on these problems, or lack a reference."""
    for name in data.reward_funcs or []:
        if REWARDS.get(name) != "trl.rewards":
            continue
        if not template.chat:
            raise UserError(f"reward function {name!r} reads conversations: use a chat template, or math_accuracy")
        if "accuracy" in name and task[0].solution is None:
            raise UserError(f"reward function {name!r} compares with a column solution, which {task.name} doesn't have")


def _training_task(recipe: Recipe) -> Task:
    settings, data = recipe.task, recipe.data
    columns = {"question": settings.question_column, "answer": settings.answer_column}
    if data.dataset_name:
        if is_file_of_problems(data.dataset_name) and Path(data.dataset_name).is_file():
            raise UserError(f"dataset_name {data.dataset_name!r} is a file of problems: set task to it")
        name = data.dataset_name.strip("./").rsplit("/", 1)[-1]
        if data.dataset_streaming:
            raise UserError("problems are loaded as a whole: leave dataset_streaming out")
        split = data.dataset_train_split
        return hub_training_set(name, data.dataset_name, data.dataset_config, split, size=settings.task_size, **columns)
    assert settings.task is not None
    return training_task(settings.task, size=settings.task_size, seed=settings.task_seed, **columns)


def training_task(
    name: str, *, size: int | None = None, seed: int = 0, question: str | None = None, answer: str | None = None
) -> Task:
    """A task to train on, by name: a file of problems, one of `TRAINING_SETS`, or a generated task.

    Args:
        size: how many problems, from the first; by default all, or `DEFAULT_TRAIN_SIZE` of a generated task.
        seed: of a generated task.
        question, answer: column names in a file.

    Raises:
        UserError: the task can't be loaded, or has no such columns.
    """
    if is_file_of_problems(name):
        return local_training_set(name, size=size, question=question, answer=answer)
    if question or answer:
        raise UserError(
            "question_column and answer_column are for a file of problems, or a dataset_name: leave them out"
        )
    if name in TRAINING_SETS:
        return load_training_set(name, size=size)
    return load_task(name, "train", size=size or DEFAULT_TRAIN_SIZE, seed=seed)


def _held_out(recipe: Recipe) -> Task | None:
    """The problems that are evaluated before and after: those of eval_task, or the task's own held-out ones."""
    settings = recipe.task
    if settings.eval_size == 0:
        if settings.eval_task is not None:
            raise UserError("eval_task is set, but eval_size is 0: leave one of them out")
        return None
    name = settings.eval_task
    if name is None and settings.task in TRAINING_SETS:
        name = TRAINING_SETS[settings.task].held_out
    elif name is None and settings.task and not is_file_of_problems(settings.task):
        name = settings.task
    return None if name is None else _test_task(name, settings, settings.eval_size)


def _test_task(name: str, settings: TaskConfig, size: int | None) -> Task:
    """A task to evaluate on, or a test set to search for training problems."""
    columns: dict[str, str | None] = {}
    if is_file_of_problems(name):  # its columns may differ from those of the training problems
        row = read_rows(name)[0]
        given = {"question": settings.question_column, "answer": settings.answer_column}
        at = {"question": question_at, "answer": value_at}
        columns = {
            key: column if column and at[key](row, column) is not None else None for key, column in given.items()
        }
    return load_test_task(name, size=size, seed=settings.task_seed, **columns)


def _overlaps(task: Task, recipe: Recipe, held_out: Task | None) -> tuple[Overlap, ...]:
    """Training problems that are also held-out problems, or in the test sets of check_overlap."""
    settings = recipe.task
    named = settings.check_overlap or []
    if named and not isinstance(task, MathProblems):
        raise UserError(
            f"check_overlap is for problems of a data set, but task {task.name!r} generates its problems: leave it out"
        )
    names = [name for chosen in named for name in (BENCHMARKS if chosen == "benchmarks" else [chosen])]
    tests = [_test_task(name, settings, None) for name in names]
    is_held_out = isinstance(held_out, MathProblems) and isinstance(task, MathProblems)
    if is_held_out and held_out is not None and held_out.name not in [test.name for test in tests]:
        tests.insert(0, held_out)
    texts = [question for question, _ in _problems(task)]
    return tuple(find_overlap(texts, [question for question, _ in _problems(test)], test.name) for test in tests)


def task_dataset(task: Task, split: str = "train", *, template: Template = TEMPLATES["plain"]) -> Dataset:
    """A task as a data set for TRL: columns prompt, answer, solution, and index and split to find the example again.

    Problems without a reference answer are left out: they can't be graded.
    """
    answerable = [i for i in range(len(task)) if task[i].answer is not None or not isinstance(task, MathProblems)]
    examples = [task[i] for i in answerable]
    return Dataset.from_dict(
        {
            "prompt": [template.prompt(example.prompt) for example in examples],
            "answer": [example.answer for example in examples],
            "solution": [example.solution for example in examples],
            "index": answerable,
            "split": [split] * len(examples),
        }
    )


def task_reward(task: Task, held_out: Task | None = None, template: Template = TEMPLATES["plain"]) -> RewardFunction:
    """A task's grader as a reward function, on completions up to the template's stop.

    It has the task's name, so that TRL logs it as rewards/NAME.
    """
    tasks = {"train": task, "test": held_out or task}

    def reward(completions: list[Any], index: list[int], split: list[str], **_: Any) -> list[float | None]:
        graded = tasks[split[0]]  # a batch is from one split
        texts = [template.cut(text_of(completion)) for completion in completions]
        return [grade.score for grade in grade_all(graded, texts, [graded[i] for i in index])]

    reward.__name__ = task.name
    return reward
