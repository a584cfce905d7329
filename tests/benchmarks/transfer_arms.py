"""The arms of the benchmark of transfer, as arithmetic on what was measured: who chooses what, and what comes of it.

For a target domain the library is everything but that domain's own entry. An arm gives, for each episode, how many of
its queries it has right ``[E, Q]``; all arms are compared with the *default*: the recipe that does best on the other
domains, their ease taken off. What an arm has to be told (how many to mix, the temperature, the gate) is chosen where
the other domains are targets, without the target's entry there either. "Choose for me" is measured twice: as the
product does it (:mod:`tests.benchmarks.transfer_shipped`), which is told nothing, and with settings chosen in that way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from tests.benchmarks.transfer_domains import ANCESTOR
from tests.benchmarks.transfer_episodes import FIRST, MIXED, NONE, Kind, Measured, standard
from workbench.core.values import EntryId
from workbench.transfer.prior import Standing, default_of

SHIPPED, TUNED = "combined as shipped", "combined tuned"
ARMS = (
    SHIPPED,
    TUNED,
    "random",
    "default",
    "uniform",
    "most similar",
    "top-k",
    "leave-one-out",
    "LogME",
    "oracle",
)
NULL_LIKENESS = 0.1


@dataclass(frozen=True)
class Settings:
    """What is chosen on other domains.

    Attributes:
        k: entries mixed at most.
        temperature: of the softmax over similarities.
        gate: how many standard errors a gain must exceed for the default to be left.
        margin: the default's seniority: what it is ahead by, in similarity.
    """

    k: int = 3
    temperature: float = 0.1
    gate: float = 1.0
    margin: float = 0.3


MIXES = tuple(Settings(k=k, temperature=t) for k, t in product((2, 3, 5), (0.03, 0.1, 0.3)))
GATES = tuple(Settings(gate=g, margin=m) for g, m in product((0.5, 1.0, 1.5, 2.0, np.inf), (0.0, 0.1, 0.3, 9.0)))


@dataclass(frozen=True, eq=False)
class World:
    """A target as an arm sees it.

    Attributes:
        target: the domain.
        measured: what is known of its episodes; the first ``apart`` are for choosing defaults and oracles alone.
        kinds: recipes of the library's entries ``[R']``, as columns of ``measured.correct``.
        names: entries of the library ``[N']``, as columns of ``measured.likeness``.
        default: column of ``measured.correct``.
        start: the same of what the product has for its default: the broadest entry under its own head.
        apart: how many episodes are not looked at by the arms.
    """

    target: str
    measured: Measured
    kinds: np.ndarray
    names: np.ndarray
    default: int
    start: int
    apart: int

    @property
    def correct(self) -> np.ndarray:
        """``[E, R, Q]``, of all recipes, episodes of the arms."""
        found: np.ndarray = self.measured.correct[self.apart :]
        return found

    def entry_of(self, kind: int) -> int:
        """Column of a recipe's entry among ``measured.names``."""
        return self.measured.names.index(self.measured.kinds[kind].entry)

    def first(self, name: int) -> int:
        """Column of an entry's recipe with the layer and head that arms without a choice of them have."""
        own = self.measured.names[name]
        return next(i for i, k in enumerate(self.measured.kinds) if k.entry == own and (k.layer, k.head) == FIRST)

    def like_default(self, name: int) -> int:
        """Column of an entry's recipe with the default's layer and head."""
        own, d = self.measured.names[name], self.measured.kinds[self.default]
        return next(
            i for i, k in enumerate(self.measured.kinds) if k.entry == own and (k.layer, k.head) == (d.layer, d.head)
        )


def world(target: str, everything: Mapping[str, Measured], apart: int, without: frozenset[str] = frozenset()) -> World:
    """The target's library and default.

    Args:
        target: the domain; its own entry is not in the library.
        everything: by domain, all measured with the same library.
        apart: episodes for choosing.
        without: further domains that nothing may be known of, neither their entries nor what does well on them.
    """
    m = everything[target]
    gone = without | {target}
    kinds = np.array([i for i, k in enumerate(m.kinds) if k.entry not in gone | {NONE, MIXED}])
    names = np.array([i for i, n in enumerate(m.names) if n not in gone])
    merits = _merits(everything, kinds, [d for d in everything if d not in gone], apart)
    start = m.kinds.index(Kind(_broadest(m, names), "last", "own"))
    return World(target, m, kinds, names, int(kinds[int(np.argmax(merits))]), start, apart)


def _broadest(m: Measured, names: np.ndarray) -> str:
    """The default of the product, which has no past tasks yet."""
    standings = []
    for n in names:
        sources, classes, validation = m.standings[n].tolist()
        accuracy = None if np.isnan(validation) else validation
        standings.append(Standing(EntryId(m.names[n]), (), accuracy, int(sources), int(classes)))
    return str(default_of(standings))


def _merits(everything: Mapping[str, Measured], kinds: np.ndarray, others: Sequence[str], apart: int) -> np.ndarray:
    """``[R']``: how well each recipe does, whatever the domain.

    Least squares of ``accuracy = domain + recipe``. An entry says nothing about how it does elsewhere by how it does on
    its own domain, so that is left out, and plain means would then be over domains of unlike ease: the entry of the
    hardest domain would look best.
    """
    labels = [everything[others[0]].kinds[i].entry for i in kinds] if others else []
    cells = [(d, j) for d in range(len(others)) for j, entry in enumerate(labels) if entry != others[d]]
    if not cells:
        return np.zeros(len(kinds))
    design = np.zeros((len(cells), len(others) + len(kinds)))
    means = np.stack([everything[d].accuracy[:apart, kinds].mean(0) for d in others])
    for row, (d, j) in enumerate(cells):
        design[row, d] = design[row, len(others) + j] = 1
    measured = np.array([means[d, j] for d, j in cells])
    merits: np.ndarray = np.linalg.lstsq(design, measured, rcond=None)[0][len(others) :]
    # of equal ones the first, which is the ancestor's: rounding must not decide; where nothing is known, none is best
    return np.where(design[:, len(others) :].any(0), merits.round(9), -np.inf)


# ---- arms: who is right about which query ----------------------------------------------------------------------------


def _taken(w: World, columns: np.ndarray) -> np.ndarray:
    """``[E, Q]`` of one recipe per episode."""
    found: np.ndarray = np.take_along_axis(w.correct, columns[:, None, None], 1)[:, 0]
    return found


def random(w: World, seed: int = 0) -> np.ndarray:
    """Any entry, with the default's layer and head."""
    columns = np.array([w.like_default(n) for n in w.names])
    drawn = np.random.default_rng([seed, len(w.target), len(w.correct)]).integers(len(columns), size=len(w.correct))
    return _taken(w, columns[drawn])


def default(w: World) -> np.ndarray:
    """The recipe that does best on other domains, always."""
    return _taken(w, np.full(len(w.correct), w.default))


def uniform(w: World) -> np.ndarray:
    """All entries' answers averaged."""
    return _averaged(w, np.ones((len(w.correct), len(w.names))))


def most_similar(w: World) -> np.ndarray:
    """The entry whose domain resembles the examples most, with the default's layer and head."""
    columns = np.array([w.like_default(n) for n in w.names])
    return _taken(w, columns[_likeness(w).argmax(1)])


def top(w: World, s: Settings) -> np.ndarray:
    """Answers of the most similar entries averaged, with the ancestor as the null source."""
    likeness = _likeness(w)
    null = [w.measured.names[n] == ANCESTOR for n in w.names]
    likeness[:, null] = NULL_LIKENESS
    rank = (-likeness).argsort(1, kind="stable").argsort(1)
    used = (likeness > NULL_LIKENESS) & (rank < s.k)
    used[:, null] = True
    scores = np.where(used, likeness / s.temperature, -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return _averaged(w, weights)


def leave_one_out(w: World) -> np.ndarray:
    """The recipe with the smallest left-out log-loss; where nothing can be left out, the default."""
    losses = w.measured.losses[w.apart :, w.kinds]
    if not losses.shape[2]:
        return default(w)
    return _taken(w, w.kinds[losses.mean(2).argmin(1)])


def logme(w: World) -> np.ndarray | None:
    """The entry with the largest LogME, with the default's layer and head; ``None`` with too few examples."""
    if not w.measured.logme.shape[1]:
        return None
    columns = np.array([w.like_default(n) for n in w.names])
    return _taken(w, columns[w.measured.logme[w.apart :, w.names].argmax(1)])


def combined(w: World, s: Settings, shots: int) -> np.ndarray:
    """ "Choose for me" by the rule of ``transfer/rank.py`` with settings: the default unless beaten beyond chance.

    ``w z(-loss) + (1 - w) z(prior)`` over all recipes, ``w = K / (K + 2)``. One example per class says nothing about
    which network is best, so the choice is then by similarity alone, and leaves the default's entry only for one whose
    domain is more similar by the margin.
    """
    return _taken(w, chosen(w, s, shots))


def chosen(w: World, s: Settings, shots: int) -> np.ndarray:
    """``[E]`` columns of what "choose for me" takes."""
    e = _evidence(w)
    prior = e.plain + s.margin * e.own
    if shots == 1 or not e.losses.shape[2]:
        return np.asarray(w.kinds[np.where(e.alike, prior, -np.inf).argmax(1)])
    share = shots / (shots + 2)
    best = (share * e.score + (1 - share) * standard(prior)).argmax(1)
    gaps = e.losses[:, e.at] - np.take_along_axis(e.losses, best[:, None, None], 1)[:, 0]
    error = gaps.std(1, ddof=1) / np.sqrt(gaps.shape[1])
    ahead = np.take_along_axis(e.plain, best[:, None], 1)[:, 0] - e.plain[:, e.at]
    # gaps that are all alike have no error, and an infinite gate is never passed
    passed = gaps.mean(1) > (s.gate * error if np.isfinite(s.gate) else np.inf)
    return np.asarray(w.kinds[np.where(passed | (ahead > s.margin), best, e.at)])


class _Evidence(NamedTuple):
    """Of a world's recipes ``R'``: similarities and standardised losses ``[E, R']``, and where the default is."""

    plain: np.ndarray
    own: np.ndarray
    alike: np.ndarray
    losses: np.ndarray
    score: np.ndarray
    at: int


@lru_cache(maxsize=32)
def _evidence(w: World) -> _Evidence:
    """What all settings have in common; worlds are told apart by identity."""
    likeness = w.measured.likeness[w.apart :]
    losses = w.measured.losses[w.apart :, w.kinds]
    return _Evidence(
        np.stack([likeness[:, w.entry_of(i)] for i in w.kinds], 1),
        np.array([w.entry_of(i) == w.entry_of(w.default) for i in w.kinds]),
        np.array([w.like_default(w.entry_of(i)) == i for i in w.kinds]),
        losses,
        standard(-losses.mean(2)) if losses.shape[2] else np.zeros(losses.shape[:2]),
        int(np.flatnonzero(w.kinds == w.default)[0]),
    )


def oracle(w: World) -> np.ndarray:
    """The recipe that does best on this very domain, judged on episodes that are not counted."""
    best = w.measured.accuracy[: w.apart, w.kinds].mean(0).argmax()
    return _taken(w, np.full(len(w.correct), w.kinds[best]))


def _likeness(w: World) -> np.ndarray:
    found: np.ndarray = w.measured.likeness[w.apart :, w.names].copy()
    return found


def _averaged(w: World, weights: np.ndarray) -> np.ndarray:
    weights = weights / weights.sum(1, keepdims=True)
    p = w.measured.probabilities[w.apart :][:, w.names]
    mean = np.einsum("en,enqc->eqc", weights, p)
    truth = np.repeat(np.arange(p.shape[3]), p.shape[2] // p.shape[3])
    found: np.ndarray = mean.argmax(2) == truth
    return found


# ---- what is chosen on other domains ---------------------------------------------------------------------------------


def tuned(target: str, everything: Mapping[str, Measured], apart: int, shots: int) -> Settings:
    """The settings with the best mean gain where the other domains are the targets, and this one does not exist."""
    worlds = [world(d, everything, apart, frozenset({target})) for d in everything if d != target]
    base = [default(w).mean() for w in worlds]

    def gain(arm, s: Settings) -> float:  # type: ignore[no-untyped-def]
        return float(np.mean([arm(w, s).mean() - b for w, b in zip(worlds, base, strict=True)]))

    mix = max(MIXES, key=lambda s: gain(top, s))
    gate = max(GATES, key=lambda s: gain(lambda w, t: combined(w, t, shots), s))
    return replace(gate, k=mix.k, temperature=mix.temperature)


def arms(w: World, s: Settings, shots: int) -> dict[str, np.ndarray]:
    """Every arm's ``[E, Q]`` but that of the product as it is, which is told nothing."""
    found = {
        TUNED: combined(w, s, shots),
        "random": random(w),
        "default": default(w),
        "uniform": uniform(w),
        "most similar": most_similar(w),
        "top-k": top(w, s),
        "leave-one-out": leave_one_out(w),
        "LogME": logme(w),
        "oracle": oracle(w),
    }
    return {name: a for name, a in found.items() if a is not None}


# ---- figures ---------------------------------------------------------------------------------------------------------


def bootstrapped(gaps: Sequence[np.ndarray], seed: int = 0, times: int = 2000) -> tuple[float, float, float]:
    """Mean over domains of the mean paired difference, and its 95 % interval: over domains, and episodes within them.

    Args:
        gaps: per domain ``[E]``.
        seed: of the draws.
        times: how many.
    """
    gen = np.random.default_rng(seed)
    totals = np.zeros(times)
    for _ in gaps:  # as many places as domains, each with a domain drawn for it and that domain's episodes drawn anew
        whose = gen.integers(len(gaps), size=times)
        for d, g in enumerate(gaps):
            mine = np.flatnonzero(whose == d)
            # the mean of a resample depends on how often each episode is drawn
            counts = gen.multinomial(len(g), np.full(len(g), 1 / len(g)), size=len(mine))
            totals[mine] += counts @ g / len(g)
    totals /= len(gaps)
    low, high = np.quantile(totals, [0.025, 0.975])
    return float(np.mean([g.mean() for g in gaps])), float(low), float(high)


def negative(arm: np.ndarray, base: np.ndarray) -> float:
    """Share of episodes in which an arm is worse than the default by more than two standard errors of the pair."""
    gaps = arm.astype(float) - base
    error = gaps.std(1, ddof=1) / np.sqrt(gaps.shape[1])
    return float((gaps.mean(1) < -2 * error).mean())


def spearman(w: World) -> float | None:
    """Mean over episodes of the rank correlation of the left-out loss with realised accuracy, over recipes."""
    losses = w.measured.losses[w.apart :, w.kinds]
    if not losses.shape[2]:
        return None
    a, b = _ranks(-losses.mean(2)), _ranks(w.correct[:, w.kinds].mean(2))
    return float((standard(a) * standard(b)).mean(1).mean())


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks within each row, the mean rank for equal values."""
    below = (values[:, None, :] < values[:, :, None]).sum(2)
    alike = (values[:, None, :] == values[:, :, None]).sum(2)
    found: np.ndarray = below + (alike - 1) / 2
    return found
