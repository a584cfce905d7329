"""A backbone that answers after each of its blocks, ``[B, C, H, W] -> [B, D_1 + ... + D_L]``, and one that ends early.

The blocks are the network's own children that are made of layers themselves, in their order: four of Conv-4, of
ResNet-12 and of ResNet-18. A network without such children is one block. What a block but the last gives is averaged
over quarters of the picture; of the last the backbone's own output is taken, however that pools. Each block's features
are divided by their length, so that none drowns the others where all lie side by side.

The tensors have the names and shapes of the backbone's own; see :data:`MARK`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.learn.functional import Tensors, call, frozen, named

MARK = "blocks"
"""Name under a trunk's prefix that says from how many blocks features are taken. It tells the digest of such a trunk,
under which features are kept, from that of the same weights read at their end alone."""

_seen: ContextVar[dict[int, Tensor] | None] = ContextVar("block_outputs", default=None)


def blocks(network: nn.Module) -> tuple[str, ...]:
    """The paths of a network's blocks, in the order in which they are registered; () where it is a single one."""
    path, parent = "", network
    while True:
        found = [
            (name, child)
            for name, child in parent.named_children()
            if any(True for _ in child.children()) and any(True for _ in child.parameters())
        ]
        if len(found) != 1:
            return tuple(path + name for name, _ in found)
        path, parent = f"{path}{found[0][0]}.", found[0][1]


class Blocks(nn.Module):
    """The features of some blocks side by side.

    Args:
        network: a backbone, with values or a skeleton; its blocks get a hook.
        used: which blocks, counted from 0; ``None``: all.
        example: shape of one input ``(C, H, W)``.
        paths: of the blocks of the network that this one is the beginning of; ``None``: it is a whole one.

    Attributes:
        sizes: ``D_b`` of each block that is used.
        count: blocks of the whole network.
    """

    def __init__(
        self,
        network: nn.Module,
        example: tuple[int, int, int],
        used: Sequence[int] | None = None,
        paths: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        paths = blocks(network) if paths is None else paths
        self.count = max(1, len(paths))
        self.used = tuple(range(self.count) if used is None else used)
        for i, path in enumerate(paths[: min(self.count - 1, max(self.used) + 1)]):
            network.get_submodule(path).register_forward_hook(partial(_record, i))
        self.sizes = self._measured(example)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, sum of sizes]``, each block's part of length 1."""
        return torch.cat([F.normalize(part, dim=1) for part in self.parts(x)], 1)

    def parts(self, x: Tensor) -> list[Tensor]:
        """``[B, D_b]`` of each block that is used, as they are."""
        return self._parts(self.network, x)

    def _parts(self, network: nn.Module, x: Tensor) -> list[Tensor]:
        outputs: dict[int, Tensor] = {}
        token = _seen.set(outputs)
        try:
            end = network(x)
        finally:
            _seen.reset(token)
        return [end if i == self.count - 1 else quarters(outputs[i]) for i in self.used]

    @torch.no_grad()
    def _measured(self, example: tuple[int, int, int]) -> tuple[int, ...]:
        network = self.network
        if next(network.parameters()).is_meta:
            # torch takes seconds to load what runs layers without values: one of zeros is quicker
            held = (*network.named_parameters(), *network.named_buffers())
            network = frozen(network, {name: torch.zeros(t.shape) for name, t in held})
        like = next(network.parameters())
        parts = self._parts(network, torch.zeros(1, *example, dtype=like.dtype, device=like.device))
        return tuple(p.shape[1] for p in parts)


def features(trunk: Blocks, params: Tensors, buffers: Tensors, x: Tensor) -> Tensor:
    """``trunk``, a skeleton, with the backbone's tensors by their own names."""
    return call(trunk, named(params, "network."), named(buffers, "network."), x)


def deployed(
    network: nn.Module, tensors: Tensors, example: tuple[int, int, int], used: Sequence[int] | None = None
) -> Blocks:
    """The same as a plain module in eval mode that computes nothing behind the last block that is used.

    Args:
        network: a backbone's skeleton without hooks.
        tensors: of the whole network.
        example: shape of one input.
        used: blocks.
    """
    paths = blocks(network)
    if used is None or max(used) >= len(paths) - 1:
        return Blocks(frozen(network, tensors), example, used).eval()
    short = copy.deepcopy(network)
    for path in paths[max(used) + 1 :]:
        holder, _, name = path.rpartition(".")
        setattr(short.get_submodule(holder), name, nn.Identity())
    names = {n for n, _ in (*short.named_parameters(), *short.named_buffers())}
    return Blocks(frozen(short, {n: tensors[n] for n in names}), example, used, paths).eval()


def quarters(x: Tensor) -> Tensor:
    """``[B, 4 C]``: maps ``[B, C, H, W]`` averaged over quarters of the picture; ``[B, C]`` of a single row."""
    height, width = x.shape[2:]
    if min(height, width) < 2:
        return x.mean((2, 3))
    # windows that overlap by one where a side is odd, as in adaptive pooling, with sizes that every runtime knows
    window, stride = (height - height // 2, width - width // 2), (height // 2, width // 2)
    return F.avg_pool2d(x, window, stride).flatten(1)


def _record(index: int, _module: nn.Module, _inputs: object, output: Tensor) -> None:
    outputs = _seen.get()
    if outputs is not None:
        outputs[index] = output
