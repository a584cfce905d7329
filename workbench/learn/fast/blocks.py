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

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.learn.fast import workers
from workbench.learn.functional import channels_last
from workbench.learn.norm import Moments

_aten: Any = torch.ops.aten
_pool: Callable[..., tuple[Tensor, Tensor]] = _aten.max_pool2d_with_indices.default
_pool_into: Callable[..., object] = _aten.max_pool2d_with_indices.out
_unpool: Callable[..., Tensor] = _aten.max_pool2d_with_indices_backward.default
_conv_backward: Callable[..., tuple[Tensor, Tensor, Tensor]] = _aten.convolution_backward.default
relu_backward: Callable[..., Tensor] = _aten.threshold_backward.default
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

    def few(self) -> Iterator[slice]:
        """Pictures whose first block's output fits in the cache, part by part."""
        step = max(1, CACHED // (self.height * self.width))
        return (slice(i, min(self.number, i + step)) for i in range(0, self.number, step))

    def pixels(self, few: slice) -> slice:
        """Where the patches of these pictures lie."""
        size = self.height * self.width
        return slice(few.start * size, few.stop * size)


@dataclass(slots=True)
class Passed:
    """What one chunk leaves behind in one block, for the way back.

    Attributes:
        x: input of the block; ``None`` in the first.
        y: before pooling, where the statistics are the pictures' own and the block is not the first.
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
    seen: Moments
    chunks: list[Passed]

    @property
    def scale(self) -> Tensor:
        """``|gain| / sd``."""
        return self.gain * self.rate


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
    """The way back through one block: ``dz`` and, for own statistics, ``dy`` of each chunk, and what they are made of.

    In the first block there is no ``dy``.
    """

    dz: list[Tensor]
    dy: list[Tensor]
    sums: Sums
    slope: Tensor
    level: Tensor


def cut(x: Tensor) -> list[Pictures]:
    """Pictures ``[B, C, H, W]`` as chunks of patches."""
    per = max(1, round(CHUNK / (x.shape[2] * x.shape[3])))
    chunks = x.detach().tensor_split(max(1, round(len(x) / per)))
    return [_patches(chunk) for chunk in chunks if len(chunk)]


def forward(
    blocks: Sequence[Block], pictures: list[Pictures], eps: float, given: Sequence[Moments] | None = None
) -> tuple[list[Tensor], Tape]:
    """Features ``[b, D]`` of each chunk, and what :func:`backward` needs.

    Args:
        blocks: from the first to the last.
        pictures: chunks from :func:`cut`.
        eps: of the norm.
        given: statistics of each block's ``conv(x, kernel)``, or ``None`` for the pictures' own.
    """
    tape = Tape(pictures, given is None, [])
    for number, block in enumerate(blocks):
        sign = torch.where(block.gain < 0, -1.0, 1.0).to(block.gain)
        kernel = channels_last(block.kernel * sign[:, None, None, None])
        if number == 0:
            flat = flattened(kernel)
            chunks = workers.each([partial(_first, chunk, flat) for chunk in pictures])
            seen = _of_patches(pictures, flat) if given is None else None
        else:
            before = tape.layers[-1]
            jobs = [partial(_next, before, i, kernel, given is None) for i in range(len(pictures))]
            found = workers.each(jobs)
            chunks = [passed for passed, _ in found]
            seen = _joined([part for _, part in found if part is not None]) if given is None else None
        if given is not None:
            seen = given[number]._replace(mean=given[number].mean * sign)
        assert seen is not None
        tape.layers.append(
            Layer(kernel, sign, block.gain.abs(), block.shift, torch.rsqrt(seen.var + eps), seen, chunks)
        )
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
        sums = Sums(total(s.plain for _, s in parts), total(s.heights for _, s in parts))
        slope, level = _dense(layer, sums, None if into is None else into[number])
        back = Back([dz for dz, _ in parts], [], sums, slope, level)
        if number:
            down = workers.each([partial(_down, tape, number, i, back) for i in count])
            kernel = total(k for k, _, _ in down)
            back.dy, parts = [dy for _, _, dy in down], [part for _, part, _ in down]
        else:
            kernel = _ground(tape, back)
        grads.append(Block(kernel * layer.sign[:, None, None, None], layer.sign * sums.heights, sums.plain))
        way.append(back)
    return grads[::-1], way[::-1]


def statistics(tape: Tape) -> list[Moments]:
    """Of every block, for the kernels as they were given."""
    return [layer.seen._replace(mean=layer.seen.mean * layer.sign) for layer in tape.layers]


def into_given(tape: Tape, way: Sequence[Back]) -> list[tuple[Tensor, Tensor]]:
    """``(d mean, d var)`` of each block's given statistics."""
    return [
        (-layer.sign * layer.scale * back.sums.plain, -0.5 * layer.scale * layer.rate * back.sums.heights)
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


def applied(chunk: Pictures, few: slice, flat: Tensor) -> Tensor:
    """The first block's convolution of some pictures ``[b, O, H, W]``."""
    y = chunk.patches[:, chunk.pixels(few)].T @ flat.T
    return y.view(few.stop - few.start, chunk.height, chunk.width, len(flat)).permute(0, 3, 1, 2)


def _first(chunk: Pictures, flat: Tensor) -> Passed:
    b, h, w, o = chunk.number, chunk.height // 2, chunk.width // 2, len(flat)
    largest = flat.new_empty(b, h, w, o).permute(0, 3, 1, 2)
    where = torch.empty(b, h, w, o, dtype=torch.int64).permute(0, 3, 1, 2)
    for few in chunk.few():
        _pool_into(applied(chunk, few, flat), [2, 2], [2, 2], out=largest[few], indices=where[few])
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


def _normalised(layer: Layer, i: int) -> Tensor:
    """Finish a chunk of a block whose statistics are known."""
    chunk = layer.chunks[i]
    chunk.height.sub_(column(layer.seen.mean)).mul_(column(layer.rate))
    chunk.out = torch.addcmul(column(layer.shift), chunk.height, column(layer.gain)).relu_()
    return chunk.out


def _next(before: Layer, i: int, kernel: Tensor, own: bool) -> tuple[Passed, Moments | None]:
    x = _normalised(before, i)
    y = workers.heavy(torch.conv2d, x, kernel, None, 1, 1)
    largest, where = workers.heavy(_pool, y, [2, 2], [2, 2])
    if not own:
        return Passed(x, None, where, largest), None
    mean, var = _measure(y, None, None, 0.0)
    return Passed(x, y, where, largest), Moments(mean, var, y.numel() // y.shape[1])


def _features(last: Layer, i: int) -> Tensor:
    return _normalised(last, i).flatten(1).clone()


def _joined(parts: Sequence[Moments]) -> Moments:
    """Statistics of several parts together."""
    if len(parts) == 1:
        return parts[0]
    number = sum(p.values for p in parts)
    mean = total(p.mean * (p.values / number) for p in parts)
    var = total((p.var + (p.mean - mean).square()) * (p.values / number) for p in parts)
    return Moments(mean, var, number)


# ---- down -----------------------------------------------------------------------------------------------------------


def rectified(layer: Layer, i: int, wanted: Tensor) -> tuple[Tensor, Sums]:
    """``dz`` of a chunk and its sums."""
    chunk = layer.chunks[i]
    dz = relu_backward(wanted, chunk.out, 0)
    return dz, Sums(rows(dz).sum(0), (rows(dz) * rows(chunk.height)).sum(0))


def _dense(layer: Layer, sums: Sums, into: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Slope and level ``[O]`` of the dense part of ``dy``, for own statistics."""
    mean, _, n = layer.seen
    slope = -layer.scale * layer.rate / n * sums.heights
    level = -layer.scale / n * sums.plain - slope * mean
    if into is not None:
        of_mean, of_var = into[0] * layer.sign, into[1]
        slope, level = slope + 2 / n * of_var, level + (of_mean - 2 * of_var * mean) / n
    return slope, level


def spread(largest: Tensor, where: Tensor, like: Tensor) -> Tensor:
    """Values of the largest of four at their places, else 0."""
    return workers.heavy(_unpool, largest, like, [2, 2], [2, 2], [0, 0], [1, 1], False, where)


def _down(tape: Tape, number: int, i: int, back: Back) -> tuple[Tensor, tuple[Tensor, Sums], Tensor]:
    """Through one block: its kernel's gradient, what the block below gets, and ``dy``."""
    layer = tape.layers[number]
    chunk = layer.chunks[i]
    assert chunk.x is not None
    d = back.dz[i] * column(layer.scale)
    if chunk.y is None:
        b, _, h, w = chunk.x.shape
        dy = spread(d, chunk.where, d.new_empty(b, h, w, len(layer.kernel)).permute(0, 3, 1, 2))
    else:
        dy = spread(d, chunk.where, chunk.y)
        dy += torch.addcmul(column(back.level), chunk.y, column(back.slope))
    wanted, kernel, _ = conv_backward(dy, chunk.x, layer.kernel, True, True)
    return kernel, rectified(tape.layers[number - 1], i, wanted), dy


def conv_backward(dy: Tensor, x: Tensor, kernel: Tensor, of_x: bool, of_kernel: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for ``x`` and ``kernel`` of a convolution."""
    return workers.heavy(
        _conv_backward, dy, x, kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [of_x, of_kernel, False]
    )


def _ground(tape: Tape, back: Back) -> Tensor:
    """Gradient of the first block's kernel."""
    layer = tape.layers[0]
    jobs = [
        partial(against_patches, chunk, back.dz[i] * column(layer.scale), layer.chunks[i].where)
        for i, chunk in enumerate(tape.pictures)
    ]
    flat = total(workers.each(jobs))
    if tape.own:
        mean, scatter, n = patches_of(tape.pictures)
        second = scatter + n * torch.outer(mean, mean)
        slope, level, kernel = back.slope.double(), back.level.double(), flattened(layer.kernel).double()
        flat = flat + (slope[:, None] * (kernel @ second) + n * torch.outer(level, mean)).to(flat)
    return as_kernel(flat)


def against_patches(chunk: Pictures, largest: Tensor, where: Tensor) -> Tensor:
    """``d P'``: the first kernel's gradient ``[O, 9 C]`` from the sparse ``d``."""
    o = largest.shape[1]
    like = largest.new_empty(0)
    out = largest.new_zeros(len(chunk.patches), o)
    for few in chunk.few():
        b = few.stop - few.start
        if len(like) != b:
            like = largest.new_empty(b, chunk.height, chunk.width, o).permute(0, 3, 1, 2)
        d = spread(largest[few], where[few], like)
        out.addmm_(chunk.patches[:, chunk.pixels(few)], rows(d))  # the other way round is five times slower
    return out.T


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


def column(t: Tensor) -> Tensor:
    """``[O]`` as ``[1, O, 1, 1]``."""
    return t.view(1, -1, 1, 1)


def rows(t: Tensor) -> Tensor:
    """``[b, O, H, W]`` as ``[b * H * W, O]``, a view where it lies channels-last."""
    return t.permute(0, 2, 3, 1).reshape(-1, t.shape[1])
