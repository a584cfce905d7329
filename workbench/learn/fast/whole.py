"""A pass of one chunk through all blocks at once, up, down and for its changes, each as one call that leaves Python.

The same lines as ``blocks`` and ``second`` have for many chunks, for where a task has a thread of its own: then
nothing is to be waited for between the blocks, and another thread's task has Python to itself all the while.

What ``blocks`` keeps in a ``Layer`` is a list here, in this order (``KERNEL`` to ``OUT``); what it keeps in a ``Back``
is ``dz, d, dy, plain, heights, slope, level``. ``x, y`` of the first block are empty, and ``y`` under given statistics.
``sides`` is the number of pictures, their height and width, and how many fit in the cache. ``measured`` is the mean
and the scatter of the patches, in double precision.
"""
# ruff: noqa: UP006, UP035 - TorchScript reads the older names of types

from __future__ import annotations

from collections.abc import Callable
from typing import Any, List, Tuple

import torch
from torch import Tensor

from workbench.learn.fast import kernels, workers
from workbench.learn.fast.kernels import (
    against,
    at,
    climb,
    column,
    descend,
    descend_changes,
    finish,
    first,
    first_changes,
    next_changes,
    out_changes,
    rectified,
    sum_changes,
)


def laid(t: Tensor) -> Tensor:
    """Channels-last, also with one channel."""
    b, c, h, w = t.size(0), t.size(1), t.size(2), t.size(3)
    return t.permute(0, 2, 3, 1).contiguous().view(b, h, w, c).permute(0, 3, 1, 2)


def flattened(kernel: Tensor) -> Tensor:
    """``[O, 9 C]``, in the order of the patches."""
    return kernel.permute(0, 2, 3, 1).reshape(kernel.size(0), -1)


def as_kernel(flat: Tensor) -> Tensor:
    """``[O, C, 3, 3]`` from the order of the patches."""
    return flat.reshape(flat.size(0), 3, 3, -1).permute(0, 3, 1, 2)


