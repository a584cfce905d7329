"""Conv-4 and its gradient, written out: blocks ``relu(pool(norm(conv(x))))``.

Equal to the network in ``backbones/conv4.py`` to rounding. What makes it faster:

* Batch norm keeps the order of values (or turns it round, where its weight is negative). So the largest of four is
  found *before* normalising, and the affine map and ReLU touch a quarter of the values. The weight's sign goes into
  the kernel: ``y = conv(x, sign(gain) * kernel)``, ``h = (max y - mean) / sd``, ``out = relu(|gain| * h + shift)``.
* The gradient that comes back through the pooling has one value in four. ``dz`` is the gradient before ReLU, ``d`` is
  ``dz * |gain| / sd`` at the largest values and 0 elsewhere. With ``A = sum dz``, ``B = sum dz * h`` and ``n`` values
  per channel::

      dy = d + slope * y + level,    slope = -|gain| / sd^2 / n * B,    level = -|gain| / sd / n * A - slope * mean

* The first block is a product with the pictures' patches ``P [9 C, n]``. Its statistics follow from the patches'
  mean and scatter, ``mean = w m``, ``var = w S w' / n``; so does their part of the gradient. Its output, the largest
  tensor of all, is never kept: a few pictures at a time pass through in the processor's cache.
* Pictures are cut into chunks which threads share; they wait for one another where a block needs all its statistics.

Statistics are those of the pictures themselves, or *given*: then ``dy`` is ``d`` alone, and the gradient for what was
given is ``d mean = -|gain| / sd * A``, ``d var = -|gain| / sd^2 / 2 * B``. Where it goes back into the statistics of
other pictures, it adds ``2 d var / n`` to their slope and ``(d mean - 2 d var * mean) / n`` to their level.

Shapes: a chunk ``x [b, C, H, W]``; per block ``y [b, O, H, W]``, pooled ``[b, O, H // 2, W // 2]``; all channels-last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.learn.fast import kernels, workers
from workbench.learn.fast.records import Back, Block, Layer, Passed, Pictures, Sums, Tape
from workbench.learn.functional import channels_last
from workbench.learn.norm import Moments

CHUNK = 80 * 28 * 28
"""Pixels of a chunk: large enough that a product's fixed cost is small, small enough to be shared out evenly."""


_UNSEEN = Moments(torch.empty(0), torch.empty(0), 0)


def blocks_of(values: Sequence[Tensor]) -> list[Block]:
    """Kernel, gain and shift of one block after the other, as blocks."""
    return [Block(*values[i : i + 3]) for i in range(0, len(values), 3)]


def cut(x: Tensor, count: int | None = None) -> list[Pictures]:
    """Pictures ``[B, C, H, W]`` as ``count`` chunks of patches, or as many as are good."""
    per = max(1, round(CHUNK / (x.shape[2] * x.shape[3])))
    chunks = x.detach().tensor_split(max(1, round(len(x) / per)) if count is None else count)
    return [_patches(chunk) for chunk in chunks if len(chunk)]


def forward(
    blocks: Sequence[Block],
    pictures: list[Pictures],
    eps: float,
    given: Sequence[Moments] | None = None,
    *,
    low: bool = False,
) -> tuple[list[Tensor], Tape]:
    """Features ``[b, D]`` of each chunk, and what :func:`backward` needs.

    Args:
        blocks: from the first to the last.
        pictures: chunks from :func:`cut`.
        eps: of the norm.
        given: statistics of each block's ``conv(x, kernel)``, or ``None`` for the pictures' own.
        low: convolve in bfloat16; the first block is no convolution.
    """
    tape = Tape(pictures, given is None, [])
    for number, block in enumerate(blocks):
        sign = None if bool((block.gain > 0).all()) else torch.where(block.gain < 0, -1.0, 1.0).to(block.gain)
        layer = Layer(block.kernel, sign, block.gain.abs(), block.shift, block.gain, eps, _UNSEEN, [])
        kernel = layer.kernel = channels_last(layer.signed(block.kernel))
        if number == 0:
            flat = flattened(kernel)
            layer.chunks = workers.each([partial(_first, chunk, flat) for chunk in pictures])
            if given is None:
                layer.seen = _of_patches(pictures, flat)
        else:
            before = tape.layers[-1]
            if low:
                kernel = layer.kernel = kernel.to(torch.bfloat16)
            jobs = [partial(_next, before, i, kernel, given is None) for i in range(len(pictures))]
            found = workers.each(jobs)
            layer.chunks = [passed for passed, _ in found]
            if given is None:
                layer.seen = _joined([part for _, part in found if part is not None])
        if given is not None:
            layer.seen = given[number]._replace(mean=layer.signed(given[number].mean))
        layer.rate = torch.rsqrt(layer.seen.var + eps)
        tape.layers.append(layer)
    last = tape.layers[-1]
    return workers.each([partial(_features, last, i) for i in range(len(pictures))]), tape


