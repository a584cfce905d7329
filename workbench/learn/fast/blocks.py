"""Conv-4 and its gradient, written out: blocks ``relu(pool(norm(conv(x))))`` under the statistics of some pictures.

Equal to the network in ``backbones/conv4.py`` to rounding. What makes it faster:

* Batch norm keeps the order of values (or turns it round, where its weight is negative). So the largest of four is
  found *before* normalising, and the affine map and ReLU touch a quarter of the values. The weight's sign goes into
  the kernel: ``y = conv(x, sign(gain) * kernel)``, ``out = relu(|gain| * (max y - mean) / sd + shift)``.
* The gradient that comes back through the pooling has one value in four. With ``d = dz * |gain| / sd`` at the largest
  value and 0 elsewhere, ``n`` values per channel and ``h = (y - mean) / sd``::

      dy = d - (|gain| / sd) / n * (sum dz + h * sum(dz * h))

  which is a constant and a multiple of ``y`` per channel, added to a sparse tensor.
* The first block is a product with the pictures' patches ``P [n, 9 C]``. Its statistics follow from the patches'
  mean and covariance, ``mean = w m``, ``var = w S w'``; so does their part of the gradient. Its output, the largest
  tensor of all, is never kept: a few pictures at a time pass through in the processor's cache.
* Pictures are cut into chunks which threads share; chunks meet four times on the way up and five on the way down.

Pictures whose chunk is not among the ``measured`` first ones are normalised with the others' statistics (queries under
the examples' statistics, MetaBN): their ``dy`` is ``d`` alone.

Shapes: a chunk ``x [b, C, H, W]``; per block ``y [b, O, H, W]``, pooled ``[b, O, H // 2, W // 2]``; all channels-last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.learn.fast import workers
from workbench.learn.functional import channels_last

_aten: Any = torch.ops.aten
_pool: Callable[..., tuple[Tensor, Tensor]] = _aten.max_pool2d_with_indices.default
_pool_into: Callable[..., object] = _aten.max_pool2d_with_indices.out
_unpool: Callable[..., Tensor] = _aten.max_pool2d_with_indices_backward.default
_conv_backward: Callable[..., tuple[Tensor, Tensor, Tensor]] = _aten.convolution_backward.default
_relu_backward: Callable[..., Tensor] = _aten.threshold_backward.default
_measure: Callable[..., tuple[Tensor, Tensor]] = _aten.batch_norm_update_stats.default

CHUNK = 40 * 28 * 28
"""Pixels of a chunk: large enough that a product's fixed cost is small, small enough to be shared out evenly."""
CACHED = 6 * 28 * 28
"""Pixels whose first block's output fits in a core's cache."""


class Block(NamedTuple):
    """What a block holds: ``kernel [O, C, 3, 3]``, the norm's ``gain [O]`` and ``shift [O]``; or their gradients."""

    kernel: Tensor
    gain: Tensor
    shift: Tensor


class Measured(NamedTuple):
    """Statistics of a block's ``y``: ``mean [O]``, biased ``var [O]``, number of values per channel."""

    mean: Tensor
    var: Tensor
    values: int


@dataclass(slots=True)
class Pictures:
    """A chunk of pictures: how many, their side lengths and their patches ``[9 C, b * H * W]``.

    ``mean [9 C]`` and ``spread [9 C, 9 C]`` (covariance times the number) are measured once, in double precision.
    """

    number: int
    height: int
    width: int
    patches: Tensor
    mean: Tensor | None = None
    spread: Tensor | None = None

    def measure(self) -> tuple[Tensor, Tensor]:
        """Mean and scatter of the patches."""
        if self.mean is None or self.spread is None:
            values = self.patches.double()
            self.mean = values.mean(1)
            values = values - self.mean[:, None]
            self.spread = values @ values.T
        return self.mean, self.spread


