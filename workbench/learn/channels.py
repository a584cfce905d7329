"""Which channels of a network can be taken out, and the same network without them.

A normalisation layer right behind a convolution can lose a channel where a channel that is 0 stays 0, and apart from
the others, until it is read: by other convolutions, or as ``P`` columns of the embedding, one for each position. It
can then be cut out of the convolution's filters, of the layer, of the kernels that read it and of the embedding, and
nothing else changes. Rectifying and pooling leave a 0 a 0; a sum does not, since what is added may be something else.
So all channels of Conv-4 can be taken out, and of a residual network those between the convolutions of a branch.

The order of computation is read from the network by ``torch.fx``, not from the order of registration.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from workbench.learn.functional import Tensors
from workbench.learn.norm import Norm2d

_KEEP_ZERO = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Identity,
)
_FUNCTIONS_KEEP_ZERO = (torch.relu, F.relu, F.leaky_relu, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d)


class Site(NamedTuple):
    """Where ``channels`` channels arise: the convolution; who reads them; whether they become columns at the end."""

    conv: str
    channels: int
    readers: tuple[str, ...]
    at_end: bool


def sites(network: nn.Module) -> dict[str, Site]:
    """The normalisation layers whose channels can be taken out, by path, in the order of computation."""
    modules = dict(network.named_modules())
    graph = _Tracer().trace(network)
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    found = {}
    for node in graph.nodes:
        norm, before = _module(node, modules), _module(node.args[0], modules) if node.args else None
        if not isinstance(norm, Norm2d) or not isinstance(before, nn.Conv2d):
            continue
        read = _readers(node, modules)
        if read is None or len(node.args[0].users) > 1 or before.groups > 1:
            continue
        conv, (readers, at_end) = str(node.args[0].target), read
        # a layer that is used in two places has one set of channels for both: left alone
        if all(calls[path] == 1 for path in (conv, node.target, *readers)):
            found[str(node.target)] = Site(conv, norm.weight.numel(), readers, at_end)
    return found


def columns(kept: Tensor, channels: int, width: int) -> Tensor:
    """The columns of an embedding of ``width`` columns that belong to the channels ``kept [K]`` of ``channels``."""
    positions = width // channels
    return (kept[:, None] * positions + torch.arange(positions, device=kept.device)).flatten()


def removed(
    network: nn.Module, tensors: Mapping[str, Tensor], places: Mapping[str, Site], kept: Mapping[str, Tensor]
) -> tuple[nn.Module, Tensors]:
    """A skeleton and its tensors without the channels that are not kept.

    Args:
        network: a skeleton.
        tensors: its parameters and buffers.
        places: :func:`sites` of the network.
        kept: by path of the normalisation layer which channels stay, ``[K]`` indices, at least one; a layer that is
            not named keeps all.
    """
    values = dict(tensors)
    for path, index in kept.items():
        site = places[path]
        own = [f"{site.conv}.{name}" for name in ("weight", "bias")]
        own += [f"{path}.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
        values |= {name: values[name][index] for name in own if name in values}
        values |= {f"{reader}.weight": values[f"{reader}.weight"][:, index] for reader in site.readers}
    narrow = copy.deepcopy(network)
    for path, part in narrow.named_modules():
        if isinstance(part, nn.Conv2d):
            part.out_channels, part.in_channels = values[f"{path}.weight"].shape[0], values[f"{path}.weight"].shape[1]
        if isinstance(part, nn.Conv2d | Norm2d):
            for name, _ in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(torch.empty_like(values[f"{path}.{name}"], device="meta")))
            for name, _ in list(part.named_buffers(recurse=False)):
                setattr(part, name, torch.empty_like(values[f"{path}.{name}"], device="meta"))
    return narrow, values


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Norm2d) or super().is_leaf_module(m, module_qualified_name)


def _module(node: object, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    return modules[str(node.target)] if isinstance(node, fx.Node) and node.op == "call_module" else None


def _readers(node: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[tuple[str, ...], bool] | None:
    """Paths of the convolutions that read what ``node`` gives, and whether the embedding does; ``None``: others too."""
    convs, at_end = [], False
    pending = list(node.users)
    while pending:
        user = pending.pop()
        module = _module(user, modules)
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            convs.append(str(user.target))
        elif isinstance(module, _KEEP_ZERO) or user.target in _FUNCTIONS_KEEP_ZERO:
            pending += user.users
        elif _flattens(user, module) and all(_ends(after, modules) for after in user.users):
            at_end = True
        else:
            return None
    return tuple(convs), at_end


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    if isinstance(module, nn.Flatten):
        return module.start_dim == 1 and module.end_dim == -1
    return (node.target is torch.flatten or node.target == "flatten") and node.args[1:] == (1,) and not node.kwargs


def _ends(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if isinstance(_module(node, modules), nn.Identity):
        return all(_ends(after, modules) for after in node.users)
    return node.op == "output"
