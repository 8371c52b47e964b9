"""What a run trains on: a task, problems of maths, or a data set and reward functions as TRL takes them."""

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
LONG = 20  # prompts, the longest ones, whose tokens are counted


@dataclass(frozen=True)
class TrainingData:
    """All that a run is trained and evaluated on.

    Attributes:
        dataset, eval_dataset: rows as TRL reads them; for training, and for its evaluation during training.
        rewards: as TRL takes them.
        held_out: what is evaluated before and after.
        template: the prompt template.
        has_tasks: whether the rows are a task's, and not a data set as TRL reads it.
        description: what there is to say of it, for run.json and the model card.
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
            "trained on": source.get("title", found["name"]),
            "problems": found.get("problems"),
            "from": source.get("data"),
            "rows": source.get("rows"),
            "left out of them": ", ".join(f"{source[key]} {key}" for key in LEFT_OUT if source.get(key)) or None,
            "seed of the examples": found.get("seed"),
            "template": f"{template['name']}: {template['source']}" if template else None,
            "held out": found.get("held_out"),
            f"in test sets{removed}": "; ".join(map(str, self.overlaps)) or None,
        }

    def hub_data_sets(self) -> list[str] | None:
        """Ids of the hub, for the card's metadata."""
        data = (self.description.get("source") or {}).get("data")
        return [data] if data and data.count("/") == 1 and not Path(data).exists() else None


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
        raise UserError(f"the recipe names both {named[0]} and {named[1]}: give one of them (task: none for no task)")
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
    if "math_accuracy" in (data.reward_funcs or []):
        columns = list(next(iter(dataset)))
        if not {"answer", "solution"}.intersection(columns):
            raise UserError(
                "reward function 'math_accuracy' needs a column answer or solution, with the reference of each prompt; "
                f"the data set has {', '.join(columns)}"
            )
    name = data.dataset_name or "datasets"
    return TrainingData(dataset, eval_dataset, rewards, None, TEMPLATES["plain"], False, {"name": name})