def backward(
    tape: Tape, wanted: Sequence[Tensor], into: Sequence[tuple[Tensor, Tensor]] | None = None
) -> tuple[list[Block], list[Back]]:
    """Gradients of ``sum_i <wanted_i, features_i>`` with respect to every block, and the way they were found.

    Args:
        tape: of :func:`forward`; stays as it is.
        wanted: ``[b, D]`` for each chunk.
        into: a gradient ``(d mean, d var)`` that comes back into each block's own statistics.
    """
    count = range(len(tape.pictures))
    last = tape.layers[-1].chunks
    sides = [w.to(c.out).reshape(c.out.shape) for w, c in zip(wanted, last, strict=True)]
    parts = workers.each([partial(rectified, tape.layers[-1], i, channels_last(sides[i])) for i in count])
    grads: list[Block] = []
    way: list[Back] = []
    for number in range(len(tape.layers) - 1, -1, -1):
        layer = tape.layers[number]
        sums = Sums(total(part.sums.plain for part in parts), total(part.sums.heights for part in parts))
        slope, level = _dense(layer, sums, None if into is None else into[number])
        back = Back([part.dz for part in parts], [part.d for part in parts], [], sums, slope, level)
        if number:
            down = workers.each([partial(_down, tape, number, i, back) for i in count])
            kernel = total(k for k, _, _ in down)
            back.dy, parts = [dy for _, _, dy in down], [part for _, part, _ in down]
        else:
            kernel = _ground(tape, back)
        grads.append(Block(layer.signed(kernel), layer.signed(sums.heights).clone(), sums.plain.clone()))
        way.append(back)
    return grads[::-1], way[::-1]


def statistics(tape: Tape) -> list[Moments]:
    """Of every block, for the kernels as they were given; copies, so that none can hold the tape through its graph."""
    return [
        layer.seen._replace(mean=layer.signed(layer.seen.mean).clone(), var=layer.seen.var.clone())
        for layer in tape.layers
    ]


def into_given(tape: Tape, way: Sequence[Back]) -> list[tuple[Tensor, Tensor]]:
    """``(d mean, d var)`` of each block's given statistics."""
    return [
        (-layer.signed(layer.scale * back.sums.plain), -0.5 * layer.scale * layer.rate * back.sums.heights)
        for layer, back in zip(tape.layers, way, strict=True)
    ]


# ---- up -------------------------------------------------------------------------------------------------------------


def _patches(x: Tensor) -> Pictures:
    b, c, h, w = x.shape
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1)).transpose(0, 1)
    patches = x.new_empty(3, 3, c, b, h, w)
    for i in range(3):
        for j in range(3):
            patches[i, j] = padded[:, :, i : i + h, j : j + w]
    return Pictures(b, h, w, patches.view(9 * c, b * h * w))


def flattened(kernel: Tensor) -> Tensor:
    """``[O, 9 C]``, in the order of the patches."""
    return kernel.permute(0, 2, 3, 1).reshape(len(kernel), -1)


def _first(chunk: Pictures, flat: Tensor) -> Passed:
    largest, where = kernels.run(kernels.first, chunk.patches, flat, chunk.number, *chunk.sides)
    return Passed(None, None, where, largest)


def patches_of(pictures: Sequence[Pictures]) -> tuple[Tensor, Tensor, int]:
    """Mean ``[9 C]`` and scatter ``[9 C, 9 C]`` of all patches in double precision, and how many there are."""
    counts = [p.patches.shape[1] for p in pictures]
    measured = workers.each([p.measure for p in pictures])
    number = sum(counts)
    mean = total(m * n for (m, _), n in zip(measured, counts, strict=True)) / number
    parts = (s + n * torch.outer(m - mean, m - mean) for (m, s), n in zip(measured, counts, strict=True))
    return mean, total(parts), number


