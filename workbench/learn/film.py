"""Feature-wise modulation (FiLM): a task's code decides a factor and an offset for every channel behind a batch norm.

Perez et al. 2018 (arXiv 1709.07871). With the layer's own ``w`` and ``b`` and the normalised ``x``::

    gamma * (w x + b) + beta  =  (gamma w) x + (gamma b + beta)

so a modulated network is the same network with other values in its normalisation layers: no layer is added, any
backbone can be modulated, and what is deployed is folded like any other.

``gamma = 1 + g * m(t)`` and ``beta = h * m'(t)`` for a code ``t [T]``. ``m`` and ``m'`` are small networks of each
layer's own, ``g`` and ``h`` numbers that start at 0 and are held near it (Oreshkin et al. 2018): training begins with
the plain network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.learn.functional import Tensors
from workbench.learn.norm import Norm2d

FILM = "film."
"""Prefix of what is learnt here."""
_KINDS = ("gamma", "beta")


class Film(NamedTuple):
    """For one layer of ``C`` channels: the factor ``gamma [C]`` and the offset ``beta [C]``."""

    gamma: Tensor
    beta: Tensor


def layers(network: nn.Module) -> dict[str, int]:
    """The normalisation layers that are modulated, by path, and their channels."""
    return {path: m.weight.numel() for path, m in network.named_modules() if isinstance(m, Norm2d)}


def initial(channels: Mapping[str, int], code: int, gen: Generator) -> Tensors:
    """Fresh generators of modulations from codes ``[code]``.

    For each layer and each of ``gamma`` and ``beta``: ``first [C, code]``, ``second [C, C]``, a bias of each, and the
    ``gate``, which is 0.
    """
    out: Tensors = {}
    for path, c in channels.items():
        for kind in _KINDS:
            name = f"{FILM}{path}.{kind}."
            for part, columns in (("first", code), ("second", c)):
                drawn = torch.rand(c, columns, generator=gen, device=gen.device)
                out[name + part] = (2 * drawn - 1) / math.sqrt(columns)
                out[f"{name}{part}_bias"] = drawn.new_zeros(c)
            out[name + "gate"] = torch.zeros((), device=gen.device)
    return out


def generate(learned: Mapping[str, Tensor], channels: Mapping[str, int], code: Tensor) -> dict[str, Film]:
    """The modulation of each layer for a task's ``code [T]``; differentiable."""
    return {
        path: Film(1 + _generated(learned, path, "gamma", code), _generated(learned, path, "beta", code))
        for path in channels
    }


def modulated(trunk: Mapping[str, Tensor], film: Mapping[str, Film]) -> Tensors:
    """A trunk's tensors by name with the modulation in its normalisation layers; the others are as they were."""
    out = dict(trunk)
    for path, (gamma, beta) in film.items():
        out[f"{path}.weight"] = gamma * trunk[f"{path}.weight"]
        out[f"{path}.bias"] = gamma * trunk[f"{path}.bias"] + beta
    return out


def penalty(learned: Mapping[str, Tensor]) -> Tensor:
    """The sum of the gates' squares."""
    gates = [t for n, t in learned.items() if n.startswith(FILM) and n.endswith(".gate")]
    return torch.stack(gates).square().sum()


def _generated(learned: Mapping[str, Tensor], path: str, kind: str, code: Tensor) -> Tensor:
    name = f"{FILM}{path}.{kind}."
    first = F.linear(code, learned[name + "first"], learned[name + "first_bias"])
    return learned[name + "gate"] * (
        first + F.linear(first.relu(), learned[name + "second"], learned[name + "second_bias"])
    )
