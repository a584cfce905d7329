"""A backbone that ends in feature maps instead of a vector, for methods that compare pictures place by place.

Its tensors have the names and shapes of the backbone's own: pooling has none. So weights are shared as ever, although
the function differs; see :data:`MARK`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from workbench.learn.norm import Norm2d
from workbench.learn.registry import BackboneInfo

MARK = "side"
"""Name under a trunk's prefix that says how large its maps are. It tells the digest of such a trunk, under which
features are kept, from that of the same weights with all poolings."""


class Maps(NamedTuple):
    """``network``: a skeleton ``[B, C, H, W] -> [B, channels * side * side]``, the maps laid out flat."""

    network: nn.Module
    channels: int
    side: int


def mapped(backbone: BackboneInfo, channels: int, size: int, least: int) -> Maps:
    """A backbone's skeleton without averaging over positions, and without as many of its last max-poolings as needed.

    Args:
        backbone: of the registry.
        channels: of the pictures.
        size: of the pictures, pixels.
        least: side that the maps should have; smaller where even without any pooling they are.

    Raises:
        ValueError: the backbone's output is no square map of its last normalised channels.
    """
    network = backbone.skeleton(channels, size)
    _leave_out(network, [n for n, m in network.named_modules() if isinstance(m, nn.AdaptiveAvgPool2d)])
    poolings = [n for n, m in network.named_modules() if isinstance(m, nn.MaxPool2d)]
    widths = [m.weight.numel() for m in network.modules() if isinstance(m, Norm2d)]
    while True:
        found = Maps(network, widths[-1], _side(network, channels, size, widths[-1]))
        if found.side >= least or not poolings:
            return found
        _leave_out(network, [poolings.pop()])


def _leave_out(network: nn.Module, names: list[str]) -> None:
    for name in names:
        holder, _, last = name.rpartition(".")
        setattr(network.get_submodule(holder), last, nn.Identity())


def _side(network: nn.Module, channels: int, size: int, width: int) -> int:
    with torch.no_grad():
        out = network(torch.empty(1, channels, size, size, device="meta"))
    side = math.isqrt(out.numel() // width)
    if side * side * width != out.numel():
        raise ValueError(f"{tuple(out.shape)} is no square map of {width} channels")
    return side
