#!/usr/bin/env bash
# λ-GRPO on verl 0.9.1: Qwen2.5-1.5B on GSM8K, on 1 node of 8 GPUs or on 4 of them. Not run on a GPU yet.
#
#   python3 VERL/examples/data_preprocess/gsm8k.py --local_save_dir ~/data/gsm8k   # a script of verl's repository
#   bash recipes/verl_lambda_grpo.sh                                               # 1 × 8
#   NNODES=4 bash recipes/verl_lambda_grpo.sh                                      # 4 × 8: on the head node, see below
#   OBJECTIVE=dapo bash recipes/verl_lambda_grpo.sh trainer.total_epochs=1         # followed by any of verl's keys
#
# On several nodes: `ray start --head` on the first, `ray start --address=HEAD:6379` on the others, each in an environment
# with verl and lambda-grpo; data, model and checkpoints on a path that is shared by all nodes.
#
# The plug-in's lines are marked; without them this is verl's GRPO. Batch and group size, learning rate, sampling, and
# training without a KL term follow recipes/models/maths.yaml, which gives their sources.
set -euo pipefail

NNODES=${NNODES:-1}
GPUS=${GPUS:-8}
MODEL=${MODEL:-Qwen/Qwen2.5-1.5B}
DATA=${DATA:-$HOME/data/gsm8k}
OBJECTIVE=${OBJECTIVE:-lambda_grpo}
RUN=${CHECKPOINTS:-$HOME/checkpoints}/qwen2.5-1.5b-gsm8k-$OBJECTIVE
mkdir -p "$RUN"
if [ "$NNODES" -gt 1 ]; then export RAY_ADDRESS=${RAY_ADDRESS:-auto}; fi

settings=(
  # -- the plug-in --
  trainer.v1.trainer_mode=lambda_grpo
  +algorithm.lambda_grpo.objective="$OBJECTIVE"
  +algorithm.lambda_grpo.lambda_init=0.0
  +algorithm.lambda_grpo.lambda_lr=0.1
  actor_rollout_ref.actor.loss_agg_mode=token-mean # required: the objective's weights and normaliser are folded into it
  # -- advantages relative to the group --
  algorithm.adv_estimator=grpo
  actor_rollout_ref.rollout.n=8
  # -- data --
  data.train_files="$DATA/train.parquet"
  data.val_files="$DATA/test.parquet"
  data.train_batch_size=128
  data.max_prompt_length=512
  data.max_response_length=2048
  data.filter_overlong_prompts=True
  data.truncation=error
  # -- the policy: one update per step, micro-batches sized by number of tokens --
  actor_rollout_ref.model.path="$MODEL"
  actor_rollout_ref.model.use_remove_padding=True
  actor_rollout_ref.model.enable_gradient_checkpointing=True
  actor_rollout_ref.actor.strategy=fsdp2
  actor_rollout_ref.actor.optim.lr=1e-6
  actor_rollout_ref.actor.ppo_mini_batch_size=128
  actor_rollout_ref.actor.use_dynamic_bsz=True
  actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384
  actor_rollout_ref.actor.use_kl_loss=False
  # -- generation --
  actor_rollout_ref.rollout.name=vllm
  actor_rollout_ref.rollout.tensor_model_parallel_size=1
  actor_rollout_ref.rollout.gpu_memory_utilization=0.6
  actor_rollout_ref.rollout.temperature=1.0
  actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True
  actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=32768
  # -- the run --
  trainer.nnodes="$NNODES"
  trainer.n_gpus_per_node="$GPUS"
  trainer.project_name=lambda_grpo
  trainer.experiment_name="qwen2.5-1.5b-gsm8k-$OBJECTIVE"
  trainer.logger='[console,file]'
  +ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH="$RUN/metrics.jsonl"
  trainer.total_epochs=15
  trainer.default_local_dir="$RUN"
  trainer.save_freq=20
  trainer.test_freq=5
)
exec python3 -m verl.trainer.main_ppo "${settings[@]}" "$@"
