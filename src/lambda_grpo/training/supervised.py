"""TRL's SFTTrainer on a packed sequence: no padding, and native layers, as in the packed pass of GRPO.

A packed batch holds what TRL's fused head asks for, so TRL's loss is computed by TRL's own code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import pad

from lambda_grpo.errors import UserError, warn_once
from lambda_grpo.fast import packing
from lambda_grpo.fast.architectures import UnsupportedError

IGNORED = -100  # torch's label of tokens without a loss


def make_sft_trainer(
    model: Any, args: SFTConfig, train_dataset: Any, processing_class: PreTrainedTokenizerBase, **settings: Any
) -> SFTTrainer:
    """TRL's SFTTrainer, whose batches are packed where the model and the device support it.

    On a CPU a model that the packed pass doesn't know is left to TRL's padded batches, with one warning that names the
    cause; on a GPU they are always TRL's.

    Args:
        train_dataset: columns prompt and completion, as TRL reads them.
        settings: further arguments of SFTTrainer.

    Raises:
        UserError: no prompt leaves room for its completion in `max_length` tokens. Where only some don't, TRL leaves
            them out, with a warning.
    """
    trainer = SFTTrainer(
        model=model, args=args, train_dataset=train_dataset, processing_class=processing_class, **settings
    )
    dropped = len(train_dataset) - len(trainer.train_dataset)
    if dropped:
        full = (
            f"{dropped} of {len(train_dataset)} prompts fill the max_length of {args.max_length} tokens by themselves"
        )
        if not len(trainer.train_dataset):
            raise UserError(f"{full}: set it higher")
        warn_once(f"{full}: TRL leaves them out")
    if trainer.accelerator.device.type == "cpu":
        try:
            packing.prepare(trainer.model, native=trainer.accelerator.mixed_precision == "no")
        except UnsupportedError as error:
            warn_once(f"the packed training pass doesn't know {error}. TRL's padded batches take its place")
        else:
            packing.keep_freed_memory()
            trainer.data_collator = PackedCollator()
    return trainer


class PackedCollator:
    """Tokenised prompts and completions -> the inputs of one packed pass.

    An example has input_ids and labels, as TRL prepares them: a prompt, whose labels are IGNORED, and a completion.
    """

    def __call__(self, examples: list[dict[str, list[int]]]) -> dict[str, Any]:
        # at least one token, since the first one is predicted from nothing
        starts = [max(1, sum(label == IGNORED for label in one["labels"])) for one in examples]
        prompts = [one["input_ids"][:start] for one, start in zip(examples, starts, strict=True)]
        completions = [one["input_ids"][start:] for one, start in zip(examples, starts, strict=True)]
        layout = packing.pack(*_padded(prompts, "left"), *_padded(completions, "right"))
        return {
            "input_ids": layout.ids,
            "position_ids": layout.positions,
            # Four dimensions, so that transformers builds no mask; its sum is TRL's number of tokens
            "attention_mask": torch.ones(1, 1, 1, layout.length),
            "labels": layout.labels,  # for the Trainer, which counts them
            "shift_labels": layout.labels,
            "packed_layout": layout,
        }


def _padded(sequences: list[list[int]], side: str) -> tuple[Tensor, Tensor]:
    """(B, longest) ids, and which of them are tokens."""
    ids = [torch.tensor(sequence, dtype=torch.long) for sequence in sequences]
    return pad(ids, 0, side), pad([torch.ones_like(one) for one in ids], 0, side)