@dataclass(slots=True)
class Passed:
    """What one chunk leaves behind in one block, for the way back.

    Attributes:
        x: input of the block; ``None`` in the first.
        y: before pooling, where the chunk is measured and the block is not the first.
        where: of the largest values.
        height: the normalised largest values ``h``.
        out: of the block.
    """

    x: Tensor | None
    y: Tensor | None
    where: Tensor
    height: Tensor
    out: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(slots=True)
class Layer:
    """One block of one pass: signed kernel, ``sign``, ``|gain|``, ``shift``, ``1 / sd``, statistics, and its chunks."""

    kernel: Tensor
    sign: Tensor
    gain: Tensor
    shift: Tensor
    rate: Tensor
    measured: Measured
    chunks: list[Passed]


@dataclass(slots=True)
class Tape:
    """One pass: its pictures, how many chunks of them were measured, its blocks."""

    pictures: list[Pictures]
    measured: int
    layers: list[Layer]


def cut(x: Tensor) -> list[Pictures]:
    """Pictures ``[B, C, H, W]`` as chunks of patches."""
    per = max(1, round(CHUNK / (x.shape[2] * x.shape[3])))
    chunks = x.detach().tensor_split(max(1, round(len(x) / per)))
    return [_patches(chunk) for chunk in chunks if len(chunk)]


def forward(blocks: Sequence[Block], pictures: list[Pictures], measured: int, eps: float) -> tuple[list[Tensor], Tape]:
    """Features ``[b, D]`` of each chunk, and what :func:`backward` needs.

    Args:
        blocks: from the first to the last.
        pictures: chunks from :func:`cut`.
        measured: so many of the first chunks give the statistics for all.
        eps: of the norm.
    """
    tape = Tape(pictures, measured, [])
    for number, block in enumerate(blocks):
        sign = torch.where(block.gain < 0, -1.0, 1.0).to(block.gain)
        kernel = channels_last(block.kernel * sign[:, None, None, None])
        if number == 0:
            flat = kernel.permute(0, 2, 3, 1).reshape(len(kernel), -1)
            jobs = [partial(_first, chunk, flat) for chunk in pictures]
            chunks = workers.each(jobs)
            seen = _of_patches(pictures[:measured], flat)
        else:
            before = tape.layers[-1]
            found = workers.each([partial(_next, before, i, kernel, i < measured) for i in range(len(pictures))])
            chunks = [passed for passed, _ in found]
            seen = _joined([part for _, part in found[:measured] if part is not None])
        rate = torch.rsqrt(seen.var + eps)
        tape.layers.append(Layer(kernel, sign, block.gain.abs(), block.shift, rate, seen, chunks))
    last = tape.layers[-1]
    return workers.each([partial(_features, last, i) for i in range(len(pictures))]), tape


def backward(tape: Tape, wanted: Sequence[Tensor]) -> list[Block]:
    """Gradients of ``sum_i <wanted_i, features_i>`` with respect to every block.

    Args:
        tape: of :func:`forward`; stays as it is.
        wanted: ``[b, D]`` for each chunk.
    """
    count, depth = len(tape.pictures), len(tape.layers)
    last = tape.layers[-1].chunks
    sides = [w.reshape(c.out.shape[0], c.out.shape[1], *c.out.shape[2:]) for w, c in zip(wanted, last, strict=True)]
    jobs = [partial(_rectified, tape.layers[-1], i, channels_last(sides[i])) for i in range(count)]
    parts = workers.each(jobs)
    grads: list[Block] = []
    for number in range(depth - 1, 0, -1):
        layer = tape.layers[number]
        sums = _summed(parts)
        slope, level = _dense(layer, sums)
        below = tape.layers[number - 1]
        down = workers.each([partial(_down, layer, below, i, parts[i].dz, slope, level) for i in range(count)])
        kernel = sum((k for k, _ in down[1:]), down[0][0])
        grads.append(Block(kernel * layer.sign[:, None, None, None], layer.sign * sums.heights, sums.plain))
        parts = [part for _, part in down]
    grads.append(_ground(tape, parts))
    return grads[::-1]


