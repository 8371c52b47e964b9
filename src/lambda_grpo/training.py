"""One run from recipe to report: evaluate, train, evaluate again, and leave a run directory behind."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback
from trl import get_peft_config, get_quantization_config

from lambda_grpo.backends.trl_trainer import LambdaGRPOTrainer
from lambda_grpo.errors import UserError
from lambda_grpo.evaluation import Evaluation, evaluate
from lambda_grpo.models import BUILTIN, resolve_model
from lambda_grpo.recipe import Recipe, read_recipe
from lambda_grpo.runs import Run, provenance
from lambda_grpo.tasks import Task, grade, load_task

# TRL's names of what every metrics line holds under a name of ours
METRIC_NAMES = {"completions/mean_length": "completion_length_mean"}


def train(recipe_path: str | None = None, overrides: Sequence[str] = (), *, resume: bool = False) -> Run:
    """Train as a recipe says.

    Args:
        recipe_path: a recipe file, None for the demonstration.
        overrides: a command line's `--key value` pairs.
        resume: go on from the last good checkpoint in `--output_dir`, with the settings written there.

    Returns:
        The finished run.

    Raises:
        UserError: the input can't be used. Nothing has been written then.
    """
    if resume:
        run = Run.open(_output_dir(overrides))
        if recipe_path is not None:
            raise UserError("--resume takes the settings from the run directory: leave the recipe out")
        keys = run.config()["recipe"]
        if not run.checkpoints():
            raise UserError(
                f"{run.path} holds no complete checkpoint to resume from: start again in a new --output_dir"
            )
        recipe = Recipe.parse(keys, overrides)
        return _Training(recipe, run).resume(run.checkpoints()[-1])
    keys = read_recipe(recipe_path)
    if not any(argument.split("=")[0] == "--output_dir" for argument in overrides):
        keys.setdefault("output_dir", f"runs/{datetime.now():%Y-%m-%d-%H%M%S}")
    recipe = Recipe.parse(keys, overrides)
    run = Run(recipe.training.output_dir)
    run.check_free()
    return _Training(recipe, run).start()


class _Training:
    """The parts of one run, all of them checked before anything is written."""

    def __init__(self, recipe: Recipe, run: Run):
        self.recipe, self.run = recipe, run
        config = recipe.training
        self.model_path = resolve_model(recipe.model.model_name_or_path or BUILTIN)
        self.task, self.held_out = self._tasks()
        if self.task is not None:
            self.dataset, self.reward_funcs = task_dataset(self.task), [task_reward(self.task)]
        else:
            self.reward_funcs, self.dataset = _trl_rewards(recipe.data.reward_funcs), _trl_dataset(recipe)
        config.disable_tqdm = True  # one progress bar, ours
        # as `trl grpo` does
        config.model_init_kwargs = {
            "revision": recipe.model.model_revision,
            "attn_implementation": recipe.model.attn_implementation,
            "dtype": recipe.model.dtype,
            **(config.model_init_kwargs or {}),
        }

    def _tasks(self) -> tuple[Task | None, Task | None]:
        settings = self.recipe.task
        if self.recipe.data.dataset_name is not None:
            if settings.task is not None:
                raise UserError("the recipe names both a task and a dataset_name: give one of them")
            return None, None
        if settings.task is None:
            raise UserError("the recipe names nothing to train on: set task (or TRL's dataset_name and reward_funcs)")
        if settings.eval_size < 0:
            raise UserError(f"eval_size must be at least 0 (no evaluation), got {settings.eval_size}")
        task = load_task(settings.task, "train", size=settings.task_size, seed=settings.task_seed)
        if settings.eval_size == 0:
            return task, None
        return task, load_task(settings.task, "test", size=settings.eval_size, seed=settings.task_seed)

    def start(self) -> Run:
        trainer = self._trainer()
        if trainer.is_world_process_zero():
            Run.create(self.run.path, self._config())
        self._evaluate(trainer, "before")
        return self._finish(trainer, None)

    def resume(self, checkpoint: Path) -> Run:
        trainer = self._trainer()
        if trainer.is_world_process_zero():
            self.run.rewind(int(checkpoint.name.removeprefix("checkpoint-")))
        if self.run.evaluation("before") is None:  # killed while it evaluated
            self._evaluate(trainer, "before")
        return self._finish(trainer, checkpoint)

    def _finish(self, trainer: LambdaGRPOTrainer, checkpoint: Path | None) -> Run:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        self._evaluate(trainer, "after")
        if trainer.is_world_process_zero():
            from lambda_grpo.report import write_report

            write_report(self.run)
        return self.run

    def _trainer(self) -> LambdaGRPOTrainer:
        trainer = LambdaGRPOTrainer(
            model=self.model_path,
            reward_funcs=self.reward_funcs,
            args=self.recipe.training,
            train_dataset=self.dataset,
            peft_config=get_peft_config(self.recipe.model),
            quantization_config=get_quantization_config(self.recipe.model),
            on_samples=self._record_samples,
        )
        self.trainer = trainer
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(RunRecorder(self.run))
        trainer.add_callback(ProgressBar())
        return trainer

    def _record_samples(self, columns: dict[str, list[Any]]) -> None:
        self.run.log_completions(self.trainer.state.global_step + 1, columns)

    def _evaluate(self, trainer: LambdaGRPOTrainer, name: str) -> Evaluation | None:
        if self.held_out is None:
            return None
        config = self.recipe.training
        evaluation = evaluate(
            trainer.accelerator.unwrap_model(trainer.model),
            trainer.processing_class,
            self.held_out,
            max_completion_length=config.max_completion_length,
            temperature=config.temperature,
        )
        if trainer.is_world_process_zero():
            self.run.log_evaluation(name, evaluation.to_dict())
        return evaluation

    def _config(self) -> dict[str, Any]:
        objective = self.recipe.training.resolve_objective()
        return {
            "recipe": self.recipe.keys,
            "objective": {
                "name": objective.name,
                "normalizer": objective.normalizer,
                "advantage_scale": self.recipe.training.scale_rewards,
                "weight_norm": objective.weight_norm,
                "learnable": objective.learnable,
            },
            "model": self.recipe.model.model_name_or_path or BUILTIN,
            "resolved": {
                "task": vars(self.recipe.task),
                "training": self.recipe.training.to_dict(),
                "model": vars(self.recipe.model),
                "data": vars(self.recipe.data),
            },
            **provenance(),
        }


def task_dataset(task: Task) -> Dataset:
    """A task as TRL reads it: columns prompt, answer and index."""
    examples = [task[i] for i in range(len(task))]
    return Dataset.from_dict(
        {
            "prompt": [example.prompt for example in examples],
            "answer": [example.answer for example in examples],
            "index": list(range(len(examples))),
        }
    )


def task_reward(task: Task) -> Callable[..., list[float]]:
    """A task's grader as TRL calls it. Named after the task, so that TRL logs it as rewards/NAME."""

    def reward(completions: list[str], index: list[int], **_: Any) -> list[float]:
        return [grade(task, completion, task[i]) for completion, i in zip(completions, index, strict=True)]

    reward.__name__ = task.name
    return reward


