"""A backbone with a linear layer behind it, which gives its features another mean and covariance (CORAL).

Knowledge of ``conv4`` that was aligned with a folder has the backbone ``conv4+linear``: the same network, its tensors
called ``network.*``, and ``linear.weight [D, D]`` and ``linear.bias [D]`` behind it. No list of backbones shows it,
since nobody trains one from nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

SUFFIX = "+linear"
NETWORK, _WEIGHT, _BIAS = "network.", "linear.weight", "linear.bias"


class Recoloured(nn.Module):
    """``[B, C, H, W] -> [B, features]``."""

    def __init__(self, network: nn.Module, features: int) -> None:
        super().__init__()
        self.network = network
        self.linear = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """The network and the layer behind it."""
        out: Tensor = self.linear(self.network(x))
        return out


def with_layer(trunk: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """A backbone's tensors by name with a layer put behind it; a layer that is there already and the new one are one.

    Args:
        trunk: of ``KEY`` or of ``KEY+linear``.
        weight: ``[D, D]``.
        bias: ``[D]``.
    """
    if _WEIGHT in trunk:
        own = {n: t for n, t in trunk.items() if n.startswith(NETWORK)}
        first, offset = trunk[_WEIGHT].to(weight), trunk[_BIAS].to(bias)
        return {**own, _WEIGHT: weight @ first, _BIAS: weight @ offset + bias}
    return {**{NETWORK + n: t for n, t in trunk.items()}, _WEIGHT: weight, _BIAS: bias}


def without_layer(trunk: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of ``KEY`` of those of ``KEY+linear``; others are given back as they are."""
    if _WEIGHT not in trunk:
        return dict(trunk)
    return {n.removeprefix(NETWORK): t for n, t in trunk.items() if n.startswith(NETWORK)}
