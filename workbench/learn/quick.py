"""Adapting to a task and asking about it on the fast path, where there is one.

The algorithms' files keep their clear form: whoever adapts opens a block around it, and every pass through the network
within is offered to ``learn/fast`` first. Without that package, on another network or device, nothing changes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec


def passes() -> AbstractContextManager[None]:
    """A block for one task: what ``adapt``, ``logits`` and ``embed`` give within it is the same to rounding, sooner.

    What was computed is kept between the steps of the task, and dropped at the end of the block.
    """
    if find_spec("workbench.learn.fast") is None:
        return nullcontext()
    from workbench.learn import fast

    return fast.adapting()
