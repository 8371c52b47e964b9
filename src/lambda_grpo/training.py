"""One run from recipe to report: evaluate, train, evaluate again, and leave a run directory behind."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback
from transformers.integrations import get_available_reporting_integrations
from trl import get_peft_config, get_quantization_config

from lambda_grpo.backends.trl_trainer import LambdaGRPOConfig, LambdaGRPOTrainer
from lambda_grpo.errors import UserError
from lambda_grpo.evaluation import Sampling, evaluate
from lambda_grpo.models import BUILTIN, resolve_model
from lambda_grpo.recipe import Recipe, read_recipe
from lambda_grpo.report import write_report
from lambda_grpo.resume import checkpoint_to_resume, reached, set_learning_rate
from lambda_grpo.runs import Run, provenance
from lambda_grpo.tasks import Task, load_task
from lambda_grpo.training_data import (
    RewardFunction,
    is_conversation,
    task_dataset,
    task_reward,
    trl_datasets,
    trl_rewards,
)

# TRL's names of what every metrics line holds under a name of ours
METRIC_NAMES = {"completions/mean_length": "completion_length_mean"}

# Where metrics can be sent to; transformers answers for each of them whether it is there
REPORTERS = {"clearml", "comet_ml", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"}


def train(
    recipe_path: str | None = None,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    before: Mapping[str, Any] | None = None,
) -> Run:
    """Train as a recipe says.

    Args:
        recipe_path: a recipe file, None for the demonstration.
        overrides: a command line's `--key value` pairs.
        resume: go on from the last good checkpoint in `--output_dir`, with the settings written there.
        before: what `eval/before.json` of another run of the same policy holds, so that it isn't evaluated again.

    Returns:
        The finished run.

    Raises:
        UserError: the input can't be used. Nothing has been written then.
    """
    output_dir = _output_dir(overrides)
    if resume:
        if recipe_path is not None:
            raise UserError("--resume takes the settings from the run directory: leave the recipe out")
        if before is not None:
            raise UserError("a run that goes on has its evaluation before training already: leave `before` out")
        if output_dir is None:
            raise UserError("--resume needs --output_dir DIR, the run to go on with")
        run = Run.open(output_dir)
        recipe = Recipe.parse(run.config()["recipe"], overrides)
        checkpoint = checkpoint_to_resume(run, recipe)
        return _Training(recipe, run).resume(checkpoint)
    keys = read_recipe(recipe_path)
    if output_dir is None and "output_dir" not in keys:
        if _world_size() > 1:
            raise UserError("with several processes give --output_dir, so that all of them mean the same run")
        keys["output_dir"] = f"runs/{datetime.now():%Y-%m-%d-%H%M%S}"
    recipe = Recipe.parse(keys, overrides)
    run = Run(recipe.training.output_dir)
    if _is_main_process():
        run.check_free()
    return _Training(recipe, run).start(before)


def check(keys: Mapping[str, Any]) -> None:
    """Raise the UserError that a run of this recipe would begin with, if any. Nothing is written."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe.parse({**keys, "output_dir": os.path.join(folder, "run")})
        _Training(recipe, Run(recipe.training.output_dir))._trainer()


