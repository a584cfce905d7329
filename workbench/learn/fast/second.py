"""The gradient of Conv-4's gradient, written out: what an inner loop through the whole network needs of it.

With ``g(theta, w) = d <w, f(theta)> / d theta`` (what ``blocks.backward`` gives) and a direction ``u``, the gradient of
``<u, g>`` is the change of everything when ``theta`` moves along ``u`` (Pearlmutter 1994): for ``w`` the change of the
features, for ``theta`` the change of ``g`` itself. So one pass up and one down, in which every value ``v`` has a change
``v'``; the rule for each line of ``blocks`` is its derivative::

    y'  = conv(x', kernel) + conv(x, kernel')
    h'  = (max y' - mean') / sd - h * var' / sd^2 / 2,      z' = |gain|' h + |gain| h' + shift'
    dy' = d' + slope' y + slope y' + level'
    d kernel' = conv_back(dy', x) + conv_back(dy, x'),      dx' = conv_back(dy', kernel) + conv_back(dy, kernel')

Both terms of a sum are one product: of tensors laid side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from workbench.learn.fast import blocks, kernels, workers
from workbench.learn.fast.blocks import total
from workbench.learn.fast.records import Back, Block, Layer, Pictures, Sums, Tape
from workbench.learn.functional import channels_last


@dataclass(slots=True)
class _Moved:
    """The changes of one block: of its tensors, its statistics, and of each chunk's values."""

    kernel: Tensor
    gain: Tensor
    shift: Tensor
    mean: Tensor
    rate: Tensor
    y: list[Tensor]
    x: list[Tensor]
    height: list[Tensor]


def changes(tape: Tape, way: Sequence[Back], along: Sequence[Block]) -> tuple[list[Tensor], list[Block]]:
    """Changes of the features ``[b, D]`` of each chunk, and of the gradient, when the blocks move along a direction.

    Args:
        tape: of ``blocks.forward`` under the pictures' own statistics.
        way: of ``blocks.backward`` from it, without gradients into the statistics.
        along: the direction.
    """
    moved: list[_Moved] = []
    out: list[Tensor] = []
    for number, layer in enumerate(tape.layers):
        kernel = channels_last(layer.signed(along[number].kernel))
        gain, shift = layer.signed(along[number].gain), along[number].shift
        here = _next(layer, out, kernel, gain, shift) if number else _first(tape, kernel, gain, shift)
        moved.append(here)
        out = workers.each([partial(_out, layer, here, i) for i in range(len(tape.pictures))])
    return [o.flatten(1) for o in out], _down(tape, way, moved)


# ---- up -------------------------------------------------------------------------------------------------------------


def _first(tape: Tape, kernel: Tensor, gain: Tensor, shift: Tensor) -> _Moved:
    layer, mean, scatter, n = tape.layers[0], *blocks.patches_of(tape.pictures)
    flat, before = blocks.flattened(kernel), blocks.flattened(layer.kernel).double()
    var = (2 / n * ((before @ scatter) * flat.double()).sum(1)).to(flat)
    jobs = [partial(_largest, chunk, flat, layer.chunks[i].where) for i, chunk in enumerate(tape.pictures)]
    rate = -0.5 * layer.rate.pow(3) * var
    y = workers.each(jobs)
    return _Moved(kernel, gain, shift, (flat.double() @ mean).to(flat), rate, y, [], [*y])


def _largest(chunk: Pictures, flat: Tensor, where: Tensor) -> Tensor:
    """The change of the first block's output at its largest values."""
    found: Tensor = kernels.run(kernels.first_changes, chunk.patches, flat, where, *chunk.sides)
    return found


def _next(layer: Layer, x: list[Tensor], kernel: Tensor, gain: Tensor, shift: Tensor) -> _Moved:
    wide = channels_last(torch.cat([kernel.to(layer.kernel), layer.kernel], 1))

    def convolved(i: int) -> tuple[Tensor, Tensor, Tensor]:
        chunk = layer.chunks[i]
        found: tuple[Tensor, Tensor, Tensor] = kernels.run(
            kernels.next_changes, chunk.x, x[i], wide, chunk.y, layer.seen.mean
        )
        return found

    found = workers.each([partial(convolved, i) for i in range(len(layer.chunks))])
    n = layer.seen.values
    mean, var = total(m for _, m, _ in found) / n, total(v for _, _, v in found) * (2 / n)
    y = [y for y, _, _ in found]
    return _Moved(kernel, gain, shift, mean, -0.5 * layer.rate.pow(3) * var, y, x, [*y])


