"""What an alignment did, measured: accuracy on labelled target pictures, and whether classes collapsed."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import Preprocess, Task
from workbench.data.episodes import Sampler, normalise
from workbench.data.source import Source
from workbench.learn import domain, functional, norm
from workbench.learn.evaluate import Evaluation, FrozenEpisodes, evaluate, freeze, paired
from workbench.learn.protocol import Algorithm, State
from workbench.services.preparing import Prepared, load_sources

_EPISODES, _WAYS, _SHOTS, _QUERIES = 200, 5, 5, 15
_SECONDS = 60.0
"""For measuring before; after is measured on the same episodes."""
_DESCRIBED = 400


_Network = tuple[Algorithm, State]


def both(
    before: _Network,
    after: _Network,
    held: tuple[Task, ...],
    p: Preprocess,
    most_ways: int,
    ctx: Context,
    seen: Preprocess | None = None,
) -> tuple[Evaluation | None, Evaluation | None]:
    """Accuracy on the held-out labelled pictures before and after, on the same episodes; ``None`` where there are none.

    Args:
        before: as it was.
        after: aligned.
        held: labelled pictures of the target that are not aligned with.
        p: how pictures become inputs afterwards.
        most_ways: classes of an episode at most.
        ctx: of the job.
        seen: how they did before; ``None``: alike.
    """
    if not held:
        return None, None
    ctx.status("Measuring on labelled pictures of the target, before and after")
    try:
        frozen = _episodes(load_sources(held, p, ctx), most_ways, p, ctx)
        other = frozen
        if seen is not None and seen != p:
            other = _episodes(load_sources(held, seen, ctx), most_ways, seen, ctx)
        first = evaluate(*before, other, ctx, by_step=False, limit=_SECONDS)
        second = evaluate(*after, frozen.first(first.episodes), ctx, by_step=False)
    except WorkbenchError:  # too few readable pictures, or a head for another number of classes: nothing is claimed
        return None, None
    return first, second


def _episodes(sources: tuple[Source, ...], most_ways: int, p: Preprocess, ctx: Context) -> FrozenEpisodes:
    largest = max(len(s.class_names) for s in sources)
    ways = max(2, min(_WAYS, most_ways, largest))
    shots = max(1, min(_SHOTS, *(len(a) - 1 for s in sources for a in s.arrays)))
    sampler = Sampler(sources, ways=(ways, ways), shots=(shots, shots), queries=_QUERIES, mean=p.mean, std=p.std)
    return freeze(sampler, _EPISODES, ctx.seed_for("target episodes"))


def record(
    method: str, names: tuple[str, ...], pictures: int, before: Evaluation | None, after: Evaluation | None
) -> dict[str, Any]:
    """``provenance["aligned"]``; ``held_out`` is ``None`` where there are no labels to measure with."""
    held: dict[str, Any] | None = None
    if before is not None and after is not None:
        difference, ci95 = paired(after, before)
        held = {
            "before": before.accuracy,
            "after": after.accuracy,
            "difference": difference,
            "ci95": ci95,
            "episodes": after.episodes,
        }
    return {"method": method, "target": list(names), "pictures": pictures, "held_out": held}


def separation(algorithm: Algorithm, state: State, prepared: Prepared, ctx: Context) -> float | None:
    """How far the classes of the sources lie apart, 0..1."""
    network, p = cast("Any", algorithm).network, prepared.preprocess
    parts, labels = [], []
    arrays = [a for s in prepared.sources for a in s.arrays if len(a)]
    each = max(2, _DESCRIBED // max(1, len(arrays)))
    trunk, buffers = functional.under(state.learned), functional.under(state.memory)
    for y, array in enumerate(arrays[:_DESCRIBED]):
        ctx.check()
        x = normalise(np.array(array[:each]), p.mean, p.std)
        if x.shape[1] != algorithm.setting.channels or x.shape[2] != algorithm.setting.size:
            return None
        parts.append(x)
        labels += [y] * len(x)
    with torch.no_grad():
        if any(n.endswith("running_mean") for n in buffers):
            f = torch.cat([functional.call(network, trunk, buffers, x) for x in torch.split(torch.cat(parts), 64)])
        else:
            with norm.batch_statistics():
                f = functional.call(network, trunk, {}, torch.cat(parts))
    return domain.separation(f, torch.tensor(labels))
