"""Aligning with a target folder while training: what draws the source's and the target's features together.

Beside every step of any algorithm, some of the step's own pictures and as many of the target go through the trunk, and
the gradient of a penalty between their features (``learn.domain``) is added to the step's::

    coral  |C_S - C_T|_F^2 / (4 D^2)
    mmd    the unbiased estimate of the squared maximum mean discrepancy
    dann   the loss of telling the domains apart, reversed with the strength 2 / (1 + exp(-10 p)) - 1

Each domain is normalised by its own batch's statistics, so that what is drawn together is not a mere shift of
channels; the network that comes of it is therefore given the target's statistics in the end. Labels of the target are
not even read. What it needs to remember (DANN's classifier of domains) lies in the run's memory under ``keep.align.``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor, nn

from workbench.data.episodes import Batch, Episodes, Labelled, normalise
from workbench.learn import domain, functional, norm
from workbench.learn.protocol import State, Tensors, generator

Penalty = Literal["coral", "mmd", "dann"]
ALIGN = "keep.align."
"""Prefix in a run's memory; what begins with ``keep.`` is hidden from algorithms."""
WEIGHTS: Mapping[str, float] = {"coral": 1.0, "mmd": 1.0, "dann": 0.1}
"""Of the penalty, beside a loss of about one nat. A choice of their size, not measured."""
MOST_PICTURES = 64
"""Of each domain in a step."""
_RATE = 0.1
"""Of plain gradient steps of the classifier of domains, on features of mean square 1."""


@dataclass(frozen=True, slots=True)
class Aligning:
    """What a run is drawn towards.

    Attributes:
        how: the penalty.
        network: the trunk's skeleton.
        pixels: of the target ``[n, H, W, C]`` uint8, n >= 2, without labels.
        mean: per channel, as the source's pictures are normalised.
        std: per channel.
        seed: of the classifier of domains.
        fingerprint: of the target's pictures, for what a resumed run has to agree with.
    """

    how: Penalty
    network: nn.Module
    pixels: npt.NDArray[Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int = 0
    fingerprint: str = ""
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)

    def begun(self, state: State) -> State:
        """The state with a fresh classifier of domains in its memory, where one is needed."""
        if self.how != "dann":
            return state
        trunk = functional.under(state.learned)
        device = next(iter(trunk.values())).device
        with torch.no_grad(), norm.batch_statistics():
            x = normalise(np.array(self.pixels[:2]), self.mean, self.std).to(device)
            features = functional.call(self.network, trunk, {}, x).shape[1]
        fresh = domain.domain_classifier(features, generator(self.seed))
        return State(state.learned, {**state.memory, **{ALIGN + n: t.to(device) for n, t in fresh.items()}})

    def drawn_together(
        self,
        grads: Tensors,
        learned: Mapping[str, Tensor],
        held: Mapping[str, Tensor],
        batch: Batch,
        fraction: float,
        gen: Generator,
    ) -> tuple[Tensors, Tensors, dict[str, float]]:
        """The gradients with the penalty's added, what is to be remembered, and figures for the plots.

        Args:
            grads: of the run's own loss by learned name; a tensor of the trunk without one is not trained and not
                drawn.
            learned: what is learnt.
            held: what :meth:`begun` put into the memory, among others.
            batch: of the step; its labels are not looked at.
            fraction: of the phase's budget used.
            gen: draws pictures, on the processor.
        """
        names = [n for n in grads if n.startswith(functional.TRUNK)]
        source = _pictures(batch)
        if not names or len(source) < 2:
            return grads, dict(held), {}
        few = min(MOST_PICTURES, len(source))
        of_source = torch.randperm(len(source), generator=gen)[:few]
        of_target = torch.randperm(len(self.pixels), generator=gen)[:few]
        target = normalise(self.pixels[of_target.numpy()], self.mean, self.std).to(source.device)
        with torch.enable_grad():
            leaves = {n: learned[n].detach().requires_grad_() for n in names}
            trunk = functional.under({**{n: t.detach() for n, t in learned.items()}, **leaves})
            s, t = self._features(trunk, source[of_source]), self._features(trunk, target)
            value, remembered, figures = self._penalty(s, t, held, fraction)
            found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        weight = self.weights[self.how]
        added = {n: grads[n] + weight * g for n, g in zip(leaves, found, strict=True) if g is not None}
        return {**grads, **added}, {**held, **remembered}, figures

    def _features(self, trunk: Tensors, x: Tensor) -> Tensor:
        with norm.batch_statistics():
            return functional.call(self.network, trunk, {}, x)

    def _penalty(
        self, s: Tensor, t: Tensor, held: Mapping[str, Tensor], fraction: float
    ) -> tuple[Tensor, Tensors, dict[str, float]]:
        if self.how != "dann":
            value = domain.coral_penalty(s, t) if self.how == "coral" else domain.mmd(s, t)
            return value, {}, {f"align/{self.how}": float(value.detach())}
        size = torch.cat([s, t]).detach().square().mean().sqrt().clamp_min(1e-12)
        classifier = {n: w.detach().requires_grad_() for n, w in functional.under(held, ALIGN).items()}
        value, right = domain.told_apart(classifier, s / size, t / size, domain.reversal_strength(fraction))
        slopes = torch.autograd.grad(value, list(classifier.values()), retain_graph=True)
        moved = {ALIGN + n: (w - _RATE * g).detach() for (n, w), g in zip(classifier.items(), slopes, strict=True)}
        return value, moved, {"align/told_apart": right}


def _pictures(batch: Batch) -> Tensor:
    """The pictures of a step ``[n, C, H, W]``, without their labels."""
    if isinstance(batch, Episodes):
        return torch.cat([x for e in batch.episodes for x in (e.support_x, e.query_x)])
    return batch.x if isinstance(batch, Labelled) else batch.x.flatten(0, 1)
