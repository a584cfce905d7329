"""A pass through Conv-4 and back, by ``blocks`` where threads share one task's pictures, by ``whole`` elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.learn.fast import blocks, records, second, whole, workers
from workbench.learn.fast.records import Pictures
from workbench.learn.norm import Moments

X, OUT = 7, 10


@dataclass(slots=True)
class Whole:
    """What ``whole.up`` leaves behind.

    Attributes:
        pictures: the chunk.
        layers: the blocks' lists.
        own: whether the statistics are their own.
        eps: of the norm.
        seen: ``mean, var`` of each block, until they are asked for.
        given: their gradients by the last :func:`down`, as if they were given.
    """

    pictures: Pictures
    layers: list[list[Tensor]]
    own: bool
    eps: float
    seen: list[Tensor]
    given: list[Tensor]

    @property
    def sides(self) -> list[int]:
        """As ``whole`` wants them."""
        return [self.pictures.number, *self.pictures.sides]

    @property
    def measured(self) -> list[Tensor]:
        """As ``whole`` wants it."""
        return list(self.pictures.measure()) if self.own else []


Tape = Whole | records.Tape
Way = list[records.Back] | list[list[Tensor]]


def cut(x: Tensor) -> list[Pictures]:
    """Pictures ``[B, C, H, W]`` for :func:`up`: one chunk where there is one thread for them."""
    return blocks.cut(x, 1 if workers.threads() == 1 else None)


def up(
    values: Sequence[Tensor],
    pictures: list[Pictures],
    eps: float,
    given: Sequence[Moments] | None,
    *,
    low: bool = False,
) -> tuple[Tensor, Tape]:
    """Features ``[B, D]`` and the tape; ``values`` are kernel, gain and shift of each block.

    With ``low`` the convolutions are in bfloat16, here and in all that follows from the tape.
    """
    if len(pictures) > 1 or workers.threads() > 1:
        parts, tape = blocks.forward(blocks.blocks_of(values), pictures, eps, given, low=low)
        return torch.cat(parts), tape
    flat = [t.detach() for m in given or () for t in m[:2]]
    there = Whole(pictures[0], [], given is None, eps, [], [])
    plain = [v.detach() for v in values]
    out, there.seen, there.layers = whole.run(
        whole.up, pictures[0].patches, there.sides, plain, there.measured, flat, eps, low
    )
    return out, there


def statistics(tape: Tape) -> list[Moments]:
    """Of every block, for the kernels as they were given."""
    if isinstance(tape, records.Tape):
        return blocks.statistics(tape)
    counts = [tape.pictures.patches.shape[1], *(len(v[X]) * v[X].shape[2] * v[X].shape[3] for v in tape.layers[1:])]
    # handed out once: the tape keeps no tensor that gets a graph
    seen, tape.seen = tape.seen, []
    return list(map(Moments, seen[::2], seen[1::2], counts))


def nothing(tape: Tape) -> Tensor:
    """A gradient of zeros for the features."""
    if isinstance(tape, records.Tape):
        return torch.cat([torch.zeros_like(c.out).flatten(1) for c in tape.layers[-1].chunks])
    return torch.zeros_like(tape.layers[-1][OUT]).flatten(1)


def down(tape: Tape, wanted: Tensor, into: Sequence[Tensor] = ()) -> tuple[list[Tensor], Way]:
    """Gradients of every value, and the way they were found; ``into`` as ``mean, var`` of each block."""
    if isinstance(tape, records.Tape):
        pairs = list(zip(into[::2], into[1::2], strict=True)) if into else None
        found, way = blocks.backward(tape, torch.split(wanted, [p.number for p in tape.pictures]), pairs)
        return [g for block in found for g in block], way
    side = wanted.to(tape.layers[-1][OUT])
    grads, tape.given, back = whole.run(
        whole.down, tape.pictures.patches, tape.sides, tape.layers, side, tape.measured, list(into), tape.eps
    )
    return grads, back


def into_given(tape: Tape, way: Way) -> list[Tensor]:
    """Gradients for given statistics, ``mean, var`` of each block."""
    if isinstance(tape, records.Tape):
        return [g for pair in blocks.into_given(tape, way) for g in pair]  # type: ignore[arg-type]  # of this tape
    return tape.given


def changes(tape: Tape, way: Way, along: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Changes of the features and of every value's gradient along a direction; see ``second``."""
    if isinstance(tape, records.Tape):
        out, found = second.changes(tape, way, blocks.blocks_of(along))  # type: ignore[arg-type]  # of this tape
        return torch.cat(out), [g for block in found for g in block]
    moved, grads = whole.run(
        whole.changes, tape.pictures.patches, tape.sides, tape.layers, way, list(along), tape.measured
    )
    return moved, grads
