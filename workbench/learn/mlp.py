"""Multi-layer perceptrons as tensors by name, for networks that write another network's weights.

``x -> W_n elu(... elu(W_1 x + b_1) ...) + b_n``. The layers of one called ``net`` are ``net.0.weight [H, D]``,
``net.0.bias [H]``, ``net.1.weight`` and so on; a linear map is one with a single layer.

Layers are started as ``functional.initial`` starts linear ones, biases at 0. With ``zero_last`` the last layer is 0, so
that the output is 0 whatever comes in: what is added to something sensible begins by changing nothing, and learning
begins with the last layer alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from workbench.learn.functional import Tensors


def initial(name: str, sizes: Sequence[int], gen: Generator, *, zero_last: bool = False) -> Tensors:
    """Fresh layers.

    Args:
        name: put before each tensor's name, with a dot.
        sizes: of input, hidden layers and output.
        gen: of all randomness.
        zero_last: start with output 0.
    """
    out: Tensors = {}
    for i, (before, after) in enumerate(itertools.pairwise(sizes)):
        drawn = torch.rand(after, before, generator=gen, device=gen.device)
        scale = 0.0 if zero_last and i == len(sizes) - 2 else 1 / math.sqrt(before)
        out[f"{name}.{i}.weight"] = (2 * drawn - 1) * scale
        out[f"{name}.{i}.bias"] = drawn.new_zeros(after)
    return out


def call(tensors: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """``[..., output]`` of ``x [..., input]``; differentiable in all.

    Raises:
        KeyError: there is none of that name.
    """
    layer = 0
    while True:
        x = F.linear(x, tensors[f"{name}.{layer}.weight"], tensors[f"{name}.{layer}.bias"])
        layer += 1
        if f"{name}.{layer}.weight" not in tensors:
            return x
        x = F.elu(x)