def statistics(tape: Tape) -> list[Measured]:
    """Of every block, for the kernels as they were given."""
    return [
        Measured(layer.measured.mean * layer.sign, layer.measured.var, layer.measured.values) for layer in tape.layers
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


def _first(chunk: Pictures, flat: Tensor) -> Passed:
    b, h, w, o = chunk.number, chunk.height, chunk.width, len(flat)
    largest = flat.new_empty(b, h // 2, w // 2, o).permute(0, 3, 1, 2)
    where = torch.empty(b, h // 2, w // 2, o, dtype=torch.int64).permute(0, 3, 1, 2)
    step, kernel = max(1, CACHED // (h * w)), flat.T
    for i in range(0, b, step):
        j = min(b, i + step)
        y = (chunk.patches[:, i * h * w : j * h * w].T @ kernel).view(j - i, h, w, o).permute(0, 3, 1, 2)
        _pool_into(y, [2, 2], [2, 2], out=largest[i:j], indices=where[i:j])
    return Passed(None, None, where, largest)


def _of_patches(pictures: Sequence[Pictures], flat: Tensor) -> Measured:
    """Statistics of the first block from those of the patches."""
    counts = [p.patches.shape[1] for p in pictures]
    measured = workers.each([p.measure for p in pictures])
    total = sum(counts)
    mean = torch.stack([m * n for (m, _), n in zip(measured, counts, strict=True)]).sum(0) / total
    spread = torch.stack([s + n * torch.outer(m - mean, m - mean) for (m, s), n in zip(measured, counts, strict=True)])
    wide = flat.double()
    var = ((wide @ (spread.sum(0) / total)) * wide).sum(1).clamp_min(0)
    return Measured((wide @ mean).to(flat), var.to(flat), total)


def _normalised(layer: Layer, i: int) -> Tensor:
    """Finish a chunk of a block whose statistics are known."""
    chunk = layer.chunks[i]
    height, column = chunk.height, (1, -1, 1, 1)
    height.sub_(layer.measured.mean.view(column)).mul_(layer.rate.view(column))
    chunk.out = torch.addcmul(layer.shift.view(column), height, layer.gain.view(column)).relu_()
    return chunk.out


def _next(before: Layer, i: int, kernel: Tensor, measured: bool) -> tuple[Passed, Measured | None]:
    x = _normalised(before, i)
    y = torch.conv2d(x, kernel, None, 1, 1)
    largest, where = _pool(y, [2, 2], [2, 2])
    if not measured:
        return Passed(x, None, where, largest), None
    mean, var = _measure(y, None, None, 0.0)
    return Passed(x, y, where, largest), Measured(mean, var, y.numel() // y.shape[1])


def _features(last: Layer, i: int) -> Tensor:
    return _normalised(last, i).flatten(1).clone()


def _joined(parts: Sequence[Measured]) -> Measured:
    """Statistics of several parts together."""
    if len(parts) == 1:
        return parts[0]
    total = sum(p.values for p in parts)
    mean = torch.stack([p.mean * (p.values / total) for p in parts]).sum(0)
    var = torch.stack([(p.var + (p.mean - mean).square()) * (p.values / total) for p in parts]).sum(0)
    return Measured(mean, var, total)


# ---- down -----------------------------------------------------------------------------------------------------------


class _Sums(NamedTuple):
    """Of a chunk or of all: ``dz`` of the chunk, ``sum dz [O]``, ``sum(dz * h) [O]``."""

    dz: Tensor
    plain: Tensor
    heights: Tensor


def _rectified(layer: Layer, i: int, wanted: Tensor) -> _Sums:
    chunk = layer.chunks[i]
    dz = _relu_backward(wanted, chunk.out, 0)
    rows = dz.permute(0, 2, 3, 1).reshape(-1, dz.shape[1])
    heights = chunk.height.permute(0, 2, 3, 1).reshape(-1, dz.shape[1])
    return _Sums(dz, rows.sum(0), (rows * heights).sum(0))


def _summed(parts: Sequence[_Sums]) -> _Sums:
    return _Sums(parts[0].dz, sum_(p.plain for p in parts), sum_(p.heights for p in parts))


def sum_(tensors: Iterable[Tensor]) -> Tensor:
    """Sum in order."""
    first, *others = tensors
    for other in others:
        first = first + other
    return first


def _dense(layer: Layer, sums: _Sums) -> tuple[Tensor, Tensor]:
    """Slope and level ``[O]`` of the dense part of ``dy = d + slope * y + level``."""
    mean, _, n = layer.measured
    scale = layer.gain * layer.rate / n
    slope = -scale * sums.heights * layer.rate
    return slope, -scale * sums.plain - slope * mean


def _spread(layer: Layer, chunk: Passed, dz: Tensor, like: Tensor) -> Tensor:
    """``d``: at the largest values ``dz * |gain| / sd``, else 0."""
    scaled = dz * (layer.gain * layer.rate).view(1, -1, 1, 1)
    return _unpool(scaled, like, [2, 2], [2, 2], [0, 0], [1, 1], False, chunk.where)


def _down(layer: Layer, below: Layer, i: int, dz: Tensor, slope: Tensor, level: Tensor) -> tuple[Tensor, _Sums]:
    """Through one block: its kernel's gradient, and the sums of the block below."""
    chunk, column = layer.chunks[i], (1, -1, 1, 1)
    assert chunk.x is not None
    if chunk.y is None:
        b, _, h, w = chunk.x.shape
        dy = _spread(layer, chunk, dz, chunk.x.new_empty(b, h, w, len(layer.kernel)).permute(0, 3, 1, 2))
    else:
        dy = _spread(layer, chunk, dz, chunk.y)
        dy += torch.addcmul(level.view(column), chunk.y, slope.view(column))
    wanted, kernel, _ = _conv_backward(
        dy, chunk.x, layer.kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
    )
    return kernel, _rectified(below, i, wanted)


def _ground(tape: Tape, parts: Sequence[_Sums]) -> Block:
    """Gradients of the first block."""
    layer = tape.layers[0]
    sums = _summed(parts)
    slope, level = _dense(layer, sums)
    products = workers.each([partial(_of_first, layer, i, p, parts[i].dz) for i, p in enumerate(tape.pictures)])
    flat = sum_(products)
    kernel = layer.kernel.permute(0, 2, 3, 1).reshape(len(flat), -1).double()
    for chunk in tape.pictures[: tape.measured]:
        mean, spread = chunk.measure()
        n = chunk.patches.shape[1]
        second = spread + n * torch.outer(mean, mean)
        flat = flat + (slope.double()[:, None] * (kernel @ second) + n * torch.outer(level.double(), mean)).to(flat)
    o, c = layer.kernel.shape[:2]
    back = flat.view(o, 3, 3, c).permute(0, 3, 1, 2)
    return Block(back * layer.sign[:, None, None, None], layer.sign * sums.heights, sums.plain)


def _of_first(layer: Layer, i: int, chunk: Pictures, dz: Tensor) -> Tensor:
    """``d' P``: the sparse part of the first kernel's gradient ``[O, 9 C]``."""
    passed, o = layer.chunks[i], len(layer.kernel)
    b, h, w = chunk.number, chunk.height, chunk.width
    scaled = dz * (layer.gain * layer.rate).view(1, -1, 1, 1)
    step = max(1, CACHED // (h * w))
    like = scaled.new_empty(min(b, step), h, w, o).permute(0, 3, 1, 2)
    total = scaled.new_zeros(len(chunk.patches), o)
    for first in range(0, b, step):
        end = min(b, first + step)
        d = _unpool(
            scaled[first:end], like[: end - first], [2, 2], [2, 2], [0, 0], [1, 1], False, passed.where[first:end]
        )
        rows = d.permute(0, 2, 3, 1).reshape(-1, o)
        total.addmm_(chunk.patches[:, first * h * w : end * h * w], rows)  # the other way round is five times slower
    return total.T
