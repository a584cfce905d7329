"""The parts of ``blocks`` and ``second`` that cost time, each as one call that leaves Python.

Python can run one of its threads at a time, and handing over costs more than a small operation on a tensor. So what
belongs together is written here in the part of Python that torch's own interpreter runs too (TorchScript), and called
as a whole: meanwhile other threads have Python to themselves. Where torch cannot take them (a build without their text,
a torch without the interpreter) the same functions run as the Python that they are.

Letters are those of ``blocks`` and ``second``; ``largest, where, out, d`` are ``[b, O, h, w]``, ``y`` is ``[b, O, 2h,
2w]``, ``mean, var, gain, shift, slope, level`` are ``[O]``.

A convolution is computed in the float type of its ``kernel``, and nothing else is: a kernel in bfloat16 makes it
several times as fast on a processor with instructions for that type. What goes in and comes out keeps its own type.
"""
# ruff: noqa: UP006, UP035, UP045 - TorchScript reads the older names of types

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor

from workbench.learn.fast import workers

_log = logging.getLogger(__name__)


def rows(t: Tensor) -> Tensor:
    """``[b, O, H, W]`` as ``[b * H * W, O]``, a view where it lies channels-last."""
    return t.permute(0, 2, 3, 1).reshape(-1, t.size(1))


def column(t: Tensor) -> Tensor:
    """``[O]`` as ``[1, O, 1, 1]``."""
    return t.view(1, -1, 1, 1)


def applied(patches: Tensor, flat: Tensor, begin: int, end: int, height: int, width: int) -> Tensor:
    """The first block's convolution of the pictures from ``begin`` to ``end``."""
    size = height * width
    y = torch.mm(patches[:, begin * size : end * size].t(), flat.t())
    return y.view(end - begin, height, width, flat.size(0)).permute(0, 3, 1, 2)


