"""One flat row for a batch of completions: every prompt once, then the completions, prompt by prompt.

    prompts      a b c | d e |        without their last tokens
    segments     c' x y | c' u v w | e' s        (prompts abcc', dee'; completions xyz, uvwx, st)

A segment is the prompt's last token and the completion without its own last one: what each of its tokens predicts is
the next one. Its tokens see their prompt and what stands before them in the segment.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    labels: (1, T) what each token predicts, −100 for prompts.
    rows, columns: (S,) of the batch's completions, for the S tokens of the segments, which are the row's last.
    own: the parts in which a token meets its own prompt's or segment's: each token is a query in one of them.
    shared: the part in which segments meet their prompts; None where all prompts have a single token.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    rows: Tensor
    columns: Tensor
    own: list[Part]
    shared: Part | None

    @property
    def length(self) -> int:
        """T."""
        return self.ids.size(1)

    @property
    def prompt_length(self) -> int:
        """Of the row's beginning, which holds prompts."""
        return self.length - len(self.rows)


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

    ids = torch.cat([prompts[is_body], segments[is_segment]])
    body_positions = (is_token.long().cumsum(1) - 1)[is_body]
    segment_positions = (bodies[number, None] + within)[is_segment]
    labels = torch.cat([torch.full_like(prompts[is_body], -100), completion_ids[order][is_segment]])
    rows = order[:, None].expand_as(segments)[is_segment]
    columns = within.expand_as(segments)[is_segment]

    padding = len(ids)
    body_starts, segment_starts = bodies.cumsum(0) - bodies, int(bodies.sum()) + lengths.cumsum(0) - lengths
    with_body = bodies.nonzero()[:, 0]
    own, shared = [], None
    if len(with_body) > 0:
        places = _places(body_starts[with_body], bodies[with_body], padding)
        own.append(Part(places, places, is_causal=True))
        of_prompt = torch.zeros_like(bodies).index_add(0, number, lengths)
        starts = int(bodies.sum()) + of_prompt.cumsum(0) - of_prompt
        queries = _places(starts[with_body], of_prompt[with_body], padding)
        bias = torch.zeros(places.shape, device=device).masked_fill(places == padding, -torch.inf)[:, None, None]
        shared = Part(queries, places, is_causal=False, key_bias=bias if (places == padding).any() else None)
    by_length = lengths.argsort(stable=True)
    for group in by_length.chunk(SEGMENT_GROUPS):
        places = _places(segment_starts[group], lengths[group], padding)
        own.append(Part(places, places, is_causal=True))
    return Layout(
        ids[None], torch.cat([body_positions, segment_positions])[None], labels[None], rows, columns, own, shared
    )


def _places(starts: Tensor, lengths: Tensor, padding: int) -> Tensor:
    """(B,), (B,) -> (B, longest) places of runs in the flat row, `padding` behind their ends."""
    within = torch.arange(int(lengths.max()), device=starts.device)
    return torch.where(within < lengths[:, None], starts[:, None] + within, padding)
