"""λ-GRPO and its family in verl 0.9.1: its synchronous trainer, with three additions.

1. On the driver, where a batch is whole: the weights are folded into the advantages, and ∂ln f/∂λ of each response is
   stored with them (`fold`).
2. In the workers: verl's own loss, and the exact gradient of λ as a summed metric (`loss`).
3. On the driver: λ takes a step with the mean gradient of the batch's updates.

λ never leaves the driver. It is saved with verl's checkpoints and restored with them.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import omega_conf_to_dataclass

from lambda_grpo.objective.batch import GeneratedBatch, lambda_metrics
from lambda_grpo.objective.lambda_file import load_lambda, save_lambda
from lambda_grpo.objective.settings import saturation_warning
from lambda_grpo.verl.fold import FoldedBatch, fold
from lambda_grpo.verl.loss import GRADIENT, SHARE, SLOPE, TOKENS, lambda_grpo_loss
from lambda_grpo.verl.settings import VerlSettings

logger = logging.getLogger(__name__)


class LambdaGRPOVerlTrainer(PPOTrainerSync):
    """verl's `PPOTrainerSync` with any objective that folds exactly; λ is trained along with the policy if it has one.

    In addition to verl's metrics it logs `lambda`, `lambda_grad`, `weight_min`, `weight_max` and
    `effective_sample_size`, as the TRL trainer does; `lambda` is the value that the batch was weighted with. verl's
    metrics of advantages are those of the folded advantages.

    Args:
        config: verl's, with `VerlSettings` under `algorithm.lambda_grpo`.

    Raises:
        UserError: the objective doesn't fold exactly into the loss that verl is configured for.
    """

    def __init__(self, config: Any):
        settings = VerlSettings.of(config)
        self.objective = settings.resolve_objective()
        self.lambda_state = settings.make_lambda_state(config.actor_rollout_ref.rollout.n)
        self._lambda: Tensor = torch.zeros(())
        self._folded: FoldedBatch | None = None
        self._warned: set[str] = set()
        # verl 0.9.1 distinguishes its loops by this value, from the sampler to the content of a checkpoint.
        config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)

    def _setup(self) -> None:
        super()._setup()
        actor = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
        self.actor_rollout_wg.set_loss_fn(partial(lambda_grpo_loss, config=actor))

    # -- 1. the fold -------------------------------------------------------------------------------------------------

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        tags, keys = batch.tags, batch.keys
        super()._compute_advantage(batch, metrics)
        # `loss_mask` has all generated tokens; verl's rollout correction may have removed some from `response_mask`
        names = ["loss_mask", "advantages"]
        names += ["responses"] if "completion_ids" in self.objective.preference.needs else []
        names += ["rm_scores"] if self.objective.advantage_scale == "batch" else []
        data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=names)
        is_kept = torch.tensor([not tag.get("is_padding", False) for tag in tags])
        self._lambda = self.lambda_state.leaf(requires_grad=self.objective.preference.learnable)
        self._folded = folded = fold(
            data["advantages"],
            data["loss_mask"],
            [key.rsplit("_", 2)[0] for key in keys],  # verl's keys are uid_session_index
            is_kept,
            self.objective,
            self._lambda,
            rewards=data.get("rm_scores", None),
            completion_ids=data.get("responses", None),
            max_completion_length=self.config.data.max_response_length,
        )
        columns = {"advantages": folded.advantages}
        if folded.slope is not None:
            columns[SLOPE] = folded.slope
        metrics.update(folded.batch.weight_metrics(folded.weights))
        self._warn(folded, is_kept)
        return tq.kv_batch_put(
            keys=keys, partition_id=batch.partition_id, fields=TensorDict(columns, batch_size=len(keys))
        )

    def _warn(self, folded: FoldedBatch, is_kept: Tensor) -> None:
        if self.objective.preference.learnable and folded.batch.is_saturated(folded.weights):
            self._warn_once(
                "saturated",
                saturation_warning(self.lambda_state.value, "algorithm.lambda_grpo."),
            )
        filtered = int(is_kept.sum() - folded.batch.is_kept.sum())
        if filtered:
            self._warn_once(
                "filtered out",
                f"{filtered} responses of this batch are filtered out, and others may be later: their groups aren't of "
                f"rollout.n responses, and objective {self.objective.name!r} has no λ for their pass rates",
            )

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning(message)

    # -- 2. and 3. the update ----------------------------------------------------------------------------------------

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        assert self._folded is not None  # _compute_advantage has run
        if self._folded.verl_z is not None:
            actor, rollout = self.config.actor_rollout_ref.actor, self.config.actor_rollout_ref.rollout
            updates = len(batch) / (actor.ppo_mini_batch_size * rollout.n)
            batch.extra_info[TOKENS] = self._folded.verl_z / updates
        batch = super()._update_actor(batch, metrics)
        if self.objective.preference.learnable:
            self._step_lambda(self._folded.batch, metrics)
        return batch

    def _step_lambda(self, batch: GeneratedBatch, metrics: dict[str, Any]) -> None:
        """Step λ. Raises RuntimeError if the engine aggregated the workers' metrics in another way than as a sum."""
        share = metrics.pop(f"actor/{SHARE}")
        if abs(share - 1) > 1e-6:  # NaN (a mini-batch without tokens) passes, and so does its gradient
            strategy = self.config.actor_rollout_ref.actor.strategy
            raise RuntimeError(
                f"verl's {strategy!r} engine sums a mini-batch's tokens to {share} of them: it gathers metrics in "
                "another way than λ's gradient takes; use fsdp2, or an objective without λ"
            )
        found = [metrics.pop(f"actor/{GRADIENT}_{k}") for k in range(self._lambda.numel())]
        gradient = torch.tensor(found, dtype=torch.float64).reshape(self._lambda.shape)
        gradient = gradient + batch.penalty_gradient(self.objective, self._lambda)
        metrics.update(lambda_metrics(self._lambda, gradient))
        if gradient.isfinite().all():
            self.lambda_state.step(gradient)
        else:  # verl's engines skip such an update of the policy, and continue
            logger.warning("the gradient of λ is %s: λ stays %s", gradient.tolist(), self.lambda_state.value)
            self.lambda_state.step(torch.zeros_like(gradient))

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        if self.objective.preference.learnable:  # first: the file that verl writes last marks a complete checkpoint
            folder = self._checkpoint_folder()
            os.makedirs(folder, exist_ok=True)
            save_lambda(folder, self.objective.name, self.lambda_state)
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        """With λ. Raises what `load_lambda` does."""
        super()._load_checkpoint()
        if self.global_steps == 0 or not self.objective.preference.learnable:
            return
        trainer = self.config.trainer
        folder = trainer.resume_from_path if trainer.resume_mode == "resume_path" else self._checkpoint_folder()
        load_lambda(folder, self.objective.name, self.lambda_state)
        logger.warning("resumed λ = %s from %s", self.lambda_state.value, folder)  # verl shows nothing below a warning

    def _checkpoint_folder(self) -> str:
        return os.path.join(self.config.trainer.default_local_dir, f"global_step_{self.global_steps}")