class RunRecorder(TrainerCallback):
    """Each logged step, as a line of the run's metrics."""

    def __init__(self, run: Run):
        self.run = run

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs is None or "reward" not in logs or not state.is_world_process_zero:
            return  # the Trainer's closing summary, say
        row = {METRIC_NAMES.get(key, key): value for key, value in logs.items()}
        # an objective without λ has null there, so that every run has the same columns
        self.run.log_metrics({"step": state.global_step, "lambda": None, "lambda_grad": None, **row})


class ProgressBar(TrainerCallback):
    """Step, reward, length, λ and the time left."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="train", unit="step", file=sys.stderr
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs is None or "reward" not in logs or not state.is_world_process_zero:
            return
        shown = {"reward": f"{logs['reward']:.3f}", "length": f"{logs['completions/mean_length']:.1f}"}
        if "lambda" in logs:
            shown["λ"] = f"{logs['lambda']:+.4f}"
        self.bar.set_postfix(shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar.close()


def _output_dir(overrides: Sequence[str]) -> str:
    for position, argument in enumerate(overrides):
        name, _, value = argument.partition("=")
        if name == "--output_dir" and (value or position + 1 < len(overrides)):
            return value or overrides[position + 1]
    raise UserError("--resume needs --output_dir DIR, the run to go on with")


def _trl_dataset(recipe: Recipe) -> Dataset:
    """The data set that a TRL configuration names, loaded as `trl grpo` loads it."""
    data = recipe.data
    try:
        dataset = load_dataset(data.dataset_name, name=data.dataset_config, streaming=data.dataset_streaming)
        return dataset[data.dataset_train_split]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"can't load dataset_name {data.dataset_name!r}: {' '.join(str(error).split())}") from error


def _trl_rewards(names: list[str] | None) -> list[Callable[..., Any]]:
    """The reward functions that a TRL configuration names: one of trl.rewards, or an import path."""
    if not names:
        raise UserError(
            "dataset_name needs reward_funcs: names from trl.rewards, or import paths like package.module.f"
        )
    functions = []
    if "" not in sys.path:
        sys.path.insert(0, "")
    for name in names:
        module_name, _, attribute = name.rpartition(".")
        try:
            functions.append(getattr(importlib.import_module(module_name or "trl.rewards"), attribute))
        except (ModuleNotFoundError, AttributeError) as error:
            raise UserError(f"unknown reward function {name!r}: {error}") from error
    return functions
