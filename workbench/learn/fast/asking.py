"""What Conv-4 says of pictures under fixed statistics, where nothing is differentiated.

The norms are folded into the convolutions, ``w g`` and ``b - m g`` with ``g = gain / sd``, and so many pictures pass
through all blocks at a time as stay in the processor's cache on their way.
"""
# ruff: noqa: UP006, UP035 - TorchScript reads the older names of types

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import List

import torch
from torch import Tensor

from workbench.learn.fast import kernels, workers
from workbench.learn.functional import channels_last

TOGETHER = 36 * 28 * 28
"""Pixels that pass together. At 84 pixels 75 pictures at once take nearly twice the time, waiting for memory."""


def through(x: Tensor, kernels: List[Tensor], shifts: List[Tensor]) -> Tensor:
    """Features ``[b, D]`` by blocks that are folded; all channels-last."""
    h = x
    for i in range(len(kernels)):
        y = torch.conv2d(h, kernels[i], shifts[i], [1, 1], [1, 1])
        h = torch.relu_(torch.max_pool2d(y, [2, 2]))
    return h.flatten(1)


_unit = kernels.compiled(through)


@torch.no_grad()
def features(values: Sequence[Tensor], given: Sequence[Tensor], eps: float, x: Tensor) -> Tensor:
    """``[B, D]`` without a graph.

    Args:
        values: kernel, gain and shift of each block.
        given: mean and variance of each block.
        eps: of the norms.
        x: ``[B, C, H, W]``.
    """
    gains = [gain * torch.rsqrt(var + eps) for gain, var in zip(values[1::3], given[1::2], strict=True)]
    folded = [channels_last(kernel * g.view(-1, 1, 1, 1)) for kernel, g in zip(values[::3], gains, strict=True)]
    shifts = [b - m * g for b, m, g in zip(values[2::3], given[::2], gains, strict=True)]
    run = through if _unit is None else _unit.through
    few = max(1, TOGETHER // (x.shape[2] * x.shape[3]))
    parts = workers.each(
        [partial(workers.heavy, run, piece, folded, shifts) for piece in torch.split(channels_last(x), few)]
    )
    return torch.cat(parts)
