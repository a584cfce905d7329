"""The fast path: the same steps as the algorithms' own, computed in another way where network and device allow it.

The clear form is in the algorithms' files and stays the one that counts: every step here is tested against it. Nothing
needs this package; without it training and adapting are slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.training import Precision
from workbench.learn import functional
from workbench.learn.fast import task, trunk, workers
from workbench.learn.protocol import Algorithm, At, State, StepResult

Step = Callable[[State, Any, At, Context], StepResult]


def step_of(algorithm: Algorithm, device: str, precision: Precision = "full") -> Step | None:
    """A step that gives what ``algorithm.step`` gives, faster; ``None`` where there is none.

    Losses come back as gradients, since they are taken within the step, on its threads.

    Args:
        algorithm: bound to its hyperparameters and setting.
        device: where it trains.
        precision: ``bf16`` computes the convolutions between 16-bit numbers, which keep 8 bits of a value; all else
            (what is learnt, statistics, the norms, head and loss) stays as it is. See :func:`check_precision`.
    """
    if not _has(algorithm, device):
        return None
    return partial(_step, algorithm, precision == "bf16")


@contextmanager
def adapting() -> Iterator[None]:
    """Within the block Conv-4 on the CPU is computed this way for one task, in full precision; see ``quick.passes``."""
    with workers.shared(), functional.substituted(task.Substitute()):
        yield


def check_precision(algorithm: Algorithm, device: str, precision: Precision) -> None:
    """Refuse a precision that training cannot have here.

    Raises:
        WorkbenchError: no fast path for the device or the backbone, or a processor that would compute it no faster.
    """
    if precision == "full":
        return
    if device != "cpu":
        raise _refused(f"only the CPU trains in bf16 here, not {device}", "--device cpu or --precision full")
    if not _has(algorithm, device):
        why = f"{algorithm.info.title} on {algorithm.setting.backbone} has no fast path to compute in bf16"
        raise _refused(why, "a Conv-4 backbone or --precision full")
    if not native():
        raise _refused("this processor has no instructions for bf16", "--precision full")


def native() -> bool:
    """Whether the processor multiplies 16-bit floats itself, and torch makes use of it."""
    there = torch.cpu.get_capabilities()
    made_for_it = any(bool(there.get(name)) for name in ("amx_bf16", "avx512_bf16"))
    return made_for_it and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _has(algorithm: Algorithm, device: str) -> bool:
    network = getattr(algorithm, "network", None)
    return device == "cpu" and isinstance(network, torch.nn.Module) and trunk.fits(network)


def _refused(why: str, choose: str) -> WorkbenchError:
    return WorkbenchError("The run did not start", why, f"Choose {choose}")


def _step(algorithm: Algorithm, low: bool, s: State, batch: Any, at: At, ctx: Context) -> StepResult:
    passed = trunk.Substitute(low=low)
    with workers.shared(), functional.substituted(passed, workers.tasks):
        result = with_gradients(algorithm.step(s, batch, at, ctx), s)
    if low and not passed.used:
        title = algorithm.info.title
        raise _refused(f"no pass of {title} through its network can be computed in bf16", "--precision full")
    return result


def with_gradients(result: StepResult, s: State) -> StepResult:
    """The same with its loss's gradients for what is learnt instead of the loss."""
    if result.loss is None:
        return result
    leaves = {n: t for n, t in s.learned.items() if t.requires_grad}
    found = torch.autograd.grad(result.loss, list(leaves.values()), allow_unused=True)
    grads = {n: g for n, g in zip(leaves, found, strict=True) if g is not None}
    return replace(result, loss=None, grads=grads)
