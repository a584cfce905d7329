"""Domain adaptation: what a network learnt on source pictures, made to fit a folder of target pictures without labels.

Four ways, none of which looks at a label of the target:

* **AdaBN** (Li et al. 2016, arXiv 1603.04779), :func:`target_statistics`: batch norm's running statistics are replaced
  by those of the target pictures. Nothing is trained.
* **CORAL** (Sun, Feng, Saenko 2016, arXiv 1511.05547), :func:`recolour`: features are whitened with one domain's
  covariance and coloured with the other's, ``x -> (x - mu_1) C_1^-1/2 C_2^1/2 + mu_2``: a linear layer. As a penalty of
  training (Deep CORAL, arXiv 1607.01719), :func:`coral_penalty`: ``|C_S - C_T|_F^2 / (4 D^2)``.
* **MMD** (Gretton et al. 2012; Long et al. 2015, arXiv 1502.02791), :func:`mmd`: how far apart the domains' features
  lie in the space of a bank of Gaussian kernels, as a penalty of training.
* **DANN** (Ganin et al. 2016, arXiv 1505.07818), :func:`reversed_gradient` and :func:`told_apart`: a classifier learns
  to tell the domains apart, and the trunk learns that it cannot.

Mistakes that are easily made here, and not made:

* a covariance of fewer pictures than features, which is singular: whitening with it divides by nought. All are shrunk;
* whitening and colouring in the wrong order (features are rows here: the whitening stands on the left);
* AdaBN with the mean of batches' statistics: layer by layer, the statistics here are those of all pictures at once;
* the biased estimate of the MMD, which is above 0 between two halves of one domain;
* domains that are made alike by making classes alike: :func:`separation` tells, and is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.learn import functional, norm
from workbench.learn.protocol import Tensors

LEAST_SHRINKAGE = 0.8
"""At least this share of a covariance is a multiple of the identity. CORAL's authors add the identity to covariances of
about that size. The widest directions of a folder of few classes are those that tell its classes apart, and whitening
flattens them: on five folders unlike the starter's alphabets (inverted and pale drawings, hands) the nearest class mean
was right in 0.83 without CORAL, and with it in 0.60 for a share of 0.01, 0.69 for 0.1, 0.82 for 0.5, 0.84 for 0.7 and
0.85 for 0.9. Those accuracies took the labels of the five folders, once and for all; none of a target is used when an
entry is aligned with it."""
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the kernels of the MMD, as multiples of the median squared distance."""
HIDDEN = 64
"""Units of DANN's classifier of domains."""

# ---- AdaBN -----------------------------------------------------------------------------------------------------------


def target_statistics(
    network: nn.Module,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    inputs: Callable[[int, int], Tensor],
    count: int,
    batch: int,
    ctx: Context,
) -> Tensors:
    """Running statistics ``<layer>.running_mean`` and ``running_var`` (biased) of some pictures, layer by layer.

    A layer is measured with all layers before it normalised by *their* new statistics, over all pictures together: the
    result does not depend on how they are divided into batches, and equals one pass with all of them as one batch.

    Args:
        network: a skeleton with :class:`~workbench.learn.norm.Norm2d` layers.
        params: its parameters by name.
        buffers: its running statistics; those of no such layer pass through.
        inputs: normalised pictures from-to, ``[n, C, H, W]``.
        count: pictures in all, at least one.
        batch: pictures at a time; ``ctx.check()`` before each.
        ctx: of the job.

    Raises:
        ValueError: no picture.
    """
    if count < 1:
        raise ValueError("statistics need at least one picture")
    found = dict(buffers)
    layers = _in_order(network, params, inputs(0, 1))
    for done, layer in enumerate(layers):
        seen = _Pooled()
        with torch.no_grad(), seen.at_the_input_of(layer):
            for start in range(0, count, batch):
                ctx.check()
                try:
                    functional.call(network, params, found, inputs(start, min(start + batch, count)))
                except _EnoughError:
                    continue
        found[f"{layer.path}.running_mean"] = seen.mean.to(buffers[f"{layer.path}.running_mean"])
        found[f"{layer.path}.running_var"] = seen.var.to(buffers[f"{layer.path}.running_var"])
        ctx.progress(done + 1, len(layers), "layers")
    return found


def _in_order(network: nn.Module, params: Mapping[str, Tensor], x: Tensor) -> list[norm.Norm2d]:
    """The normalising layers in the order in which a picture meets them."""
    with torch.no_grad(), norm.batch_statistics() as seen:
        functional.call(network, params, {}, x)
    layers = {m.path: m for m in network.modules() if isinstance(m, norm.Norm2d)}
    return [layers[path] for path in seen]


class _EnoughError(Exception):
    """The layer that is measured was reached; what lies behind it need not be computed."""