def _of_patches(pictures: Sequence[Pictures], flat: Tensor) -> Moments:
    """Statistics of the first block from those of the patches."""
    mean, scatter, number = patches_of(pictures)
    wide = flat.double()
    var = ((wide @ scatter) * wide).sum(1).clamp_min(0) / number
    return Moments((wide @ mean).to(flat), var.to(flat), number)


def _next(before: Layer, i: int, kernel: Tensor, own: bool) -> tuple[Passed, Moments | None]:
    chunk = before.chunks[i]
    x, y, largest, where, mean, var = kernels.run(kernels.climb, chunk.largest, *before.norm, kernel, own)
    chunk.out = x
    if not own:
        return Passed(x, None, where, largest), None
    return Passed(x, y, where, largest), Moments(mean, var, y.numel() // y.shape[1])


def _features(last: Layer, i: int) -> Tensor:
    chunk = last.chunks[i]
    chunk.out = kernels.run(kernels.finish, chunk.largest, *last.norm)
    return chunk.out.flatten(1).clone()


def _joined(parts: Sequence[Moments]) -> Moments:
    """Statistics of several parts together."""
    if len(parts) == 1:
        return parts[0]
    number = sum(p.values for p in parts)
    mean = total(p.mean * (p.values / number) for p in parts)
    var = total((p.var + (p.mean - mean).square()) * (p.values / number) for p in parts)
    return Moments(mean, var, number)


# ---- down -----------------------------------------------------------------------------------------------------------


class Rectified(NamedTuple):
    """``dz`` of a chunk, ``d`` without its zeros, and the sums."""

    dz: Tensor
    d: Tensor
    sums: Sums


def rectified(layer: Layer, i: int, wanted: Tensor) -> Rectified:
    """A chunk's way back to its largest values."""
    chunk, (mean, var, gain, _, eps) = layer.chunks[i], layer.norm
    dz, d, plain, heights = kernels.run(kernels.rectified, wanted, chunk.out, chunk.largest, mean, var, gain, eps)
    return Rectified(dz, d, Sums(plain, heights))


def _dense(layer: Layer, sums: Sums, into: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Slope and level ``[O]`` of the dense part of ``dy``, for own statistics."""
    mean, _, n = layer.seen
    slope = -layer.scale * layer.rate / n * sums.heights
    level = -layer.scale / n * sums.plain - slope * mean
    if into is not None:
        of_mean, of_var = layer.signed(into[0]), into[1]
        slope, level = slope + 2 / n * of_var, level + (of_mean - 2 * of_var * mean) / n
    return slope, level


def _down(tape: Tape, number: int, i: int, back: Back) -> tuple[Tensor, Rectified, Tensor]:
    """Through one block: its kernel's gradient, what the block below gets, and ``dy``."""
    layer = tape.layers[number]
    chunk = layer.chunks[i]
    wanted, kernel, dy = kernels.run(
        kernels.descend, back.d[i], chunk.where, chunk.x, chunk.y, layer.kernel, back.slope, back.level
    )
    return kernel, rectified(tape.layers[number - 1], i, wanted), dy


def _ground(tape: Tape, back: Back) -> Tensor:
    """Gradient of the first block's kernel."""
    layer = tape.layers[0]
    jobs = [partial(against_patches, chunk, back.d[i], layer.chunks[i].where) for i, chunk in enumerate(tape.pictures)]
    flat = total(workers.each(jobs))
    if tape.own:
        mean, scatter, n = patches_of(tape.pictures)
        second = scatter + n * torch.outer(mean, mean)
        slope, level, kernel = back.slope.double(), back.level.double(), flattened(layer.kernel).double()
        flat = flat + (slope[:, None] * (kernel @ second) + n * torch.outer(level, mean)).to(flat)
    return as_kernel(flat)


def against_patches(chunk: Pictures, d: Tensor, where: Tensor) -> Tensor:
    """``d P'`` ``[O, 9 C]``."""
    found: Tensor = kernels.run(kernels.against, chunk.patches, d, where, *chunk.sides)
    return found


def as_kernel(flat: Tensor) -> Tensor:
    """``[O, C, 3, 3]`` from the order of the patches."""
    return flat.view(len(flat), 3, 3, -1).permute(0, 3, 1, 2)


# ---- small parts -----------------------------------------------------------------------------------------------------


def total(tensors: Iterable[Tensor]) -> Tensor:
    """Sum in order."""
    first, *others = tensors
    for other in others:
        first = first + other
    return first
