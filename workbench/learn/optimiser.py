"""The outer optimiser as a function on tensors by name: Adam (Kingma, Ba 2015, arXiv 1412.6980) or a plain step.

Written out, since torch's own pulls its compiler in (seconds) and keeps its state by position; here it is kept by name
and goes into a checkpoint as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workbench.learn.protocol import Phase, Tensors

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


@dataclass(slots=True)
class Moments:
    """Adam's running means by learned name: of the gradient, of its square, and how often each was stepped."""

    first: Tensors = field(default_factory=dict)
    second: Tensors = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)


def factor(phase: Phase, fraction: float) -> float:
    """What the learning rates are multiplied by after this fraction (0..1) of the phase."""
    if phase.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
    if phase.schedule == "halve":
        return 0.5 ** int(10 * min(fraction, 1.0) + 1e-9)
    return 1.0


def rates(phase: Phase, names: Mapping[str, object]) -> dict[str, float]:
    """Learning rate of each learned tensor that the phase steps: its longest prefix in ``phase.lr`` counts.

    Tensors that begin with a prefix of ``phase.frozen``, or with none of ``phase.lr``, are left out.
    """
    out = {}
    for name in names:
        prefixes = [prefix for prefix in phase.lr if name.startswith(prefix)]
        if prefixes and not name.startswith(phase.frozen):
            out[name] = phase.lr[max(prefixes, key=len)]
    return out


def norm(grads: Mapping[str, Tensor]) -> float:
    """Euclidean norm of all gradients together; not finite where any of them is."""
    if not grads:
        return 0.0
    # by name: a resumed run holds the same tensors in another order, and the sum must be the same to the last bit
    return float(torch.stack([grads[name].detach().norm() for name in sorted(grads)]).norm())


@torch.no_grad()
def stepped(
    learned: Tensors, grads: Mapping[str, Tensor], moments: Moments, phase: Phase, fraction: float, size: float
) -> Tensors:
    """The learned tensors after one step; the old ones stay as they are, ``moments`` moves on.

    Args:
        learned: by name.
        grads: by name; tensors without one are not stepped.
        moments: of the phase.
        phase: its optimiser, rates, decay and clip.
        fraction: of the phase used.
        size: norm of the gradients, for the clip.
    """
    out = {name: t.detach() for name, t in learned.items()}
    scale = factor(phase, fraction)
    clip = min(1.0, phase.clip / (size + 1e-6)) if phase.clip is not None else 1.0
    for name, rate in rates(phase, learned).items():
        if name not in grads:
            continue
        value, g = out[name], grads[name].detach()
        g = g * clip if clip < 1 else g
        if phase.weight_decay:
            g = g + phase.weight_decay * value
        if phase.optimiser == "sgd":
            out[name] = value - rate * scale * g
            continue
        t = moments.steps.get(name, 0) + 1
        m = moments.first.setdefault(name, torch.zeros_like(value)).mul_(_BETA1).add_(g, alpha=1 - _BETA1)
        v = moments.second.setdefault(name, torch.zeros_like(value)).mul_(_BETA2).addcmul_(g, g, value=1 - _BETA2)
        moments.steps[name] = t
        spread = (v / (1 - _BETA2**t)).sqrt_().add_(_EPS)
        out[name] = torch.addcdiv(value, m, spread, value=-rate * scale / (1 - _BETA1**t))
    return out
