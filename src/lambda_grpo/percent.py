"""Shares as a reader sees them."""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: float) -> str:
    """0.5625 is "56.2 %"."""
    return f"{100 * share:.1f} %"


def percent_range(ends: Sequence[float]) -> str:
    """An interval of shares: "53.1 – 59.2 %"."""
    low, high = ends
    return f"{100 * low:.1f} – {100 * high:.1f} %"
