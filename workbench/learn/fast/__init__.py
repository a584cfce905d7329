"""The fast path: the same steps as the algorithms' own, computed in another way where network and device allow it.

The clear form is in the algorithms' files and stays the one that counts: every step here is tested against it. Nothing
needs this package; without it training is slower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from workbench.core.context import Context
from workbench.learn import functional
from workbench.learn.fast import trunk, workers
from workbench.learn.protocol import Algorithm, At, State, StepResult

Step = Callable[[State, Any, At, Context], StepResult]


def step_of(algorithm: Algorithm, device: str) -> Step | None:
    """A step that gives what ``algorithm.step`` gives, faster; ``None`` where there is none.

    Losses come back as gradients, since they are taken within the step, on its threads.

    Args:
        algorithm: bound to its hyperparameters and setting.
        device: where it trains.
    """
    network = getattr(algorithm, "network", None)
    if device != "cpu" or not isinstance(network, torch.nn.Module) or not trunk.fits(network):
        return None

    def step(s: State, batch: Any, at: At, ctx: Context) -> StepResult:
        with workers.shared(), functional.substituted(trunk.substitute(), workers.tasks):
            return with_gradients(algorithm.step(s, batch, at, ctx), s)

    return step


def with_gradients(result: StepResult, s: State) -> StepResult:
    """The same with its loss's gradients for what is learnt instead of the loss."""
    if result.loss is None:
        return result
    leaves = {n: t for n, t in s.learned.items() if t.requires_grad}
    found = torch.autograd.grad(result.loss, list(leaves.values()), allow_unused=True)
    grads = {n: g for n, g in zip(leaves, found, strict=True) if g is not None}
    return replace(result, loss=None, grads=grads)
