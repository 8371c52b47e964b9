"""A batch of completions as one packed sequence: every prompt once, then the completions, prompt by prompt.

    prompts      a b c | d e |        without their last tokens
    segments     c' x y | c' u v w | e' s        (prompts abcc', dee'; completions xyz, uvwx, st)

A segment is the prompt's last token followed by the completion without its last token, so that each token of a segment
predicts the next token of the completion. It attends to its prompt and, causally, to its own segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SEGMENT_BLOCKS = 4  # segments of similar lengths form a block; more blocks need less padding, but more calls


@dataclass(frozen=True)
class AttentionBlock:
    """Queries and keys of one call of attention, as indices into the packed sequence of T tokens.

    queries: (B, Q), keys: (B, K), padded on the right with T.
    key_bias: (B, 1, 1, K), −∞ for padding and 0 elsewhere; None if the block is causal or its keys need no padding.
    """

    queries: Tensor
    keys: Tensor
    is_causal: bool
    key_bias: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """A batch as one packed sequence of T tokens: U prompts, then B segments with S tokens in total.

    ids, positions: (1, T).
    labels: (1, S) the token that each token of the segments predicts.
    sample_index, token_index: (S,) which completion of the batch, and which of its tokens, each label is.
    prompt_starts, prompt_lengths: (U,) where each prompt without its last token is in the packed sequence.
    segment_starts, segment_lengths: (B,) likewise for the segments, prompt by prompt.
    segment_counts: (U,) number of segments of each prompt.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    sample_index: Tensor
    token_index: Tensor
    prompt_starts: Tensor
    prompt_lengths: Tensor
    segment_starts: Tensor
    segment_lengths: Tensor
    segment_counts: Tensor

    @property
    def length(self) -> int:
        """T."""
        return self.ids.size(1)

    @property
    def prompt_length(self) -> int:
        """T − S: number of tokens before the first segment."""
        return self.length - len(self.sample_index)

    @cached_property
    def self_blocks(self) -> list[AttentionBlock]:
        """Causal blocks in which prompts and segments attend to themselves: each token is a query in one of them."""
        by_length = self.segment_lengths.argsort(stable=True)
        groups = [(self.segment_starts[g], self.segment_lengths[g]) for g in by_length.chunk(SEGMENT_BLOCKS)]
        has_body = self.prompt_lengths > 0
        if has_body.any():
            groups.insert(0, (self.prompt_starts[has_body], self.prompt_lengths[has_body]))
        indices = [_token_indices(starts, lengths, self.length) for starts, lengths in groups]
        return [AttentionBlock(tokens, tokens, is_causal=True) for tokens in indices]

    @cached_property
    def prompt_block(self) -> AttentionBlock | None:
        """The block in which segments attend to their prompts; None if all prompts have a single token."""
        has_body = self.prompt_lengths > 0
        if not has_body.any():
            return None
        prompts = torch.arange(len(has_body), device=has_body.device).repeat_interleave(self.segment_counts)
        of_prompt = torch.zeros_like(self.prompt_lengths).index_add(0, prompts, self.segment_lengths)
        starts = self.prompt_length + of_prompt.cumsum(0) - of_prompt
        queries = _token_indices(starts[has_body], of_prompt[has_body], self.length)
        keys = _token_indices(self.prompt_starts[has_body], self.prompt_lengths[has_body], self.length)
        is_padding = keys == self.length
        bias = torch.zeros(keys.shape, device=keys.device).masked_fill(is_padding, -torch.inf)[:, None, None]
        return AttentionBlock(queries, keys, is_causal=False, key_bias=bias if is_padding.any() else None)


def pack(prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor) -> Layout:
    """Pack a padded batch.

    Args:
        prompt_ids, prompt_mask: (B, P), padded on the left, each at least one token long.
        completion_ids, completion_mask: (B, C), padded on the right. Empty completions are left out.
    """
    device = prompt_ids.device
    prompt_ids = prompt_ids.masked_fill(prompt_mask == 0, -1)  # padding tokens may differ
    lengths = completion_mask.sum(1)
    kept = lengths.nonzero()[:, 0]
    prompts, prompt_index = torch.unique(prompt_ids[kept], dim=0, return_inverse=True)
    order = kept[prompt_index.argsort(stable=True)]  # completions of one prompt are adjacent
    prompt_index, lengths = prompt_index.sort(stable=True).values, lengths[order]

    is_token = prompts >= 0
    body_lengths = is_token.sum(1) - 1  # without the last token
    is_body = is_token.clone()
    is_body[:, -1] = False
    segments = torch.cat([prompts[prompt_index, -1:], completion_ids[order, :-1]], 1)
    within = torch.arange(segments.size(1), device=device)
    is_segment = within < lengths[:, None]

    body_positions = (is_token.long().cumsum(1) - 1)[is_body]
    segment_positions = (body_lengths[prompt_index, None] + within)[is_segment]
    return Layout(
        ids=torch.cat([prompts[is_body], segments[is_segment]])[None],
        positions=torch.cat([body_positions, segment_positions])[None],
        labels=completion_ids[order][is_segment][None],
        sample_index=order[:, None].expand_as(segments)[is_segment],
        token_index=within.expand_as(segments)[is_segment],
        prompt_starts=body_lengths.cumsum(0) - body_lengths,
        prompt_lengths=body_lengths,
        segment_starts=int(body_lengths.sum()) + lengths.cumsum(0) - lengths,
        segment_lengths=lengths,
        segment_counts=torch.bincount(prompt_index, minlength=len(prompts)),
    )


def _token_indices(starts: Tensor, lengths: Tensor, padding: int) -> Tensor:
    """(B,), (B,) -> (B, longest) indices of the tokens of each span, padded on the right with `padding`."""
    within = torch.arange(int(lengths.max()), device=starts.device)
    return torch.where(within < lengths[:, None], starts[:, None] + within, padding)
