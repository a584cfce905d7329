"""What an adapted network says of pictures, and which examples are nearest to each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import ImageRef, Neighbour, Prediction, Problem
from workbench.learn.answer import Answering
from workbench.learn.calibrate import prototypes, reject_threshold
from workbench.learn.features import FeatureCache
from workbench.learn.protocol import Adapted, Deployed
from workbench.services import knowledge as known
from workbench.services.looks import Seen

_NEAREST = 3
_AT_ONCE = 16
_ROWS = 256


def network(seen: Seen, adapted: Adapted, pictures: Sequence[str]) -> tuple[Answering, Tensor]:
    """The answering network of an adaptation, and the embedding of its support set ``[S, D]``.

    Args:
        seen: what was adapted.
        adapted: to its examples.
        pictures: per example, which one it shows; copies within a class say nothing of how far a new
            one would lie, so each counts once for "none of these".
    """
    k = seen.knowledge
    if k.trunk is not None:  # what deploy would copy after every edit
        deployed = Deployed(k.trunk, k.algorithm.head(k.state, adapted))
    else:
        deployed = k.algorithm.deploy(k.state, adapted)
    with torch.no_grad():
        embedding = seen.support.features if seen.support.features is not None else deployed.trunk(seen.support.x)
    y, ways = seen.support.y, seen.support.ways
    first: dict[tuple[int, str], int] = {}
    for i, shown in enumerate(zip(y.tolist(), pictures, strict=True)):
        first.setdefault(shown, i)
    once = list(first.values())
    threshold, width = reject_threshold(embedding[once], y[once], ways, k.figures, seen.likeness)
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
) -> tuple[tuple[Prediction, ...], tuple[Problem, ...]]:
    """Answers for pictures, with the nearest support images (a picture is never its own neighbour).

    Returns:
        The answers in order, and the pictures that could not be read, which have none.

    Raises:
        JobCancelledError: asked to stop.
    """
    if not queries:
        return (), ()
    try:
        embedding = _embed(net, seen, queries, cache, ctx)
        problems: list[Problem] = []
    except WorkbenchError:
        queries, parts, problems = _one_by_one(net, seen, queries, cache, ctx)
        if not queries:
            return (), tuple(problems)
        embedding = torch.cat(parts)
    out: list[Prediction] = []
    labels, columns = seen.support.y.tolist(), _columns(support_images)
    for start in range(0, len(queries), _ROWS):
        ctx.check()
        out += _answers(
            net, embedding[start : start + _ROWS], support_embedding, support_images, labels, columns, queries[start:]
        )
    return tuple(out), tuple(problems)


def _columns(images: Sequence[ImageRef]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, image in enumerate(images):
        found.setdefault(image.sha256, []).append(i)
    return found


@torch.no_grad()
def _answers(
    net: Answering,
    embedding: Tensor,
    support_embedding: Tensor,
    support_images: tuple[ImageRef, ...],
    labels: list[int],
    columns: dict[str, list[int]],
    queries: Sequence[ImageRef],
) -> list[Prediction]:
    _, probabilities, _ = net.from_embedding(embedding)
    squared = (
        embedding.pow(2).sum(1, keepdim=True) - 2 * embedding @ support_embedding.T + support_embedding.pow(2).sum(1)
    )
    distances = squared.clamp_min(0).sqrt()
    for row, query in enumerate(queries[: len(embedding)]):
        if query.sha256 in columns:
            distances[row, columns[query.sha256]] = torch.inf
    near = distances.topk(min(_NEAREST, len(support_images)), largest=False)
    out = []
    for query, row, gaps, which in zip(
        queries, probabilities.tolist(), near.values.tolist(), near.indices.tolist(), strict=False
    ):
        nearest = tuple(
            Neighbour(labels[i], support_images[i], gap)
            for gap, i in zip(gaps, which, strict=True)
            if gap < float("inf")
        )
        out.append(Prediction(query, tuple(row[:-1]), row[-1], row[-1] > max(row[:-1]), nearest))
    return out


@torch.no_grad()
def _embed(net: Answering, seen: Seen, queries: tuple[ImageRef, ...], cache: FeatureCache, ctx: Context) -> Tensor:
    k = seen.knowledge
    if k.cacheable:
        return known.embed(k, queries, cache, ctx)
    parts = []
    for i in range(0, len(queries), _AT_ONCE):
        ctx.check()
        parts.append(net.deployed.trunk(known.to_tensor(queries[i : i + _AT_ONCE], k.preprocess)))
    return torch.cat(parts)


def _one_by_one(
    net: Answering, seen: Seen, queries: tuple[ImageRef, ...], cache: FeatureCache, ctx: Context
) -> tuple[tuple[ImageRef, ...], list[Tensor], list[Problem]]:
    good, parts, problems = [], [], []
    for query in queries:
        try:
            parts.append(_embed(net, seen, (query,), cache, ctx))
            good.append(query)
        except WorkbenchError as error:
            where = f"{query.path}/{query.member}" if query.member else query.path
            problems.append(Problem(where or query.name, error.why, "error"))
    return tuple(good), parts, problems
