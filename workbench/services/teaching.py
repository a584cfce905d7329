"""From a few examples to answers: rank what is known, choose, adapt, calibrate, predict.

``teach`` is called after every edit and reads everything from its request; nothing is kept but caches that may be lost.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.core.values import Candidate, ImageRef, Neighbour, Prediction, TaskClass
from workbench.learn.answer import Answering
from workbench.learn.calibrate import prototypes, reject_threshold
from workbench.learn.features import FeatureCache
from workbench.learn.protocol import Adapted
from workbench.services import knowledge as known
from workbench.services.survey import Seen, check_classes, common_examples, survey
from workbench.services.teach import MapPoint, TeachRequest, TeachResult
from workbench.transfer.map import place
from workbench.transfer.rank import choose
from workbench.transfer.represent import represent

_NEAREST = 3
_STEP_PICTURES = 300


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
    seen = survey(classes, project, choice, cache, ctx)
    shots = sum(len(c.images) for c in classes) / len(classes)
    smallest = min(len(c.images) for c in classes)
    examples = common_examples(seen) if smallest >= 2 else ()
    options = [s.option(examples) for s in seen]
    candidates, reason = choose(options, 1 if smallest == 1 else max(2, round(shots)), choice)
    chosen = next(s for s in seen if s.knowledge.id == next(c.entry for c in candidates if c.chosen))
    ctx.status(f"Adapting {chosen.knowledge.name}")
    steps: list[tuple[int, Adapted]] = []
    gradient = chosen.gradient_based
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
    gradient = taught.seen.gradient_based
    names, networks = taught.names, taught.networks
    if gradient and len(request.queries) * len(names) > _STEP_PICTURES and len(names) > 2:
        names, networks = (names[0], names[-1]), (networks[0], networks[-1])
    steps, estimates = [], []
    for at, net, embedding in networks:
        ctx.check()
        ctx.status("Predicting")
        steps.append(predict(net, at, embedding, images, request.queries, cache, ctx))
        if at is not taught.seen or net is networks[-1][1]:
            estimates.append(at.estimate(len(seen)))
        else:
            estimates.append(at.estimate(len(seen), before=True) if net is networks[0][1] else None)
    losses = torch.zeros(len(images))
    losses[taught.seen.left_out.index] = taught.seen.losses
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
