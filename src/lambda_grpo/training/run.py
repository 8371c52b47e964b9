"""One run from recipe to report: evaluate, train, evaluate again, write the run directory."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from transformers.integrations import get_available_reporting_integrations
from trl import get_peft_config, get_quantization_config

from lambda_grpo.disk import reporting_full_disk
from lambda_grpo.distributed import is_main_process, world_size
from lambda_grpo.errors import Stopped, UserError
from lambda_grpo.files import write_json
from lambda_grpo.models import BUILTIN, resolve_model
from lambda_grpo.report.run_page import write_report
from lambda_grpo.runs.directory import Run
from lambda_grpo.runs.model_card import update_cards
from lambda_grpo.training.callbacks import AtTrainBegin, EverySteps, ProgressBar
from lambda_grpo.training.data import read_training_data
from lambda_grpo.training.datasets import is_conversation
from lambda_grpo.training.footprint import check_space
from lambda_grpo.training.held_out import HeldOutProblems
from lambda_grpo.training.recipe import Recipe, model_init_kwargs, read_recipes
from lambda_grpo.training.resume_checks import checkpoint_to_resume, read_trainer_state, set_learning_rate
from lambda_grpo.trl import LambdaGRPOConfig, LambdaGRPOTrainer
from lambda_grpo.trl.callbacks import WarnOfNoSignal
from lambda_grpo.trl.resume import load_ended

# Metric loggers; transformers knows which of them are installed
REPORTERS = {"clearml", "comet_ml", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"}


def train(
    recipes: Sequence[str] = (),
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    before: Mapping[str, Any] | None = None,
    report: bool = True,
) -> Run:
    """Train according to a recipe.

    Args:
        recipes: recipe files in layers, later ones override; none for the demonstration.
        overrides: a command line's `--key value` pairs.
        resume: continue from the last complete checkpoint in `--output_dir`, with the settings recorded there.
        before: the content of `eval/before.json` of another run with the same policy, in place of an evaluation.
        report: whether report.html is written at the end.

    Returns:
        The finished run.

    Raises:
        UserError: the input can't be used. Nothing has been written in that case.
    """
    output_dir = _output_dir(overrides)
    if resume:
        if recipes:
            raise UserError("--resume takes the settings from the run directory: leave the recipe out")
        if before is not None:
            raise UserError("a resumed run already has its evaluation before training: leave `before` out")
        if output_dir is None:
            raise UserError("--resume needs --output_dir DIR, the run to resume")
        run = Run.open(output_dir)
        keys = run.config().get("recipe")
        if keys is None:
            raise UserError(
                f"{output_dir} was written by a Python script: resume it there with "
                "trainer.train(resume_from_checkpoint=True)"
            )
        recipe = Recipe.parse(keys, overrides)
        checkpoint = checkpoint_to_resume(run, recipe)
        if world_size() == 1:
            check_space(recipe, run.weights_bytes())
        with _resumable(run, shlex.join(["lambda-grpo", "train", *overrides, "--resume"])):
            return _Training(recipe, run, report=report).resume(checkpoint)
    keys = read_recipes(recipes)
    is_named = output_dir is not None or "output_dir" in keys
    if not is_named:
        if world_size() > 1:
            raise UserError("several processes need --output_dir, so that all of them use the same run")
        keys["output_dir"] = f"runs/{datetime.now():%Y-%m-%d-%H%M%S}"
    recipe = Recipe.parse(keys, overrides)
    run = Run(recipe.training.output_dir)
    if is_main_process():
        run.check_empty()
    if world_size() == 1:  # of several processes each may save its share, and on a machine of its own
        check_space(recipe)
    with _resumable(run, shlex.join(["lambda-grpo", "train", *recipes, *overrides]), same_directory=is_named):
        return _Training(recipe, run, report=report).start(before)


@contextmanager
def _resumable(run: Run, restart: str, *, same_directory: bool = False) -> Iterator[None]:
    """On Ctrl-C and on a full disk, name the command that resumes from the last checkpoint; without one, `restart`.

    Raises:
        Stopped: after Ctrl-C.
        DiskFullError: the disk is full. What is half written has been removed.
    """

    def command() -> str:
        if run.checkpoints():
            return shlex.join(["lambda-grpo", "train", "--output_dir", str(run.path), "--resume"])
        is_in_the_way = same_directory and run.path.exists()  # a new run needs an empty directory
        return f"rm -r {shlex.quote(str(run.path))} && {restart}" if is_in_the_way else restart

    def clean_up() -> None:
        if is_main_process():
            run.remove_half_written()

    try:
        with reporting_full_disk(run.path, command, clean_up):
            yield
    except KeyboardInterrupt as stop:
        raise Stopped(command()) from stop


def check_recipe(keys: Mapping[str, Any]) -> str:
    """Check that a study's run with this recipe could start, without writing anything.

    Returns:
        A digest of its problems.

    Raises:
        UserError: the run couldn't start.
    """
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe.parse({**keys, "output_dir": os.path.join(folder, "run")})
        training = _Training(recipe, Run(recipe.training.output_dir))
        if training.data.held_out is None:
            raise UserError("nothing is evaluated: set eval_task")
        training._trainer()
        return str(training.data.description["digest"])


class _Training:
    """One run; all of its parts are checked before anything is written."""

    def __init__(self, recipe: Recipe, run: Run, *, report: bool = True):
        self.recipe, self.run, self.report = recipe, run, report
        config = recipe.training
        if not config.save_run_records:
            raise UserError("lambda-grpo train needs its records for the report: leave save_run_records out")
        if config.resume_from_checkpoint:
            raise UserError("use --output_dir DIR --resume instead of resume_from_checkpoint")
        self.model_path = resolve_model(recipe.model.model_name_or_path or BUILTIN)
        if Path(self.model_path, "adapter_config.json").is_file():
            raise UserError(f"{self.model_path} is a LoRA adapter: merge it before training (peft's merge_and_unload)")
        self.data = read_training_data(recipe, self.model_path)
        self.held_out = HeldOutProblems(recipe, self.data, run)
        if config.eval_strategy != "no" and self.data.eval_dataset is None:
            raise UserError("eval_strategy needs held-out examples: set eval_size above 0, or eval_task")
        _check_fills_a_batch(self.data.dataset, config)
        for name in REPORTERS.intersection(config.report_to).difference(get_available_reporting_integrations()):
            raise UserError(f"report_to names {name}, which isn't installed: install it, or set report_to to none")
        config.disable_tqdm = True  # in favour of our own progress bar
        if (
            config.use_vllm and self.data.template.stops
        ):  # other engines continue after a stop, without grading that text
            given = config.generation_kwargs or {}
            config.generation_kwargs = {**given, "stop": [*self.data.template.stops, *given.get("stop", [])]}
        config.model_init_kwargs = model_init_kwargs(recipe.model, config.model_init_kwargs)

    def start(self, before: Mapping[str, Any] | None) -> Run:
        if before is not None:
            self.held_out.check_same(before)
        trainer = self._trainer()
        if trainer.is_world_process_zero():
            self.recorder.begin(trainer.state)
            self._report_overlap()
        if before is None:
            self.held_out.evaluate(trainer, "before")
        elif trainer.is_world_process_zero():
            self.run.log_evaluation("before", before)
        with closing(self.progress):
            trainer.train()
        return self._finish(trainer)

    def resume(self, checkpoint: Path) -> Run:
        before = self.run.config().get("data", {}).get("digest")
        if before is not None and before != self.data.description["digest"]:
            raise UserError(
                f"{self.run.path} was trained on other problems: the data set has changed, start another run"
            )
        trainer = self._trainer()
        state = read_trainer_state(checkpoint)
        *_, last_step = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
        if state["global_step"] >= last_step:  # killed after the last step: the Trainer would do another one
            load_ended(trainer, checkpoint)
        else:
            # Changed only once all is loaded, so that an earlier error has no effect.
            before = self.run.config()["resolved"]["training"]["learning_rate"]

            def apply_learning_rate(step: int) -> None:
                set_learning_rate(trainer.optimizer, trainer.lr_scheduler, trainer.args.learning_rate, before)

            trainer.add_callback(AtTrainBegin(apply_learning_rate))
            with closing(self.progress):
                trainer.train(resume_from_checkpoint=str(checkpoint))
        return self._finish(trainer)

    def _finish(self, trainer: LambdaGRPOTrainer) -> Run:
        trainer.save_model(_internal_call=True)  # without pushing to the hub, which follows the evaluation
        self.held_out.evaluate(trainer, "after")
        if trainer.is_world_process_zero():
            if self.report:
                write_report(self.run)
            update_cards(self.run)
        if trainer.args.push_to_hub:
            trainer.push_to_hub()
        return self.run

    def _trainer(self) -> LambdaGRPOTrainer:
        # The Trainer creates its folders before it checks its settings. If it refuses them, no folder must remain.
        folders = (self.run.path / "completions", self.run.path, *self.run.path.parents)
        created = [path for path in folders if is_main_process() and not path.exists()]
        try:
            trainer = LambdaGRPOTrainer(
                model=self.model_path,
                reward_funcs=self.data.rewards,
                args=self.recipe.training,
                train_dataset=self.data.dataset,
                eval_dataset=self.data.eval_dataset,
                peft_config=get_peft_config(self.recipe.model),
                quantization_config=get_quantization_config(self.recipe.model),
            )
        except (ValueError, OSError, ImportError) as error:  # settings that only TRL or the model check
            raise UserError(" ".join(str(error).split())) from error
        finally:
            for path in created:
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
        if not self.data.is_task and is_conversation(self.data.dataset) and not trainer.processing_class.chat_template:
            raise UserError(
                f"the prompts are conversations, and the tokenizer of {self.model_path} has no chat template: "
                "use a chat model, or prompts of plain text"
            )
        self.held_out.check_weights(trainer)
        _check_optimizer(trainer)
        trainer.data_description, trainer.hub_data_sets = self.data.for_card(), self.data.hub_data_sets()
        trainer.run_details = self._details()
        assert trainer.recorder is not None  # save_run_records is on
        self.recorder = trainer.recorder
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(WarnOfNoSignal)  # the run's verdict reports it
        self.progress = ProgressBar()
        trainer.add_callback(self.progress)
        if self.recipe.task.eval_every:
            trainer.add_callback(
                EverySteps(self.recipe.task.eval_every, lambda: self.held_out.evaluate_during(trainer))
            )
        return trainer

    def _report_overlap(self) -> None:
        if not self.data.overlaps:
            return
        write_json(self.run.path / "overlap.json", {"overlaps": [overlap.to_dict() for overlap in self.data.overlaps]})
        removed = " (removed)" if self.recipe.task.remove_overlap else ""
        print(f"Training problems that are in test sets{removed}, see overlap.json:", file=sys.stderr)
        for overlap in self.data.overlaps:
            print(f"  {overlap}", file=sys.stderr)

    def _details(self) -> dict[str, Any]:
        """What run.json adds to the trainer's own facts, so that the run can be resumed."""
        return {
            "recipe": self.recipe.keys,
            "model": self.recipe.model.model_name_or_path or BUILTIN,
            "data": self.data.description,
            "resolved": {
                "task": vars(self.recipe.task),
                "model": vars(self.recipe.model),
                "data": {**vars(self.recipe.data), **asdict(self.recipe.mixture)},
            },
        }


