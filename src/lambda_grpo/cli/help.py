"""The texts of `lambda-grpo COMMAND --help`, each at most one screen."""

TRAIN_HELP = """\
Train a policy with an objective of the GRPO family. Without arguments: the
demonstration, which takes less than a minute on two CPU cores.

  lambda-grpo train
  lambda-grpo train recipes/grpo.yaml --max_steps 100 --output_dir runs/mine
  lambda-grpo train --output_dir runs/mine --resume

A recipe is a TRL YAML. Several are layered: later ones override, and --key value
overrides all. All keys of TRL's GRPOConfig and ModelConfig work. Without a recipe,
and in one with base: demo, defaults are the demonstration's (CPU). Additional keys:

  objective         lambda_grpo, grpo, dapo, dr_grpo, gspo, …: the table of
                    docs/objective.md; module:NAME for your own
  lambda_init       initial λ (0.0). lambda_lr: its learning rate, 0 freezes it
                    (0.1). lambda_optimizer: sgd or adam. lambda_lr_scheduler_type:
                    constant, linear or cosine, lambda_warmup_steps (0)
  lambda_bounds     smallest and largest λ (-10 10; daro: -2 2)
  lambda_r          r of h = 1 + r·z (1/9). weight_norm: sum, f as in the paper; or
                    tokens, rescaled so that λ can't change the step size (sum)
  trace, trace_gamma, trace_lambda, advantage_min   of grpo_lambda (recent 1 0.99 -0.1)
  dynamic_sampling  replace groups of equal rewards by fresh prompts, in up to
                    max_resample_times (10) rounds. drop_zero_variance: drop them
  overlong_buffer_length   last tokens of a completion that are penalised
  select_best_and_worst, select_min_reward, selection_baseline   sample selection
  error_correction, correct_reward, reflection_prompt, answer_template
                    wrong samples: shares that reflect, get the answer, are replaced
  sampler, packing  fast or trl (fast); train without padding (true)
  stop_strings      end a completion. max_prompt_length, max_prompt_overflow: drop or
                    truncate_left (drop). resume_without_optimizer (false)
  task              a built-in one, a reasoning-gym data set, gsm8k, math,
                    dapo_math_17k, a file of problems, or module:attribute
  question_column, answer_column   of a file, or of dataset_name. template: the
                    prompt template (see lambda-grpo eval --help)
  task_size         training examples (all; 4096 if generated). task_seed: seed (0)
  eval_task, eval_size    evaluation before and after (held-out problems; 500)
  check_overlap, remove_overlap   training problems that are in test sets
  base              in a recipe: the recipe that it is based on, or demo
  model_name_or_path   builtin, builtin-llama, a directory or a hub id"""


COMPARE_HELP = """\
Compare objectives side by side, with several seeds and paired statistics.

  lambda-grpo compare --objectives grpo,dapo,dr_grpo,lambda_grpo --seeds 10
  lambda-grpo compare study.yaml --output_dir studies/mine

The same command resumes an interrupted study. With more or fewer objectives,
tasks, seeds or learning rates it reuses all runs with the same recipe. A study is
a recipe (see lambda-grpo train --help), whose keys all runs share, with these
additional keys:

  objectives        two or more, also module:NAME; or, in a file, a mapping of
                    names to the recipe keys of that arm (grpo, dapo, dr_grpo,
                    lambda_grpo)
  against           the objective to compare the others with (the first)
  tasks             one or more; --task NAME,NAME (the recipe's)
  seeds             a number or a list (5)
  learning_rates    three or more; each objective gets its best one (a third
                    of the recipe's, the recipe's, three times that)
  tuning_seeds      other seeds, for choosing the learning rate (2)
  endpoint          the compared quantity: accuracy, completion_length_mean or
                    entropy (accuracy)
  target_accuracy   for the reported number of tokens to reach it (0.9)
  keep_checkpoints  of finished runs; only in a file (false)

On the command line --seeds and --tuning_seeds are numbers, lists are A,B,C, and
--key value sets any key of the recipe. --processes is the number of parallel runs
(the number of cores). The results are results.json, report.html and figures/ in
--output_dir, beside the runs."""


EVAL_HELP = """\
Evaluate a model on one task or several: accuracy, avg@k, pass@k and maj@k, with
95 % intervals clustered by problem.

  lambda-grpo eval --model Qwen/Qwen2.5-Math-1.5B --task gsm8k,math500
  lambda-grpo eval --model runs/mine --task amc23 --samples 32 --temperature 0.6

  model             a model directory, a run directory (its last checkpoint), a
                    hub id, builtin or builtin-llama
  task              gsm8k, math500, minerva, gaokao2023en, olympiadbench,
                    college_math, aime24, amc23, or benchmarks for all eight; a
                    .jsonl or .parquet file; a task that lambda-grpo train takes
  data              another source of a benchmark: a hub id, or a local file
  question_column, answer_column   of a file (found by the usual names);
                    Body+Question for a question in two columns
  n                 number of problems, the first ones (all; 500 if generated)
  template          prompt template: plain, boxed_system, boxed, question_answer,
                    problem_solution, qa, r1_zero, dapo (the one that the model was
                    trained with; else boxed_system with a chat template,
                    question_answer without; plain for a generated task).
                    chat_template_kwargs: a JSON object for the model's template
  shots             worked examples before each problem (0), from the training
                    split (gsm8k) or from a file: shots_data
  samples           per problem (1)
  temperature       0 is greedy (0 for maths, 1 for a generated task). top_p (1),
                    top_k (0: no limit)
  max_completion_length   in tokens (2048 for maths, 256 for a generated task)
  engine            fast, transformers or vllm (auto: fast on a CPU)
  server            a vLLM server's URL; without it, --engine vllm starts one
  batch_size        completions sampled together (256). seed (0)
  output_dir        for TASK.json and TASK.samples.jsonl (RUN/eval for a run
                    directory, otherwise a folder in evals/ for this model and
                    these settings); the same command resumes after an interrupt
  json              print a JSON object per task instead of tables

Tables of several results: lambda-grpo report --table RESULT…"""


DOCTOR_HELP = """\
Check the installation, and suggest fixes: the engines TRL and verl, the plug-in for
verl, optional packages, GPUs and CPU. It imports every package that it finds, which
takes some seconds.

The exit code is 1 if something that is installed can't work, or no engine is installed,
and 0 otherwise."""
