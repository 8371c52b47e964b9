"""One flat row for a batch of completions: every prompt once, then the completions, prompt by prompt.

    prompts      a b c | d e |        without their last tokens
    segments     c' x y | c' u v w | e' s        (prompts abcc', dee'; completions xyz, uvwx, st)

A segment is the prompt's last token and the completion without its own last one: what each of its tokens predicts is
the next one. Its tokens see their prompt and what stands before them in the segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SEGMENT_GROUPS = 4  # segments of like lengths go together; more groups have less padding, and more calls


@dataclass(frozen=True)
class Part:
    """Queries and keys that one call of attention takes together, as places in the flat row, which is T long.

    queries: (B, Q), keys: (B, K); T stands for padding, on the right.
    key_bias: (B, 1, 1, K) of 0 and −∞ where the keys are padded and not causal.
    """

    queries: Tensor
    keys: Tensor
    is_causal: bool
    key_bias: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """A batch as one flat row of T tokens.

    ids, positions: (1, T).
    labels: (1, S) what each token of the segments predicts.
    rows, columns: (S,) of the batch's completions, for the S tokens of the segments, which are the row's last.
    prompt_starts, prompt_lengths: (U,) in the row, without their last tokens.
    segment_starts, segment_lengths: (B,) in the row, prompt by prompt.
    segment_counts: (U,) of each prompt.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    rows: Tensor
    columns: Tensor
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
        """Of the row's beginning, which holds prompts."""
        return self.length - len(self.rows)

    @cached_property
    def own(self) -> list[Part]:
        """The parts in which a token meets its own prompt's or segment's: each token is a query in one of them."""
        by_length = self.segment_lengths.argsort(stable=True)
        groups = [(self.segment_starts[g], self.segment_lengths[g]) for g in by_length.chunk(SEGMENT_GROUPS)]
        has_body = self.prompt_lengths > 0
        if has_body.any():
            groups.insert(0, (self.prompt_starts[has_body], self.prompt_lengths[has_body]))
        places = [_places(starts, lengths, self.length) for starts, lengths in groups]
        return [Part(part, part, is_causal=True) for part in places]

    @cached_property
    def shared(self) -> Part | None:
        """The part in which segments meet their prompts; None where all prompts have a single token."""
        has_body = self.prompt_lengths > 0
        if not has_body.any():
            return None
        prompts = torch.arange(len(has_body), device=has_body.device).repeat_interleave(self.segment_counts)
        of_prompt = torch.zeros_like(self.prompt_lengths).index_add(0, prompts, self.segment_lengths)
        starts = self.prompt_length + of_prompt.cumsum(0) - of_prompt
        queries = _places(starts[has_body], of_prompt[has_body], self.length)
        keys = _places(self.prompt_starts[has_body], self.prompt_lengths[has_body], self.length)
        is_padding = keys == self.length
        bias = torch.zeros(keys.shape, device=keys.device).masked_fill(is_padding, -torch.inf)[:, None, None]
        return Part(queries, keys, is_causal=False, key_bias=bias if is_padding.any() else None)


def pack(prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor) -> Layout:
    """A padded batch as a flat row.

    Args:
        prompt_ids, prompt_mask: (B, P), padded on the left, each at least one token long.
        completion_ids, completion_mask: (B, C), padded on the right. Rows without a token are left out.
    """
    device = prompt_ids.device
    prompt_ids = prompt_ids.masked_fill(prompt_mask == 0, -1)  # whatever the padding
    lengths = completion_mask.sum(1)
    kept = lengths.nonzero()[:, 0]
    prompts, number = torch.unique(prompt_ids[kept], dim=0, return_inverse=True)
    order = kept[number.argsort(stable=True)]  # rows of one prompt together
    number, lengths = number.sort(stable=True).values, lengths[order]

    is_token = prompts >= 0
    bodies = is_token.sum(1) - 1  # without the last token
    is_body = is_token.clone()
    is_body[:, -1] = False
    segments = torch.cat([prompts[number, -1:], completion_ids[order, :-1]], 1)
    within = torch.arange(segments.size(1), device=device)
    is_segment = within < lengths[:, None]

    body_positions = (is_token.long().cumsum(1) - 1)[is_body]
    segment_positions = (bodies[number, None] + within)[is_segment]
    return Layout(
        ids=torch.cat([prompts[is_body], segments[is_segment]])[None],
        positions=torch.cat([body_positions, segment_positions])[None],
        labels=completion_ids[order][is_segment][None],
        rows=order[:, None].expand_as(segments)[is_segment],
        columns=within.expand_as(segments)[is_segment],
        prompt_starts=bodies.cumsum(0) - bodies,
        prompt_lengths=bodies,
        segment_starts=int(bodies.sum()) + lengths.cumsum(0) - lengths,
        segment_lengths=lengths,
        segment_counts=torch.bincount(number, minlength=len(prompts)),
    )


def _places(starts: Tensor, lengths: Tensor, padding: int) -> Tensor:
    """(B,), (B,) -> (B, longest) places of runs in the flat row, `padding` behind their ends."""
    within = torch.arange(int(lengths.max()), device=starts.device)
    return torch.where(within < lengths[:, None], starts[:, None] + within, padding)
