"""What `lambda-grpo COMMAND --help` says. Each fits one screen."""

TRAIN_HELP = """\
Train a policy with any objective of the GRPO family. Without arguments: the
demonstration, which takes less than a minute on two CPU cores.

  lambda-grpo train
  lambda-grpo train recipes/grpo.yaml --max_steps 100 --output_dir runs/mine
  lambda-grpo train --output_dir runs/mine --resume

A recipe is a TRL YAML; of several, each lies over those before it. Any key of
TRL's GRPOConfig and ModelConfig works there and as --key value. Without a recipe,
or with one of base: demo, the others are the demonstration's (CPU). Our own keys:

  objective         lambda_grpo, grpo, dapo, dr_grpo, gspo, …: the table of
                    docs/objective.md; module:NAME for your own
  lambda_init       where λ starts (0.0). lambda_lr: its learning rate, 0 freezes it
                    (0.1). lambda_optimizer: sgd or adam. lambda_lr_scheduler_type:
                    constant, linear or cosine, lambda_warmup_steps (0)
  lambda_bounds     λ stays within these two values (-10 10; daro: -2 2)
  lambda_r          r of h = 1 + r·z (1/9). weight_norm: sum, f as the paper has it;
                    tokens, rescaled so that λ can't change the step size (sum)
  trace, trace_gamma, trace_lambda, advantage_min   of grpo_lambda (recent 1 0.99 -0.1)
  dynamic_sampling  fresh prompts for groups of equal rewards, max_resample_times
                    (10) rounds. drop_zero_variance: leave such groups out instead
  overlong_buffer_length   last tokens of a completion that get a penalty
  select_best_and_worst, select_min_reward, selection_baseline   train on some samples
  error_correction, correct_reward, reflection_prompt, answer_template
                    wrong samples: shares that reflect, get the answer, are replaced
  sampler, packing  fast or trl (fast); train without padding (true)
  stop_strings      end a completion. max_prompt_length, max_prompt_overflow: drop, or
                    truncate_left (drop). resume_without_optimizer (false)
  task              a built-in one, a reasoning-gym data set, gsm8k, math,
                    dapo_math_17k, a file of problems, or module:attribute
  question_column, answer_column   of a file, or of dataset_name; template: how a
                    problem is put (see lambda-grpo eval --help)
  task_size         training examples (all; 4096 made ones). task_seed: theirs (0)
  eval_task, eval_size    evaluated before and after (the task's held-out ones; 500)
  check_overlap, remove_overlap   of training problems with test sets
  base              in a recipe: the recipe that it builds on, or demo
  model_name_or_path   builtin, builtin-llama, a directory or a hub id"""


COMPARE_HELP = """\
Compare objectives side by side, with several seeds and paired statistics.

  lambda-grpo compare --objectives grpo,dapo,dr_grpo,lambda_grpo --seeds 10
  lambda-grpo compare study.yaml --output_dir studies/mine

The same command goes on with an interrupted study: what is finished stays. With
more or fewer objectives, tasks, seeds or rates it reuses every run whose recipe
is the same. A study is a recipe (see lambda-grpo train --help), whose keys all
runs share, and these:

  objectives        two or more, module:NAME among them, or in a file a mapping:
                    a name of your own to the recipe keys of that arm (grpo,
                    dapo, dr_grpo, lambda_grpo)
  against           the one that the others are compared with (the first)
  tasks             one or more; --task NAME,NAME (the recipe's)
  seeds             how many, or a list (5)
  learning_rates    three or more; each objective gets its best one (a third
                    of the recipe's, the recipe's, three times that)
  tuning_seeds      other seeds, on which the learning rate is chosen (2)
  endpoint          accuracy, completion_length_mean or entropy: what the
                    objectives are compared in (accuracy)
  target_accuracy   how many tokens it takes to reach it is reported (0.9)
  keep_checkpoints  of finished runs; in a file (false)

On the command line --seeds and --tuning_seeds are numbers, lists are A,B,C, and
--key value sets any key of the recipe. --processes is how many runs go at once
(as many as there are cores). It leaves results.json, report.html and figures/ in
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
  n                 the first so many problems (all; 500 of a made task)
  template          how a problem is put: plain, boxed_system, boxed,
                    question_answer, problem_solution, qa, r1_zero, dapo
                    (the one it was trained with; else boxed_system where there is
                    a chat template, or question_answer; plain for a made task).
                    chat_template_kwargs: a JSON object for the model's own template
  shots             worked examples before each problem (0), from the training
                    split (gsm8k) or a file of them: shots_data
  samples           of each problem (1)
  temperature       0 is greedy (0 for maths, 1 for a made task). top_p (1),
                    top_k (0: no limit)
  max_completion_length   in tokens (2048 for maths, 256 for a made task)
  engine            fast, transformers or vllm (auto: fast on a CPU)
  server            a vLLM server's URL; without it, --engine vllm starts one
  batch_size        completions drawn together (256). seed (0)
  output_dir        for TASK.json and TASK.samples.jsonl (RUN/eval for a run
                    directory, otherwise a folder in evals/ for this model and
                    these settings); the same command goes on after a stop
  json              print a JSON object for each task instead of tables

Tables of several results: lambda-grpo report --table RESULT…"""


DOCTOR_HELP = """\
What is installed here, whether it works, and what to do where it doesn't: the engines
TRL and verl, the plug-in for verl, optional packages, GPUs and CPU. It imports all that
it finds, so it takes some seconds.

It exits with 0, or with 1 where something installed can't work or no engine is installed."""
