"""Prompts that are too long: refused, dropped from the data, or cut on the left."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from trl.data_utils import is_conversational

from lambda_grpo.errors import UserError
from lambda_grpo.trl.sampling import SamplingTrainer

logger = logging.getLogger(__name__)

CHUNK = 1000  # prompts that are tokenised at a time


class PromptTrainer(SamplingTrainer):
    """`trl.GRPOTrainer` with `max_prompt_length` and `max_prompt_overflow`.

    A prompt may have `max_prompt_length` tokens, the chat template's included, and without tools as many as the model's
    positions leave beside `max_completion_length`. A data set is looked through before the run, a stream as it is read.
    Rows of images, of environments and for a `rollout_func` are left alone: TRL makes their prompts later.

    Attributes:
        max_prompt_tokens: what holds of the two; None where there is no limit.

    Raises:
        UserError: a prompt is longer, and `max_prompt_overflow` doesn't say what to do; or what is left doesn't fill a
            batch.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.eval_dataset: Any
        self.max_prompt_tokens = self._limit()
        self._dropped = 0  # from a stream, so far
        self.train_dataset: Any = self._fitting(self.train_dataset, "training")
        if isinstance(self.eval_dataset, dict):
            self.eval_dataset = {
                name: self._fitting(data, f"evaluation ({name})") for name, data in self.eval_dataset.items()
            }
        elif self.eval_dataset is not None:
            self.eval_dataset = self._fitting(self.eval_dataset, "evaluation")

    def _limit(self) -> int | None:
        config = self.accelerator.unwrap_model(self.model).config.get_text_config()
        contexts = {
            "positions": getattr(config, "max_position_embeddings", None),
            "vllm_max_model_length": self.args.vllm_max_model_length if self.use_vllm else None,
        }
        known = [length for length in contexts.values() if length is not None and length > 0]
        limits = [] if self.args.max_prompt_length is None else [self.args.max_prompt_length]
        if known and not self.tools:  # their schemas are long: TRL goes on beyond the positions
            room = min(known) - self.max_completion_length
            if room < 1:
                raise UserError(
                    f"max_completion_length {self.max_completion_length} leaves no room for a prompt in the model's "
                    f"{min(known)} positions: lower it"
                )
            limits.append(room)
        return min(limits, default=None)

    # -- before the run ----------------------------------------------------------------------------------------------

    def _fitting(self, dataset: Any, name: str) -> Any:
        """The rows of a data set that are to be trained or evaluated on."""
        row = next(iter(dataset), None)
        if row is None or self.max_prompt_tokens is None:
            return dataset
        if self.rollout_func or self.environment_factories or "prompt" not in row or {"image", "images"} & {*row}:
            if self.args.max_prompt_length is not None:
                raise UserError(
                    "max_prompt_length is for prompts of text: leave it out with images, environments or a rollout_func"
                )
            return dataset
        if is_conversational({"prompt": row["prompt"]}) and not (self.chat_template or self._tokenizer.chat_template):
            return dataset  # TRL says so
        if isinstance(dataset, IterableDataset):
            return dataset.filter(self._keep) if self.args.prompt_overflow == "drop" else dataset
        too_long = dict(self._too_long(dataset))
        if not too_long:
            return dataset
        index, length = max(too_long.items(), key=lambda item: item[1])
        if self.args.prompt_overflow is None:
            raise UserError(f"row {index} of the {name} data: {self._complaint(dataset[index]['prompt'], length)}")
        if self.accelerator.is_main_process:
            logger.warning(
                "%d of %d prompts of the %s data have more than %d tokens (the longest one %d) and are %s",
                *(len(too_long), len(dataset), name, self.max_prompt_tokens, length),
                "dropped" if self.args.prompt_overflow == "drop" else "cut on the left",
            )
        if self.args.prompt_overflow != "drop":
            return dataset
        kept = dataset.select([i for i in range(len(dataset)) if i not in too_long])
        prompts = self.args.generation_batch_size // self.num_generations
        if len(kept) < (prompts if name == "training" else 1):
            raise UserError(
                f"{len(kept)} of {len(dataset)} prompts of the {name} data have at most {self.max_prompt_tokens} "
                f"tokens, too few for a batch: raise max_prompt_length, or set max_prompt_overflow to truncate_left"
            )
        return kept

    def _too_long(self, dataset: Dataset) -> Iterator[tuple[int, int]]:
        """(row, tokens) of each prompt that is."""
        assert self.max_prompt_tokens is not None
        # other columns may be images, but a transform may need them
        rows = dataset if dataset.format["type"] == "custom" else dataset.select_columns(["prompt"])
        overhead = len(self._ids([rows[0]["prompt"]])[0]) + 16  # what the chat template adds, at most
        for start in range(0, len(rows), CHUNK):
            prompts = list(rows[start : start + CHUNK]["prompt"])
            # a token has a byte or more
            doubtful = [i for i, one in enumerate(prompts) if _bytes(one) + overhead > self.max_prompt_tokens]
            for i, ids in zip(doubtful, self._ids([prompts[i] for i in doubtful]), strict=True):
                if len(ids) > self.max_prompt_tokens:
                    yield start + i, len(ids)

    def _ids(self, prompts: list[Any]) -> list[list[int]]:
        if not prompts:
            return []
        ids: list[list[int]] = super()._tokenize_prompts(prompts)[0]
        return ids

    def _keep(self, example: dict[str, Any]) -> bool:
        assert self.max_prompt_tokens is not None
        fits = len(self._ids([example["prompt"]])[0]) <= self.max_prompt_tokens
        self._dropped += not fits
        return fits

    def _complaint(self, prompt: Any, length: int) -> str:
        text = prompt if isinstance(prompt, str) else str(prompt[-1].get("content"))
        beside = "" if self.max_prompt_tokens == self.args.max_prompt_length else " beside max_completion_length"
        return (
            f"the prompt {text[:60]!r} has {length} tokens, there is room for {self.max_prompt_tokens}{beside}. Set "
            "max_prompt_overflow to drop or truncate_left, or leave it out"
        )

    # -- in the run --------------------------------------------------------------------------------------------------

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As TRL's, of a data set that `evaluate` is given, too, and for any `per_device_eval_batch_size`."""
        self.args.fit_eval_batch()
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._fitting(eval_dataset, "evaluation")
        return super().get_eval_dataloader(eval_dataset)

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        prompt_ids, images, fields = super()._tokenize_prompts(prompts)
        limit, cuts = self.max_prompt_tokens, self.args.prompt_overflow == "truncate_left"
        if limit is None or images or fields:
            return prompt_ids, images, fields
        is_too_long = [len(ids) > limit for ids in prompt_ids]
        if any(is_too_long) and not cuts:  # of a stream, or of an environment
            index = is_too_long.index(True)
            raise UserError(self._complaint(prompts[index], len(prompt_ids[index])))
        metrics = self._metrics["train" if self.model.training else "eval"]
        if cuts:
            share = self.accelerator.gather(torch.tensor(is_too_long, device=self.accelerator.device).float()).mean()
            metrics["prompts/truncated_ratio"].append(share.item())
        elif isinstance(self.train_dataset, IterableDataset) and self.args.prompt_overflow == "drop":
            metrics["prompts/dropped"].append(self._dropped)
        return [ids[-limit:] for ids in prompt_ids], images, fields


def _bytes(prompt: Any) -> int:
    """How many bytes a prompt's text has."""
    if isinstance(prompt, str):
        return len(prompt.encode())
    return sum(len(str(message.get("content")).encode()) + 16 for message in prompt)
