"""What all representations of a task have in common, so that tasks can be compared in several ways side by side.

A task is a *set of labelled pictures*. Whatever stands for it must not depend on the order of the pictures or on how
the classes are numbered; each representation here is tested for that.

===================  =============================================  ==========================================
key                  vector                                         learnt
===================  =============================================  ==========================================
``gaussian``         mean and covariance of the features            nothing
``meta-features``    named numbers, each with a unit                nothing but their spread over the library
``encoder``          what a network makes of the set                a set encoder, on the loaded sources
``trajectory``       where gradient descent takes the trunk         nothing beside the trunk
``context``          CAVIA's context after adapting                 CAVIA
``task2vec``         which filters matter (Fisher information)      a classifier per task
===================  =============================================  ==========================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.core.values import ImageRef, Preprocess
from workbench.transfer.represent import Representation, represent, similarity


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task's labelled pictures, as far as they are at hand. A representation says what it needs of them.

    Attributes:
        y: ``[n]`` int64 in ``0..ways-1``, every class at least once.
        ways: number of classes.
        x: ``[n, C, H, W]`` normalised pictures, or ``None``.
        features: ``[n, D]`` under the one trunk that tasks are compared under, or ``None``.
        preprocess: how ``x`` was made, or ``None``; with it the pixels of 0..1 can be had again.
        images: the pictures' files in the same order, for their sizes and formats; may be empty.

    Raises:
        ValueError: the parts do not fit one another.
    """

    y: Tensor
    ways: int
    x: Tensor | None = None
    features: Tensor | None = None
    preprocess: Preprocess | None = None
    images: tuple[ImageRef, ...] = ()

    def __post_init__(self) -> None:
        n = self.y.numel()
        if self.y.ndim != 1 or torch.unique(self.y).tolist() != list(range(self.ways)):
            raise ValueError("every class of a task needs a picture, numbered from 0")
        for part in (self.x, self.features, self.images or None):
            if part is not None and len(part) != n:
                raise ValueError(f"{len(part)} pictures or features for {n} labels")

    def needed_x(self) -> Tensor:
        """The pictures.

        Raises:
            ValueError: they are not at hand.
        """
        if self.x is None:
            raise ValueError("this representation needs the pictures")
        return self.x

    def needed_features(self) -> Tensor:
        """The features.

        Raises:
            ValueError: they are not at hand.
        """
        if self.features is None:
            raise ValueError("this representation needs features")
        return self.features


class TaskRepresentation(Protocol):
    """One way to stand for a task by a vector, and to say how alike two tasks are. Structural, no base class."""

    @property
    def key(self) -> str:
        """For commands and files."""
        ...

    @property
    def title(self) -> str:
        """For people."""
        ...

    def embed(self, task: TaskData, ctx: Context) -> Tensor:
        """``[E]`` float64 on the processor, finite; the same for any order of pictures and classes.

        Raises:
            ValueError: the task lacks what is needed, or holds numbers that are not finite.
            JobCancelledError: from ``ctx``.
        """
        ...

    def similarity(self, a: Tensor, b: Tensor) -> float:
        """How much task ``a`` resembles ``b``; 1 for identical ones, smaller the less they are alike.

        In 0..1, or -1..1 for those that compare directions, where 0 says "unrelated".
        """
        ...


class Gaussian:
    """Mean and covariance of the features, compared by a Frechet distance; see :mod:`workbench.transfer.represent`.

    The vector holds the mean ``[D]``, the covariance's lower triangle and the number of pictures, one after the other.
    """

    key: ClassVar[str] = "gaussian"
    title: ClassVar[str] = "Mean and spread of the features"

    def embed(self, task: TaskData, ctx: Context) -> Tensor:
        """``[D + D (D + 1) / 2 + 1]`` for (folded) features of width ``D``."""
        ctx.check()
        return packed(represent(task.needed_features()))

    def similarity(self, a: Tensor, b: Tensor) -> float:
        """0..1; not symmetric, since few pictures say little about a covariance: ``a`` is the new task."""
        return similarity(unpacked(a), unpacked(b))


def packed(r: Representation) -> Tensor:
    """A task's mean, covariance and number of pictures as one vector."""
    rows, columns = torch.tril_indices(len(r.mean), len(r.mean))
    return torch.cat([r.mean.double(), r.covariance.double()[rows, columns], torch.tensor([float(r.n)]).double()])


def unpacked(v: Tensor) -> Representation:
    """The inverse of :func:`packed`.

    Raises:
        ValueError: no such vector has this length.
    """
    width = _width(len(v))
    rows, columns = torch.tril_indices(width, width)
    lower = v.new_zeros(width, width)
    lower[rows, columns] = v[width:-1]
    covariance = lower + lower.T - torch.diag(lower.diagonal())
    return Representation(v[:width].float(), covariance.float(), int(v[-1]))


def packed_mean(values: Sequence[float]) -> Tensor:
    """The mean ``[D]`` out of what :func:`packed` made, without the large rest.

    Raises:
        ValueError: no such vector has this length, or it is of no picture.
    """
    if not values or values[-1] < 1:
        raise ValueError("a task needs at least one picture")
    return torch.tensor(values[: _width(len(values))], dtype=torch.float64).float()


def _width(numbers: int) -> int:
    """``D`` of ``D + D (D + 1) / 2 + 1`` numbers."""
    width = (math.isqrt(9 + 8 * (numbers - 1)) - 3) // 2
    if width < 1 or width + width * (width + 1) // 2 + 1 != numbers:
        raise ValueError(f"{numbers} numbers are no mean and covariance")
    return width


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two vectors, -1..1; 0 where one of them is zero."""
    size = float(a.norm() * b.norm())
    return max(-1.0, min(1.0, float(a @ b) / size)) if size > 0 else 0.0