def up(
    patches: Tensor,
    sides: List[int],
    values: List[Tensor],
    measured: List[Tensor],
    given: List[Tensor],
    eps: float,
    low: bool,
) -> Tuple[Tensor, List[Tensor], List[List[Tensor]]]:
    """Features ``[b, D]``, ``mean, var`` of each block, and what each leaves behind; ``given`` as these, or empty.

    With ``low`` the kernels of the convolutions are kept in bfloat16.

    The first two are no tensors of the third: with a graph they would otherwise hold themselves.
    """
    number, height, width, few = sides
    own = len(given) == 0
    layers: List[List[Tensor]] = []
    seen: List[Tensor] = []
    none = torch.empty([0], dtype=patches.dtype)
    out, x, y, largest, where, mean, var = none, none, none, none, none, none, none
    for i in range(len(values) // 3):
        gain = values[3 * i + 1]
        sign = torch.where(gain < 0, -1.0, 1.0).to(gain)
        kernel = laid(values[3 * i] * sign.view(-1, 1, 1, 1))
        if i == 0:
            flat = flattened(kernel)
            largest, where = first(patches, flat, number, height, width, few)
            if own:
                wide = flat.double()
                mean = torch.mv(wide, measured[0]).to(flat)
                var = ((torch.mm(wide, measured[1]) * wide).sum(1).clamp_min(0) / patches.size(1)).to(flat)
        else:
            before = layers[i - 1]
            if low:
                kernel = kernel.to(torch.bfloat16)
            x, y, largest, where, mean, var = climb(
                before[9], before[5], before[6], before[2], before[3], eps, kernel, own
            )
            before[10] = x
            if not own:
                y = none
        if not own:
            mean, var = given[2 * i] * sign, given[2 * i + 1]
        rate = torch.rsqrt(var + eps)
        seen += [mean * sign, var.clone()]
        layers.append([kernel, sign, gain.abs(), values[3 * i + 2], rate, mean, var, x, y, largest, out, where])
        # largest is 9, out 10, where 11
    last = layers[-1]
    out = finish(last[9], last[5], last[6], last[2], last[3], eps)
    last[10] = out
    return out.flatten(1).clone(), seen, layers


def down(
    patches: Tensor,
    sides: List[int],
    layers: List[List[Tensor]],
    wanted: Tensor,
    measured: List[Tensor],
    into: List[Tensor],
    eps: float,
) -> Tuple[List[Tensor], List[Tensor], List[List[Tensor]]]:
    """Gradients of every block's values and of its statistics as if they were given, and the way they were found."""
    _, height, width, few = sides
    own = len(measured) > 0
    grads: List[Tensor] = []
    given: List[Tensor] = []
    way: List[List[Tensor]] = []
    last = layers[-1]
    side = laid(wanted.reshape(last[10].size()))
    dz, d, plain, heights = rectified(side, last[10], last[9], last[5], last[6], last[2], eps)
    none = torch.empty([0], dtype=patches.dtype)
    for k in range(len(layers)):
        i = len(layers) - 1 - k
        kernel, sign, gain, _, rate, mean, _, x, y, _, _, where = layers[i]
        n = float(patches.size(1)) if i == 0 else float(x.size(0) * x.size(2) * x.size(3))
        scale = gain * rate
        slope = -scale * rate * heights / n
        level = -scale * plain / n - slope * mean
        if len(into) > 0:
            slope = slope + 2.0 / n * into[2 * i + 1]
            level = level + (into[2 * i] * sign - 2.0 * into[2 * i + 1] * mean) / n
        way.append([dz, d, none, plain, heights, slope, level])
        of_gain, of_shift = heights * sign, plain.clone()
        of_statistics = [-sign * scale * plain, -0.5 * scale * rate * heights]
        given = of_statistics + given
        if i > 0:
            below = layers[i - 1]
            back, of_kernel, dy = descend(d, where, x, y if own else None, kernel, slope, level)
            way[k][2] = dy
            dz, d, plain, heights = rectified(back, below[10], below[9], below[5], below[6], below[2], eps)
        else:
            flat = against(patches, d, where, height, width, few)
            if own:
                second = measured[1] + n * torch.outer(measured[0], measured[0])
                dense = slope.double().view(-1, 1) * torch.mm(flattened(kernel).double(), second)
                flat = flat + (dense + n * torch.outer(level.double(), measured[0])).to(flat)
            of_kernel = as_kernel(flat)
        of_block = [of_kernel * sign.view(-1, 1, 1, 1), of_gain, of_shift]
        grads = of_block + grads  # no unpacking: torch's interpreter does not know it
    way.reverse()
    return grads, given, way


def changes(
    patches: Tensor,
    sides: List[int],
    layers: List[List[Tensor]],
    way: List[List[Tensor]],
    along: List[Tensor],
    measured: List[Tensor],
) -> Tuple[Tensor, List[Tensor]]:
    """Changes of the features and of the gradients, see ``second``; own statistics."""
    _, height, width, few = sides
    moved: List[List[Tensor]] = []
    n0 = float(patches.size(1))
    out = torch.empty([0], dtype=patches.dtype)
    for i in range(len(layers)):
        kernel, sign, gain, _, rate, mean, _, x, y, largest, before, where = layers[i]
        kernel_m = laid(along[3 * i] * sign.view(-1, 1, 1, 1))
        gain_m, shift_m = along[3 * i + 1] * sign, along[3 * i + 2]
        change = out
        if i == 0:
            flat, now = flattened(kernel_m), flattened(kernel).double()
            mean_m = torch.mv(flat.double(), measured[0]).to(flat)
            var_m = ((torch.mm(now, measured[1]) * flat.double()).sum(1) * (2.0 / n0)).to(flat)
            peak = first_changes(patches, flat, where, height, width, few)
        else:
            n = float(x.size(0) * x.size(2) * x.size(3))
            both = laid(torch.cat([kernel_m.to(kernel.dtype), kernel], 1))
            change, total, product = next_changes(x, out, both, y, mean)
            mean_m, var_m = total / n, product * (2.0 / n)
            peak = at(change, where)
        rate_m = -0.5 * rate * rate * rate * var_m
        h = (largest - column(mean)) * column(rate)
        heights, later = out_changes(peak, h, before, [rate, gain], [mean_m, rate_m / rate, gain_m, shift_m])
        moved.append([kernel_m, gain_m, mean_m, rate_m, change, out, heights, h])
        out = later
    features = out.flatten(1)
    grads: List[Tensor] = []
    dz = torch.zeros_like(way[-1][0])
    for k in range(len(layers)):
        i = len(layers) - 1 - k
        kernel, sign, gain, _, rate, mean, _, x, y, _, _, where = layers[i]
        kernel_m, gain_m, mean_m, rate_m, change, x_m, heights_m, h = moved[i]
        dz0, _, dy, plain, heights, slope0, _ = way[i]
        n = n0 if i == 0 else float(x.size(0) * x.size(2) * x.size(3))
        plain_m, product_m = sum_changes(dz, h, dz0, heights_m)
        scale, scale_m = gain * rate, gain_m * rate + gain * rate_m
        slope = -(scale_m * rate * heights + scale * rate_m * heights + scale * rate * product_m) / n
        level = -(scale_m * plain + scale * plain_m) / n - slope * mean - slope0 * mean_m
        sparse = dz * column(scale) + dz0 * column(scale_m)
        if i > 0:
            both = laid(torch.cat([kernel, kernel_m.to(kernel.dtype)]))
            of_kernel, dz = descend_changes(
                [sparse, x, y, dy, x_m, change], where, [kernel, both], [slope, level, slope0], layers[i - 1][10]
            )
        else:
            flat = against(patches, sparse, where, height, width, few)
            second = measured[1] + n * torch.outer(measured[0], measured[0])
            now, then = flattened(kernel).double(), flattened(kernel_m).double()
            dense = slope.double().view(-1, 1) * torch.mm(now, second)
            dense = dense + slope0.double().view(-1, 1) * torch.mm(then, second)
            of_kernel = as_kernel(flat + (dense + n * torch.outer(level.double(), measured[0])).to(flat))
        of_block = [of_kernel * sign.view(-1, 1, 1, 1), product_m * sign, plain_m]
        grads = of_block + grads
    return features, grads


PARTS = (*kernels.PARTS, *kernels.CHANGES, laid, flattened, as_kernel, up, down, changes)
_unit = kernels.compiled(*PARTS)


def run(part: Callable[..., Any], *args: Any) -> Any:
    """As ``kernels.run``."""
    return workers.heavy(part if _unit is None else getattr(_unit, part.__name__), *args)
