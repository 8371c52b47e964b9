"""`lambda-grpo eval`: evaluating a model on one or more tasks, with result files and resuming."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, cast

from tqdm import tqdm

from lambda_grpo.errors import UserError
from lambda_grpo.evaluation.engines import Engine, LocalEngine, Sampling
from lambda_grpo.evaluation.record import EvaluationRecord, EvaluationSettings
from lambda_grpo.evaluation.request import Request, file_name
from lambda_grpo.evaluation.result_files import SERVER_LOG, EvaluationFiles, exclusive_directory
from lambda_grpo.evaluation.samples import Prompt, draw_samples, render_prompts, summarise
from lambda_grpo.models import load_model, load_tokenizer, resolve_model, training_info, weights_id
from lambda_grpo.runs.directory import Run, is_run
from lambda_grpo.runs.model_card import update_cards
from lambda_grpo.runs.provenance import digest, provenance
from lambda_grpo.tasks import Task, load_test_task
from lambda_grpo.tasks.maths.benchmarks import BENCHMARKS, load_shots
from lambda_grpo.tasks.maths.problems import MathProblems, is_file_of_problems, read_rows, worked_examples
from lambda_grpo.tasks.maths.templates import Template, find_template

__all__ = ["BENCHMARKS", "Request", "run"]

RESERVED_NAMES = ("before", "during", "after")  # a training run's own evaluations in RUN/eval
MATHS_LENGTH, OTHER_LENGTH = 2048, 256  # default limits of a completion, in tokens


@dataclass(frozen=True)
class _TaskPlan:
    """One task, with everything that is determined before sampling.

    settings: everything that determines the result, for its file.
    """

    task: Task
    sampling: Sampling
    template: Template
    prompts: list[Prompt]
    settings: EvaluationSettings


def run(request: Request) -> Iterator[EvaluationRecord]:
    """Evaluate on each task, and yield its result when it is finished. After a stop the same request resumes.

    Raises:
        UserError: the request can't be carried out. As far as possible this is raised before anything is written;
            finished samples are kept.
    """
    path = resolve_model(request.model)
    tokenizer = load_tokenizer(path)
    model = {
        "model": request.model,
        "path": path,
        "weights": weights_id(path),
        "trained": training_info(path),
        **provenance(),
    }
    plans = [_plan_task(request, name, tokenizer, model) for name in request.tasks]
    names = [plan.task.name for plan in plans]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two tasks are called {name!r}: evaluate on them in separate directories")
    with ExitStack() as stack:
        stack.enter_context(exclusive_directory(request.directory))
        all_files = [
            EvaluationFiles(request.directory, file_name(plan.task.name), plan.settings, request.batch_size)
            for plan in plans
        ]
        work = list(zip(plans, all_files, strict=True))
        engine = None  # not needed if all evaluations are finished
        if unfinished := [plan for plan, files in work if files.missing]:
            engine = _engine(request, path, tokenizer, stack)
            for plan in unfinished:
                _check_fits(plan, engine)
        print(f"Results and samples: {request.directory}", file=sys.stderr)
        for plan, files in work:
            result = files.result or _evaluate(request, plan, files, engine)
            if request.directory.name == "eval" and is_run(request.directory.parent):
                update_cards(Run(request.directory.parent))
            yield result


def _evaluate(request: Request, plan: _TaskPlan, files: EvaluationFiles, engine: Engine | None) -> EvaluationRecord:
    if engine is not None and files.missing:
        done = len(files.samples)
        with tqdm(total=files.total, initial=done, desc=plan.task.name, unit="sample", disable=None) as bar:
            batches = draw_samples(
                engine,
                plan.task,
                plan.prompts,
                plan.template,
                plan.sampling,
                samples_per_problem=request.samples,
                batch_size=request.batch_size,
                seed=request.seed,
                start=done,
            )
            for batch in batches:
                files.add(batch)
                bar.update(len(batch))
    return files.finish(summarise(plan.task, files.samples, plan.sampling, request.seed))


def _check_fits(plan: _TaskPlan, engine: Engine) -> None:
    """Raise UserError if the longest prompt with its completion may exceed the model's context."""
    needed = max(len(prompt.ids) for prompt in plan.prompts) + plan.sampling.max_completion_length
    if engine.context is not None and needed > engine.context:
        raise UserError(
            f"{plan.task.name}: a prompt and its completion may take {needed} tokens, the model has {engine.context}: "
            "set --max_completion_length lower (or vLLM's --max-model-len higher)"
        )


def _plan_task(request: Request, name: str, tokenizer: Any, model: dict[str, Any]) -> _TaskPlan:
    task = _load(request, name)
    is_maths = isinstance(task, MathProblems)
    temperature = request.temperature if request.temperature is not None else (0.0 if is_maths else 1.0)
    if request.samples > 1 and temperature == 0:
        raise UserError("several --samples of a greedy completion are all the same: set --temperature above 0")
    length = request.max_completion_length or (MATHS_LENGTH if is_maths else OTHER_LENGTH)
    sampling = Sampling(length, temperature, request.top_p, request.top_k)
    trained = model["trained"] or {}
    options = request.chat_template_kwargs
    if options is None:
        options = trained.get("chat_template_kwargs")
    default = trained.get("template") if is_maths else "plain"
    _, template = find_template(request.template or default, tokenizer, options)
    shots = _shots(request, name)
    examples = [task[i] for i in range(len(task))]
    prompts = render_prompts(task, template, tokenizer, shots)
    settings = {
        "task": task.name,
        "n": len(task),
        "samples": request.samples,
        **model,
        "data": {
            **getattr(task, "source", {"task": name, "split": "test"}),
            "digest": digest([(example.prompt, example.answer) for example in examples]),
        },
        "engine": request.engine,
        "server": request.server,
        "template": asdict(template),
        "shots": {"count": request.shots, "digest": digest(shots)} if shots else None,
        "example_prompt": prompts[0].text,
        "sampling": asdict(sampling),
        "seed": request.seed,
        "batch_size": request.batch_size,
    }
    return _TaskPlan(task, sampling, template, prompts, cast(EvaluationSettings, settings))


def _load(request: Request, name: str) -> Task:
    task = load_test_task(
        name, size=request.n, data=request.data, question=request.question_column, answer=request.answer_column
    )
    if is_file_of_problems(name) and task.name in BENCHMARKS:
        raise UserError(
            f"{name} has the name of a benchmark: rename it, or evaluate it as --task {task.name} --data {name}"
        )
    if task.name in RESERVED_NAMES:
        raise UserError(f"{name} has the name of a run's own evaluation {task.name} training: rename it")
    return task


def _shots(request: Request, name: str) -> list[tuple[str, str]]:
    if request.shots == 0:
        return []
    if request.shots_data is None:
        return load_shots(name, request.shots)
    return worked_examples(request.shots_data, read_rows(request.shots_data), request.shots)


def _engine(request: Request, path: str, tokenizer: Any, stack: ExitStack) -> Engine:
    if request.engine != "vllm":
        model, tokenizer = load_model(path)
        return LocalEngine(model, tokenizer, request.engine)
    try:
        from lambda_grpo.evaluation.vllm import VLLMEngine, serve
    except ModuleNotFoundError as error:
        raise UserError(f"--engine vllm needs {error.name}: pip install 'lambda-grpo[eval]'") from error
    url = request.server or stack.enter_context(serve(path, request.directory / SERVER_LOG))
    return VLLMEngine(url, path, tokenizer)
