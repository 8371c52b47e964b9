"""An inspection in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lambda_grpo.formatting import counted, percent

BEYOND = 0.02  # shares that differ by less are called alike


def verdict(found: Mapping[str, Any]) -> list[str]:
    """Sentences, the most important first. found: what `inspect_samples` returns, without its verdict."""
    return [
        sentence
        for sentence in (
            _length_and_reward(found),
            _lambda(found),
            _shares(found),
            _no_signal(found),
            _left_out(found),
        )
        if sentence
    ]


def _length_and_reward(found: Mapping[str, Any]) -> str:
    signal = found["length_and_reward"]
    if signal["groups"] == 0:
        return "No group has both differing rewards and differing lengths: these samples say nothing about length."
    if signal["ci95"] is None:
        return "Only one group has differing rewards and lengths: too few to say anything about length."
    low, high = signal["ci95"]
    figures = f"correlation {signal['correlation']:+.2f} [{low:+.2f}, {high:+.2f}] in {signal['groups']} groups"
    if low > 0:
        better = "score higher" if found["graded"] else "are right more often"
        return f"Longer answers {better} here: a positive λ is supported, {figures}."
    if high < 0:
        better = "score higher" if found["graded"] else "are right more often"
        return f"Shorter answers {better} here: a negative λ is supported, {figures}."
    return f"No evidence for a length preference: {figures}."


def _lambda(found: Mapping[str, Any]) -> str | None:
    learned = found["objectives"].get("lambda_grpo")
    if learned is None or learned["lambda"] is None:
        return None
    steps = counted(found["steps"], "step")
    moved = f"On these samples λ-GRPO's λ would have gone from 0 to {learned['lambda']:+.3f} in {steps}"
    low, high = learned["weight_range"]
    return f"{moved}, with f between {low:.2f} and {high:.2f}."


def _shares(found: Mapping[str, Any]) -> str | None:
    shares = [found["objectives"].get(name, {}).get("share_by_length_quartile") for name in ("grpo", "dapo")]
    if None in shares:
        return None
    grpo, dapo = (quarters[3] for quarters in shares)
    if grpo == dapo == 0:  # the longest length is that of the third quartile, too
        return None
    if abs(grpo - dapo) < BEYOND:
        return f"The longest quarter gets about the same share of the gradient under GRPO and DAPO ({percent(dapo)})."
    return f"The longest quarter gets {percent(grpo)} of the gradient under GRPO, {percent(dapo)} under DAPO."


def _no_signal(found: Mapping[str, Any]) -> str | None:
    groups = found["groups"]
    silent = found["groups_without_signal"]
    if silent == 0:
        return None
    alone = found["groups_of_one"]
    of_one = f", {alone} of them because they have a single sample" if alone else ""
    return f"{silent} of {groups} groups ({percent(silent / groups)}) have no signal: all rewards are equal{of_one}."


def _left_out(found: Mapping[str, Any]) -> str | None:
    counts = [f"{count} {reason}" for reason, count in found["left_out"].items()]
    if found["unscored"]:
        counts.append(f"{found['unscored']} without a reward, which count in lengths only")
    return f"Rows left out or not scored: {', '.join(counts)}." if counts else None
