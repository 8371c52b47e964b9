"""The texts of `lambda-grpo COMMAND --help`, each at most one screen. What they say of options is in options/."""

from lambda_grpo.options.evaluation import EvaluationOptions
from lambda_grpo.options.objective import ObjectiveOptions
from lambda_grpo.options.option import options_of
from lambda_grpo.options.study import StudyOptions
from lambda_grpo.options.text import describe, overview
from lambda_grpo.options.training import TaskOptions
from lambda_grpo.options.trl import TRL_OPTIONS
from lambda_grpo.options.warmup import WarmupOptions

TRAIN_OPTIONS = (TaskOptions, ObjectiveOptions, *TRL_OPTIONS)

TRAIN_HELP = f"""\
Train a policy with an objective of the GRPO family. Without arguments: the
demonstration, which takes less than a minute on two CPU cores.

  lambda-grpo train
  lambda-grpo train recipes/grpo.yaml --max_steps 100 --output_dir runs/mine
  lambda-grpo train --output_dir runs/mine --resume

A recipe is a TRL YAML. Several are layered: later ones override, and --key value
overrides all. All keys of TRL's GRPOConfig and ModelConfig work. Without a recipe,
and in one with base: demo (or base: another recipe's path), defaults are the
demonstration's (CPU). model_name_or_path is builtin, builtin-llama, smollm2, a GGUF
file, a directory or a hub id.

Additional keys, with their defaults. --help KEY … explains them, and also TRL's:

{overview(TRAIN_OPTIONS)}"""


WARMUP_HELP = f"""\
Fine-tune a model on solutions of problems by TRL's SFTTrainer, so that it solves
some of them before reinforcement learning begins.

  lambda-grpo warmup --model_name_or_path smollm2 --tasks gsm8k --output_dir runs/warm
  lambda-grpo train recipes/mine.yaml --model_name_or_path runs/warm

Recipes are layered as in lambda-grpo train. All keys of TRL's SFTConfig and
ModelConfig work, and these:

{describe(options_of(WarmupOptions).values())}

With several styles the model samples short and long solutions, so that the lengths
within a group differ. On a CPU batches are packed, without padding. The folder also
gets warmup.json: settings, versions, numbers of problems and losses."""


COMPARE_HELP = f"""\
Compare objectives side by side, with several seeds and paired statistics.

  lambda-grpo compare --objectives grpo,dapo,dr_grpo,lambda_grpo --seeds 10
  lambda-grpo compare study.yaml --output_dir studies/mine

The same command resumes an interrupted study. With more or fewer objectives,
tasks, seeds or learning rates it reuses all runs with the same recipe. A study is
a recipe (see lambda-grpo train --help), whose keys all runs share, with these
additional keys:

{describe(options_of(StudyOptions).values())}

On the command line --seeds is a number, lists are A,B,C, and --key value sets any key
of the recipe. --processes is the number of parallel runs (by cores, memory and model).
The results are results.json, report.html and figures/ in --output_dir, beside the
runs."""


EVAL_HELP = f"""\
Evaluate a model on one task or several: accuracy, avg@k, pass@k and maj@k, with
95 % intervals clustered by problem.

  lambda-grpo eval --model Qwen/Qwen2.5-Math-1.5B --task gsm8k,math500
  lambda-grpo eval --model runs/mine --task amc23 --samples 32 --temperature 0.6

{describe(options_of(EvaluationOptions).values())}

--json prints a JSON object per task instead of tables. Tables of several results:
lambda-grpo report --table RESULT…; two compared: lambda-grpo report --paired A B"""


DOCTOR_HELP = """\
Check the installation, and suggest fixes: the engines TRL and verl, the plug-in for
verl, optional packages, GPUs and CPU. It imports every package that it finds, which
takes some seconds.

The exit code is 1 if something that is installed can't work, or no engine is installed,
and 0 otherwise."""


INSPECT_HELP = """\
Read the samples of any run, and say how much each length, and right or wrong answers,
counted in its gradient, what other objectives would have done with the same samples,
and whether they support a preference for some lengths.

  lambda-grpo inspect runs/mine
  lambda-grpo inspect trl_output/ --tokenizer Qwen/Qwen3-0.6B
  lambda-grpo inspect log.parquet --columns length=tokens,reward=score,group=uid

A PATH is a run directory of lambda-grpo, the output of TRL with log_completions, a
folder of verl's rollout dumps, or a Parquet, Arrow, CSV or JSON Lines file. Columns are
found by their usual names: length (else text, whose tokens are counted), reward
(several are added), group (else prompt) and step."""
