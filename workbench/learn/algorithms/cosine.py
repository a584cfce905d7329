"""Nearest centroid by direction on frozen features: what Baseline++'s head comes to without being fitted.

The trunk is not trained here: it holds pretrained weights, or those that other knowledge was trained to, or fresh ones.
A new task costs one pass over its examples (Chen et al. 2019, arXiv 1904.04232, for heads that compare directions;
Gidaris and Komodakis 2018, arXiv 1804.09458, for the mean of unit features as such a head's weight)::

    x   = f(picture) / |f(picture)|            [S, D]
    c_k = mean of x over class k, / its length [N, D]
    z_k = scale * <x, c_k>                     [B, N]

A mean of unit vectors is shorter where the class is scattered; with its length taken out a scattered class is no less
likely than a tight one. That is what sets this head apart from SimpleShot's L2N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, heads, registry
from workbench.learn.protocol import Adapted, State, Tensors


@registry.register
class Cosine(forms.FrozenTrunk):
    """Directions of class means on a trunk that stays as it is; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="cosine",
        title="Nearest direction on frozen features",
        family="transfer baseline",
        paper="Chen et al. 2019, arXiv 1904.04232; Gidaris, Komodakis 2018, arXiv 1804.09458",
        summary="Keeps a trained network as it is and compares directions with each class's mean direction.",
        tags=frozenset({"any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        scale: float = param(10.0, low=0.1, high=1000.0, step=1.0, help="Factor from cosines to logits.")

    p: Params

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:  # noqa: ARG002
        """The classes' directions, ``weight [N, D]`` of length 1."""
        return {"weight": F.normalize(heads.prototypes(F.normalize(features, dim=1), y, ways), dim=1)}

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The linear layer on features of length 1."""
        return heads.UnitLinearHead(self.p.scale * a.tensors["weight"])
