"""The arm "as shipped" of the benchmark of transfer: ``transfer/rank.py`` itself, with the product's own settings.

The default is what ``transfer/prior.py`` takes of a library without past tasks: the broadest entry, under its own head.
At most eight entries are looked at, the default and the most similar ones; what is made of them is ``recipes.menu``,
which at two shots or more is every entry's own head and then closed forms, 24 in all; the mixture of the family
(``services/mixtures.py``) stands beside them then, and "no transfer" always. At one shot the entries are compared under
their own heads, by similarity.

What is not as in the product: similarities are measured under the ancestor, which stands for the probe since it has
never seen a target, and the ancestor, like each domain's entry, counts as one source.
"""

from __future__ import annotations

import numpy as np

from tests.benchmarks.transfer_arms import World
from tests.benchmarks.transfer_domains import ANCESTOR
from tests.benchmarks.transfer_episodes import MIXED, NONE, Kind
from workbench.core.values import EntryId
from workbench.transfer import rank, recipes
from workbench.transfer.prior import prior_of

SHORT_LIST = 8
"""As in ``services/survey.py``; a test compares."""


def default(w: World) -> np.ndarray:
    """What the product starts from, always ``[E, Q]``."""
    found: np.ndarray = w.correct[:, w.start]
    return found


def combined(w: World, shots: int) -> np.ndarray:
    """ "Choose for me" ``[E, Q]``."""
    found: np.ndarray = np.take_along_axis(w.correct, chosen(w, shots)[:, None, None], 1)[:, 0]
    return found


def chosen(w: World, shots: int) -> np.ndarray:
    """``[E]`` columns of what the product takes."""
    found = []
    for e in range(len(w.correct)):
        columns = candidates(w, e, shots)
        options = [_option(w, e, i, shots) for i in columns]
        found.append(columns[rank.choose(options, shots, default=columns.index(w.start)).chosen])
    return np.array(found)


def candidates(w: World, episode: int, shots: int) -> list[int]:
    """Columns of what the product tries: entries as they are, what else can be made of them, "no transfer" last."""
    m = w.measured
    likeness = m.likeness[w.apart + episode]
    first = w.entry_of(w.start)
    listed = sorted(w.names.tolist(), key=lambda n: (n != first, -prior_of(likeness[n])))[:SHORT_LIST]
    promising = [EntryId(m.names[n]) for n in sorted(listed, key=lambda n: -prior_of(likeness[n]))]
    own = [m.kinds.index(Kind(entry, "last", "own")) for entry in promising]
    made = []
    for recipe in recipes.menu(promising) if shots > 1 else ():
        kind = Kind(str(recipe.entry), recipe.layer, recipe.head)
        if not recipe.own and recipe.adapter == "none" and kind in m.kinds:
            made.append(m.kinds.index(kind))
    mixture = Kind(MIXED, "last", "own")
    if shots > 1 and mixture in m.kinds and _members(w, likeness)[0][1] > rank.NO_TRANSFER_PRIOR:
        made.append(m.kinds.index(mixture))
    return [*own, *made, m.kinds.index(Kind(NONE, "last", "own"))]


def _members(w: World, likeness: np.ndarray) -> list[tuple[str, float]]:
    """The descendants, the most similar first."""
    named = [(w.measured.names[n], float(likeness[n])) for n in w.names if w.measured.names[n] != ANCESTOR]
    return sorted(named, key=lambda pair: -pair[1])


def _option(w: World, episode: int, column: int, shots: int) -> rank.Option:
    m, e = w.measured, w.apart + episode
    losses = tuple(m.losses[e, column].tolist()) if shots > 1 else None
    entry = m.kinds[column].entry
    if entry == NONE:
        return rank.Option(None, NONE, (), losses)
    if entry == MIXED:
        # of those that are mixed the most similar one says what is expected
        return rank.Option(EntryId(MIXED), MIXED, tuple(_members(w, m.likeness[e])[:1]), losses)
    return rank.Option(EntryId(entry), entry, ((entry, float(m.likeness[e, w.entry_of(column)])),), losses)
