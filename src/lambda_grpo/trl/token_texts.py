"""The text of each token, so that the texts of a completion joined are the decoded completion."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import groupby, pairwise, takewhile
from typing import Any

REPLACEMENT = "\ufffd"  # stands in decoded text for bytes that are no whole character


class TokenTexts:
    """Splits a decoded completion into the texts of its tokens.

    A character that is spread over several tokens is the text of the last of them; the others have "". A special token
    that decoding leaves out has "", or its name where only such tokens follow, like `<|im_end|>` at the end.

    Most completions are the cached texts of their tokens, joined. If not, runs of tokens that hold parts of characters
    are decoded token by token, and if the texts still differ, so is the whole completion.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        ids = range(len(tokenizer))
        # some decoders strip the first token's space, so texts are those behind another token
        self._anchor = next(([one] for one in ids if (text := self._decode([one])).isascii() and text.isalnum()), [])
        self._text, self._first_text = cache(self._after_anchor), cache(lambda token: self._decode([token]))
        self._special_name = cache(self._name_if_special)

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """The text of each token of a completion."""
        ids = list(ids)
        whole = self._decode(ids)
        texts = [*map(self._first_text, ids[:1]), *map(self._text, ids[1:])]
        if "".join(texts) != whole:
            texts = self._by_runs(ids, texts)
        if "".join(texts) != whole:
            texts = self._by_prefix(ids, whole, [])
        for place in reversed(range(len(ids))):
            name = self._special_name(ids[place])
            if name is None:
                break
            texts[place] = name
        return texts

    def _by_runs(self, ids: list[int], texts: list[str]) -> list[str]:
        """The texts of single tokens, corrected in runs of tokens that hold parts of characters."""
        found: list[str] = []
        for is_part, run in groupby(range(len(ids)), lambda place: REPLACEMENT in texts[place]):
            places = list(run)
            if is_part:
                own = [ids[place] for place in places]
                found += self._by_prefix(own, self._decode([*self._anchor, *own]), self._anchor)
            else:
                found += [texts[place] for place in places]
        return found

    def _by_prefix(self, ids: list[int], whole: str, before: list[int]) -> list[str]:
        """Texts by what each further token adds to the beginning of `whole`, the decoded text of `before` and `ids`."""
        ends = [len(self._decode(before))]
        for count in range(1, len(ids)):
            decoded = self._decode([*before, *ids[:count]])
            common = takewhile(lambda pair: pair[0] == pair[1], zip(decoded, whole, strict=False))
            ends.append(max(ends[-1], sum(1 for _ in common)))
        return [whole[start:end] for start, end in pairwise([*ends, len(whole)])]

    def _decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        """As TRL decodes completions."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special)
        return text

    def _after_anchor(self, token: int) -> str:
        return self._decode([*self._anchor, token])[len(self._decode(self._anchor)) :]

    def _name_if_special(self, token: int) -> str | None:
        """The text of a token that decoding leaves out; None for any other one."""
        name = self._decode([token], skip_special=False)
        return name if name and not self._decode([token]) else None
