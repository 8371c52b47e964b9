"""λ during a run: a value outside the model, with its own optimiser.

It is kept on the CPU in float64 and is never part of the policy's optimiser, state dict or weight sync. Its exact
gradient is passed in as a number, already reduced over micro-batches and ranks. For an objective with several λ
(DARO's, one per pass rate) each of these numbers is a list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lambda_grpo.suggestions import did_you_mean

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


class LambdaState:
    """The learnable λ.

    Args:
        init: starting value, or several.
        lr: learning rate; 0 freezes λ.
        optimizer: "sgd" (no momentum) or "adam", both without weight decay.
        bounds: λ is clamped to [low, high] after each step.
        schedule: the factor of the learning rate in step n, counted from 0; steps without a gradient count, too.

    Raises:
        ValueError: the optimiser is unknown, lr is negative, or init isn't inside the bounds.
    """

    def __init__(
        self,
        init: float | Sequence[float] = 0.0,
        lr: float = 0.1,
        optimizer: str = "sgd",
        *,
        bounds: tuple[float, float] = (-10.0, 10.0),
        schedule: Callable[[int], float] = lambda step: 1.0,
    ):
        if optimizer not in OPTIMIZERS:
            meant = did_you_mean(str(optimizer), OPTIMIZERS)
            raise ValueError(f"unknown optimizer {optimizer!r} for λ{meant}: use one of {', '.join(OPTIMIZERS)}")
        if not (math.isfinite(lr) and lr >= 0):
            raise ValueError(f"the learning rate of λ must be at least 0, got {lr}")
        low, high = bounds
        start = torch.tensor(init, dtype=torch.float64)
        if not (math.isfinite(low) and math.isfinite(high) and ((start >= low) & (start <= high)).all()):
            raise ValueError(f"λ must start inside its bounds: {init} isn't in [{low}, {high}]")
        self.bounds = (float(low), float(high))
        self.optimizer = optimizer
        self._parameter = torch.nn.Parameter(start)
        self._optimizer = OPTIMIZERS[optimizer]([self._parameter], lr=lr, weight_decay=0.0)
        self._base_lr, self._steps, self.schedule = lr, 0, schedule

    @property
    def value(self) -> Any:
        """λ now: a float, or a list of them."""
        return self._parameter.tolist()

    def leaf(self, *, requires_grad: bool = True) -> torch.Tensor:
        """λ now as a new float64 leaf, which a loss can be differentiated by."""
        return self._parameter.detach().clone().requires_grad_(requires_grad)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self._base_lr * self.schedule(self._steps)

    def step(self, grad: float | Sequence[float] | torch.Tensor) -> None:
        """Take one optimiser step with dL/dλ. A gradient of exactly 0 changes neither λ nor the optimiser's moments.

        Raises:
            ValueError: the gradient isn't finite, or not of λ's shape; λ is unchanged.
        """
        grad = torch.as_tensor(grad, dtype=torch.float64).detach().cpu()
        if grad.shape != self._parameter.shape:
            raise ValueError(f"the gradient of λ must have shape {tuple(self._parameter.shape)}, got {grad.tolist()}")
        if not grad.isfinite().all():
            raise ValueError(f"the gradient of λ is {grad.tolist()}: the loss it came from isn't finite")
        if (grad != 0.0).any():
            self._parameter.grad = grad.clone()
            self._optimizer.param_groups[0]["lr"] = self.lr
            self._optimizer.step()
            with torch.no_grad():
                self._parameter.clamp_(*self.bounds)
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Value and optimiser state as plain numbers, which JSON stores exactly."""
        moments = self._optimizer.state_dict()["state"].get(0, {})
        return {
            "value": self.value,
            "optimizer": self.optimizer,
            "steps": self._steps,
            "moments": {
                k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in moments.items() if v is not None
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`. Learning rate, schedule and bounds stay those of this object.

        Raises:
            ValueError: the state comes from another optimiser, or another number of λ.
        """
        if state["optimizer"] != self.optimizer:
            raise ValueError(f"λ was saved with optimizer {state['optimizer']!r}, not {self.optimizer!r}")
        value = torch.tensor(state["value"], dtype=torch.float64)
        if value.shape != self._parameter.shape:
            raise ValueError(f"λ was saved as {state['value']}, its shape here is {tuple(self._parameter.shape)}")
        with torch.no_grad():
            self._parameter.copy_(value).clamp_(*self.bounds)
        self._optimizer.state.clear()
        self._steps = state["steps"]
        if state["moments"]:
            self._optimizer.state[self._parameter] = {
                # Adam keeps its step count in float32 by default
                k: torch.tensor(v, dtype=torch.float32 if k == "step" else torch.float64)
                for k, v in state["moments"].items()
            }
