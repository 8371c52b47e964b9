"""Options of `lambda-grpo eval`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from lambda_grpo.options.option import REQUIRED, option

MAX_SEED = 2**32 - 1  # NumPy's


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Evaluation.

    None means the task's own default.
    """

    model: str = option(
        REQUIRED,
        "A model directory, a run directory (its last checkpoint), a hub id, a GGUF file, or one of builtin, "
        "builtin-llama and smollm2.",
    )
    task: str = option(
        REQUIRED,
        "gsm8k, math500, minerva, gaokao2023en, olympiadbench, college_math, aime24, amc23, or benchmarks for all "
        "eight; a .jsonl or .parquet file; a task that lambda-grpo train takes. Several: A,B.",
    )
    data: str | None = option(None, "Another source of a benchmark: a hub id, or a local file.")
    question_column: str | None = option(
        None, "Column of the problems in a file (found by the usual names); Body+Question for two."
    )
    answer_column: str | None = option(None, "Column of the reference answers.")
    n: Annotated[int, Ge(1)] | None = option(
        None, "Number of problems, the first ones. Default: all, 500 if generated."
    )
    template: str | None = option(
        None,
        "Prompt template: plain, boxed_system, boxed, question_answer, problem_solution, qa, r1_zero or dapo. Default: "
        "the one that the model was trained with; else boxed_system with a chat template, question_answer without; "
        "plain for a generated task.",
    )
    chat_template_kwargs: dict[str, Any] | None = option(None, "A JSON object for the model's chat template.")
    shots: Annotated[int, Ge(0)] = option(0, "Worked examples before each problem, of gsm8k's training split.")
    shots_data: str | None = option(None, "A file to take them from.")
    samples: Annotated[int, Ge(1)] = option(1, "Samples per problem.")
    temperature: Annotated[float, Ge(0)] | None = option(
        None, "0 is greedy. Default: 0 for maths, 1 for a generated task."
    )
    top_p: Annotated[float, Gt(0), Le(1)] = option(1.0, "Sample from the likeliest tokens of this total probability.")
    top_k: Annotated[int, Ge(0)] = option(0, "Sample from so many of the likeliest tokens; 0 for all.")
    max_completion_length: Annotated[int, Ge(1)] | None = option(
        None, "In tokens. Default: 2048 for maths, 256 for a generated task."
    )
    engine: Literal["auto", "fast", "transformers", "vllm"] = option("auto", "auto is fast on a CPU.")
    server: str | None = option(None, "URL of a vLLM server; without it, --engine vllm starts one.")
    batch_size: Annotated[int, Ge(1)] = option(256, "Completions sampled together.")
    seed: Annotated[int, Ge(0), Le(MAX_SEED)] = option(0, "Seed of the sampling.")
    output_dir: str | None = option(
        None,
        "For TASK.json and TASK.samples.jsonl. Default: RUN/eval for a run directory, otherwise a folder in evals/ for "
        "this model and these settings. The same command resumes.",
    )
