"""The fine-tuned arms of the benchmark of transfer: one budget and one head, and another trunk to start from.

Every arm ends in ``fine_tuning.tune``: a linear head at the class means, held near the start, as many steps as examples
that are left out ask for. They differ in the start: the default's trunk, the mean of all, the most similar, and
the mixture of the most similar with the ancestor.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from tests.benchmarks.transfer_arms import NULL_LIKENESS, Settings, World
from tests.benchmarks.transfer_domains import ANCESTOR, Entry, Pictures, network
from tests.benchmarks.transfer_episodes import labels
from workbench.core.context import Context
from workbench.learn import functional
from workbench.learn.protocol import Support
from workbench.transfer import fine_tuning, mixing

STEPS, PARTS = (0, 5, 10), 2
"""The budget: numbers of steps to choose from, and in how many parts examples are left out for it."""


def starts(w: World, library: Mapping[str, Entry], settings: Settings, episode: int) -> dict[str, mixing.Trunk]:
    """Each arm's trunk for one episode, counted from the first that arms may see."""
    names = [w.measured.names[n] for n in w.names]
    likeness = dict(zip(names, w.measured.likeness[w.apart + episode, w.names].tolist(), strict=True))
    family = mixing.Family(library[ANCESTOR].trunk, tuple(library[n].trunk for n in names if n != ANCESTOR))
    alike = {mixing.NULL if n == ANCESTOR else n: 1.0 for n in names}
    recipe = mixing.Recipe(settings.k, settings.temperature, NULL_LIKENESS)
    members = {n: s for n, s in likeness.items() if n != ANCESTOR}
    return {
        "default": library[w.measured.kinds[w.default].entry].trunk,
        "uniform": mixing.mixed(family, alike).trunk,
        "most similar": library[max(names, key=lambda n: likeness[n])].trunk,
        "top-k": mixing.mix(family, members, recipe).trunk,
    }


def tune(
    w: World,
    library: Mapping[str, Entry],
    settings: Settings,
    pictures: Pictures,
    size: int,
    rows: np.ndarray,
    shots: int,
    among: Sequence[str],
) -> dict[str, dict[str, np.ndarray]]:
    """Of each arm ``correct [E, Q]`` and ``steps [E]``, and seconds ``[E]``.

    Args:
        w: the target.
        library: all entries.
        settings: chosen on other domains.
        pictures: of the target.
        size: of the pictures.
        rows: the first episodes that arms may see.
        shots: ``K``.
        among: the arms.
    """
    net, y, ctx = network(size), labels(shots), Context(seed=0)
    p = library[ANCESTOR].preprocess
    found: dict[str, dict[str, list[np.ndarray]]] = {a: {"correct": [], "steps": [], "seconds": []} for a in among}
    for e, episode in enumerate(rows):
        x = pictures.inputs(p, episode.tolist())
        support = Support(x[: len(y)], y, int(y.max()) + 1)
        query = x[len(y) :]
        truth = labels(len(query) // support.ways)
        given = starts(w, library, settings, e)
        for arm in among:
            trunk = given[arm]
            begun = time.perf_counter()
            # a mixture's running averages are nobody's; a trained network's are its own
            pictures_known = mixing.PICTURES if trunk.name == "mixture" else float("inf")
            recipe = fine_tuning.Recipe(steps=STEPS, folds=PARTS, pictures=pictures_known)
            got = fine_tuning.tune(net, trunk, support, recipe, ctx)
            spent = time.perf_counter() - begun
            with torch.no_grad():
                f = functional.call(net, got.trunk.parameters, got.trunk.buffers, query)
                right = F.linear(f, got.weight, got.bias).argmax(1) == truth
            for name, value in (("correct", right.numpy()), ("steps", got.steps), ("seconds", spent)):
                found[arm][name].append(np.asarray(value))
    return {arm: {n: np.stack(v) for n, v in parts.items()} for arm, parts in found.items()}
