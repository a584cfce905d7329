"""From a few examples to answers: represent the new task, rank what is known, choose, adapt, calibrate, predict.

``teach`` is called after every edit and reads everything from its request; nothing is kept but caches that may be lost.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import Candidate, Estimate, ImageRef, Neighbour, Prediction, Preprocess, TaskClass
from workbench.learn.answer import Answering
from workbench.learn.calibrate import fit_temperature, held_out_logits, prototypes, reject_threshold
from workbench.learn.features import FeatureCache
from workbench.learn.protocol import Adapted, Support
from workbench.project.library import Library
from workbench.services import knowledge as known
from workbench.services.knowledge import Knowledge
from workbench.services.teach import MapPoint, TeachRequest, TeachResult
from workbench.transfer.estimate import estimate
from workbench.transfer.map import place
from workbench.transfer.rank import Option, choose
from workbench.transfer.represent import represent, similarity

_SLOW_FOLDS = 3
_SLOW_TRIED = 2
_NEAREST = 3
_STEP_PICTURES = 300


@dataclass(frozen=True, slots=True)
class Seen:
    """One piece of knowledge and what it makes of the support set.

    Attributes:
        knowledge: the entry.
        support: the examples as its inputs or features.
        embedding: ``[S, D]`` before adapting.
        similarities: to each of its sources.
        logits: of left-out examples ``[M, N]``.
        index: which examples those are ``[M]``.
    """

    knowledge: Knowledge
    support: Support
    embedding: Tensor
    similarities: tuple[tuple[str, float], ...]
    logits: Tensor
    index: Tensor

    @property
    def losses(self) -> Tensor:
        """Log-loss of each left-out example under the calibrated temperature, nats ``[M]``."""
        y = self.support.y[self.index]
        return F.cross_entropy(self.logits / self.temperature, y, reduction="none")

    @property
    def temperature(self) -> float:
        """Fitted on the left-out examples, held near the entry's own."""
        start = self.knowledge.calibration("temperature", 1.0)
        return fit_temperature(self.logits, self.support.y[self.index], start) if len(self.index) else start


@dataclass(frozen=True, slots=True)
class Taught:
    """The chosen knowledge, adapted: one answering network per slider position (first: before, last: fully adapted)."""

    seen: Seen
    candidates: tuple[Candidate, ...]
    reason: str
    adapted: Adapted
    names: tuple[str, ...]
    networks: tuple[tuple[Seen, Answering, Tensor], ...]
    """(what it sees, network, support embedding) per position."""


def check_classes(classes: tuple[TaskClass, ...]) -> None:
    """Refuse what cannot be taught.

    Raises:
        WorkbenchError: fewer than two classes, or a class without examples.
    """
    if len(classes) < 2:
        raise WorkbenchError(
            "Nothing was adapted", "a choice needs at least two classes with an example", "Add another class"
        )
    for c in classes:
        if not c.images:
            raise WorkbenchError(
                "Nothing was adapted", f"{c.name} has no readable example", "Add a picture to it or delete it"
            )


def survey(
    classes: tuple[TaskClass, ...], project: Path, choice: str, cache: FeatureCache, ctx: Context
) -> tuple[list[Seen], Library]:
    """What every known entry, and the branch that transfers nothing, makes of the examples."""
    library = Library(project)
    images = tuple(c.images for c in classes)
    every = [known.load(entry, library.path_of(entry.id), library) for entry in library.entries()]
    default = every[0].preprocess if every else Preprocess()
    every.append(known.untrained(default))
    first: list[tuple[Knowledge, Support, Tensor, tuple[tuple[str, float], ...]]] = []
    for knowledge in every:
        ctx.check()
        ctx.status(f"Looking through {knowledge.name}")
        support, embedding = known.support_of(knowledge, images, cache, ctx)
        task = represent(embedding)
        first.append((knowledge, support, embedding, tuple((n, similarity(task, r)) for n, r in knowledge.sources)))
    slow = sorted((f for f in first if not f[0].cacheable), key=lambda f: -max((s for _, s in f[3]), default=0.0))
    tried = {id(f[0]) for f in slow[:_SLOW_TRIED]}
    out = []
    for knowledge, support, embedding, similarities in first:
        wanted = knowledge.cacheable or id(knowledge) in tried or choice == knowledge.id
        if wanted:
            folds = None if knowledge.cacheable and len(support.y) <= 100 else _SLOW_FOLDS
            logits, index = held_out_logits(knowledge.algorithm, knowledge.state, support, ctx, folds)
        else:
            logits, index = support.x.new_zeros((0, support.ways)), support.y.new_zeros(0)
        out.append(Seen(knowledge, support, embedding, similarities, logits, index))
    return out, library


