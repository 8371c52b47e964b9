"""What is saved with a model beside its weights: λ, the model card, and in the run's records of which step it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from lambda_grpo.objective import Objective
from lambda_grpo.objective.lambda_file import LAMBDA_STATE_FILE, load_lambda, save_lambda
from lambda_grpo.objective.lambda_state import LambdaState
from lambda_grpo.runs.model_card import CARD_FILE, write_card
from lambda_grpo.trl.card import card_facts
from lambda_grpo.trl.records import RunRecorder
from lambda_grpo.trl.resume import ResumeTrainer

HUB_FOLDER = "hub"


class CheckpointTrainer(ResumeTrainer):
    """`trl.GRPOTrainer` that saves λ with each model, pushes it with the weights, and restores it with them."""

    objective: Objective
    lambda_state: LambdaState
    _lambda: Tensor
    # for the model card: by default what the data set tells of itself
    data_description: dict[str, Any] | None = None
    hub_data_sets: list[str] | None = None
    recorder: RunRecorder | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.run_directory = Path(self.args.output_dir)
        self.run_details: dict[str, Any] = {}  # what run.json holds beside what the trainer knows
        self.loaded_step: int | None = None  # where the policy is of another step than training has reached

    def _fresh_lambda(self) -> Tensor:
        return self.lambda_state.leaf(requires_grad=self.objective.preference.learnable)

    @property
    def policy_step(self) -> int:
        """The step that the policy is of: the best one's where that was loaded."""
        return self.state.global_step if self.loaded_step is None else self.loaded_step

    # -- saving ------------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        folder = output_dir or self.args.output_dir
        self._save_beside(folder)
        is_final = Path(folder).resolve() == self.run_directory.resolve()
        if is_final and self.recorder is not None and self.args.should_save:
            self.recorder.record_model(self.policy_step)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        self._save_beside(output_dir)  # FSDP's sharded checkpoints don't pass through _save

    def _save_beside(self, output_dir: str) -> None:
        if not self.args.should_save:  # some engines save on every rank
            return
        write_card(Path(output_dir, CARD_FILE), card_facts(self))
        if self.objective.preference.learnable:
            save_lambda(output_dir, self.objective.name, self.lambda_state)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Write the model card into the output directory, as TRL does with each checkpoint."""
        if self.is_world_process_zero():
            datasets, tags = [dataset_name] if dataset_name else None, [tags] if isinstance(tags, str) else tags
            write_card(Path(self.args.output_dir, CARD_FILE), card_facts(self, model_name, datasets, tags))

    # -- pushing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _hub_folder(self) -> Iterator[Path]:
        """Let what is pushed lie in a folder of its own.

        The Trainer's methods upload all of the output directory, whose samples and metrics aren't for the hub.
        """
        directory = self.args.output_dir
        folder = Path(directory, HUB_FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        self.args.output_dir = str(folder)  # where the Trainer's two methods look
        try:
            yield folder
        finally:
            self.args.output_dir = directory

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        with self._hub_folder() as folder:
            if self.is_world_process_zero():
                for name in (CARD_FILE, LAMBDA_STATE_FILE):  # the Trainer copies the files that it knows
                    if Path(checkpoint_folder, name).exists():
                        shutil.copy(Path(checkpoint_folder, name), folder / name)
            super()._push_from_checkpoint(checkpoint_folder)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's. λ and the model card go with the policy; the rest of the output directory stays."""
        with self._hub_folder():
            return super().push_to_hub(*args, **kwargs)

    # -- restoring ---------------------------------------------------------------------------------------------------

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._load_lambda(checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_lambda(self.state.best_model_checkpoint)
        self.loaded_step = self.state.best_global_step

    def load_trained(self, checkpoint: Path, policy: Path) -> None:
        """Be as after a training that ended at a checkpoint.

        Args:
            policy: the checkpoint whose policy and λ are taken: an earlier one where that is the best.
        """
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self.state.is_world_process_zero = self.is_world_process_zero()
        self._load_from_checkpoint(str(policy))
        self._load_lambda(str(policy))
        self.loaded_step = int(policy.name.removeprefix("checkpoint-"))

    def _load_lambda(self, checkpoint: str) -> None:
        if not self.objective.preference.learnable:
            return
        load_lambda(checkpoint, self.objective.name, self.lambda_state)
        self._lambda = self._fresh_lambda()