class _Pooled:
    """Mean and biased variance per channel of everything that came, batch after batch (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.values = 0
        self.mean, self.squares = torch.zeros(()), torch.zeros(())

    @property
    def var(self) -> Tensor:
        return self.squares / self.values

    def at_the_input_of(self, layer: nn.Module) -> _Hook:
        return _Hook(layer, self.take)

    def take(self, _module: nn.Module, arguments: tuple[Any, ...]) -> None:
        x: Tensor = arguments[0].detach().double()
        count = x.numel() // x.shape[1]
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        total = self.values + count
        if self.values:
            away = mean - self.mean
            self.squares = self.squares + var * count + away.square() * (self.values * count / total)
            self.mean = self.mean + away * (count / total)
        else:
            self.mean, self.squares = mean, var * count
        self.values = total
        raise _EnoughError


class _Hook:
    """Within the block a function sees what a layer is about to be given."""

    def __init__(self, layer: nn.Module, sees: Callable[[nn.Module, tuple[Any, ...]], None]) -> None:
        self.layer, self.sees = layer, sees

    def __enter__(self) -> None:
        self.handle = self.layer.register_forward_pre_hook(self.sees)

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


# ---- CORAL -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and shrunk covariance of a domain's features, by directions, so that a power of it costs ``D^2 r``.

    ``C = V diag(values) V' + floor (I - V V')``.

    Attributes:
        mean: ``[D]``.
        directions: ``V [D, r]``, orthonormal.
        values: ``[r]`` variances in these directions.
        floor: variance in all others.
    """

    mean: Tensor
    directions: Tensor
    values: Tensor
    floor: float

    def power(self, exponent: float) -> Tensor:
        """``C^exponent [D, D]``, symmetric."""
        d, r = self.directions.shape
        rest = self.floor**exponent if r < d else 0.0
        inside = (self.directions * (self.values**exponent - rest)) @ self.directions.T
        return inside + rest * torch.eye(d, dtype=inside.dtype, device=inside.device)


def spread(features: Tensor, shrinkage: float | None = None) -> Spread:
    """Mean and shrunk covariance of ``features [n, D]``, in float64.

    The covariance is shrunk towards a multiple of the identity by ``shrinkage``, or by the amount that minimises the
    expected squared error (Ledoit, Wolf 2004), at least :data:`LEAST_SHRINKAGE`.

    Raises:
        ValueError: fewer than two pictures, or features that are not finite or all alike.
    """
    x = features.detach().double()
    if x.ndim != 2 or len(x) < 2 or not bool(torch.isfinite(x).all()):
        raise ValueError(f"the spread of features {tuple(x.shape)} needs at least two rows of finite numbers")
    n, d = x.shape
    mean = x.mean(0)
    centred = x - mean
    _, singular, rows = torch.linalg.svd(centred, full_matrices=False)
    values = singular.square() / n
    scale = float(values.sum()) / d
    if scale <= 0:
        raise ValueError("the pictures have all the same features")
    share = _best_shrinkage(centred, values, scale) if shrinkage is None else shrinkage
    return Spread(mean, rows.T, (1 - share) * values + share * scale, share * scale)


def _best_shrinkage(centred: Tensor, values: Tensor, scale: float) -> float:
    n, d = centred.shape
    squares = float(values.square().sum())
    away = squares - d * scale**2
    noise = (float(centred.square().sum(1).square().sum()) / n - squares) / n
    return min(1.0, max(LEAST_SHRINKAGE, noise / away)) if away > 0 else LEAST_SHRINKAGE


def recolour(given: Spread, wanted: Spread) -> tuple[Tensor, Tensor]:
    """``weight [D, D]`` and ``bias [D]`` of the linear layer that gives one domain's features another's spread.

    ``F.linear(x, weight, bias) = (x - mu_given) C_given^-1/2 C_wanted^1/2 + mu_wanted``; what had the covariance
    ``C_given`` has ``C_wanted`` afterwards.
    """
    rows = given.power(-0.5) @ wanted.power(0.5)
    return rows.T.contiguous(), wanted.mean - given.mean @ rows


def folded(weight: Tensor, bias: Tensor, head_weight: Tensor, head_bias: Tensor) -> tuple[Tensor, Tensor]:
    """A linear layer (:func:`recolour`) and the linear classifier behind it as one: ``[N, D]`` and ``[N]``."""
    return head_weight @ weight, head_bias + head_weight @ bias


def coral_penalty(source: Tensor, target: Tensor) -> Tensor:
    """``|C_S - C_T|_F^2 / (4 D^2)`` of features ``[n, D]`` and ``[m, D]``, a scalar with a graph.

    Raises:
        ValueError: fewer than two pictures in a domain.
    """
    if min(len(source), len(target)) < 2:
        raise ValueError("a covariance needs at least two pictures")
    return (_covariance(source) - _covariance(target)).square().sum() / (4 * source.shape[1] ** 2)


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)


