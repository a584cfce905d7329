"""Several adapted networks that answer as one: their features side by side, their probabilities averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SideBySide(nn.Module):
    """``[B, C, H, W] -> [B, L * D]``: the features of ``L`` networks, one behind another."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """Features of ``x [B, C, H, W]``."""
        return torch.cat([network(x) for network in self.networks], 1)


class Committee(nn.Module):
    """``[B, L * D] -> [B, N]``: ``L`` linear classifiers, each on its own features; the log of their mean answer.

    Raw logits have an additive constant of each member's own that means nothing, so probabilities are averaged.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """From ``weight [L, N, D]`` and ``bias [L, N]``, copied."""
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """Log probabilities of ``features [B, L * D]``."""
        members = self.weight.shape[0]
        each = features.reshape(features.shape[0], members, -1).transpose(0, 1)
        z = each @ self.weight.transpose(1, 2) + self.bias[:, None]
        out: Tensor = z.log_softmax(2).logsumexp(0) - math.log(members)
        return out
