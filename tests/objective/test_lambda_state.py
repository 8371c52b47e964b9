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
    assert state.state_dict() == {**before, "steps": 2}  # a schedule counts it


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


def linear(steps):
    return lambda step: 1 - step / steps


def test_a_schedule_counts_every_step_also_those_without_a_gradient():
    state = LambdaState(lr=1.0, schedule=linear(4))
    rates = []
    for grad in (1.0, 0.0, 1.0):
        rates.append(state.lr)
        state.step(grad)
    assert rates == [1.0, 0.75, 0.5]
    assert state.value == -1.5


@given(before=GRADS, after=GRADS)
def test_a_schedule_goes_on_where_it_was(before, after):
    whole, half = (LambdaState(optimizer="adam", schedule=linear(50)) for _ in range(2))
    for grad in before:
        whole.step(grad)
        half.step(grad)
    other = LambdaState(optimizer="adam", schedule=linear(50))
    other.load_state_dict(json.loads(json.dumps(half.state_dict())))
    for grad in after:
        whole.step(grad)
        other.step(grad)
    assert other.value == whole.value
    assert other.lr == whole.lr


def test_several_lambda():
    state = LambdaState([0.0, 0.5], lr=1.0, bounds=(-1.0, 1.0))
    state.step([0.25, -3.0])
    assert state.value == [-0.25, 1.0]
    other = LambdaState([0.0, 0.0])
    other.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert other.value == state.value
    with pytest.raises(ValueError, match=r"must have shape \(2,\)"):
        state.step(1.0)
    with pytest.raises(ValueError, match="its shape here is"):
        LambdaState().load_state_dict(state.state_dict())
    with pytest.raises(ValueError, match="inside its bounds"):
        LambdaState([0.0, 20.0])