def _of_task(recipe: Recipe, model_path: str) -> TrainingData:
    settings, data = recipe.task, recipe.data
    task, held_out = _training_task(recipe), _held_out(recipe)
    is_problems = isinstance(task, MathProblems)
    if not is_problems and (data.reward_funcs or data.reward_model_name_or_path):
        raise UserError("a task grades by itself: leave reward_funcs and reward_model_name_or_path out")
    template = TEMPLATES["plain"]
    if is_problems or settings.template is not None:
        template = _template(recipe, model_path, task, held_out)
    overlaps = _overlaps(task, recipe, held_out)
    if settings.remove_overlap:
        if not (overlaps and isinstance(task, MathProblems)):
            raise UserError("remove_overlap needs test sets to look into: set check_overlap or eval_task")
        task = task.without({pair.training for overlap in overlaps for pair in overlap.pairs})
    named = trl_rewards(data) if data.reward_funcs or data.reward_model_name_or_path else None
    _check_rewards(data, template, task)
    return TrainingData(
        task_dataset(task, template=template),
        None if held_out is None else task_dataset(held_out, "test", template=template),
        [_up_to_stop(function, template) for function in named] if named else [task_reward(task, held_out, template)],
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
    """The recipe's template, tried on the problems. With max_prompt_overflow the trainer sees to the training problems.

    Raises:
        UserError: the model has no chat template, or its own refuses this one, or a prompt is too long for the model.
    """
    settings, training = recipe.task, recipe.training
    options = training.chat_template_kwargs
    if options is not None and not isinstance(options, dict):
        raise UserError(f"chat_template_kwargs must be a mapping, got {options!r}")
    sources = {"revision": recipe.model.model_revision, "trust_remote_code": training.trust_remote_code}
    tokenizer = load_tokenizer(model_path, **sources)
    _, template = find_template(settings.template, tokenizer, options)

    def most_tokens(task: Task) -> int:
        questions = sorted((question for question, _ in _problems(task)), key=len)[-LONG:]
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


def _up_to_stop(function: RewardFunction | str, template: Template) -> RewardFunction | str:
    """A reward function that sees a completion as the grader does. A reward model reads all of it."""
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
    """Refuse rewards of trl.rewards that would fail on these problems, or find nothing to compare with."""
    for name in data.reward_funcs or []:
        if REWARDS.get(name) != "trl.rewards":
            continue
        if not template.chat:
            raise UserError(f"reward function {name!r} reads conversations: take a chat template, or math_accuracy")
        if "accuracy" in name and task[0].solution is None:
            raise UserError(f"reward function {name!r} compares with a column solution, which {task.name} doesn't have")


def _training_task(recipe: Recipe) -> Task:
    settings, data = recipe.task, recipe.data
    columns = {"question": settings.question_column, "answer": settings.answer_column}
    if data.dataset_name:
        if is_file_of_problems(data.dataset_name) and Path(data.dataset_name).is_file():
            raise UserError(f"dataset_name {data.dataset_name!r} is a file of problems: name it as task")
        name = data.dataset_name.strip("./").rsplit("/", 1)[-1]
        if data.dataset_streaming:
            raise UserError("problems are read whole: leave dataset_streaming out")
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
    return load_task(settings.task, "train", size=settings.task_size or DEFAULT_TRAIN_SIZE, seed=settings.task_seed)


def _held_out(recipe: Recipe) -> Task | None:
    """What is evaluated before and after: what eval_task names, or what belongs to the task."""
    settings = recipe.task
    if settings.eval_size == 0:
        if settings.eval_task is not None:
            raise UserError("eval_task is to be evaluated, and eval_size is 0: leave one of them out")
        return None
    name = settings.eval_task
    if name is None and settings.task in TRAINING_SETS:
        name = TRAINING_SETS[settings.task].held_out
    elif name is None and settings.task and not is_file_of_problems(settings.task):
        name = settings.task
    return None if name is None else _test_task(name, settings, settings.eval_size)


def _test_task(name: str, settings: TaskConfig, size: int | None) -> Task:
    """A task to evaluate on, or to look for training problems in."""
    columns: dict[str, str | None] = {}
    if is_file_of_problems(name):  # its columns may be others than those of the training problems
        row = read_rows(name)[0]
        given = {"question": settings.question_column, "answer": settings.answer_column}
        at = {"question": question_at, "answer": value_at}
        columns = {
            key: column if column and at[key](row, column) is not None else None for key, column in given.items()
        }
    return load_test_task(name, size=size, seed=settings.task_seed, **columns)


def _overlaps(task: Task, recipe: Recipe, held_out: Task | None) -> tuple[Overlap, ...]:
    """What the training problems share with the held-out problems, and with the test sets that check_overlap names."""
    settings = recipe.task
    named = settings.check_overlap or []
    if named and not isinstance(task, MathProblems):
        raise UserError(
            f"check_overlap is for problems of a data set, and task {task.name!r} makes its own: leave it out"
        )
    names = [name for chosen in named for name in (BENCHMARKS if chosen == "benchmarks" else [chosen])]
    tests = [_test_task(name, settings, None) for name in names]
    is_held_out = isinstance(held_out, MathProblems) and isinstance(task, MathProblems)
    if is_held_out and held_out is not None and held_out.name not in [test.name for test in tests]:
        tests.insert(0, held_out)
    texts = [question for question, _ in _problems(task)]
    return tuple(find_overlap(texts, [question for question, _ in _problems(test)], test.name) for test in tests)


def task_dataset(task: Task, split: str = "train", *, template: Template = TEMPLATES["plain"]) -> Dataset:
    """A task as TRL reads it: columns prompt, answer, solution, and index and split to find the example again.

    Problems without a reference answer are left out: no reward function could tell anything of them.
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
    """A task's grader as TRL calls it, up to the template's stop. Named after the task: TRL logs it as rewards/NAME."""
    tasks = {"train": task, "test": held_out or task}

    def reward(completions: list[Any], index: list[int], split: list[str], **_: Any) -> list[float | None]:
        graded = tasks[split[0]]  # a batch is all of one split
        texts = [template.cut(text_of(completion)) for completion in completions]
        return [grade.score for grade in grade_all(graded, texts, [graded[i] for i in index])]

    reward.__name__ = task.name
    return reward
