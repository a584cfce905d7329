"""Libraries in which there is nothing to find, for the benchmark of transfer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tests.benchmarks.transfer_arms import World
from tests.benchmarks.transfer_episodes import MIXED, NONE, Kind, Measured


def shuffled(everything: Mapping[str, Measured], seed: int = 0) -> dict[str, Measured]:
    """Every episode's similarities dealt out to other entries, and its left-out losses to other recipes.

    Losses of one recipe stay together, so that pairs still are pairs; neither says anything of whose they are. The
    mixture, which was made by the true similarities, is not among the recipes.
    """
    gen = np.random.default_rng(seed)

    def dealt(values: np.ndarray) -> np.ndarray:
        order = gen.permuted(np.tile(np.arange(values.shape[1]), (len(values), 1)), axis=1)
        found: np.ndarray = np.take_along_axis(values, order.reshape(order.shape + (1,) * (values.ndim - 2)), 1)
        return found

    found = {}
    for d, m in everything.items():
        kept = [i for i, k in enumerate(m.kinds) if k.entry != MIXED]
        found[d] = replace(
            m,
            kinds=tuple(m.kinds[i] for i in kept),
            correct=m.correct[:, kept],
            likeness=dealt(m.likeness),
            losses=dealt(m.losses[:, kept]),
        )
    return found


def of_copies(w: World, column: int, seed: int = 0) -> World:
    """Every recipe is the one of a column, and noisy on its own: there is nothing to choose, and chance can be chosen.

    Of each copy the left-out examples and the queries are a sample with replacement of the recipe's, drawn for it
    alone, and its similarities are those of other episodes. Copies are equally good on average and differ in each
    episode as much as independent measurements of one network would.
    """
    m = w.measured
    gen = np.random.default_rng([seed, column])

    def noisy(values: np.ndarray) -> np.ndarray:
        """``[E, R, n]`` of ``[E, R, n]``."""
        n = values.shape[2]
        if not n:
            return values
        own = values[:, column]
        copies = [np.take_along_axis(own, gen.integers(n, size=own.shape), 1) for _ in m.kinds]
        return np.stack(copies, 1)

    entry = m.kinds[column].entry
    own = m.names.index(entry)
    likeness = np.stack([m.likeness[:, own]] * len(m.names), 1)
    likeness[w.apart :] = gen.permuted(likeness[w.apart :], axis=0)
    likeness[:, own] = m.likeness[:, own]
    return replace(w, measured=replace(m, correct=noisy(m.correct), losses=noisy(m.losses), likeness=likeness))


def at_home(w: World) -> World:
    """The default is the target's own entry, which is in the library, and best on the target."""
    m = w.measured
    names, kinds = np.arange(len(m.names)), np.flatnonzero([k.entry not in {NONE, MIXED} for k in m.kinds])
    own = [i for i, k in enumerate(m.kinds) if k.entry == w.target]
    best = own[int(m.accuracy[: w.apart, own].mean(0).argmax())]
    return replace(w, names=names, kinds=kinds, default=best, start=m.kinds.index(Kind(w.target, "last", "own")))
