"""A ridge classifier on frozen features: the plain baseline that every meta-learner has to beat.

The trunk is not trained here: it holds pretrained weights, or those that other knowledge was trained to, or fresh ones.
A new task costs one pass over its examples and a closed form (Bertinetto et al. 2019, arXiv 1805.08136; Tian et al.
2020, arXiv 2003.11539, for the strength of such heads)::

    x_i = f(picture_i) / |f(picture_i)|                                   [S, D]
    W   = argmin sum_i a_i |x_i W - onehot(y_i)|^2 + strength |W|^2       [D, N]
    z   = scale * x W                                                     [B, N]

``a_i`` lets every class count alike when their numbers of examples differ. There is no bias: with every class counting
alike it would be the same for all. Batch norm uses the trunk's running statistics, so features depend on their picture
alone and can be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, heads, influence, registry
from workbench.learn.protocol import Adapted, State, Tensors


@registry.register
class Ridge(forms.FrozenTrunk):
    """Closed-form ridge head on a trunk that stays as it is; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="ridge",
        title="Ridge head on frozen features",
        family="transfer baseline",
        paper="Tian et al. 2020, arXiv 2003.11539; Bertinetto et al. 2019, arXiv 1805.08136",
        summary="Keeps a trained network as it is and solves for a linear classifier; nothing is trained beforehand.",
        tags=frozenset({"any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        strength: float = param(0.5, low=1e-6, high=1e4, step=0.1, help="How strongly the weights are held near zero.")
        scale: float = param(10.0, low=0.1, high=1000.0, step=1.0, help="Factor from the fit to logits.")

    p: Params

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:  # noqa: ARG002
        """The classifier ``weight [N, D]``."""
        x = F.normalize(features, dim=1)
        solved = heads.ridge(x, heads.one_hot(y, ways, x), self.p.strength, heads.balanced(y, ways, x))
        return {"weight": solved.T.contiguous()}

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The linear layer on features of length 1."""
        return heads.UnitLinearHead(self.p.scale * a.tensors["weight"])

    def classifier(self, s: State, features: Tensor) -> influence.UnitRidge:  # noqa: ARG002
        """What its heads for these features ``[S, D]`` are, for closed forms."""
        return influence.UnitRidge(features, self.p.strength, self.p.scale)
