"""Heads: from the features of a few labelled examples to a classifier. Closed forms, differentiable, any float type.

Shapes: features ``f [S, D]`` or ``[B, D]``, labels ``y [S]`` in ``0..N-1``, logits ``[B, N]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.errors import WorkbenchError

START = 4.0
"""The factor before a squared distance starts at ``START / D``: with ``D`` features behind a batch norm distances are
about ``D``, so logits are a few units. With factor 1 the softmax is saturated and Conv-4 on Omniglot learns much slower
(20-way 1-shot after 600 20-way episodes: 0.79 from 64 / D = 1, 0.85 from 8 / D, 0.86 from 2 / D, 0.79 from 0.5 / D)."""


def one_hot(y: Tensor, ways: int, like: Tensor) -> Tensor:
    """``[S, N]`` of the float type and device of ``like``."""
    return F.one_hot(y, ways).to(like)


def prototypes(features: Tensor, y: Tensor, ways: int) -> Tensor:
    """``[N, D]``: the mean of each class's *features* (not of softmax outputs); shots may differ per class."""
    member = one_hot(y, ways, features)
    return (member.T @ features) / member.sum(0)[:, None]


def prototype_linear(centres: Tensor, scale: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """The linear classifier that equals nearest-prototype: ``w_k = 2 s c_k``, ``b_k = -s |c_k|^2``.

    ``-s |f - c_k|^2 = w_k f + b_k - s |f|^2``; the last term is the same for all classes, so the softmax is the same.
    """
    return 2 * scale * centres, -scale * centres.square().sum(1)


def linear_parameters(form: str, ways: int, features: int, gen: Generator) -> dict[str, Tensor]:
    """What is learnt of a linear classifier's start, fresh.

    Args:
        form: ``textbook``: rows like other weights, ``head.weight [N, D]`` uniform in ``+-1/sqrt(D)`` and ``head.bias
            [N]`` zero; ``prototype``: only ``scale``, the logarithm of the factor before the squared distance.
        ways: ``N``.
        features: ``D``.
        gen: of all randomness.
    """
    if form == "prototype":
        return {"scale": torch.tensor(math.log(START / features), device=gen.device)}
    rows = torch.rand(ways, features, generator=gen, device=gen.device)
    return {"head.weight": (2 * rows - 1) / math.sqrt(features), "head.bias": rows.new_zeros(ways)}


def linear_start(learned: Mapping[str, Tensor], features: Tensor, y: Tensor, ways: int) -> tuple[Tensor, Tensor]:
    """``weight [N, D]`` and ``bias [N]`` that a task begins with, of either form of :func:`linear_parameters`.

    Raises:
        WorkbenchError: fixed rows, and another number of classes.
    """
    if "head.weight" not in learned:
        return prototype_linear(prototypes(features, y, ways), learned["scale"].exp())
    weight, bias = learned["head.weight"], learned["head.bias"]
    if ways != len(bias):
        raise WorkbenchError(
            "The task cannot be adapted to",
            f"it has {ways} classes and this knowledge was trained with a fixed head for {len(bias)}",
            "Use knowledge trained with the prototype head, or ask for that number of classes",
        )
    return weight, bias


def distance_logits(features: Tensor, centres: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """``[B, N]``: minus the *squared* distance times ``scale``, without the term common to all classes.

    Written as a matrix product: ``cdist`` cannot be exported, and the unsquared distance is another softmax.
    """
    weight, bias = prototype_linear(centres, scale)
    return F.linear(features, weight, bias)


def cosine_logits(features: Tensor, centres: Tensor, scale: Tensor | float = 10.0) -> Tensor:
    """``[B, N]``: cosine similarity times ``scale``; without a scale above 1 the softmax could not become confident."""
    return scale * F.linear(F.normalize(features, dim=1), F.normalize(centres, dim=1))


def balanced(y: Tensor, ways: int, like: Tensor) -> Tensor:
    """``[S]`` weights under which every class counts alike, mean 1."""
    count = one_hot(y, ways, like).sum(0)
    return (y.numel() / ways) / count[y]


def ridge(x: Tensor, targets: Tensor, strength: float, weights: Tensor | None = None) -> Tensor:
    """``W [D, N]`` that minimises ``sum_i a_i |x_i W - t_i|^2 + strength |W|^2``; ``a`` is ``weights [S]`` or 1.

    Solved where the system is smaller: primal ``(X'AX + s I)^-1 X'AT`` for ``S > D``, else dual
    ``X' A^1/2 (A^1/2 X X' A^1/2 + s I)^-1 A^1/2 T``.

    Raises:
        ValueError: a strength that is not positive.
    """
    if strength <= 0:
        raise ValueError("the strength of a ridge must be positive")
    root = torch.ones_like(x[:, :1]) if weights is None else weights.sqrt()[:, None]
    a, t = x * root, targets * root
    if x.shape[0] > x.shape[1]:
        primal: Tensor = torch.linalg.solve(a.T @ a + strength * _eye(x.shape[1], x), a.T @ t)
        return primal
    dual: Tensor = torch.linalg.solve(a @ a.T + strength * _eye(x.shape[0], x), t)
    return a.T @ dual


def unit_ridge(features: Tensor, y: Tensor, ways: int, strength: float) -> Tensor:
    """``[N, D]``: a ridge on features of length 1 whose targets are one-hot labels, every class counting alike.

    Without a bias: with every class counting alike it would be the same for all. For :class:`UnitLinearHead`.
    """
    x = F.normalize(features, dim=1)
    return ridge(x, one_hot(y, ways, x), strength, balanced(y, ways, x)).T.contiguous()


def ridge_leave_one_out(x: Tensor, targets: Tensor, strength: float, weights: Tensor | None = None) -> Tensor:
    """``[S, N]``: for each example what the ridge fitted *without it* predicts, in closed form.

    With the hat matrix ``H = A^1/2 X (X'AX + s I)^-1 X' A^1/2`` the residual left out is ``(t_i - p_i) / (1 - h_ii)``.
    """
    root = torch.ones_like(x[:, :1]) if weights is None else weights.sqrt()[:, None]
    a = x * root
    fitted = x @ ridge(x, targets, strength, weights)
    # h = K (K + s)^-1 has the diagonal 1 - s * diag((K + s)^-1).
    inverse = torch.linalg.inv(a @ a.T + strength * _eye(x.shape[0], x))
    left = strength * torch.diagonal(inverse)[:, None]
    return targets - (targets - fitted) / left


class LinearHead(nn.Module):
    """``[B, D] -> [B, N]``: a fixed linear classifier."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """Logits of ``features [B, D]``."""
        return F.linear(features, self.weight, self.bias)


class UnitLinearHead(nn.Module):
    """``[B, D] -> [B, N]``: a fixed linear classifier, as a rule without bias, on features divided by their length."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """Logits of ``features [B, D]``."""
        return F.linear(F.normalize(features, dim=1), self.weight, self.bias)


def _eye(n: int, like: Tensor) -> Tensor:
    return torch.eye(n, dtype=like.dtype, device=like.device)
