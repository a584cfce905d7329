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
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, functional, heads, registry
from workbench.learn.protocol import (
    Adapted,
    At,
    OnStep,
    Phase,
    SourceSummary,
    State,
    StepResult,
    Support,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Episodes


@registry.register
class Cosine(forms.FixedTrunk):
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

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002
        """Nothing to train."""
        return ()

    def init(self, gen: Generator) -> State:
        """The pretrained trunk, or a fresh one."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        return State(functional.named(trunk), functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:  # noqa: ARG002
        """Never asked for.

        Raises:
            WorkbenchError: always.
        """
        raise WorkbenchError(
            "Nothing was trained", "a nearest direction has nothing to train", "Choose another algorithm"
        )

    @torch.no_grad()
    def adapt(
        self,
        s: State,
        support: Support,
        ctx: Context,
        *,
        unlabelled: Tensor | None = None,  # noqa: ARG002 - inductive
        on_step: OnStep | None = None,  # noqa: ARG002 - there are no steps
    ) -> Adapted:
        """The classes' directions, ``weight [N, D]`` of length 1."""
        ctx.check()
        features = self._features(s, support.x) if support.features is None else support.features
        centres = heads.prototypes(F.normalize(features, dim=1), support.y, support.ways)
        return Adapted({"weight": F.normalize(centres, dim=1)}, support.ways)

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The linear layer on features of length 1."""
        return heads.UnitLinearHead(self.p.scale * a.tensors["weight"])