def _check_fills_a_batch(dataset: Any, config: LambdaGRPOConfig) -> None:
    """Raise UserError if the data is less than a batch: TRL would drop it and end without a step."""
    prompts = config.generation_batch_size // config.num_generations
    # a stream has no length
    count = len(dataset) if isinstance(dataset, Dataset) else sum(1 for _ in islice(dataset, prompts))
    if count < prompts:
        raise UserError(
            f"{count} examples don't fill a batch of {prompts} prompts ({config.num_generations} completions "
            "each): use more (task_size), or lower per_device_train_batch_size or gradient_accumulation_steps"
        )


def _check_optimizer(trainer: LambdaGRPOTrainer) -> None:
    """Create the optimizer and the schedule, so that they refuse bad settings before the run begins."""
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return  # they create both when they wrap the model
    try:
        trainer.create_optimizer_and_scheduler(max(trainer.args.max_steps, 1))  # train() keeps this optimizer
    except (ValueError, TypeError, ImportError) as error:  # TypeError: an unknown name in lr_scheduler_kwargs
        keys = "optim, optim_args, lr_scheduler_type or lr_scheduler_kwargs"
        raise UserError(f"{keys} can't be used: {' '.join(str(error).split())}") from error


def _output_dir(overrides: Sequence[str]) -> str | None:
    """The value of --output_dir on a command line, needed before the settings are parsed."""
    for position, argument in enumerate(overrides):
        name, _, value = argument.partition("=")
        if name in ("--output_dir", "--output-dir") and (value or position + 1 < len(overrides)):
            return value or overrides[position + 1]
    return None
