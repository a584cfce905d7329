"""Networks as functions: a skeleton without values, and tensors by name that are put in for one call.

A skeleton lives on torch's ``meta`` device: it has shapes and no numbers, so nothing can be read from it or left in it
by mistake, and building it draws nothing from the global generator. All numbers come from a ``State``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.learn.norm import Norm2d

Tensors = dict[str, Tensor]
TRUNK = "trunk."
"""Prefix of a backbone's tensors in every algorithm's state, so that one algorithm's trunk can be used by another."""


def skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """What ``build`` builds, without values, with every normalisation layer told its name."""
    with torch.device("meta"):
        module = build()
    for name, part in module.named_modules():
        if isinstance(part, Norm2d):
            part.path = name
    return module


def initial(module: nn.Module, gen: Generator) -> tuple[Tensors, Tensors]:
    """Fresh (parameters, buffers) of a skeleton, drawn from ``gen`` alone, on its device.

    Convolutions: normal, variance ``2 / (out_channels * kernel area)`` (He et al. 2015, fan-out). Linear layers:
    uniform in ``+-1/sqrt(in)``. Normalisation: weight 1, bias 0, running mean 0 and variance 1.

    Raises:
        TypeError: a layer with parameters that has no rule here.
    """
    params: Tensors = {}
    buffers: Tensors = {}
    for path, part in module.named_modules():
        own = {name: p.shape for name, p in part.named_parameters(recurse=False)}
        held = {name: b.shape for name, b in part.named_buffers(recurse=False)}
        dot = f"{path}." if path else ""
        if isinstance(part, Norm2d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            params |= {dot + n: _full(s, 1.0 if n == "weight" else 0.0, gen) for n, s in own.items()}
            buffers |= {dot + n: _full(s, 1.0 if n == "running_var" else 0.0, gen) for n, s in held.items()}
        elif isinstance(part, nn.Conv2d):
            std = math.sqrt(2.0 / (part.out_channels * math.prod(part.kernel_size) / part.groups))
            params |= {dot + n: _normal(s, std, gen) if n == "weight" else _full(s, 0.0, gen) for n, s in own.items()}
        elif isinstance(part, nn.Linear):
            bound = 1.0 / math.sqrt(part.in_features)
            params |= {dot + n: _uniform(s, bound, gen) for n, s in own.items()}
        elif own or held:
            raise TypeError(f"no rule to start {type(part).__name__} ({path or 'the network itself'})")
    return params, buffers


def loaded(module: nn.Module, weights: Mapping[str, Tensor]) -> tuple[Tensors, Tensors]:
    """(parameters, buffers) of a skeleton taken from a file's tensors, copied.

    A first convolution for three channels is summed over them for a network with one: that is exactly the network
    applied to the grey picture repeated three times. A classifier and counters that the file has besides
    are left out.

    Raises:
        WorkbenchError: a tensor is missing or has another shape.
    """
    out: tuple[Tensors, Tensors] = ({}, {})
    for kind, wanted in enumerate((module.named_parameters(), module.named_buffers())):
        for name, want in wanted:
            have = weights.get(name)
            if have is None:
                raise _other_weights(f"they lack {name}")
            if have.ndim == 4 and have.shape[1] == 3 and want.shape[1] == 1:
                have = have.sum(1, keepdim=True)
            if have.shape != want.shape:
                why = f"{name} is {list(have.shape)} there and {list(want.shape)} here"
                raise WorkbenchError(
                    "The weights were not loaded", why, "Choose the file that belongs to this backbone"
                )
            out[kind][name] = have.detach().to(torch.float32).clone()
    return out


def start(module: nn.Module, gen: Generator, weights: Mapping[str, Tensor] | None) -> tuple[Tensors, Tensors]:
    """(parameters, buffers) to start from: the pretrained ``weights`` where there are any, else fresh ones."""
    return initial(module, gen) if weights is None else loaded(module, weights)


def call(module: nn.Module, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The network of ``module``'s shape with these tensors, applied to ``x [B, C, H, W]``; differentiable in all.

    Pictures and the kernels that meet them are laid out channels-last: the CPU's convolutions are 1.6 times faster so.
    Buffers that the policy of ``norm`` does not read may be left out.

    With one channel both layouts look alike to torch, so the strides are forced.

    Raises:
        KeyError: a tensor is missing (torch itself would go on without values).
    """
    missing = [name for name, _ in module.named_parameters() if name not in params]
    if missing:
        raise KeyError(f"the network was called without {', '.join(missing)}")
    laid = {name: channels_last(t) if t.ndim == 4 and t.shape[1] == 1 else t for name, t in params.items()}
    out: Tensor = torch.func.functional_call(module, (laid, dict(buffers)), (channels_last(x),))
    return out


def channels_last(t: Tensor) -> Tensor:
    """``t [B, C, H, W]`` in channels-last layout, also where ``C = 1`` leaves torch in doubt; differentiable."""
    if t.shape[1] == 1:
        b, _, h, w = t.shape
        return t.reshape(b, h, w, 1).permute(0, 3, 1, 2)
    return t.contiguous(memory_format=torch.channels_last)


def frozen(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A plain module in eval mode with copies of these tensors, for prediction and export.

    Every :class:`Norm2d` becomes an ordinary ``nn.BatchNorm2d`` that uses its running statistics under any policy.

    Raises:
        ValueError: a tensor is missing or has another shape.
        AttributeError: the network has no tensor of that name.
    """
    network = copy.deepcopy(module)
    for path, part in list(network.named_modules()):
        if isinstance(part, Norm2d):
            with torch.device("meta"):
                plain = nn.BatchNorm2d(part.weight.numel(), part.eps)
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, plain)
    learnt = dict(network.named_parameters())
    counters = {n for n, _ in network.named_buffers() if n.endswith("num_batches_tracked")}
    for name, value in {**{n: torch.zeros((), dtype=torch.int64) for n in counters}, **tensors}.items():
        copied = value.detach().clone()
        _put(network, name, nn.Parameter(copied, requires_grad=False) if name in learnt else copied)
    if any(t.is_meta for t in (*network.parameters(), *network.buffers())):
        raise ValueError("a tensor of the network was not given")
    return network.eval()


def under(tensors: Mapping[str, Tensor], prefix: str = TRUNK) -> Tensors:
    """The tensors whose name begins with ``prefix``, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def named(tensors: Mapping[str, Tensor], prefix: str = TRUNK) -> Tensors:
    """The tensors with ``prefix`` put before each name."""
    return {prefix + name: t for name, t in tensors.items()}


def _other_weights(why: str) -> WorkbenchError:
    return WorkbenchError("The weights were not loaded", why, "Choose the file that belongs to this backbone")


def _put(network: nn.Module, name: str, value: Tensor) -> None:
    parent, _, last = name.rpartition(".")
    holder = network.get_submodule(parent)
    if getattr(holder, last).shape != value.shape:
        raise ValueError(f"{name} is {list(value.shape)} and not {list(getattr(holder, last).shape)}")
    setattr(holder, last, value)


def _full(shape: torch.Size, value: float, gen: Generator) -> Tensor:
    return torch.full(shape, value, device=gen.device)


def _normal(shape: torch.Size, std: float, gen: Generator) -> Tensor:
    return torch.randn(shape, generator=gen, device=gen.device) * std


def _uniform(shape: torch.Size, bound: float, gen: Generator) -> Tensor:
    return (torch.rand(shape, generator=gen, device=gen.device) * 2 - 1) * bound
