"""How the task encoder is trained, on the sources that are loaded.

Nothing in a classification loss would put similar tasks near each other. Two losses do:

* :func:`train`: two episodes of one source are to find each other among episodes of the other sources (InfoNCE, van den
  Oord et al. 2018, arXiv 1807.03748). The episodes share no picture, and no class where the source has four or more:
  what they have in common is then the source, not its classes.
* :func:`regress`: similarities are fitted to gains that were measured, ``G[t, s]`` the accuracy of source ``s``'s
  knowledge on tasks of ``t`` minus the default's. That is what a choice needs to know, and it needs :data:`MANY`
  sources: below, the network would learn the table by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from workbench.core.context import Context
from workbench.learn import mlp, optimiser
from workbench.learn.functional import Tensors
from workbench.learn.protocol import Phase
from workbench.transfer.encoder import Encoder, encoded_together
from workbench.transfer.represent import fold

HIDDEN, CODE = 64, 32
TEMPERATURE = 0.1
MANY = 20
"""Sources from which measured gains may be regressed."""
MOST_WAYS, MOST_SHOTS = 5, 5
"""Of the episodes it is trained on; they have from two classes and from one example each."""
_CENTROID_EPISODES = 8


@dataclass(frozen=True, slots=True)
class SourceFeatures:
    """A source as the encoder is trained on it.

    Attributes:
        name: for people.
        features: ``[n, D]`` under the frozen trunk.
        y: ``[n]`` in ``0..classes-1``; two classes of two pictures are the least.
    """

    name: str
    features: Tensor
    y: Tensor


def train(
    sources: Sequence[SourceFeatures],
    gen: Generator,
    ctx: Context,
    *,
    trunk: str = "",
    steps: int = 300,
    lr: float = 1e-3,
    at_once: int = 16,
) -> Encoder:
    """Learn to tell sources apart by single episodes, see the module.

    Args:
        sources: at least two, features of one width.
        gen: of all randomness.
        ctx: checked before each step.
        trunk: digest of the trunk.
        steps: of Adam.
        lr: its step size.
        at_once: sources in one step.

    Raises:
        ValueError: too few sources, classes or pictures, or features that do not fit.
        JobCancelledError: from ``ctx``.
    """
    _check_sources(sources)
    together = torch.cat([s.features.float() for s in sources])
    seen = fold(together)
    wide = seen.shape[1]
    learned = mlp.initial("h", (wide, HIDDEN, HIDDEN), gen) | mlp.initial("rho", (2 * HIDDEN, HIDDEN, CODE), gen)
    # one scale for all features: those that hardly vary are not to be blown up
    fixed = {"mean": seen.mean(0), "scale": seen.std(0, correction=0).mean().clamp_min(1e-6)}
    sets = [replace(s, features=s.features.float()) for s in sources]

    def loss(tensors: Tensors) -> Tensor:
        chosen = torch.randperm(len(sets), generator=gen)[:at_once].tolist()
        z = encoded_together(tensors, [half for i in chosen for half in two_episodes(sets[i], gen)])
        middle, first, second = z.mean(0), z[::2], z[1::2]
        logits = F.normalize(first - middle, dim=1) @ F.normalize(second - middle, dim=1).T / TEMPERATURE
        right = torch.arange(len(chosen))
        return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2

    learned = _descended(learned, fixed, loss, steps, lr, ctx)
    tensors = learned | fixed
    tensors["centroids"] = _centroids(tensors, sets, gen)
    return Encoder(tensors, tuple(s.name for s in sources), trunk, together.shape[1])


def regress(
    encoder: Encoder,
    sources: Sequence[SourceFeatures],
    gains: Tensor,
    gen: Generator,
    ctx: Context,
    *,
    steps: int = 300,
    lr: float = 1e-3,
) -> Encoder:
    """Fit ``scale * cos(z_t, z_s) + offset`` to measured gains.

    Args:
        encoder: already trained by :func:`train` on the same sources.
        sources: at least :data:`MANY`.
        gains: ``G [T, S]`` of the knowledge of ``s`` on tasks of ``t``, shares of pictures; not a number where it was
            not measured, as on the diagonal.
        gen: of all randomness.
        ctx: checked before each step.
        steps: of Adam.
        lr: its step size.

    Raises:
        ValueError: too few sources, others than the encoder's, or gains that do not fit.
        JobCancelledError: from ``ctx``.
    """
    _check_sources(sources)
    if len(sources) < MANY:
        raise ValueError(f"{len(sources)} sources are too few to regress gains; {MANY} are needed")
    if tuple(s.name for s in sources) != encoder.sources or gains.shape != (len(sources), len(sources)):
        raise ValueError("the gains are not between the encoder's sources")
    measured = torch.isfinite(gains)
    if not measured.any():
        raise ValueError("no gain was measured")
    sets = [replace(s, features=s.features.float()) for s in sources]
    goal = torch.where(measured, gains, 0.0).float()
    fixed = {name: encoder.tensors[name] for name in ("mean", "scale")}
    learned = {n: t for n, t in encoder.tensors.items() if n.startswith(("h.", "rho."))}
    known = goal[measured]
    learned |= {"gain.scale": known.std(correction=0), "gain.offset": known.mean()}

    def loss(tensors: Tensors) -> Tensor:
        z = encoded_together(tensors, [half for s in sets for half in two_episodes(s, gen)])
        middle, asked, known = z.mean(0), z[::2], z[1::2]
        near = F.normalize(asked - middle, dim=1) @ F.normalize(known - middle, dim=1).T
        apart = tensors["gain.scale"] * near + tensors["gain.offset"] - goal
        return apart[measured].square().mean() / goal[measured].var(correction=0).clamp_min(1e-8)

    tensors = _descended(learned, fixed, loss, steps, lr, ctx) | fixed
    tensors["centroids"] = _centroids(tensors, sets, gen)
    return replace(encoder, tensors=tensors)


def two_episodes(source: SourceFeatures, gen: Generator) -> list[tuple[Tensor, Tensor, int]]:
    """Two episodes ``(features, y, ways)`` of a source, without a picture in common.

    Nor a class, where the source has four or more. Each has its own number of classes and of examples: otherwise they
    could be told to belong together by that.
    """
    classes = torch.randperm(int(source.y.max()) + 1, generator=gen)
    apart = len(classes) >= 4
    most = min(MOST_WAYS, len(classes) // 2 if apart else len(classes))
    episodes = []
    for half in (0, 1):
        ways = 2 + _below(most - 1, gen)
        shots = 1 + _below(MOST_SHOTS, gen)
        chosen = classes[len(classes) - ways :] if half and apart else classes[:ways]
        rows = []
        for c in chosen:
            members = (source.y == c).nonzero()[:, 0]
            if not apart:  # the first half of a class's pictures is for one episode, the rest for the other
                members = members.chunk(2)[half]
            rows.append(members[torch.randperm(len(members), generator=gen)[:shots]])
        y = torch.arange(ways).repeat_interleave(torch.tensor([len(r) for r in rows]))
        episodes.append((source.features[torch.cat(rows)], y, ways))
    return episodes


def _below(limit: int, gen: Generator) -> int:
    """A whole number from 0 to ``limit - 1``."""
    return int(torch.randint(limit, (1,), generator=gen))


def _centroids(tensors: Tensors, sets: Sequence[SourceFeatures], gen: Generator) -> Tensor:
    """``[S, code]``: the mean over a few pairs of episodes of each source."""
    with torch.no_grad():
        episodes = [[half for _ in range(_CENTROID_EPISODES) for half in two_episodes(s, gen)] for s in sets]
        return torch.stack([encoded_together(tensors, some).mean(0) for some in episodes])


def _check_sources(sources: Sequence[SourceFeatures]) -> None:
    if len(sources) < 2:
        raise ValueError("an encoder needs at least two sources to tell apart")
    for s in sources:
        counts = torch.bincount(s.y)
        if s.features.ndim != 2 or s.features.shape != (len(s.y), sources[0].features.shape[1]):
            raise ValueError(f"the features of {s.name} do not fit")
        if not torch.isfinite(s.features).all():
            raise ValueError(f"the features of {s.name} are not finite")
        if len(counts) < 2 or int(counts.min()) < 2:
            raise ValueError(f"{s.name} needs two classes of two pictures")


def _descended(
    learned: Tensors, fixed: Tensors, loss: Callable[[Tensors], Tensor], steps: int, lr: float, ctx: Context
) -> Tensors:
    """``learned`` after steps of Adam with a falling rate; a little decay, since sources are few."""
    phase, moments = Phase("encoder", lr={"": lr}, weight_decay=1e-4, clip=10.0), optimiser.Moments()
    for step in range(steps):
        ctx.check()
        leaves = {name: t.detach().requires_grad_() for name, t in learned.items()}
        with torch.enable_grad():
            slopes = torch.autograd.grad(loss(leaves | fixed), list(leaves.values()))
        grads = dict(zip(leaves, slopes, strict=True))
        learned = optimiser.stepped(learned, grads, moments, phase, step / steps, optimiser.norm(grads))
    return learned
