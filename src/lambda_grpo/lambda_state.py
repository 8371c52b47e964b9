"""λ as a run holds it: a value outside the model, with an optimiser of its own.

It is kept on the host in float64 and never enters the policy's optimiser, state dict or weight sync. The exact
gradient reaches it as a number, already reduced over micro-batches and ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


class LambdaState:
    """The learnable λ.

    Args:
        init: starting value.
        lr: learning rate; 0 freezes λ.
        optimizer: "sgd" (no momentum) or "adam", both without weight decay.
        bounds: λ is clamped to [low, high] after each step.

    Raises:
        ValueError: the optimiser is unknown, lr is negative, or init isn't inside the bounds.
    """

    def __init__(
        self,
        init: float = 0.0,
        lr: float = 0.1,
        optimizer: str = "sgd",
        *,
        bounds: tuple[float, float] = (-10.0, 10.0),
    ):
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {optimizer!r} for λ: use one of {', '.join(OPTIMIZERS)}")
        if not (math.isfinite(lr) and lr >= 0):
            raise ValueError(f"the learning rate of λ must be at least 0, got {lr}")
        low, high = bounds
        if not (math.isfinite(low) and math.isfinite(high) and low <= init <= high):
            raise ValueError(f"λ must start inside its bounds: {init} isn't in [{low}, {high}]")
        self.bounds = (float(low), float(high))
        self.optimizer = optimizer
        self._parameter = torch.nn.Parameter(torch.tensor(float(init), dtype=torch.float64))
        self._optimizer = OPTIMIZERS[optimizer]([self._parameter], lr=lr, weight_decay=0.0)

    @property
    def value(self) -> float:
        """λ now."""
        return self._parameter.item()

    def step(self, grad: float | torch.Tensor) -> None:
        """Take one optimiser step with dL/dλ. A gradient of exactly 0 (nothing was learned) leaves all as it is.

        Raises:
            ValueError: the gradient isn't finite; λ is unchanged.
        """
        grad = float(grad)
        if not math.isfinite(grad):
            raise ValueError(f"the gradient of λ is {grad}: the loss it came from isn't finite")
        if grad == 0.0:
            return
        self._parameter.grad = torch.tensor(grad, dtype=torch.float64)
        self._optimizer.step()
        with torch.no_grad():
            self._parameter.clamp_(*self.bounds)

    def state_dict(self) -> dict[str, Any]:
        """Value and optimiser state as plain numbers: JSON holds them without loss."""
        moments = self._optimizer.state_dict()["state"].get(0, {})
        return {
            "value": self.value,
            "optimizer": self.optimizer,
            "moments": {k: v.item() if isinstance(v, torch.Tensor) else v for k, v in moments.items() if v is not None},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Learning rate and bounds stay those of this object.

        Raises:
            ValueError: the state comes from another optimiser.
        """
        if state["optimizer"] != self.optimizer:
            raise ValueError(f"λ was saved with optimizer {state['optimizer']!r}, not {self.optimizer!r}")
        with torch.no_grad():
            self._parameter.fill_(state["value"]).clamp_(*self.bounds)
        self._optimizer.state.clear()
        if state["moments"]:
            self._optimizer.state[self._parameter] = {
                # Adam keeps its step count in float32 by default
                k: torch.tensor(v, dtype=torch.float32 if k == "step" else torch.float64)
                for k, v in state["moments"].items()
            }
