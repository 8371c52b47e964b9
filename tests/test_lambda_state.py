import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lambda_grpo import LambdaState

GRADS = st.lists(st.floats(-100, 100), min_size=1, max_size=20)


@given(GRADS)
def test_sgd_is_the_plain_rule(grads):
    state, value = LambdaState(0.5, lr=0.1), 0.5
    for grad in grads:
        state.step(grad)
        value = min(max(value - 0.1 * grad, -10.0), 10.0)
    assert state.value == pytest.approx(value, abs=1e-12)


@given(GRADS)
def test_adam_is_the_plain_rule(grads):
    state, value, m, v, t = LambdaState(0.5, lr=0.01, optimizer="adam"), 0.5, 0.0, 0.0, 0
    for grad in grads:
        state.step(grad)
        if grad == 0.0:
            continue
        t += 1
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        value -= 0.01 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
    assert state.value == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@given(before=GRADS, after=GRADS)
def test_a_state_that_went_through_json_goes_on_exactly(optimizer, before, after):
    whole, half = LambdaState(0.1, optimizer=optimizer), LambdaState(0.1, optimizer=optimizer)
    for grad in before:
        whole.step(grad)
        half.step(grad)
    restored = LambdaState(optimizer=optimizer)
    restored.load_state_dict(json.loads(json.dumps(half.state_dict())))
    for grad in after:
        whole.step(grad)
        restored.step(torch.tensor(grad, dtype=torch.float64))
    assert restored.value == whole.value


def test_a_gradient_of_zero_leaves_the_optimiser_alone():
    state = LambdaState(optimizer="adam")
    state.step(1.0)
    before = state.state_dict()
    state.step(0.0)
    assert state.state_dict() == before


def test_bounds_hold():
    state = LambdaState(0.0, lr=1.0, bounds=(-0.5, 2.0))
    state.step(-100.0)
    assert state.value == 2.0
    state.step(100.0)
    assert state.value == -0.5


def test_refuses():
    with pytest.raises(ValueError, match="gradient of λ is nan"):
        LambdaState().step(math.nan)
    with pytest.raises(ValueError, match="unknown optimizer 'lion'"):
        LambdaState(optimizer="lion")
    with pytest.raises(ValueError, match="at least 0"):
        LambdaState(lr=-1)
    with pytest.raises(ValueError, match=r"11.0 isn't in \[-10.0, 10.0\]"):
        LambdaState(11.0)
    with pytest.raises(ValueError, match="saved with optimizer 'adam', not 'sgd'"):
        LambdaState().load_state_dict(LambdaState(optimizer="adam").state_dict())
