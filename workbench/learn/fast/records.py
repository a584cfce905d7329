"""What the fast path's passes leave behind: the way up through the blocks of Conv-4, and the way back.

Shapes are those of :mod:`workbench.learn.fast.blocks`: a chunk ``x [b, C, H, W]``; per block ``y [b, O, H, W]``, pooled
``[b, O, H // 2, W // 2]``; all channels-last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.learn.fast import kernels
from workbench.learn.norm import Moments

CACHED = 3 * 28 * 28
"""Pixels whose first block's output fits in a core's cache."""


class Block(NamedTuple):
    """What a block holds: ``kernel [O, C, 3, 3]``, the norm's ``gain [O]`` and ``shift [O]``; or their gradients."""

    kernel: Tensor
    gain: Tensor
    shift: Tensor


@dataclass(slots=True)
class Pictures:
    """A chunk of pictures: how many, their side lengths and their patches ``[9 C, b * H * W]``.

    ``mean [9 C]`` and ``scatter [9 C, 9 C]`` (covariance times the number) are measured once, in double precision.
    """

    number: int
    height: int
    width: int
    patches: Tensor
    mean: Tensor | None = None
    scatter: Tensor | None = None

    def measure(self) -> tuple[Tensor, Tensor]:
        """Mean and scatter of the patches."""
        if self.mean is None or self.scatter is None:
            values = self.patches.double()
            self.mean = values.mean(1)
            values = values - self.mean[:, None]
            self.scatter = values @ values.T
        return self.mean, self.scatter

    @property
    def sides(self) -> tuple[int, int, int]:
        """Height, width, and how many pictures' output of the first block fits in the cache."""
        return self.height, self.width, max(1, CACHED // (self.height * self.width))


@dataclass(slots=True)
class Passed:
    """What one chunk leaves behind in one block, for the way back.

    Attributes:
        x: input of the block; ``None`` in the first.
        y: before pooling, where the statistics are the pictures' own and the block is not the first.
        where: of the largest values.
        largest: of four values of ``y``.
        out: of the block.
    """

    x: Tensor | None
    y: Tensor | None
    where: Tensor
    largest: Tensor
    out: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(slots=True)
class Layer:
    """One block of one pass.

    Attributes:
        kernel: signed, in the type that it convolves in.
        sign: of the gain ``[O]``, or ``None`` where all are positive.
        gain: ``|gain|``.
        shift: as given.
        rate: ``1 / sd``.
        eps: of the norm.
        seen: statistics of ``y``.
        chunks: what each chunk left.
    """

    kernel: Tensor
    sign: Tensor | None
    gain: Tensor
    shift: Tensor
    rate: Tensor
    eps: float
    seen: Moments
    chunks: list[Passed]

    @property
    def scale(self) -> Tensor:
        """``|gain| / sd``."""
        return self.gain * self.rate

    def signed(self, t: Tensor) -> Tensor:
        """``t [O, ...]`` times the sign."""
        return t if self.sign is None else t * self.sign.view(-1, *(1,) * (t.ndim - 1))

    @property
    def norm(self) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
        """Mean, variance, gain, shift, eps."""
        return self.seen.mean, self.seen.var, self.gain, self.shift, self.eps

    def height(self, i: int) -> Tensor:
        """The normalised largest values ``h`` of a chunk."""
        return (self.chunks[i].largest - kernels.column(self.seen.mean)) * kernels.column(self.rate)


@dataclass(slots=True)
class Tape:
    """One pass: its pictures, whether the statistics are their own, its blocks."""

    pictures: list[Pictures]
    own: bool
    layers: list[Layer]


class Sums(NamedTuple):
    """Of a chunk or of all: ``A = sum dz [O]``, ``B = sum dz * h [O]``."""

    plain: Tensor
    heights: Tensor


@dataclass(slots=True)
class Back:
    """The way back through one block, and what it is made of.

    Attributes:
        dz: of each chunk.
        d: of each chunk, without its zeros.
        dy: of each chunk; none in the first block.
        sums: of all chunks.
        slope: ``[O]``.
        level: ``[O]``.
    """

    dz: list[Tensor]
    d: list[Tensor]
    dy: list[Tensor]
    sums: Sums
    slope: Tensor
    level: Tensor
