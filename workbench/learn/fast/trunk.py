"""Conv-4 for ``functional.call``: the same features and gradients, computed by ``passes``.

Any algorithm that passes pictures through its trunk, under their own statistics or under given ones, gains by it
without knowing. First and second derivatives are written out; where more is asked for (a third one, a second one
through the statistics) the network is taken as it is written, so it is right for every algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from workbench.learn import functional, norm
from workbench.learn.backbones.conv4 import Block as ConvBlock
from workbench.learn.fast import asking, passes, records

NAMES = ("conv.weight", "norm.weight", "norm.bias")
Gradients = tuple[Tensor | None, ...]
Up = Callable[[Sequence[Tensor], list[records.Pictures], float], tuple[Tensor, list[norm.Moments], passes.Tape]]
"""Features of pictures under their own statistics for some values and ``eps``, these, and the tape."""


def fits(module: nn.Module) -> bool:
    """Whether ``module`` is Conv-4 of any width and depth."""
    parts = list(module.children()) if type(module) is nn.Sequential else []
    return len(parts) > 1 and type(parts[-1]) is nn.Flatten and all(_block(part) for part in parts[:-1])


def _block(part: nn.Module) -> bool:
    return type(part) is ConvBlock and type(part.pool) is nn.MaxPool2d and type(part.norm) is norm.Norm2d


def names(module: nn.Module) -> list[str]:
    """Its parameters' names, block by block, in the order of ``records.Block``."""
    return [f"{i}.{name}" for i in range(len(list(module.children())) - 1) for name in NAMES]


def paths(module: nn.Module) -> list[str]:
    """Its norms' names."""
    return [part.path for part in module.modules() if isinstance(part, norm.Norm2d)]


def eps(module: nn.Module) -> float:
    """Of its norms."""
    return next(part.eps for part in module.modules() if isinstance(part, norm.Norm2d))


class Substitute:
    """:func:`features` that cuts a tensor of pictures once, however often they pass.

    Attributes:
        low: convolve in bfloat16.
        used: whether any pictures passed this way.
    """

    def __init__(self, *, low: bool = False) -> None:
        self.low, self.used = low, False
        self._known: dict[int, tuple[Tensor, list[records.Pictures]]] = {}

    def __call__(
        self, module: nn.Module, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor
    ) -> Tensor | None:
        """As ``functional.Substitute``; running statistics are left to the network in training."""
        if norm.current() is None:
            return None
        found = features(module, params, buffers, x, self._cut, low=self.low)
        self.used = self.used or found is not None
        return found

    def _cut(self, x: Tensor) -> list[records.Pictures]:
        if id(x) not in self._known:
            self._known[id(x)] = x, passes.cut(x)
        return self._known[id(x)][1]


def up(
    values: Sequence[Tensor], pictures: list[records.Pictures], eps: float, *, low: bool = False
) -> tuple[Tensor, list[norm.Moments], passes.Tape]:
    """As :data:`Up`."""
    found, tape = passes.up(values, pictures, eps, None, low=low)
    return found, passes.statistics(tape), tape


def features(
    module: nn.Module,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    x: Tensor,
    cut: Callable[[Tensor], list[records.Pictures]] = passes.cut,
    own: Up | None = None,
    *,
    low: bool = False,
) -> Tensor | None:
    """``[B, D]``, or ``None`` where the network, the device or the tensors are others.

    With ``low`` the convolutions are in bfloat16, there and back. A third derivative, or a second one through the
    statistics, stays in full precision.

    Args:
        module: the skeleton.
        params: by name; running statistics may be among them.
        buffers: by name, for running statistics.
        x: ``[B, C, H, W]``.
        cut: cuts pictures.
        own: stands in for :func:`up`.
        low: see above.
    """
    if x.device.type != "cpu" or x.requires_grad or not fits(module):
        return None
    policy = norm.current()
    values = [params[name] for name in names(module)]
    out: Tensor
    if policy is None or policy.given is not None:
        given = _running(module, {**buffers, **params}) if policy is None or policy.given is None else policy.given
        if given is None:
            return None
        moments = [given[path] for path in paths(module)]
        flat, numbers = [t for m in moments for t in m[:2]], [m.values for m in moments]
        if not low and not (torch.is_grad_enabled() and any(t.requires_grad for t in (*values, *flat))):
            return asking.features(values, flat, eps(module), x)
        out = _Given.apply(module, cut(x), (numbers, low), x, *values, *flat)
        return out
    counts: list[int] = []
    own = partial(up, low=low) if own is None else own
    out, *seen = _Own.apply(module, cut(x), (counts, policy.differentiable, own), x, *values)
    recorded = map(norm.Moments, seen[::2], seen[1::2], counts)
    policy.record.update(zip(paths(module), recorded, strict=True))
    return out


def _running(module: nn.Module, buffers: Mapping[str, Tensor]) -> dict[str, norm.Moments] | None:
    """The running statistics, or ``None`` where one is missing: the network itself says which."""
    found: dict[str, norm.Moments] = {}
    for path in paths(module):
        mean, var = buffers.get(f"{path}.running_mean"), buffers.get(f"{path}.running_var")
        if mean is None or var is None:
            return None
        found[path] = norm.Moments(mean, var, 0)
    return found


