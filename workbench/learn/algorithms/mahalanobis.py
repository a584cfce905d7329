"""Mahalanobis distances on frozen features: Simple CNAPS without its encoder (Bateni et al. 2020, arXiv 1912.03432).

The trunk is not trained here: it holds pretrained weights, or those that other knowledge was trained to, or fresh ones.
A new task costs one pass over its examples; see ``learn/mahalanobis.py`` for the distances::

    z_k = -s (f - mu_k)' Q_k^-1 (f - mu_k),     Q_k = l_k S_k + (1 - l_k) S + beta t I

``t = tr(S) / D`` is the mean variance of a feature. The paper has ``beta I``, for features whose variance training has
made about one; any trunk may stand here, and with ``t`` its scale does not matter. It is read from the examples alone,
so a query's answer does not depend on other queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, mahalanobis, registry
from workbench.learn.protocol import Adapted, State, Tensors


@registry.register
class Mahalanobis(forms.FrozenTrunk):
    """Distances in the examples' own covariances on a trunk that stays as it is; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="mahalanobis",
        title="Mahalanobis distances on frozen features",
        family="transfer baseline",
        paper="Bateni et al. 2020, arXiv 1912.03432",
        summary="Keeps a trained network as it is and measures distances by how each class's examples spread.",
        tags=frozenset({"any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        beta: float = param(
            1.0, low=1e-4, high=1e4, step=0.1, help="Of the identity that is added, in mean variances of a feature."
        )
        scale: float = param(1.0, low=1e-3, high=1000.0, step=0.1, help="Factor before the squared distances.")

    p: Params

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:  # noqa: ARG002
        """The linear layer whose squared outputs add up to the distances, ``weight [N * R, D]``, ``bias [N * R]``."""
        axes = mahalanobis.span(features)
        x = features @ axes
        beta = self.p.beta * mahalanobis.unit(x, features.shape[1])
        means, factors = mahalanobis.fitted(x, y, ways, beta)
        weight, bias = mahalanobis.whitening(means, factors, self.p.scale)
        return {"weight": weight @ axes.T.to(weight), "bias": bias}

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The linear layer and the squares."""
        return mahalanobis.SquaredSums(a.tensors["weight"], a.tensors["bias"], a.ways)
