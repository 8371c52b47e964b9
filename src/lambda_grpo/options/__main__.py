"""`python -m lambda_grpo.options > docs/options.md` writes that page anew."""

from lambda_grpo.options.evaluation import EvaluationOptions
from lambda_grpo.options.objective import ObjectiveOptions
from lambda_grpo.options.study import StudyOptions
from lambda_grpo.options.text import sections, table
from lambda_grpo.options.training import TaskOptions
from lambda_grpo.options.trl import TRL_OPTIONS
from lambda_grpo.options.warmup import WarmupOptions

PAGE = f"""\
# Options

Written by `python -m lambda_grpo.options` from the fields in `src/lambda_grpo/options/`, which `--help` and the checks
also read. Without a default an option is unset, or its text says what holds.

## Training

Keys of a recipe and options of `lambda-grpo train`, in addition to those of TRL's `GRPOConfig` and `ModelConfig`; all
but the first table are arguments of `LambdaGRPOConfig`. `lambda-grpo train --help KEY` explains any of them, TRL's too.

{sections([TaskOptions])}

The next table holds the keys of verl's `algorithm.lambda_grpo`, too.

{sections([ObjectiveOptions, *TRL_OPTIONS])}

## Warm-up

Keys of a recipe and options of `lambda-grpo warmup`, in addition to those of TRL's `SFTConfig` and `ModelConfig`.

{table(WarmupOptions)}

## Studies

Keys of a study in addition to those of a recipe, and options of `lambda-grpo compare`.

{table(StudyOptions)}

## Evaluation

Options of `lambda-grpo eval`.

{table(EvaluationOptions)}
"""

if __name__ == "__main__":
    print(PAGE, end="")