class _Own(torch.autograd.Function):
    """Features under the pictures' own statistics, and these: ``mean, var`` of each block."""

    @staticmethod
    def forward(
        ctx: Any,
        module: nn.Module,
        pictures: list[records.Pictures],
        kept: tuple[list[int], bool, Up],
        x: Tensor,
        *values: Tensor,
    ) -> tuple[Tensor, ...]:
        counts, differentiable, ascend = kept
        found, seen, tape = ascend(values, pictures, eps(module))
        counts += [m.values for m in seen]
        flat = [t for m in seen for t in m[:2]]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *values)
        ctx.module, ctx.tape = module, tape
        if not differentiable:
            ctx.mark_non_differentiable(*flat)
        return found, *flat

    @staticmethod
    def backward(ctx: Any, wanted: Tensor | None, *into: Tensor | None) -> Gradients:
        x, *values = ctx.saved_tensors
        tape: passes.Tape = ctx.tape
        statistics = any(t is not None for t in into)
        if torch.is_grad_enabled() and statistics:
            return None, None, None, None, *_as_written(_own(ctx.module, x), values, [wanted, *into])
        wanted = passes.nothing(tape) if wanted is None else wanted
        if torch.is_grad_enabled():
            return None, None, None, None, *_Gradient.apply(ctx.module, tape, x, wanted, *values)
        shifts = values[2::3]
        zeros = [torch.zeros_like(shifts[i // 2]) for i in range(len(into))] if statistics else []
        found, _ = passes.down(tape, wanted, [z if t is None else t for t, z in zip(into, zeros, strict=False)])
        return None, None, None, None, *found


class _Gradient(torch.autograd.Function):
    """The gradient of what :class:`_Own` gives; its own gradient is ``second``'s."""

    @staticmethod
    def forward(
        ctx: Any, module: nn.Module, tape: passes.Tape, x: Tensor, wanted: Tensor, *values: Tensor
    ) -> tuple[Tensor, ...]:
        found, way = passes.down(tape, wanted)
        ctx.save_for_backward(x, wanted, *values)
        ctx.module, ctx.tape, ctx.way = module, tape, way
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *along: Tensor) -> Gradients:
        x, wanted, *values = ctx.saved_tensors
        if torch.is_grad_enabled():

            def gradient(leaves: list[Tensor]) -> list[Tensor]:
                out = _own(ctx.module, x)(leaves[1:])[0]
                return list(torch.autograd.grad(out, leaves[1:], leaves[0], create_graph=True))

            return None, None, None, *_as_written(gradient, [wanted, *values], along)
        out, found = passes.changes(ctx.tape, ctx.way, along)
        return None, None, None, out, *found


class _Given(torch.autograd.Function):
    """Features under given statistics, ``mean, var`` of each block behind the blocks' values."""

    @staticmethod
    def forward(
        ctx: Any,
        module: nn.Module,
        pictures: list[records.Pictures],
        kept: tuple[list[int], bool],
        x: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        counts, low = kept
        values, flat = tensors[: -2 * len(counts)], tensors[-2 * len(counts) :]
        given = list(map(norm.Moments, flat[::2], flat[1::2], counts))
        found, tape = passes.up(values, pictures, eps(module), given, low=low)
        ctx.save_for_backward(x, *tensors)
        ctx.module, ctx.counts, ctx.tape = module, counts, tape
        return found

    @staticmethod
    def backward(ctx: Any, wanted: Tensor) -> Gradients:
        x, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():

            def answer(leaves: list[Tensor]) -> list[Tensor]:
                values, flat = leaves[: -2 * len(ctx.counts)], leaves[-2 * len(ctx.counts) :]
                given = map(norm.Moments, flat[::2], flat[1::2], ctx.counts)
                with norm.given_statistics(dict(zip(paths(ctx.module), given, strict=True))):
                    return [_called(ctx.module, x, values)]

            return None, None, None, None, *_as_written(answer, tensors, [wanted])
        found, way = passes.down(ctx.tape, wanted)
        return None, None, None, None, *found, *passes.into_given(ctx.tape, way)


# ---- as it is written -----------------------------------------------------------------------------------------------


def _called(module: nn.Module, x: Tensor, values: Sequence[Tensor]) -> Tensor:
    with functional.substituted(None):
        return functional.call(module, dict(zip(names(module), values, strict=True)), {}, x)


def _own(module: nn.Module, x: Tensor) -> Callable[[list[Tensor]], list[Tensor]]:
    """Features and flat statistics, differentiable without end."""

    def run(values: list[Tensor]) -> list[Tensor]:
        with norm.batch_statistics(differentiable=True) as seen:
            out = _called(module, x, values)
        return [out, *(t for path in paths(module) for t in seen[path][:2])]

    return run


def _as_written(
    run: Callable[[list[Tensor]], list[Tensor]], inputs: list[Tensor], wanted: Sequence[Tensor | None]
) -> Gradients:
    """The gradient of what ``run`` gives, by ordinary automatic differentiation and with a graph."""
    # Under new names: an input may have been computed from another one, whose gradient would then hold that way too.
    leaves = [t.view_as(t) for t in inputs]
    reached = [(o, w) for o, w in zip(run(leaves), wanted, strict=True) if w is not None]
    asked = [t for t in leaves if t.requires_grad]
    outs, sides = [o for o, _ in reached], [w for _, w in reached]
    found = iter(torch.autograd.grad(outs, asked, sides, create_graph=True, allow_unused=True))
    return tuple(next(found) if t.requires_grad else None for t in leaves)
