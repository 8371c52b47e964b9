"""What a run contributes, by hand."""

import numpy as np
import pytest

from lambda_grpo.comparison.measures import _tokens_to, share_by_length_quartile


def test_shares_of_quarters_by_hand():
    """Lengths 1 to 8: two in each quarter."""
    lengths, mass = np.arange(1, 9), np.array([1.0, 1.0, 0.0, 2.0, 3.0, 0.0, 0.0, 1.0])
    assert share_by_length_quartile(lengths, mass) == pytest.approx([2 / 8, 2 / 8, 3 / 8, 1 / 8])
    assert share_by_length_quartile(lengths, 0 * mass) is None
    assert share_by_length_quartile(np.full(8, 5), mass) == pytest.approx([1, 0, 0, 0])  # equal lengths stay together


def test_tokens_to_the_target_by_hand():
    """Two samples a generation; a mean of five generations of 0.9 is first reached at the eighth."""
    rights = [0, 1, 1, 2, 2, 2, 2, 2, 2]
    accuracy = [(step, right / 2) for step, right in enumerate(rights, start=1)]
    curve = {"step": list(range(1, 10)), "tokens": [100 * step for step in range(1, 10)]}
    assert _tokens_to(0.9, accuracy, curve) == 700
    assert _tokens_to(0.95, accuracy, curve) == 800
    assert _tokens_to(1.1, accuracy, curve) is None
    # a generation for every second step, and a log at every third
    curve = {"step": [3, 6, 9, 12, 15, 18], "tokens": [300, 600, 900, 1200, 1500, 1800]}
    assert _tokens_to(0.9, [(2 * step - 1, share) for step, share in accuracy], curve) == 1500