class _Training:
    """The parts of one run, all of them checked before anything is written."""

    def __init__(self, recipe: Recipe, run: Run):
        self.recipe, self.run = recipe, run
        self.first_group = 0  # number of the next prompt group in completions/
        config = recipe.training
        if config.resume_from_checkpoint:
            raise UserError("use --output_dir DIR --resume instead of resume_from_checkpoint")
        self.model_path = resolve_model(recipe.model.model_name_or_path or BUILTIN)
        self.task, self.held_out = self._tasks()
        self.reward_funcs: list[RewardFunction | str]
        if self.task is not None:
            self.dataset, self.reward_funcs = task_dataset(self.task), [task_reward(self.task, self.held_out)]
            self.eval_dataset = None if self.held_out is None else task_dataset(self.held_out, "test")
        else:
            self.reward_funcs = trl_rewards(recipe.data)
            self.dataset, self.eval_dataset = trl_datasets(recipe.data, recipe.mixture, config.eval_strategy)
        if config.eval_strategy != "no" and self.eval_dataset is None:
            raise UserError("eval_strategy needs held-out examples, set eval_size above 0")
        _check_fills_a_batch(self.dataset, config)
        for name in REPORTERS.intersection(config.report_to).difference(get_available_reporting_integrations()):
            raise UserError(f"report_to names {name}, which isn't installed: install it, or set report_to to none")
        config.disable_tqdm = True  # one progress bar, ours
        # as `trl grpo` does
        config.model_init_kwargs = {
            "revision": recipe.model.model_revision,
            "attn_implementation": recipe.model.attn_implementation,
            "dtype": recipe.model.dtype,
            **(config.model_init_kwargs or {}),
        }

    def _tasks(self) -> tuple[Task | None, Task | None]:
        settings, data = self.recipe.task, self.recipe.data
        given = {"a task": settings.task, "a dataset_name": data.dataset_name, "datasets": self.recipe.mixture.datasets}
        named = [name for name, value in given.items() if value]
        if not named:
            raise UserError("the recipe names nothing to train on: set task (or TRL's dataset_name and reward_funcs)")
        if len(named) > 1:
            raise UserError(f"the recipe names both {named[0]} and {named[1]}: give one of them")
        if not settings.task:
            return None, None
        if data.reward_funcs or data.reward_model_name_or_path:
            raise UserError("a task grades by itself: leave reward_funcs and reward_model_name_or_path out")
        task = load_task(settings.task, "train", size=settings.task_size, seed=settings.task_seed)
        if settings.eval_size == 0:
            return task, None
        return task, load_task(settings.task, "test", size=settings.eval_size, seed=settings.task_seed)

    def start(self, before: Mapping[str, Any] | None) -> Run:
        if before is not None:
            self._check_is_ours(before)
        trainer = self._trainer()
        if trainer.is_world_process_zero():
            Run.create(self.run.path, self._config())
        if before is None:
            self._evaluate(trainer, "before")
        elif trainer.is_world_process_zero():
            self.run.log_evaluation("before", before)
        trainer.train()
        return self._finish(trainer)

    def resume(self, checkpoint: Path) -> Run:
        trainer = self._trainer()
        state = reached(checkpoint)
        *_, last_step = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
        if state["global_step"] >= last_step:  # killed after training: the Trainer would take one step more
            trainer._load_from_checkpoint(str(checkpoint))
            self._rewind(state["global_step"])
        else:
            # Only when all is loaded: a checkpoint that can't be, or a setting that is refused, costs nothing.
            before = self.run.config()["resolved"]["training"]["learning_rate"]

            def go_on(step: int) -> None:
                set_learning_rate(trainer.optimizer, trainer.lr_scheduler, trainer.args.learning_rate, before)
                self._rewind(step)

            trainer.add_callback(AtTrainBegin(go_on))
            trainer.train(resume_from_checkpoint=str(checkpoint))
        return self._finish(trainer)

    def _rewind(self, step: int) -> None:
        if not self.trainer.is_world_process_zero():
            return
        self.run.rewind(step)
        self.run.write_config(self._config())
        samples = self.run.completions()
        self.first_group = 0 if samples is None else max(samples["group"].to_pylist()) + 1

    def _finish(self, trainer: LambdaGRPOTrainer) -> Run:
        self._evaluate(trainer, "after")
        if trainer.is_world_process_zero():
            write_report(self.run)
        return self.run

    def _trainer(self) -> LambdaGRPOTrainer:
        # The Trainer makes its folders at once. Whether there is to be a run is only known when it has accepted all.
        folders = (self.run.path / "completions", self.run.path, *self.run.path.parents)
        made = [path for path in folders if _is_main_process() and not path.exists()]
        try:
            trainer = LambdaGRPOTrainer(
                model=self.model_path,
                reward_funcs=self.reward_funcs,
                args=self.recipe.training,
                train_dataset=self.dataset,
                eval_dataset=self.eval_dataset,
                peft_config=get_peft_config(self.recipe.model),
                quantization_config=get_quantization_config(self.recipe.model),
                on_samples=self._record_samples,
            )
        except (ValueError, OSError, ImportError) as error:  # settings that only TRL or the model can refuse
            raise UserError(" ".join(str(error).split())) from error
        finally:
            for path in made:
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
        if self.task is None and is_conversation(self.dataset) and not trainer.processing_class.chat_template:
            raise UserError(
                f"the prompts are conversations, and the tokenizer of {self.model_path} has no chat template: "
                "take a chat model, or prompts of plain text"
            )
        _check_optimizer(trainer)
        self.trainer = trainer
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(RunRecorder(self.run))
        trainer.add_callback(ProgressBar())
        return trainer

    def _record_samples(self, columns: dict[str, list[Any]]) -> None:
        groups = [self.first_group + group for group in columns["group"]]
        self.first_group = groups[-1] + 1
        self.run.log_completions(self.trainer.state.global_step + 1, {**columns, "group": groups})

    def _check_is_ours(self, evaluation: Mapping[str, Any]) -> None:
        """Raise UserError if an evaluation was made in another way than this run's own will be."""
        if self.held_out is None:
            raise UserError("a run without held-out examples has no evaluation: leave `before` out, or set eval_size")
        ours = {"task": self.held_out.name, "n": len(self.held_out), "sampling": asdict(self._sampling())}
        for name, value in ours.items():
            if evaluation.get(name) != value:
                raise UserError(f"`before` is of another evaluation: its {name} is {evaluation.get(name)}, not {value}")

    def _sampling(self) -> Sampling:
        """As the training samples."""
        config = self.recipe.training
        return Sampling(
            config.max_completion_length,
            config.temperature,
            config.top_p,
            config.top_k,
            config.min_p,
            config.repetition_penalty,
        )

    def _evaluate(self, trainer: LambdaGRPOTrainer, name: str) -> None:
        if self.held_out is None:
            return
        evaluation = evaluate(
            trainer.accelerator.unwrap_model(trainer.model),
            trainer.processing_class,
            self.held_out,
            self._sampling(),
            batch_size=self.recipe.training.per_device_eval_batch_size,
        )
        if trainer.is_world_process_zero():
            self.run.log_evaluation(name, evaluation.to_dict())

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
                "preference": getattr(objective.preference, "__name__", repr(objective.preference)),
                "surrogate": repr(objective.surrogate),
                "rollouts": repr(objective.rollouts),
            },
            "model": self.recipe.model.model_name_or_path or BUILTIN,
            "resolved": {
                "task": vars(self.recipe.task),
                "training": self.recipe.training.to_dict(),
                "model": vars(self.recipe.model),
                "data": {**vars(self.recipe.data), **asdict(self.recipe.mixture)},
            },
            **provenance(),
        }


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


