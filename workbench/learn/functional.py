"""Networks as functions: a skeleton without values, and tensors by name that are put in for one call.

A skeleton lives on torch's ``meta`` device: it has shapes and no numbers, so nothing can be read from it or left in it
by mistake, and building it draws nothing from the global generator. All numbers come from a ``State``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.learn.norm import Norm2d

Tensors = dict[str, Tensor]
TRUNK = "trunk."
"""Prefix of a backbone's tensors in every algorithm's state, so that one algorithm's trunk can be used by another."""
T = TypeVar("T")
Substitute = Callable[[nn.Module, Mapping[str, Tensor], Mapping[str, Tensor], Tensor], Tensor | None]
"""Computes what :func:`call` is asked for in another way, or gives ``None`` where it cannot."""
Runner = Callable[[Sequence[Callable[[], Any]]], list[Any]]
"""Gives what some jobs give, in their order."""

_substitute: ContextVar[Substitute | None] = ContextVar("substitute", default=None)
_runner: ContextVar[Runner | None] = ContextVar("runner", default=None)


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
    by = _substitute.get()
    found = None if by is None else by(module, params, buffers, x)
    if found is not None:
        return found
    laid = {name: channels_last(t) if t.ndim == 4 and t.shape[1] == 1 else t for name, t in params.items()}
    out: Tensor = torch.func.functional_call(module, (laid, dict(buffers)), (channels_last(x),))
    return out


def each(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """What the jobs give, in their order, perhaps side by side: no job may depend on another or on the order."""
    by = _runner.get()
    return [job() for job in jobs] if by is None else by(jobs)


@contextmanager
def substituted(by: Substitute | None, runner: Runner | None = None) -> Iterator[None]:
    """Within the block :func:`call` asks ``by`` first, and :func:`each` leaves its jobs to ``runner``; else nobody."""
    tokens = _substitute.set(by), _runner.set(runner)
    try:
        yield
    finally:
        _substitute.reset(tokens[0])
        _runner.reset(tokens[1])


def channels_last(t: Tensor) -> Tensor:
    """``t [B, C, H, W]`` in channels-last layout, also where ``C = 1`` leaves torch in doubt; differentiable."""
    if t.shape[1] == 1:
        b, _, h, w = t.shape
        return t.reshape(b, h, w, 1).permute(0, 3, 1, 2)
    return t.contiguous(memory_format=torch.channels_last)


def frozen(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A plain module in eval mode with copies of these tensors, for prediction and export.

    Normalisation is frozen at its running statistics, whatever the policy is: a :class:`Norm2d` that comes right behind
    a convolution among its parent's children is folded into it, any other becomes an ordinary ``nn.BatchNorm2d``.
    (Backbones register their layers in the order in which they apply them.) Kernels are laid out channels-last. Both
    together make Conv-4 three times faster on the CPU.

    Raises:
        ValueError: a tensor is missing, left over or has another shape.
    """
    expected = {name: t.shape for name, t in (*module.named_parameters(), *module.named_buffers())}
    wrong = sorted(
        n for n in expected.keys() | tensors.keys() if n not in tensors or tensors[n].shape != expected.get(n)
    )
    if wrong:
        raise ValueError(f"these tensors do not fit the network: {', '.join(wrong)}")
    network = copy.deepcopy(module)
    values = {name: t.detach().clone() for name, t in tensors.items()}
    for path, parent in list(network.named_modules()):
        dot = f"{path}." if path else ""
        before: tuple[str, nn.Module] = ("", parent)
        for name, part in list(parent.named_children()):
            if isinstance(part, Norm2d):
                conv = before[1]
                if isinstance(conv, nn.Conv2d) and conv.out_channels == len(part.weight):
                    setattr(parent, name, nn.Identity())
                    _fold(conv, values, dot + before[0], dot + name, part.eps)
                else:
                    setattr(parent, name, _plain(part))
            before = (name, part)
    learnt = dict(network.named_parameters())
    for name, value in values.items():
        holder, _, last = name.rpartition(".")
        laid = channels_last(value) if value.ndim == 4 else value
        setattr(
            network.get_submodule(holder), last, nn.Parameter(laid, requires_grad=False) if name in learnt else laid
        )
    return network.eval()


def convolutions(module: nn.Module) -> dict[str, str | None]:
    """The path of each convolution, and of the :class:`Norm2d` right behind it among its parent's children, if any."""
    found: dict[str, str | None] = {}
    for path, parent in module.named_modules():
        dot, before = f"{path}." if path else "", ""
        for name, part in parent.named_children():
            if isinstance(part, nn.Conv2d):
                found[dot + name] = None
            elif isinstance(part, Norm2d) and before in found:
                found[before] = dot + name
            before = dot + name
    return found


def _fold(conv: nn.Conv2d, values: Tensors, conv_name: str, norm_name: str, eps: float) -> None:
    """Replace a layer's values by those that convolve and normalise in one: ``w g``, ``(b - m) g + beta``."""
    mean, var = values.pop(f"{norm_name}.running_mean"), values.pop(f"{norm_name}.running_var")
    gain = values.pop(f"{norm_name}.weight") * torch.rsqrt(var + eps)
    weight, bias = values[f"{conv_name}.weight"], values.get(f"{conv_name}.bias", torch.zeros_like(mean))
    values[f"{conv_name}.weight"] = weight * gain[:, None, None, None]
    values[f"{conv_name}.bias"] = (bias - mean) * gain + values.pop(f"{norm_name}.bias")
    conv.bias = nn.Parameter(torch.empty_like(mean, device="meta"))


def _plain(norm: Norm2d) -> nn.BatchNorm2d:
    with torch.device("meta"):
        plain = nn.BatchNorm2d(norm.weight.numel(), norm.eps)
    plain.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    return plain


def under(tensors: Mapping[str, Tensor], prefix: str = TRUNK) -> Tensors:
    """The tensors whose name begins with ``prefix``, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def named(tensors: Mapping[str, Tensor], prefix: str = TRUNK) -> Tensors:
    """The tensors with ``prefix`` put before each name."""
    return {prefix + name: t for name, t in tensors.items()}


def _other_weights(why: str) -> WorkbenchError:
    return WorkbenchError("The weights were not loaded", why, "Choose the file that belongs to this backbone")


def _full(shape: torch.Size, value: float, gen: Generator) -> Tensor:
    return torch.full(shape, value, device=gen.device)


def _normal(shape: torch.Size, std: float, gen: Generator) -> Tensor:
    return torch.randn(shape, generator=gen, device=gen.device) * std


def _uniform(shape: torch.Size, bound: float, gen: Generator) -> Tensor:
    return (torch.rand(shape, generator=gen, device=gen.device) * 2 - 1) * bound
