"""The samples on a page as data for its script, small enough and with texts cut where they are long."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lambda_grpo.formatting import counted

CHARACTERS = 4_000_000  # of prompts and completions on a page
PACKED = 5_000_000  # bytes of packed samples: with its charts a page stays below 6 MB
LONGEST, LARGEST = 120_000, 1_000_000  # characters of one completion, and of a group's
TOKEN_KEYS = ("tokens", "logprobs", "entropies", "weights", "clipped")
MATHS = re.compile(r"\$|\\\(|\\\[|\\boxed\{")


@dataclass(frozen=True)
class SampleViewer:
    """What the page needs for its samples.

    shown, total: numbers of groups. with_tokens: how many of those shown have numbers for single tokens. data: the
    script's data, gzipped and in base64. has_maths: whether any text has formulas.
    """

    shown: int
    total: int
    with_tokens: int
    data: str
    has_maths: bool

    def count(self, noun: str) -> str:
        """How many groups are shown: "All 20 groups", "500 of 1,000 groups"."""
        return f"{'All' if self.shown == self.total else f'{self.shown:,} of'} {counted(self.total, noun)}"


def pack(data: dict[str, Any], total: int) -> SampleViewer:
    """The data of the page's script, of `total` groups: of as many as fit, the first ones."""
    packed = _packed(data)
    while len(packed) > PACKED and (smaller := _smaller(data["groups"], PACKED / len(packed))) is not None:
        data = {**data, "groups": smaller}
        packed = _packed(data)
    groups = data["groups"]
    return SampleViewer(
        shown=len(groups),
        total=total,
        with_tokens=sum(map(_has_tokens, groups)),
        data=packed,
        has_maths=any(MATHS.search(text) for group in groups for text in _texts(group)),
    )


def _packed(data: dict[str, Any]) -> str:
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    # mtime: equal samples give equal pages
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def _smaller(groups: list[dict[str, Any]], share: float) -> list[dict[str, Any]] | None:
    """Groups that take less room: fewer with numbers for single tokens, then fewer; None if nothing is left to drop."""
    numbered = sum(map(_has_tokens, groups))
    if numbered == 0:
        return groups[: max(1, int(share * len(groups)))] if len(groups) > 1 else None
    kept = int(share * numbered / 2)  # the texts remain, so that much more than the surplus has to go
    found = []
    for group in groups:
        if _has_tokens(group):
            kept -= 1
            if kept < 0:
                group = {**group, "samples": [_without_tokens(sample) for sample in group["samples"]]}
        found.append(group)
    return found


def _has_tokens(group: dict[str, Any]) -> bool:
    return any("tokens" in sample for sample in group["samples"])


def _without_tokens(sample: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sample.items() if name not in TOKEN_KEYS}


def size_of(*texts: str) -> int:
    """The bytes of texts, which is about what they take when packed if they can't be compressed."""
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def _texts(group: dict[str, Any]) -> Iterable[str]:
    for value in (group["prompt"], *(sample["text"] for sample in group["samples"])):
        yield value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).replace("\\\\", "\\")


def text_limit(samples: int) -> int:
    """The most characters of each text of a group with so many samples."""
    return min(LONGEST, LARGEST // samples)


def cut(text: str, limit: int) -> str:
    """A text, and how much of it isn't shown."""
    return text if len(text) <= limit else f"{text[:limit]}\n… and {len(text) - limit:,} more characters"


def conversation(text: str, limit: int) -> str | list[dict[str, str]]:
    """A prompt or completion that was recorded as a JSON list of messages, as such; other text as it is.

    limit: the most characters of all messages together.
    """
    messages = _messages(text)
    if messages is None or len(messages) > limit // 100:
        return cut(text, limit)
    each = limit // len(messages)
    return [{"role": cut(str(one["role"]), 100), "content": cut(_content(one), each)} for one in messages]


def _messages(text: str) -> list[dict[str, Any]] | None:
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    is_conversation = isinstance(found, list) and found and all(isinstance(m, dict) and "role" in m for m in found)
    return found if is_conversation else None


def _content(message: dict[str, Any]) -> str:
    """A message's text; its other parts, such as tool calls, as JSON."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(
            part["text"] if isinstance(part, dict) and isinstance(part.get("text"), str) else f"[{json.dumps(part)}]"
            for part in content
        )
    rest = {key: value for key, value in message.items() if key not in ("role", "content") and value}
    texts = [content if isinstance(content, str) else "", json.dumps(rest, ensure_ascii=False) if rest else ""]
    return "\n".join(text for text in texts if text)