def adapt_to(
    classes: tuple[TaskClass, ...],
    project: Path,
    choice: str,
    cache: FeatureCache,
    ctx: Context,
    *,
    every_step: bool = True,
) -> tuple[Taught, list[Seen]]:
    """Choose knowledge for the examples and adapt it."""
    check_classes(classes)
    seen, _ = survey(classes, project, choice, cache, ctx)
    shots = sum(len(c.images) for c in classes) / len(classes)
    smallest = min(len(c.images) for c in classes)
    options = [
        Option(
            s.knowledge.id,
            s.knowledge.name,
            s.similarities,
            tuple(s.losses.tolist()) if smallest >= 2 and len(s.index) else None,
        )
        for s in seen
    ]
    candidates, reason = choose(options, 1 if smallest == 1 else max(2, round(shots)), choice)
    chosen = next(s for s in seen if s.knowledge.id == next(c.entry for c in candidates if c.chosen))
    ctx.status(f"Adapting {chosen.knowledge.name}")
    steps: list[tuple[int, Adapted]] = []
    gradient = "gradient-based" in chosen.knowledge.algorithm.info.tags
    adapted = chosen.knowledge.algorithm.adapt(
        chosen.knowledge.state,
        chosen.support,
        ctx,
        on_step=(lambda j, a: steps.append((j, a))) if gradient and every_step else None,
    )
    if gradient and every_step and steps:
        chain = [(f"After {j} steps" if j != 1 else "After 1 step", a) if j else ("Before", a) for j, a in steps]
        networks = tuple((chosen, *network(chosen, a)) for _, a in chain)
        return Taught(chosen, candidates, reason, adapted, tuple(n for n, _ in chain), networks), seen
    after = (chosen, *network(chosen, adapted))
    plain = next(s for s in seen if s.knowledge.entry is None)
    if plain is chosen or not every_step:
        return Taught(chosen, candidates, reason, adapted, ("After adapting",), (after,)), seen
    before = (plain, *network(plain, plain.knowledge.algorithm.adapt(plain.knowledge.state, plain.support, ctx)))
    return Taught(chosen, candidates, reason, adapted, ("Without transfer", "With transfer"), (before, after)), seen


def network(seen: Seen, adapted: Adapted) -> tuple[Answering, Tensor]:
    """The answering network of an adaptation, and the embedding of its support set ``[S, D]``."""
    k = seen.knowledge
    deployed = k.algorithm.deploy(k.state, adapted)
    with torch.no_grad():
        embedding = seen.support.features if seen.support.features is not None else deployed.trunk(seen.support.x)
    y, ways = seen.support.y, seen.support.ways
    threshold, width = reject_threshold(
        embedding, y, ways, k.calibration("reject_factor", 1.0), k.calibration("reject_distance", 1.0)
    )
    protos = prototypes(embedding, y, ways)
    return Answering(
        deployed, k.preprocess.mean, k.preprocess.std, seen.temperature, protos, threshold, width
    ), embedding


