"""Conv-4's passes while a network is adapted to one task: the same few pictures again and again.

Pictures are cut once. The last way up under their own statistics is kept, since adapting asks for it more than once:
for the statistics of a network that can be asked between two steps, and for the gradient of the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.learn.fast import passes, records, trunk
from workbench.learn.norm import Moments

KEPT = 2
"""Sets of pictures whose patches are kept: all the examples, and a part of them or what they were changed to."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A tensor as it was: an alias that keeps its memory, and its version then."""

    alias: Tensor
    version: int

    def same(self, t: Tensor) -> bool:
        """Whether ``t`` is that memory, unchanged."""
        a = self.alias
        there = (t.data_ptr(), t.shape, t.stride(), t.dtype) == (a.data_ptr(), a.shape, a.stride(), a.dtype)
        return there and _version(t) == self.version == _version(a)

    def equal(self, t: Tensor) -> bool:
        """Whether ``t`` has the same numbers."""
        a = self.alias
        return self.same(t) or (
            _version(a) == self.version and t.dtype == a.dtype and t.shape == a.shape and bool(torch.equal(t, a))
        )


@dataclass(frozen=True, slots=True)
class _Way:
    """A way up: what it was computed from, and what came of it."""

    pictures: list[records.Pictures]
    values: list[_Known]
    eps: float
    features: Tensor
    seen: list[Moments]
    tape: passes.Tape


class Substitute:
    """As ``functional.Substitute``, for one task."""

    def __init__(self) -> None:
        self._cuts: list[tuple[_Known, list[records.Pictures]]] = []
        self._last: _Way | None = None

    def __call__(
        self, module: nn.Module, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor
    ) -> Tensor | None:
        """As ``functional.Substitute``."""
        tensors = (x, *params.values())
        if any(t.is_inference() or t.dtype != x.dtype for t in tensors) or x.dtype not in (
            torch.float32,
            torch.float64,
        ):
            return None
        return trunk.features(module, params, buffers, x, self._cut, self._up)

    def _cut(self, x: Tensor) -> list[records.Pictures]:
        # By their numbers: what is indexed anew for each step is the same pictures in other memory.
        for i, (known, pictures) in enumerate(self._cuts):
            if known.equal(x):
                self._cuts.append(self._cuts.pop(i))
                return pictures
        pictures = passes.cut(x)
        self._cuts = [*self._cuts[1 - KEPT :], (_known(x), pictures)]
        return pictures

    def _up(
        self, values: Sequence[Tensor], pictures: list[records.Pictures], eps: float
    ) -> tuple[Tensor, list[Moments], passes.Tape]:
        way = self._last
        if way is None or not self._is(way, values, pictures, eps):
            self._last = way = None  # two tapes need twice the memory
            plain = [v.detach() for v in values]
            features, seen, tape = trunk.up(plain, pictures, eps)
            self._last = way = _Way(pictures, [_known(v) for v in plain], eps, features, seen, tape)
        # Under new names: what is handed out may get a graph, and what is kept must not hold it.
        seen = [Moments(m.mean.detach(), m.var.detach(), m.values) for m in way.seen]
        return way.features.detach(), seen, way.tape

    @staticmethod
    def _is(way: _Way, values: Sequence[Tensor], pictures: list[records.Pictures], eps: float) -> bool:
        return (
            way.pictures is pictures
            and way.eps == eps
            and all(known.same(v) for known, v in zip(way.values, values, strict=True))
        )


def _known(t: Tensor) -> _Known:
    return _Known(t.detach(), _version(t))


def _version(t: Tensor) -> int:
    """How often its memory was written in place."""
    return t._version  # noqa: SLF001 - torch has no other name for it
