"""λ-GRPO and its family in TRL: one subclass of `trl.GRPOTrainer` that copies no loss code.

The overridden methods are in the order in which TRL calls them in a step. Each is a few lines, and delegates to one of
the objects that the trainer holds, none of which depends on the trainer:

    prompt_limit     prompts that are too long                              prompts.py
    fast_generation  the fast sampler in place of TRL's generation          fast_generation.py
    stop_ends        completions that end at stop strings                   stop_strings.py
    rollouts         drawing, correcting and refilling a batch              rollouts.py
    advantages       exact zeros, and which samples are kept                advantages.py
    packer           the packed pass in place of TRL's log-probabilities    packer.py
    fold             stage 1, Z of the objective over Z of TRL's loss, λ    fold.py
    resumption       what a checkpoint holds for an exact resume            resume.py
    recorder         the run directory                                      recorder.py

For a surrogate that none of TRL's losses has (GMPO's, FSPO's, your own), `policy_loss` computes the loss: TRL's loss
then gets advantages of 0, and still computes the rest, from the KL term to the metrics.

λ lives outside the model: in the Trainer's optimiser its gradient would never be zeroed, and inside the model DDP
and FSDP2 fail on it and it would be sent to vLLM.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import IterableDataset
from torch import Tensor
from transformers.trainer_utils import TrainOutput
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from lambda_grpo.objective.batch import GeneratedBatch
from lambda_grpo.objective.lambda_file import load_lambda
from lambda_grpo.runs.model_card import CARD_FILE, write_card
from lambda_grpo.trl.args import config_for_trl, lambda_config, restore
from lambda_grpo.trl.callbacks import LambdaStep, WarnOfNoSignal
from lambda_grpo.trl.card import card_facts
from lambda_grpo.trl.components import hold_parts
from lambda_grpo.trl.config import LambdaGRPOConfig
from lambda_grpo.trl.gather import gather_batch
from lambda_grpo.trl.generated_tokens import count_sampled
from lambda_grpo.trl.hooks import check_hooks, replaced
from lambda_grpo.trl.live import LogWeights
from lambda_grpo.trl.losses import check_nothing_weighs_tokens, trl_loss
from lambda_grpo.trl.recorder import RunRecorder, recorder_of, sample_columns
from lambda_grpo.trl.resume import load_ended
from lambda_grpo.trl.reward_functions import checked
from lambda_grpo.trl.samples import ScoredSamples
from lambda_grpo.trl.saving import copy_beside, hub_folder, save_beside

check_hooks(GRPOTrainer)


class LambdaGRPOTrainer(GRPOTrainer):
    """`trl.GRPOTrainer` with any objective of the family. λ is trained along with the policy if the objective has one.

    Takes all of `GRPOTrainer`'s arguments; without `args`, or with a plain `trl.GRPOConfig`, it trains as TRL would.
    In addition to TRL's metrics it logs `lambda`, `lambda_grad`, `weight_min`, `weight_max`, `effective_sample_size`
    (per group, mean over groups) and `informative_groups` (the share of groups with an advantage other than 0); these
    are over the whole generated batch, and with `logging_steps` above 1 means over the steps, like TRL's; and
    `generated_tokens`, the completion tokens sampled so far (TRL's `num_tokens` includes prompts). An objective with
    several λ logs their mean, and each one as `lambda/1` …. λ is saved with each checkpoint and model in
    `lambda_state.json`, and restored from there on resume. A saturated softmax is reported by one warning, and so is,
    at the end, a training whose rewards had no learning signal.

    Reward functions with the same name are numbered (`length_1`, `length_2`) in metrics and records.

    The output directory is a run directory, for which `lambda-grpo report` makes a page: `save_run_records` writes
    run.json, metrics.jsonl and completions/ there.

    Args:
        on_samples: called on the main process with each generated batch, as columns: prompt, completion, answer
            (None where the data set has no such column), reward (the weighted sum; None where it could not be scored),
            `reward/NAME` (the value of the reward function with that name), advantage, length, weight, and group,
            counted from 0 in each batch.

    Raises:
        UserError: a prompt is too long and `max_prompt_overflow` isn't set, or a reward function can't be called as
            TRL calls it.
        ValueError: a setting contradicts the objective or another setting.
    """

    args: LambdaGRPOConfig
    mask_truncated_completions: bool
    # for the model card; by default from the data set's own information
    data_description: dict[str, Any] | None = None
    hub_data_sets: list[str] | None = None
    recorder: RunRecorder | None = None

    def __init__(
        self,
        *args: Any,
        on_samples: Callable[[dict[str, list[Any]]], None] | None = None,
        **kwargs: Any,
    ):
        signature = inspect.signature(GRPOTrainer.__init__).bind(self, *args, **kwargs)
        given = signature.arguments.get("args")
        config = lambda_config(given, signature.arguments["model"])
        self.objective = config.resolve_objective()
        self.trl_loss = trl_loss(self.objective)
        if not self.trl_loss.has_surrogate:
            check_nothing_weighs_tokens(config, self.objective.name)
        self.lambda_state = config.make_lambda_state(config.num_generations)
        self.run_directory = Path(config.output_dir)
        self.run_details: dict[str, Any] = {}  # further entries of run.json
        self.loaded_step: int | None = None  # the policy's step, if it isn't the one that training has reached
        self.examples: list[dict[str, Any]] = []  # this rank's data set examples, one for each sample of the batch
        self._scored: ScoredSamples | None = None  # a batch that is drawn and scored before TRL's method runs
        self._token_values: tuple[Tensor, Tensor] | None = None  # log-probabilities and entropies of the last pass

        trl_config = config_for_trl(config, self.trl_loss)
        signature.arguments["args"] = trl_config
        super().__init__(*signature.args[1:], **signature.kwargs)
        hold_parts(self, super()._tokenize_prompts)
        restore(self.args, config, given)
        for callback in (LambdaStep(self), self.token_budget, WarnOfNoSignal(), LogWeights(self)):
            self.add_callback(callback)
        self._on_samples = on_samples
        if config.save_run_records:
            self.recorder = recorder_of(self, on_samples)
            self.add_callback(self.recorder)
            self._on_samples = self.recorder.record_samples

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    @property
    def _micro_batches(self) -> int:
        """Micro-batches per optimiser step."""
        return self.current_gradient_accumulation_steps if self._mode == "train" else 1

    @property
    def policy_step(self) -> int:
        """The step at which the policy was saved or reached: that of the best checkpoint if it was loaded."""
        return self.state.global_step if self.loaded_step is None else self.loaded_step

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """TRL's, also for a data set passed to `evaluate`, and for any `per_device_eval_batch_size`."""
        self.args.fit_eval_batch()
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self.prompt_limit.fitting(eval_dataset, "evaluation")
        return super().get_eval_dataloader(eval_dataset)

    # -- 1. a generated batch ----------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        draws = self.model.training and self.rollouts is not None
        batch = self.rollouts.draw(inputs) if draws else None
        self.examples = inputs if batch is None else batch.examples
        output = self._assemble(batch)
        size = self.num_generations if self.model.training else self.num_generations_eval
        metrics, log = self._metrics[self._mode], self._logs["advantages"]
        self.advantages.set_equal_groups_to_zero(output, self._rewards_per_func, size, metrics, log)
        if batch is not None:
            self.rollouts.log(batch, self.state)
        if self.model.training and self.objective.rollouts.filters_samples:
            self.advantages.keep_selected(output, self._rewards_per_func, size, metrics, log)
        if self.objective.advantage_min is not None:
            output["advantages"] = output["advantages"].clamp(min=self.objective.advantage_min)
        output["has_no_advantage"] = output["advantages"] == 0  # (B,)
        generated = self.fold.begin(self._mode, self._gather_batch(output))
        local = len(self._token_mask)
        output["sample_index"] = torch.arange(local) + self.accelerator.process_index * local  # (B,) into that batch
        if self._on_samples is not None and self.model.training:
            self._report_samples(generated)
        return output

    def _assemble(self, batch: ScoredSamples | None) -> dict[str, Any]:
        """TRL's output for `self.examples`, with the sampler's log-probabilities and entropies.

        batch: samples that are already drawn and scored; None to let TRL's methods do both.
        """
        calculate = self._calculate_rewards  # a subclass's, or an instance's

        def calculated(*arguments: Any) -> Tensor:
            self._rewards_per_func = calculate(*arguments) if batch is None else batch.rewards
            return self._rewards_per_func

        masks_truncated = self.mask_truncated_completions
        if batch is not None:
            self._pending_extra_logs.update(batch.logged)
        self.fast_generation.await_old_logps(self._samples_are_old)
        masks = masks_truncated and self.stop_ends is None
        with replaced(self, _scored=batch, _calculate_rewards=calculated, mask_truncated_completions=masks):
            output: dict[str, Any] = super()._generate_and_score_completions(self.examples)
        if masks_truncated and self.stop_ends is not None:
            self.stop_ends.mask_truncated(output)
        self.fast_generation.add_known(output)
        return output

    def _generate(self, prompts: list[Any]) -> Any:
        if self._scored is not None:
            output = self._scored.generated
        else:
            output = super()._generate(prompts)
            if self.stop_ends is not None:
                self.stop_ends.log(self._metrics[self._mode], *output[1:3])
        completion_ids, tool_mask = output[1], output[2]
        # Before padding, and before truncation masking empties the mask. A tool's output isn't the policy's.
        self._token_mask = [[1] * len(ids) for ids in completion_ids] if tool_mask is None else tool_mask
        if self._scored is None and self.model.training:
            count_sampled(self.state, self.accelerator, self._token_mask, self._metrics["train"])
        return output

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        prompt_ids, images, fields = super()._tokenize_prompts(prompts)
        if not images and not fields:
            is_stream = isinstance(self.train_dataset, IterableDataset)
            metrics = self._metrics[self._mode]
            prompt_ids = self.prompt_limit.limited(prompts, prompt_ids, metrics, is_stream=is_stream)
        return prompt_ids, images, fields

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> Any:
        if not multimodal_fields:
            completions = self.fast_generation.sample(self.model_wrapped, prompt_ids)
            if completions is not None:
                return completions, None
        arguments = (prompt_ids, images, multimodal_fields, num_generations, has_tool_images)
        if self.stop_ends is None or self.use_vllm:
            return super()._generate_single_turn(*arguments)
        with self.stop_ends.stopping(self.accelerator.unwrap_model(self.model_wrapped)):
            completions, logprobs = super()._generate_single_turn(*arguments)
        return self.stop_ends.truncate(completions), logprobs

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **inputs: Any,
    ) -> Any:
        arguments = (model, input_ids, attention_mask, logits_to_keep)
        has_more = compute_aux_loss or any(value is not None for value in inputs.values())  # images, experts
        known = self.fast_generation.old_logps(*arguments[1:])
        packed = (known, None) if known is not None else None
        if packed is None and not has_more:
            packed = self.packer.logps_and_entropies(*arguments, batch_size=batch_size, compute_entropy=compute_entropy)
        if packed is not None:
            output: Any = (*packed, None)
        else:
            output = super()._get_per_token_logps_and_entropies(
                *arguments, batch_size, compute_entropy, compute_aux_loss, **inputs
            )
        self._token_values = output[:2]
        return output

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        with checked(self, list(inputs[0]), len(prompts)):
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return self.reward_table.without_penalty_alone(rewards)

    def _gather_batch(self, output: dict[str, Any]) -> GeneratedBatch:
        size = self.num_generations if self.model.training else self.num_generations_eval
        needs = self.objective.preference.needs
        return gather_batch(self.accelerator, output, self._token_mask, size, needs, self._entropies)

    @torch.no_grad()
    def _entropies(self, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int) -> Tensor:
        """(B, T) entropies of the policy that sampled."""
        train, evaluation = self.args.per_device_train_batch_size, self.args.per_device_eval_batch_size
        size = train if self.model.training else evaluation
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            return self._get_per_token_logps_and_entropies(
                self.model, input_ids, attention_mask, logits_to_keep, batch_size=size, compute_entropy=True
            )[1]

    def _report_samples(self, batch: GeneratedBatch) -> None:
        answers = gather_object([example.get("answer") for example in self.examples])
        if self.recorder is not None:
            self.recorder.record_tokens()  # of the batch before
        if self.accelerator.is_main_process and self._on_samples is not None:
            weights = batch.mean_weights(self.fold.weights(batch)).tolist()
            self._on_samples(sample_columns(batch, weights, answers, self._logs, self.reward_table))

    # -- 2. the loss -------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        # A copy: TRL uses the buffered inputs again when num_iterations > 1.
        is_trls = self.trl_loss.has_surrogate
        folded = (
            self.fold.advantages(inputs, self._mode, self._micro_batches)
            if is_trls
            else torch.zeros_like(inputs["advantages"])
        )
        with self.packer.skipping(inputs):
            loss = super()._compute_loss(model, {**inputs, "advantages": folded})
        assert self._token_values is not None  # TRL's loss has just computed them
        (logps, entropies), self._token_values = self._token_values, None  # their graph isn't kept
        if self.recorder is not None and self._mode == "train":
            self.recorder.observe(self.fold.batches["train"], inputs, logps, entropies)
        if is_trls:
            return loss
        own_loss, metrics = self.fold.policy_loss(inputs, logps, self._mode, self._micro_batches)
        self.fold.log_policy_loss(self._metrics[self._mode], own_loss, metrics, self._micro_batches)
        return loss + own_loss.to(loss.dtype)

    # -- 3. the optimiser's step: `LambdaStep` calls these ----------------------------------------------------------

    def _measure_lambda(self) -> None:
        self.fold.measure(self._metrics["train"])

    def _step_lambda(self) -> None:
        self.fold.step()

    # -- 4. saving and resuming --------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's, after the checks of `Resumption.begin`, which may raise UserError.

        A checkpoint at which `max_generated_tokens` had been reached is loaded, and trained no further.
        """
        checkpoint = self.resumption.begin(resume_from_checkpoint)
        if not self.token_budget.is_spent(checkpoint):
            return super().train(checkpoint, *args, **kwargs)
        load_ended(self, Path(checkpoint))
        return TrainOutput(self.state.global_step, 0.0, {})

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        folder = output_dir or self.args.output_dir
        self._save_beside(folder)
        is_final = Path(folder).resolve() == self.run_directory.resolve()
        if is_final and self.recorder is not None and self.args.should_save:
            self.recorder.record_model(self.policy_step)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save and self.fresh_prompts is not None:
            self.fresh_prompts.save(output_dir)
        self.resumption.save_batch(output_dir, self._step, self._buffered_inputs, self.fold.batches)
        self._save_beside(output_dir)  # FSDP's sharded checkpoints don't pass through _save

    def _save_beside(self, output_dir: str) -> None:
        if self.args.should_save:  # some engines save on every rank
            lambda_state = self.lambda_state if self.objective.preference.learnable else None
            save_beside(output_dir, card_facts(self), self.objective.name, lambda_state)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Write the model card into the output directory, as TRL does with each checkpoint."""
        if self.is_world_process_zero():
            datasets, tags = [dataset_name] if dataset_name else None, [tags] if isinstance(tags, str) else tags
            write_card(Path(self.args.output_dir, CARD_FILE), card_facts(self, model_name, datasets, tags))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        with hub_folder(self.args) as folder:
            if self.is_world_process_zero():
                copy_beside(checkpoint_folder, folder)
            super()._push_from_checkpoint(checkpoint_folder)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's. λ and the model card are pushed with the policy; the rest of the output directory isn't."""
        with hub_folder(self.args):
            return super().push_to_hub(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        if self.fresh_prompts is not None:
            self.fresh_prompts.load(checkpoint, is_optional=self.args.resume_without_optimizer)
        self.resumption.continue_schedule(self.lr_scheduler, self.optimizer, self.state.global_step)
        self._step = self.resumption.micro_steps(Path(checkpoint))
        self._buffered_inputs = None  # TRL generates where there are none
        if (saved := self.resumption.take_batch()) is not None:
            self._step, self._buffered_inputs, self.fold.batches["train"] = saved
        self._load_lambda(checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_lambda(self.state.best_model_checkpoint)
        self.loaded_step = self.state.best_global_step

    def _load_lambda(self, checkpoint: str) -> None:
        if self.objective.preference.learnable:
            load_lambda(checkpoint, self.objective.name, self.lambda_state)
            self.fold.restart_lambda()
