"""Streaming linear discriminant analysis on frozen features: classes and pictures are added, and nothing is forgotten.

The trunk is not trained: it holds pretrained weights, or those that other knowledge was trained to, or fresh ones. What
a task needs is kept as sums, one picture after another (Hayes, Kanan 2020, arXiv 1909.01520)::

    f     = trunk(picture)                                                  [D]
    n_k, mu_k                       number and mean of class k              [N], [N, D]
    M     = sum_k sum_{i in k} (f_i - mu_k)(f_i - mu_k)'                    [D, D]
    Sigma = (M + c v I) / (n - N + c),    v = mean variance of the features
    W     = Sigma^-1 mu,   b_k = -mu_k' Sigma^-1 mu_k / 2,   z = W f + b    [N, D], [N], [B, N]

A picture ``f`` of class ``k`` is added without the old pictures by ``M += n_k / (n_k + 1) (f - mu_k)(f - mu_k)'``, then
``mu_k += (f - mu_k) / (n_k + 1)``. That is exact: in any order, one by one or many together, the result is that of all
pictures at once (Chan, Golub, LeVeque 1983). So a new class changes no mean of an old one; old answers change only
where the new class is the better one, and by the covariance, which all classes share.

``c`` examples' worth of a covariance that is alike in all directions keep ``Sigma`` from being singular; with one
example a class ``M`` is 0 and the nearest class mean answers. ``v`` is of all features around their common mean, which
sums tell as well. Every class counts alike, however many examples it has. The sums are kept in double precision.

Mistakes that are easily made here, and not made: the number of *all* pictures for ``n_k`` in the update, or the
difference to the mean after it (both make the order matter); a covariance around the common mean, which holds the
classes' differences to be noise; one covariance per class, which a few examples do not give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, heads, registry
from workbench.learn.protocol import Adapted, State, Tensors

COUNTS, MEANS, SCATTER = "counts", "means", "scatter"
WEIGHT, BIAS = "weight", "bias"


@registry.register
class SLDA(forms.FrozenTrunk):
    """Class means and one shared covariance on a trunk that stays as it is; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="slda",
        title="Streaming LDA on frozen features",
        family="transfer baseline",
        paper="Hayes, Kanan 2020, arXiv 1909.01520",
        summary="Keeps a trained network as it is; classes and pictures can be added later without the old pictures.",
        tags=frozenset({"any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        prior: float = param(
            20.0,
            low=1e-3,
            high=1e6,
            step=1.0,
            title="Prior examples",
            help="Examples' worth of a covariance that is alike in all directions.",
        )

    p: Params

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:  # noqa: ARG002
        """The sums, ``means [N, D]`` and ``scatter [D, D]`` among them, and their classifier."""
        return self.added(None, features, y, ways).tensors

    @torch.no_grad()
    def added(self, a: Adapted | None, features: Tensor, y: Tensor, ways: int) -> Adapted:
        """What was adapted with more pictures, of its classes or of new ones; the old pictures are not needed.

        Args:
            a: what ``adapt`` or this gave before; ``None`` for the first pictures. It stays as it is.
            features: of the new pictures ``[S, D]``, what ``trunk`` gives for them.
            y: ``[S]`` in ``0..ways-1``; classes keep their numbers, new ones come behind them.
            ways: number of classes then, each of them with a picture by then.

        Raises:
            ValueError: classes would be taken away, or a class has no picture.
        """
        before = None if a is None else {n: a.tensors[n] for n in (COUNTS, MEANS, SCATTER)}
        sums = streamed(before, features.double(), y, ways)
        if bool((sums[COUNTS] == 0).any()):
            raise ValueError("every class needs a picture")
        off = features.double() - sums[MEANS][y] if a is None else None
        weight, bias = linear(sums, self.p.prior, off)
        return Adapted({**sums, WEIGHT: weight.to(features), BIAS: bias.to(features)}, ways)

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The linear layer."""
        return heads.LinearHead(a.tensors[WEIGHT], a.tensors[BIAS])


def streamed(sums: Tensors | None, features: Tensor, y: Tensor, ways: int) -> Tensors:
    """Counts, means and scatter with more pictures in them; exact whatever came before.

    Args:
        sums: those so far, of ``ways`` classes or fewer, or ``None``.
        features: ``[S, D]``.
        y: ``[S]`` in ``0..ways-1``.
        ways: number of classes from now on.

    Raises:
        ValueError: fewer classes than before.
    """
    member = heads.one_hot(y, ways, features)
    new = member.sum(0)
    means = (member.T @ features) / new.clamp_min(1)[:, None]
    off = features - means[y]
    scatter = off.T @ off
    if sums is None:
        return {COUNTS: new, MEANS: means, SCATTER: scatter}
    more = ways - len(sums[COUNTS])
    if more < 0:
        raise ValueError("classes are added, not taken away")
    old = torch.cat([sums[COUNTS], new.new_zeros(more)])
    before = torch.cat([sums[MEANS], means.new_zeros(more, means.shape[1])])
    total = (old + new).clamp_min(1)
    apart = means - before
    between = (apart * (old * new / total)[:, None]).T @ apart
    moved = before + apart * (new / total)[:, None]
    return {COUNTS: old + new, MEANS: moved, SCATTER: sums[SCATTER] + scatter + between}


def linear(sums: Tensors, prior: float, off: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``weight [N, D]`` and ``bias [N]`` of the discriminant; ``prior`` is the module's ``c``.

    Where all pictures are at hand, and they are fewer than features, ``off [n, D]`` is what they are off their classes'
    means: ``M = off' off``, and a system of ``n`` equations gives the same (Woodbury) sooner than one of ``D``.
    """
    counts, means, scatter = sums[COUNTS], sums[MEANS], sums[SCATTER]
    n, (ways, features) = counts.sum(), means.shape
    apart = means - (counts[:, None] * means).sum(0) / n
    spread = torch.diagonal(scatter).sum() + (counts * apart.square().sum(1)).sum()
    variance = (spread / (features * (n - 1).clamp_min(1))).clamp_min(torch.finfo(means.dtype).tiny ** 0.5)
    ridge, weighing = prior * variance, n - ways + prior
    if off is None or len(off) >= features:
        eye = torch.eye(features, dtype=means.dtype, device=means.device)
        solved = torch.linalg.solve(scatter + ridge * eye, means.T).T
    else:
        eye = torch.eye(len(off), dtype=means.dtype, device=means.device)
        inner = torch.linalg.solve(off @ off.T + ridge * eye, off @ means.T)
        solved = (means - inner.T @ off) / ridge
    weight = (weighing * solved).contiguous()
    return weight, -(weight * means).sum(1) / 2
