"""`lambda-grpo eval`: a model on one or more tasks, with files that can be gone on with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from lambda_grpo.errors import UserError
from lambda_grpo.evaluation.directory import EvaluationFiles
from lambda_grpo.evaluation.engines import Engine, LocalEngine, Sampling
from lambda_grpo.evaluation.rows import draw_rows, summarise
from lambda_grpo.models import load_model, load_tokenizer, resolve_model, training_of, weights_id
from lambda_grpo.runs import provenance
from lambda_grpo.tasks import Task, load_task
from lambda_grpo.tasks.benchmarks import BENCHMARKS, load_benchmark, load_shots
from lambda_grpo.tasks.problems import FORMATS, MathProblems, local_problems, read_rows, worked_examples
from lambda_grpo.tasks.templates import TEMPLATES, find_template

ENGINES = ("auto", "fast", "transformers", "vllm")
GENERATED_SIZE = 500  # held-out examples of a task that makes them
MATH_LENGTH, GENERATED_LENGTH = 2048, 256  # tokens of a completion


@dataclass(frozen=True)
class Request:
    """What to evaluate; None stands for the task's own default: the options of `lambda-grpo eval`."""

    model: str
    tasks: tuple[str, ...]
    output_dir: Path
    n: int | None = None
    data: str | None = None
    question_column: str | None = None
    answer_column: str | None = None
    samples: int = 1
    engine: str = "auto"
    server: str | None = None
    template: str | None = None
    shots: int = 0
    shots_data: str | None = None
    temperature: float | None = None
    top_p: float = 1.0
    top_k: int = 0
    max_completion_length: int | None = None
    batch_size: int = 256
    seed: int = 0

    def check(self) -> None:
        """Raises UserError, naming the option, if one can't be used."""
        for name in ("n", "samples", "max_completion_length", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} must be at least 1, got {value}")
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise UserError(f"--temperature must be a number of at least 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p must be above 0 and at most 1, got {self.top_p}")
        if self.top_k < 0:
            raise UserError(f"--top_k must be at least 0 (0: no limit), got {self.top_k}")
        if self.shots < 0:
            raise UserError(f"--shots must be at least 0, got {self.shots}")
        if self.engine not in ENGINES:
            raise UserError(f"--engine must be one of {', '.join(ENGINES)}, got {self.engine!r}")
        if self.server is not None and self.engine != "vllm":
            raise UserError("--server needs --engine vllm")
        if self.data is not None and (len(self.tasks) > 1 or self.tasks[0] not in BENCHMARKS):
            raise UserError("--data is another source of one benchmark: for a file of your own, name it as --task")
        if self.template is not None and self.template not in TEMPLATES:
            raise UserError(f"unknown template {self.template!r}: use {', '.join(TEMPLATES)}")


def run(request: Request) -> Iterator[dict[str, Any]]:
    """Evaluate on each task, and yield its result as it is finished. The same request goes on where it was stopped.

    Raises:
        UserError: the request can't be carried out; what has been drawn stays.
    """
    request.check()
    tasks = [_load(request, name) for name in request.tasks]
    path = resolve_model(request.model)
    tokenizer = load_tokenizer(path)
    request.output_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(request.output_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another program evaluates in {request.output_dir}: choose another --output_dir") from error
    with ExitStack() as stack:
        stack.callback(lock.release)
        engines: list[Engine] = []  # made when the first task needs it: a finished evaluation needs none

        def engine() -> Engine:
            if not engines:
                engines.append(_engine(request, path, tokenizer, stack))
            return engines[0]

        for task in tasks:
            yield _evaluate(request, task, path, tokenizer, engine)


def _evaluate(request: Request, task: Task, path: str, tokenizer: Any, engine: Any) -> dict[str, Any]:
    is_maths = isinstance(task, MathProblems)
    temperature = request.temperature if request.temperature is not None else (0.0 if is_maths else 1.0)
    if request.samples > 1 and temperature == 0:
        raise UserError("several --samples of a greedy completion are all the same: set --temperature above 0")
    length = request.max_completion_length or (MATH_LENGTH if is_maths else GENERATED_LENGTH)
    sampling = Sampling(length, temperature, request.top_p, request.top_k)
    name, template = find_template(request.template or (None if is_maths else "plain"), tokenizer)
    shots = _shots(request, task.name)
    settings = {
        "task": task.name,
        "n": len(task),
        "samples": request.samples,
        "model": request.model,
        "path": path,
        "weights": weights_id(path),
        "trained": training_of(path),
        "data": getattr(task, "source", {"task": task.name, "split": "test"}),
        "engine": request.engine,
        "server": request.server,
        "template": {"name": name, **asdict(template)},
        "shots": {"count": request.shots, "data": request.shots_data},
        "example_prompt": template.render(task[0].prompt, tokenizer, shots),
        "sampling": asdict(sampling),
        "seed": request.seed,
        "batch_size": request.batch_size,
        **provenance(),
    }
    files = EvaluationFiles(request.output_dir, _file_name(task.name), settings, request.batch_size)
    total = len(task) * request.samples
    with tqdm(total=total, initial=len(files.rows), desc=task.name, unit="sample", disable=None) as bar:
        if len(files.rows) < total:
            batches = draw_rows(
                engine(),
                task,
                sampling,
                template=template,
                shots=shots,
                samples=request.samples,
                batch_size=request.batch_size,
                seed=request.seed,
                start=len(files.rows),
            )
            for rows in batches:
                files.add(rows)
                bar.update(len(rows))
    return files.finish(summarise(task.name, files.rows, sampling, request.seed))


def _load(request: Request, name: str) -> Task:
    if name in BENCHMARKS:
        return load_benchmark(name, data=request.data, size=request.n)
    if Path(name).suffix in FORMATS:
        columns = {"question": request.question_column, "answer": request.answer_column}
        return local_problems(name, size=request.n, **columns)
    return load_task(name, "test", size=request.n or GENERATED_SIZE)


def _shots(request: Request, task: str) -> list[tuple[str, str]]:
    if request.shots == 0:
        return []
    if request.shots_data is None:
        return load_shots(task, request.shots)
    return worked_examples(request.shots_data, read_rows(request.shots_data), request.shots)


def _engine(request: Request, path: str, tokenizer: Any, stack: ExitStack) -> Engine:
    if request.engine != "vllm":
        model, tokenizer = load_model(path)
        return LocalEngine(model, tokenizer, request.engine)
    try:
        from lambda_grpo.evaluation.vllm import VLLMEngine, serve
    except ModuleNotFoundError as error:
        raise UserError(f"--engine vllm needs {error.name}: pip install 'lambda-grpo[eval]'") from error
    url = request.server or stack.enter_context(serve(path, request.output_dir / "vllm.log"))
    return VLLMEngine(url, path, tokenizer)


def _file_name(task: str) -> str:
    return re.sub(r"[^\w.-]+", "_", task)