class AtTrainBegin(TrainerCallback):
    """Calls a function with the step that training begins at."""

    def __init__(self, function: Callable[[int], None]):
        self.function = function

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.function(state.global_step)


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
        shown = (
            ("reward", logs["reward"], ".3f"),  # None where no sample could be scored
            ("length", logs.get("completions/mean_length"), ".1f"),
            ("λ", logs.get("lambda"), "+.4f"),
        )
        self.bar.set_postfix({name: format(value, spec) for name, value, spec in shown if value is not None})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar.close()


def _check_fills_a_batch(dataset: Any, config: LambdaGRPOConfig) -> None:
    """Raise UserError where TRL would leave the only, incomplete batch out and so end without a step."""
    prompts = config.generation_batch_size // config.num_generations
    # a stream doesn't tell its length
    count = len(dataset) if isinstance(dataset, Dataset) else sum(1 for _ in islice(dataset, prompts))
    if count < prompts:
        raise UserError(
            f"{count} examples don't fill a batch of {prompts} prompts ({config.num_generations} completions "
            "each): take more (task_size), or lower per_device_train_batch_size or gradient_accumulation_steps"
        )


def _check_optimizer(trainer: LambdaGRPOTrainer) -> None:
    """Make the optimiser and the schedule, so that what they refuse is refused before the run begins."""
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return  # they make theirs when the model is wrapped
    try:
        trainer.create_optimizer_and_scheduler(max(trainer.args.max_steps, 1))  # train() uses the optimiser as it is
    except (ValueError, TypeError, ImportError) as error:  # TypeError: an unknown name in lr_scheduler_kwargs
        keys = "optim, optim_args, lr_scheduler_type or lr_scheduler_kwargs"
        raise UserError(f"{keys} can't be used: {' '.join(str(error).split())}") from error


def _output_dir(overrides: Sequence[str]) -> str | None:
    """The value of --output_dir on a command line, needed before the settings are known."""
    for position, argument in enumerate(overrides):
        name, _, value = argument.partition("=")
        if name in ("--output_dir", "--output-dir") and (value or position + 1 < len(overrides)):
            return value or overrides[position + 1]
    return None


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun and accelerate


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0