# ---- MMD -------------------------------------------------------------------------------------------------------------


def mmd(source: Tensor, target: Tensor, bandwidths: Sequence[float] = BANDWIDTHS) -> Tensor:
    """Unbiased estimate of the squared maximum mean discrepancy, a scalar with a graph; its mean is 0 for one domain.

    ``mean_{i != j} k(s_i, s_j) + mean_{i != j} k(t_i, t_j) - 2 mean_{i, j} k(s_i, t_j)`` with ``k`` the mean of some
    kernels ``exp(-|a - b|^2 / (2 h m))``; ``m`` is the median squared distance of all pairs, a constant. It may be
    below 0.

    Args:
        source: ``[n, D]``, n >= 2.
        target: ``[m, D]``, m >= 2.
        bandwidths: ``h`` of each kernel.

    Raises:
        ValueError: fewer than two pictures in a domain.
    """
    n, m = len(source), len(target)
    if min(n, m) < 2:
        raise ValueError("the unbiased estimate needs at least two pictures of each domain")
    x = torch.cat([source, target])
    lengths = x.square().sum(1)
    distances = (lengths[:, None] + lengths - 2 * x @ x.T).clamp_min(0)
    apart = ~torch.eye(n + m, dtype=torch.bool, device=x.device)
    median = distances.detach()[apart].median().clamp_min(torch.finfo(x.dtype).tiny)
    kernel = torch.stack([torch.exp(-distances / (2 * h * median)) for h in bandwidths]).mean(0)
    kernel = kernel * apart  # a picture with itself: the diagonal is what makes the estimate biased
    within = kernel[:n, :n].sum() / (n * (n - 1)) + kernel[n:, n:].sum() / (m * (m - 1))
    return within - 2 * kernel[:n, n:].mean()


# ---- DANN ------------------------------------------------------------------------------------------------------------


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by ``-strength``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reversed_gradient(x: Tensor, strength: float) -> Tensor:
    """``x`` itself; what flows back through it is multiplied by ``-strength``."""
    out: Tensor = _Reversed.apply(x, strength)
    return out


def reversal_strength(fraction: float) -> float:
    """``2 / (1 + exp(-10 p)) - 1`` after a fraction ``p`` of training: from 0, so that the classifier learns first."""
    return 2 / (1 + math.exp(-10 * fraction)) - 1


def domain_classifier(features: int, gen: Generator) -> Tensors:
    """A fresh one, ``[B, features] -> [B]``: one hidden layer."""

    def uniform(*shape: int) -> Tensor:
        drawn = torch.rand(shape, generator=gen, device=gen.device)
        return (2 * drawn - 1) / math.sqrt(shape[-1])

    zero = torch.zeros(HIDDEN, device=gen.device)
    return {
        "hidden.weight": uniform(HIDDEN, features),
        "hidden.bias": zero,
        "out.weight": uniform(1, HIDDEN),
        "out.bias": zero[:1].clone(),
    }


def told_apart(
    classifier: Mapping[str, Tensor], source: Tensor, target: Tensor, strength: float
) -> tuple[Tensor, float]:
    """The loss of telling the domains apart (each counts half), and the share that is told apart right.

    Its gradient makes the classifier better and, through :func:`reversed_gradient`, the features worse for it.

    Args:
        classifier: see :func:`domain_classifier`.
        source: features ``[n, D]``.
        target: features ``[m, D]``.
        strength: of the reversal.
    """
    x = reversed_gradient(torch.cat([source, target]), strength)
    hidden = F.relu(F.linear(x, classifier["hidden.weight"], classifier["hidden.bias"]))
    z = F.linear(hidden, classifier["out.weight"], classifier["out.bias"])[:, 0]
    of_source, of_target = z[: len(source)], z[len(source) :]
    loss = (F.softplus(-of_source).mean() + F.softplus(of_target).mean()) / 2
    right = ((of_source > 0).float().mean() + (of_target < 0).float().mean()) / 2
    return loss, float(right)


# ---- what alignment may cost -----------------------------------------------------------------------------------------


def separation(features: Tensor, y: Tensor) -> float:
    """Share of the features' variance that lies between classes, 0..1; it falls where classes collapse into one.

    Args:
        features: ``[n, D]`` of *source* pictures.
        y: ``[n]`` their classes.
    """
    x = features.detach().double()
    x = x - x.mean(0)
    total = float(x.square().sum())
    if total <= 0:
        return 0.0
    between = sum(float(x[y == c].mean(0).square().sum()) * int((y == c).sum()) for c in torch.unique(y).tolist())
    return between / total
