"""What is remembered of the source classes: how many pictures each had, its mean feature, and how its features spread.

Kept in a state's memory as sums, so that batches can be added one after another::

    base.count [M]     base.sum [M, D]     and of the squares, in the richest of three forms that is not too large:
    base.squares.class [M, D, D]    sum of f f' for each class: a covariance of its own
    base.squares.shared [D, D]      the same over all classes: one covariance within classes, as in linear discriminants
    base.squares.single [M, D]      sum of f o f for each class: variances, and no covariance

Sums are taken about a fixed origin (``base.origin [D]``) near the middle of the features, so that little is lost when
the square of a mean is taken from a mean of squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.learn.protocol import Tensors

COUNT, SUM, SQUARES, ORIGIN = "base.count", "base.sum", "base.squares.", "base.origin"
FORMS = ("class", "shared", "single")
"""From the richest to the smallest."""
LARGEST = 64 * 2**20
"""Bytes of the squares. Class covariances fit for 4 096 classes of 64 features, or 64 classes of 512."""


class Described(NamedTuple):
    """Of the classes with at least two pictures: ``mean [K, D]`` and how they spread, as ``form`` says.

    ``spread``: covariances ``[K, D, D]`` (class), one ``[D, D]`` (shared) or variances ``[K, D]`` (single), divided by
    ``n - 1``; over all classes by the pictures less the classes.
    """

    mean: Tensor
    form: str
    spread: Tensor


def chosen_form(classes: int, features: int, wanted: str) -> str:
    """The form asked for, or the next that takes at most :data:`LARGEST` bytes; the last one fits by force."""
    bytes_of = {"class": 4 * classes * features**2, "shared": 4 * features**2, "single": 0}
    return next(form for form in FORMS[FORMS.index(wanted) :] if bytes_of[form] <= LARGEST)


def empty(classes: int, features: int, form: str, like: Tensor) -> Tensors:
    """The memory before the first picture; nothing where no classes are known, as when knowledge is loaded."""
    if not classes:
        return {}
    shape = {"class": (classes, features, features), "shared": (features, features), "single": (classes, features)}
    return {
        COUNT: like.new_zeros(classes),
        ORIGIN: like.new_zeros(features),
        SUM: like.new_zeros(classes, features),
        SQUARES + form: like.new_zeros(shape[form]),
    }


@torch.no_grad()
def added(memory: Mapping[str, Tensor], features: Tensor, rows: Tensor) -> Tensors:
    """The memory with more pictures in it; the old one stays as it is.

    Args:
        memory: of :func:`empty` or of this; other tensors are not looked at.
        features: ``[B, D]``.
        rows: ``[B]`` class of each among all.
    """
    name = next(n for n in memory if n.startswith(SQUARES))
    origin = memory[ORIGIN] if float(memory[COUNT].sum()) else features.mean(0)
    f = features - origin
    squares = memory[name]
    if name == SQUARES + "shared":
        squares = torch.addmm(squares, f.T, f)
    elif name == SQUARES + "class":
        squares = squares.clone()
        for k in sorted(set(rows.tolist())):
            own = f[rows == k]
            squares[k].addmm_(own.T, own)
    else:
        squares = squares.index_add(0, rows, f.square())
    return {
        COUNT: memory[COUNT].index_add(0, rows, torch.ones_like(f[:, 0])),
        ORIGIN: origin,
        SUM: memory[SUM].index_add(0, rows, f),
        name: squares,
    }


def means(memory: Mapping[str, Tensor]) -> Tensor:
    """``[K, D]`` of the classes with at least two pictures, as in :class:`Described`; the memory knows some."""
    known = memory[COUNT] > 1
    return memory[SUM][known] / memory[COUNT][known][:, None] + memory[ORIGIN]


@torch.no_grad()
def described(memory: Mapping[str, Tensor]) -> Described | None:
    """Means and spreads, or ``None`` where nothing is known yet: no classes, or none with two pictures."""
    if COUNT not in memory:
        return None
    known = memory[COUNT] > 1
    if not bool(known.any()):
        return None
    form = next(n for n in memory if n.startswith(SQUARES)).removeprefix(SQUARES)
    n, mean = memory[COUNT][known], memory[SUM][known] / memory[COUNT][known][:, None]
    squares = memory[SQUARES + form]
    if form == "class":
        spread = (squares[known] - n[:, None, None] * mean[:, :, None] * mean[:, None, :]) / (n - 1)[:, None, None]
    elif form == "single":
        spread = ((squares[known] - n[:, None] * mean.square()) / (n - 1)[:, None]).clamp_min(0)
    else:
        # a class of one picture adds its square and takes it away again
        every = memory[SUM] / memory[COUNT].clamp_min(1)[:, None]
        within = squares - (memory[COUNT][:, None] * every).T @ every
        spread = within / (memory[COUNT].sum() - (memory[COUNT] > 0).sum())
    return Described(mean + memory[ORIGIN], form, spread)