def _out(layer: Layer, here: _Moved, i: int) -> Tensor:
    chunk = layer.chunks[i]
    largest = here.y[i] if chunk.x is None else kernels.run(kernels.at, here.y[i], chunk.where)
    moved = [here.mean, here.rate / layer.rate, here.gain, here.shift]
    out: Tensor
    here.height[i], out = kernels.run(
        kernels.out_changes, largest, layer.height(i), chunk.out, [layer.rate, layer.gain], moved
    )
    return out


# ---- down -----------------------------------------------------------------------------------------------------------


def _down(tape: Tape, way: Sequence[Back], moved: Sequence[_Moved]) -> list[Block]:
    count = range(len(tape.pictures))
    grads: list[Block] = []
    dz: list[Tensor] = [torch.zeros_like(t) for t in way[-1].dz]
    for number in range(len(tape.layers) - 1, -1, -1):
        layer, here, back = tape.layers[number], moved[number], way[number]
        parts = [kernels.run(kernels.sum_changes, dz[i], layer.height(i), back.dz[i], here.height[i]) for i in count]
        sums = Sums(total(plain for plain, _ in parts), total(heights for _, heights in parts))
        n, scale = layer.seen.values, here.gain * layer.rate + layer.gain * here.rate
        slope = (
            -(
                scale * layer.rate * back.sums.heights
                + layer.scale * here.rate * back.sums.heights
                + layer.scale * layer.rate * sums.heights
            )
            / n
        )
        level = -(scale * back.sums.plain + layer.scale * sums.plain) / n
        level = level - slope * layer.seen.mean - back.slope * here.mean
        sparse = [dz[i] * kernels.column(layer.scale) + back.dz[i] * kernels.column(scale) for i in count]
        if number:
            below = tape.layers[number - 1]
            jobs = [partial(_through, layer, below, here, back, i, sparse[i], slope, level) for i in count]
            found = workers.each(jobs)
            kernel, dz = total(k for k, _ in found), [d for _, d in found]
        else:
            kernel = _ground(tape, here, back, sparse, slope, level)
        grads.append(Block(layer.signed(kernel), layer.signed(sums.heights), sums.plain))
    return grads[::-1]


def _through(
    layer: Layer, below: Layer, here: _Moved, back: Back, i: int, sparse: Tensor, slope: Tensor, level: Tensor
) -> tuple[Tensor, Tensor]:
    """The kernel's gradient, and ``dz'`` of the block below."""
    chunk = layer.chunks[i]
    both = channels_last(torch.cat([layer.kernel, here.kernel.to(layer.kernel)]))
    tensors = [sparse, chunk.x, chunk.y, back.dy[i], here.x[i], here.y[i]]
    dense = [slope, level, back.slope]
    found: tuple[Tensor, Tensor] = kernels.run(
        kernels.descend_changes, tensors, chunk.where, [layer.kernel, both], dense, below.chunks[i].out
    )
    return found


def _ground(tape: Tape, here: _Moved, back: Back, sparse: list[Tensor], slope: Tensor, level: Tensor) -> Tensor:
    layer, mean, scatter, n = tape.layers[0], *blocks.patches_of(tape.pictures)
    jobs = [
        partial(blocks.against_patches, chunk, sparse[i], layer.chunks[i].where)
        for i, chunk in enumerate(tape.pictures)
    ]
    flat = total(workers.each(jobs))
    second = scatter + n * torch.outer(mean, mean)
    now, then = blocks.flattened(layer.kernel).double(), blocks.flattened(here.kernel).double()
    dense = slope.double()[:, None] * (now @ second) + back.slope.double()[:, None] * (then @ second)
    return blocks.as_kernel(flat + (dense + n * torch.outer(level.double(), mean)).to(flat))
