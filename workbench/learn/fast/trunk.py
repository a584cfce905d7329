"""Conv-4 for ``functional.call``: the same features and gradients, computed by ``blocks``.

Any algorithm that passes pictures through its trunk under their own statistics gains by it without knowing. The
gradient of the gradient is asked for rarely (an inner loop that reaches the trunk); it is then taken through the
network as it is written, so it is right for every algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workbench.learn import functional, norm
from workbench.learn.backbones.conv4 import Block as ConvBlock
from workbench.learn.fast import blocks

NAMES = ("conv.weight", "norm.weight", "norm.bias")


def fits(module: nn.Module) -> bool:
    """Whether ``module`` is Conv-4 of any width and depth."""
    parts = list(module.children()) if type(module) is nn.Sequential else []
    return len(parts) > 1 and type(parts[-1]) is nn.Flatten and all(_block(part) for part in parts[:-1])


def _block(part: nn.Module) -> bool:
    return type(part) is ConvBlock and type(part.pool) is nn.MaxPool2d and type(part.norm) is norm.Norm2d


def names(module: nn.Module) -> list[str]:
    """Its parameters' names, block by block, as ``blocks.Block`` holds them."""
    return [f"{i}.{name}" for i in range(len(list(module.children())) - 1) for name in NAMES]


def eps(module: nn.Module) -> float:
    """Of its norms."""
    return next(part.eps for part in module.modules() if isinstance(part, norm.Norm2d))


def blocks_of(values: Sequence[Tensor]) -> list[blocks.Block]:
    """Values in the order of :func:`names`, block by block."""
    return [blocks.Block(*values[i : i + 3]) for i in range(0, len(values), 3)]


def recorded(module: nn.Module, tape: blocks.Tape) -> norm.Statistics:
    """The statistics of a pass by the layers' names."""
    paths = [part.path for part in module.modules() if isinstance(part, norm.Norm2d)]
    return {path: norm.Moments(*seen) for path, seen in zip(paths, blocks.statistics(tape), strict=True)}


def features(module: nn.Module, params: Mapping[str, Tensor], x: Tensor) -> Tensor | None:
    """``[B, D]``, or ``None`` where the network, the device or the policy of ``norm`` is another."""
    record = norm.recording()
    if record is None or x.device.type != "cpu" or x.requires_grad or not fits(module):
        return None
    values = [params[name] for name in names(module)]
    if torch.is_grad_enabled() and any(v.requires_grad for v in values):
        out: Tensor = _Features.apply(module, record, x, *values)
        return out
    found, tape = _passed(module, x, values)
    record.update(recorded(module, tape))
    return found


def _passed(module: nn.Module, x: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, blocks.Tape]:
    pictures = blocks.cut(x)
    with torch.no_grad():
        parts, tape = blocks.forward(blocks_of(values), pictures, len(pictures), eps(module))
    return torch.cat(parts), tape


class _Features(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, module: nn.Module, record: norm.Statistics, x: Tensor, *values: Tensor) -> Tensor:
        found, tape = _passed(module, x, values)
        record.update(recorded(module, tape))
        ctx.save_for_backward(x, *values)
        ctx.module, ctx.tape = module, tape
        return found

    @staticmethod
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor | None, ...]:
        x, *values = ctx.saved_tensors
        if torch.is_grad_enabled():
            with functional.substituted(None), norm.batch_statistics():
                found = functional.call(ctx.module, dict(zip(names(ctx.module), values, strict=True)), {}, x)
            asked = [v for v in values if v.requires_grad]
            given = iter(torch.autograd.grad(found, asked, wanted, create_graph=True))
            return (None, None, None, *(next(given) if v.requires_grad else None for v in values))
        sizes = [p.number for p in ctx.tape.pictures]
        return (
            None,
            None,
            None,
            *(g for block in blocks.backward(ctx.tape, torch.split(wanted, sizes)) for g in block),
        )