def first(patches: Tensor, flat: Tensor, number: int, height: int, width: int, few: int) -> Tuple[Tensor, Tensor]:
    """Through the first block up to its largest values, ``few`` pictures at a time: ``largest, where``."""
    size = [number, height // 2, width // 2, flat.size(0)]
    largest = torch.empty(size, dtype=flat.dtype).permute(0, 3, 1, 2)
    where = torch.empty(size, dtype=torch.int64).permute(0, 3, 1, 2)
    for begin in range(0, number, few):
        end = min(number, begin + few)
        y = applied(patches, flat, begin, end, height, width)
        torch.ops.aten.max_pool2d_with_indices(y, [2, 2], [2, 2], out=largest[begin:end], indices=where[begin:end])
    return largest, where


def finish(largest: Tensor, mean: Tensor, var: Tensor, gain: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Normalise and rectify."""
    return torch.relu_(torch.batch_norm(largest, gain, shift, mean, var, False, 0.0, eps, False))


def convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """``x`` through 3x3 kernels, in the type of the kernels."""
    return torch.conv2d(x.to(kernel.dtype), kernel, None, [1, 1], [1, 1]).to(x.dtype)


def convolved_back(dy: Tensor, x: Tensor, kernel: Tensor, wanted: List[bool]) -> Tuple[Tensor, Tensor]:
    """Gradients for ``x`` and for the kernels, those of them that are wanted, in the type of the kernels."""
    back, of_kernel, _ = torch.ops.aten.convolution_backward(
        dy.to(kernel.dtype), x.to(kernel.dtype), kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1,
        [wanted[0], wanted[1], False],
    )  # fmt: skip
    if wanted[0]:
        back = back.to(x.dtype)
    if wanted[1]:
        of_kernel = of_kernel.to(x.dtype)
    return back, of_kernel


def climb(
    largest: Tensor, mean: Tensor, var: Tensor, gain: Tensor, shift: Tensor, eps: float, kernel: Tensor, own: bool
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Finish a block and go through the next: ``x, y, largest, where`` and, where asked for, ``mean, var`` of ``y``."""
    x = finish(largest, mean, var, gain, shift, eps)
    y = convolved(x, kernel)
    found, where = torch.ops.aten.max_pool2d_with_indices(y, [2, 2], [2, 2])
    if own:
        of, spread = torch.ops.aten.batch_norm_update_stats(y, None, None, 0.0)
        return x, y, found, where, of, spread
    return x, x, found, where, mean, var


def rectified(
    wanted: Tensor, out: Tensor, largest: Tensor, mean: Tensor, var: Tensor, gain: Tensor, eps: float
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Back to the largest values: ``dz``, ``d`` without its zeros, ``sum dz`` and ``sum dz * h``."""
    dz = torch.ops.aten.threshold_backward(wanted, out, 0)
    # the kernel of a norm with fixed statistics: its gradients for weight and bias are the two sums
    d, heights, plain = torch.ops.aten.native_batch_norm_backward(
        dz, largest, gain, mean, var, None, None, False, eps, [True, True, True]
    )
    return dz, d, plain, heights


def spread(d: Tensor, where: Tensor, height: int, width: int) -> Tensor:
    """``d`` at the places of the largest values, else 0."""
    like = torch.empty([d.size(0), height, width, d.size(1)], dtype=d.dtype).permute(0, 3, 1, 2)
    back: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
        d, like, [2, 2], [2, 2], [0, 0], [1, 1], False, where
    )
    return back


def descend(
    d: Tensor, where: Tensor, x: Tensor, y: Optional[Tensor], kernel: Tensor, slope: Tensor, level: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:
    """Through a block's convolution: gradients for ``x`` and ``kernel``, and ``dy``."""
    dy = spread(d, where, x.size(2), x.size(3))
    if y is not None:
        dy.add_(torch.addcmul(column(level), y, column(slope)))
    back, of_kernel = convolved_back(dy, x, kernel, [True, True])
    return back, of_kernel, dy


def against(patches: Tensor, d: Tensor, where: Tensor, height: int, width: int, few: int) -> Tensor:
    """``d P'``: the first kernel's gradient ``[O, 9 C]`` from the sparse ``d``, ``few`` pictures at a time."""
    size, number = height * width, d.size(0)
    out = torch.zeros([patches.size(0), d.size(1)], dtype=d.dtype)
    for begin in range(0, number, few):
        end = min(number, begin + few)
        part = rows(spread(d[begin:end], where[begin:end], height, width))
        out.addmm_(patches[:, begin * size : end * size], part)  # the other way round is five times slower
    return out.t()


# ---- changes, see ``second`` ----------------------------------------------------------------------------------------


def at(values: Tensor, where: Tensor) -> Tensor:
    """Those of ``values`` that are at ``where``."""
    b, o, h, w = where.size(0), where.size(1), where.size(2), where.size(3)
    flat = values.permute(0, 2, 3, 1).reshape(b, -1, o).gather(1, where.permute(0, 2, 3, 1).reshape(b, -1, o))
    return flat.view(b, h, w, o).permute(0, 3, 1, 2)


def first_changes(patches: Tensor, flat: Tensor, where: Tensor, height: int, width: int, few: int) -> Tensor:
    """Of the first block's largest values."""
    found: List[Tensor] = []
    for begin in range(0, where.size(0), few):
        end = min(where.size(0), begin + few)
        found.append(at(applied(patches, flat, begin, end, height, width), where[begin:end]))
    return torch.cat(found)


def next_changes(x: Tensor, moved: Tensor, both: Tensor, y: Tensor, mean: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Of ``y``, its sum and its product with ``y - mean``; ``both`` is ``kernel'`` and ``kernel`` side by side."""
    change = convolved(torch.cat([x, moved], 1), both)
    return change, rows(change).sum(0), (rows(y - column(mean)) * rows(change)).sum(0)


def out_changes(
    change: Tensor, height: Tensor, out: Tensor, scales: List[Tensor], moved: List[Tensor]
) -> Tuple[Tensor, Tensor]:
    """Of ``h`` and of the block's output, from those of the largest values.

    ``scales`` is ``rate, gain``; ``moved`` is ``mean', rate' / rate, gain', shift'``.
    """
    rate, gain = scales
    mean, turned, of_gain, of_shift = moved
    heights = (change - column(mean)) * column(rate) + height * column(turned)
    z = height * column(of_gain) + heights * column(gain) + column(of_shift)
    kept: Tensor = torch.ops.aten.threshold_backward(z, out, 0)
    return heights, kept


def sum_changes(dz: Tensor, height: Tensor, before: Tensor, heights: Tensor) -> Tuple[Tensor, Tensor]:
    """Of ``sum dz`` and ``sum dz * h``; ``before`` is ``dz`` itself and ``heights`` the change of ``h``."""
    return rows(dz).sum(0), (rows(dz) * rows(height) + rows(before) * rows(heights)).sum(0)


def descend_changes(
    tensors: List[Tensor], where: Tensor, kernels: List[Tensor], dense: List[Tensor], below: Tensor
) -> Tuple[Tensor, Tensor]:
    """Of the kernel's gradient and of ``dz`` of the block below.

    ``tensors`` is ``d', x, y, dy, x', y'``; ``kernels`` is ``kernel`` and both stacked; ``dense`` is ``slope', level',
    slope``; ``below`` is the output of the block below.
    """
    d, x, y, dy, x_moved, y_moved = tensors
    kernel, both = kernels
    slope, level, slope_before = dense
    change = spread(d, where, x.size(2), x.size(3))
    change.add_(torch.addcmul(column(level), y, column(slope))).addcmul_(y_moved, column(slope_before))
    _, of_kernel = convolved_back(torch.cat([change, dy]), torch.cat([x, x_moved]), kernel, [False, True])
    back, _ = convolved_back(torch.cat([change, dy], 1), x, both, [True, False])
    dz: Tensor = torch.ops.aten.threshold_backward(back, below, 0)
    return of_kernel, dz


def compiled(*parts: Callable[..., Any]) -> Any:
    """The functions as torch's interpreter runs them, or ``None`` where it cannot."""
    try:
        return torch.jit.CompilationUnit("\n".join(inspect.getsource(part) for part in parts))
    except (OSError, RuntimeError, AttributeError) as error:
        _log.info("the fast path runs as Python: %s", error)
        return None


PARTS = (rows, column, applied, first, finish, convolved, convolved_back, climb, rectified, spread, descend, against)
CHANGES = (at, first_changes, next_changes, out_changes, sum_changes, descend_changes)
_unit = compiled(*PARTS, *CHANGES)


def run(part: Callable[..., Any], *args: Any) -> Any:
    """``part(*args)`` without Python where it was compiled; another thread has its turn meanwhile."""
    return workers.heavy(part if _unit is None else getattr(_unit, part.__name__), *args)