def predict(
    net: Answering,
    seen: Seen,
    support_embedding: Tensor,
    support_images: tuple[ImageRef, ...],
    queries: tuple[ImageRef, ...],
    cache: FeatureCache,
    ctx: Context,
) -> tuple[Prediction, ...]:
    """Answers for pictures, with the nearest support images (a picture is never its own neighbour)."""
    if not queries:
        return ()
    k = seen.knowledge
    with torch.no_grad():
        if k.cacheable:
            embedding = known.embed(k, queries, cache, ctx)
        else:
            parts = []
            for i in range(0, len(queries), 16):
                ctx.check()
                parts.append(net.deployed.trunk(known.to_tensor(queries[i : i + 16], k.preprocess)))
            embedding = torch.cat(parts)
        _, probabilities, _ = net.from_embedding(embedding)
        squared = (
            embedding.pow(2).sum(1, keepdim=True)
            - 2 * embedding @ support_embedding.T
            + support_embedding.pow(2).sum(1)
        )
        distances = squared.clamp_min(0).sqrt()
    table, gaps, labels = probabilities.tolist(), distances.tolist(), seen.support.y.tolist()
    out = []
    for query, row, far in zip(queries, table, gaps, strict=True):
        order = sorted((i for i, s in enumerate(support_images) if s.sha256 != query.sha256), key=far.__getitem__)[
            :_NEAREST
        ]
        nearest = tuple(Neighbour(labels[i], support_images[i], far[i]) for i in order)
        out.append(Prediction(query, tuple(row[:-1]), row[-1], row[-1] > max(row[:-1]), nearest))
    return tuple(out)


def estimate_of(seen: Seen, candidates: int) -> Estimate | None:
    """Leave-one-out accuracy of one piece of knowledge, ``None`` while it cannot be estimated."""
    smallest = int(torch.bincount(seen.support.y, minlength=seen.support.ways).min())
    if smallest < 2 or not len(seen.index):
        return None
    correct = (seen.logits.argmax(1) == seen.support.y[seen.index]).tolist()
    return estimate(correct, smallest, candidates)


def teach(request: TeachRequest, project: Path, ctx: Context) -> TeachResult:
    """Represent, rank, choose, adapt, predict; the whole of the Teach room after one edit.

    Raises:
        WorkbenchError: fewer than two classes.
        JobCancelledError: a newer edit came.
    """
    begun = time.monotonic()
    cache = known.feature_cache()
    taught, seen = adapt_to(request.classes, project, request.choice, cache, ctx)
    images = tuple(i for c in request.classes for i in c.images)
    gradient = "gradient-based" in taught.seen.knowledge.algorithm.info.tags
    names, networks = taught.names, taught.networks
    if gradient and len(request.queries) * len(names) > _STEP_PICTURES and len(names) > 2:
        names, networks = (names[0], names[-1]), (networks[0], networks[-1])
    steps, estimates = [], []
    for at, net, embedding in networks:
        ctx.check()
        ctx.status("Predicting")
        steps.append(predict(net, at, embedding, images, request.queries, cache, ctx))
        last = net is networks[-1][1]
        estimates.append(estimate_of(at, len(seen)) if last or at is not taught.seen else None)
    losses = torch.zeros(len(images))
    losses[taught.seen.index] = taught.seen.losses
    flat = iter(losses.tolist())
    influence = tuple(tuple(next(flat) for _ in c.images) for c in request.classes)
    points = tuple(
        MapPoint(p.name, "this" if i == 0 else "source", p.x, p.y, p.similarity)
        for i, p in enumerate(place(represent(taught.seen.embedding), taught.seen.knowledge.sources))
    )
    key = known.request_key(
        [(c.name, [i.sha256 for i in c.images]) for c in request.classes], request.choice, taught.seen.knowledge.digest
    )
    return TeachResult(
        number=request.number,
        key=key,
        candidates=taught.candidates,
        reason=taught.reason,
        estimate=estimates[-1],
        step_names=names,
        steps=tuple(steps),
        step_estimates=tuple(estimates),
        gradient_based=gradient,
        influence=influence,
        points=points,
        seconds=time.monotonic() - begun,
    )
