"""`lambda-grpo warmup`: supervised fine-tuning on solutions, before reinforcement learning."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import ModelConfig, SFTConfig, get_peft_config

from lambda_grpo.errors import UserError
from lambda_grpo.files import write_json
from lambda_grpo.models import load_tokenizer, resolve_model
from lambda_grpo.options.option import check_options
from lambda_grpo.options.warmup import WarmupOptions
from lambda_grpo.runs.provenance import provenance
from lambda_grpo.tasks import Task
from lambda_grpo.tasks.maths.problems import MathProblems
from lambda_grpo.tasks.maths.solutions import write_solution
from lambda_grpo.tasks.maths.templates import TEMPLATES, Template, find_template
from lambda_grpo.training.callbacks import SUPERVISED, ProgressBar
from lambda_grpo.training.data import training_task
from lambda_grpo.training.recipe import model_init_kwargs, parse_settings, read_recipes, written_keys
from lambda_grpo.training.supervised import make_sft_trainer

RECORD = "warmup.json"  # what a warm-up leaves beside its model
# TRL's defaults are for GPUs; any recipe and command line override these.
DEFAULTS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 10,
    "save_strategy": "no",
    "report_to": "none",
}


@dataclass
class WarmupConfig(WarmupOptions):
    """The keys of a warm-up that TRL doesn't have."""

    def __post_init__(self) -> None:
        check_options(self)


def warm_up(recipes: Sequence[str] = (), overrides: Sequence[str] = ()) -> Path:
    """Fine-tune a model on solutions of problems and save it with its tokenizer.

    Args:
        recipes: recipe files in layers, later ones override: keys of `WarmupOptions`, TRL's SFTConfig and ModelConfig.
        overrides: a command line's `--key value` pairs.

    Returns:
        The folder of the model, which also holds `RECORD`: settings, versions, the problems and the losses.

    Raises:
        UserError: the input can't be used. Nothing has been written in that case.
    """
    keys = {**DEFAULTS, **(read_recipes(recipes) if recipes else {})}
    parser, (settings, args, model) = parse_settings((WarmupConfig, SFTConfig, ModelConfig), keys, overrides)
    if not model.model_name_or_path:
        raise UserError("name the model to warm up: --model_name_or_path smollm2, a directory or a hub id")
    if not settings.tasks:
        raise UserError("name problems with solutions: --tasks gsm8k, a file of problems, …")
    written = written_keys(parser, overrides)
    folder = _output_folder(args, written | keys.keys())
    path = resolve_model(model.model_name_or_path)
    tokenizer = load_tokenizer(path)
    solutions, counts = solved_problems(settings, tokenizer, args.seed)
    args.disable_tqdm = True  # in favour of our own progress bar
    args.model_init_kwargs = model_init_kwargs(model, args.model_init_kwargs)
    trainer = make_sft_trainer(path, args, solutions, tokenizer, peft_config=get_peft_config(model))
    trainer.remove_callback(PrinterCallback)
    progress = ProgressBar(SUPERVISED)
    trainer.add_callback(progress)
    with closing(progress):
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    write_json(
        folder / RECORD,
        {
            "model": model.model_name_or_path,
            "settings": asdict(settings),
            "training": {**keys, **{name: getattr(args, name) for name in sorted(written) if hasattr(args, name)}},
            "problems": counts,
            "log": trainer.state.log_history,
            **provenance(),
        },
    )
    return folder


def solved_problems(
    settings: WarmupOptions, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[Dataset, dict[str, dict[str, int]]]:
    """Prompts and solutions as TRL's SFTTrainer reads them, and the number of each task's problems by style.

    Args:
        tokenizer: of the model, whose chat template decides about the prompt template.
        seed: of the styles.

    Raises:
        UserError: a task can't be loaded, or has no solutions for the style "worked".
    """
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    counts: dict[str, dict[str, int]] = {}
    for name in settings.tasks:
        task = training_task(name, size=settings.task_size, seed=settings.task_seed)
        template = _template(settings, task, tokenizer)
        examples = [example for i in range(len(task)) if (example := task[i]).answer is not None]
        if "worked" in settings.styles and not any(example.solution for example in examples):
            raise UserError(f"the problems of {name} have no worked solutions: leave them out, or set styles to answer")
        styles = [draw.choice(settings.styles) for _ in examples]
        counts[name] = dict(Counter(styles))
        for example, style in zip(examples, styles, strict=True):
            solution = write_solution(example, style, settings.ending)
            rows.append({"prompt": template.prompt(example.prompt), "completion": _completion(template, solution)})
    return Dataset.from_list(rows), counts


def _template(settings: WarmupOptions, task: Task, tokenizer: PreTrainedTokenizerBase) -> Template:
    if settings.template is None and not isinstance(task, MathProblems):
        return TEMPLATES["plain"]
    return find_template(settings.template, tokenizer)[1]


def _completion(template: Template, solution: str) -> str | list[dict[str, str]]:
    """A solution as TRL expects it after the template's prompt."""
    if template.chat:
        return [{"role": "assistant", "content": solution}]
    needs_gap = not (template.text[-1].isspace() or template.text.endswith("{question}"))
    return " " * needs_gap + solution


def _output_folder(args: SFTConfig, given: set[str]) -> Path:
    """The folder to write to. Raises UserError if none was given, or it holds something that isn't resumed."""
    if "output_dir" not in given:
        raise UserError("name the folder for the model: --output_dir DIR")
    folder = Path(args.output_dir)
    if not args.resume_from_checkpoint and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} is not empty: choose another --output_dir, or continue with --resume_from_checkpoint true "
            "(which needs save_strategy steps)"
        )
    return folder
