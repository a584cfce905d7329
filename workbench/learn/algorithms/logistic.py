"""A logistic probe: logistic regression on the features of a network that stays as it is (Tian et al. 2020).

The trunk is not trained here: it holds pretrained weights, or those that other knowledge was trained to, or fresh ones.
"A good embedding is all you need" (arXiv 2003.11539) is said of just this head::

    x_i  = f(picture_i) / |f(picture_i)|                                             [S, D]
    W, b = argmin c * sum_i a_i CE(x_i W + b, y_i) + 1/2 |W|^2                       [D, N], [N]
    z    = x W + b                                                                   [B, N]

with ``c = 1``. The problem is convex and solved to its end (see ``learn.logistic``), so there is neither a learning
rate nor a seed, and adapting takes milliseconds. ``a_i`` lets every class count alike when their numbers of examples
differ; all ``a_i`` add up to the number of examples. Batch norm uses the trunk's running statistics, so features depend
on their picture alone and can be kept.

Against the ridge head it differs in the loss alone: probabilities are fitted instead of targets of 0 and 1, which costs
some Newton steps.

Mistakes that are easily made here, and not made: a few steps of descent taken for the solution; features of any length,
so that ``c`` means something else for each trunk; the mean loss for the sum, so that ``c`` weighs less the more
examples there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, heads, logistic, registry
from workbench.learn.protocol import Adapted, State, Tensors


@registry.register
class LogisticProbe(forms.FrozenTrunk):
    """Logistic regression on a trunk that stays as it is; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="logistic",
        title="Logistic probe on frozen features",
        family="transfer baseline",
        paper="Tian, Wang, Krishnan, Tenenbaum, Isola 2020, arXiv 2003.11539",
        summary="Keeps a trained network as it is and fits a logistic regression; nothing is trained beforehand.",
        tags=frozenset({"any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        c: float = param(
            1.0, low=1e-3, high=1e4, step=0.5, title="C", help="How much the examples weigh against short weights."
        )

    p: Params

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:  # noqa: ARG002
        """The classifier ``weight [N, D]`` and ``bias [N]``."""
        x = F.normalize(features, dim=1)
        weight, bias = logistic.fit(x, y, ways, c=self.p.c, ctx=ctx, weights=heads.balanced(y, ways, x))
        return {"weight": weight, "bias": bias}

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The linear layer on features of length 1."""
        return heads.UnitLinearHead(a.tensors["weight"], a.tensors["bias"])
