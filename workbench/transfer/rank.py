"""Which recipe to use for a few examples: a prior by similarity, evidence by leave-one-out log-loss, and a gate.

One example per class says nothing about which network is best, so the choice is then by similarity alone; with K
examples the evidence weighs ``K / (K + 2)``. The default is left only for a gain that luck alone would seldom show
among so many, or for a prior that is far larger, which caps what can be lost by choosing among many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from workbench.core.values import Candidate, EntryId
from workbench.transfer.prior import SENIORITY, prior_of

NO_TRANSFER_PRIOR = 0.1
"""What "no transfer" counts as in place of a similarity: below what related sources reach, above unrelated ones. A
choice, not measured."""
MARGIN = 1.0
"""Of the gate, in standard errors of a single comparison: what luck exceeds in 16 % of the tasks, see :func:`luck`.
A choice: ``tests.benchmarks.transfer`` reports what it gives."""
LEAST_GAIN = 0.01
"""Of log-loss, nats an example: what is less is not worth leaving the default for, however sure it is. A choice."""
_FLIPS = 999
"""Random signs that chance is measured with."""


@dataclass(frozen=True, slots=True)
class Option:
    """One recipe to choose from.

    Attributes:
        entry_id: or ``None`` for the branch that transfers nothing.
        name: of the entry, for people.
        source_similarities: (source's name, similarity 0..1) for each of its sources.
        loo_losses: log-loss of each left-out example, nats, in the order of the examples, which is the same for all
            options; ``None`` where it was not or cannot be measured.
        words: what is made of the entry, for people; "" where it is used as it was trained.
        gain: in accuracy, over the default, as past tasks make one expect.
        most: what its similarity counts as at most, where it was not measured as that of the others.
    """

    entry_id: EntryId | None
    name: str
    source_similarities: tuple[tuple[str, float], ...]
    loo_losses: tuple[float, ...] | None
    words: str = ""
    gain: float = 0.0
    most: float = 1.0

    @property
    def nearest(self) -> tuple[str, float | None]:
        """Name and similarity of the most similar source; ``("", None)`` without sources."""
        if self.entry_id is None or not self.source_similarities:
            return "", None
        return max(self.source_similarities, key=lambda pair: pair[1])

    @property
    def prior(self) -> float:
        """What is expected before looking at how well the examples are told apart."""
        similarity = self.nearest[1]
        return prior_of(NO_TRANSFER_PRIOR if similarity is None else min(similarity, self.most), self.gain)

    @property
    def loss(self) -> float | None:
        """Mean leave-one-out log-loss, nats."""
        return sum(self.loo_losses) / len(self.loo_losses) if self.loo_losses else None

    @property
    def title(self) -> str:
        """Entry and what is made of it."""
        return f"{self.name}, {self.words}" if self.words else self.name


class Choice(NamedTuple):
    """What was chosen and why.

    Attributes:
        candidates: one for each entry, by its best recipe, the chosen one first and the others by weight.
        reason: one sentence that says how it was chosen.
        chosen: index of the option.
        runner_up: name of the option with the best score besides, "" where there is no other.
        images: examples that decided, 0 where similarity alone did.
        scores: of the options; larger is better, and only for this task.
    """

    candidates: tuple[Candidate, ...]
    reason: str
    chosen: int
    runner_up: str
    images: int
    scores: tuple[float, ...]


def untried(option: Option) -> Candidate:
    """An entry that others kept from being tried, for a person to choose it all the same."""
    source, similarity = option.nearest
    return Candidate(option.entry_id, option.name, source, similarity, None, 0.0, False)


def shots_of(counts: Sequence[int]) -> int:
    """The one number of shots that stands for unequal ones: their mean, rounded down, at least 1."""
    return max(1, sum(counts) // len(counts)) if counts else 1


def choose(
    options: Sequence[Option],
    shots: int,
    choice: str = "auto",
    default: int | None = None,
    proven: bool = False,
    margin: float = MARGIN,
) -> Choice:
    """Rank what can be made of knowledge for a new task and choose.

    ``score = w z(-loss) + (1 - w) z(prior)`` with ``w = K / (K + 2)``, ``w = 0`` at one shot or without losses; ``z``
    standardises over the options (an option whose loss was not measured gets the mean). The weights are the softmax of
    the scores, added up for each entry. The option with the best score replaces the default only if its gain, in paired
    differences of their losses, is one that the best of all options would seldom have by luck (:func:`luck`), or if its
    prior is larger by more than the default's seniority. Seniority does not count where the default itself resembles
    the task less than "no transfer" does, and by similarity alone only in proportion to the default's own prior: then
    it decides between entries that are about as similar, and nothing more.

    Args:
        options: at least one; the order decides ties.
        shots: examples per class K; for unequal ones see :func:`shots_of`.
        choice: ``auto``, ``none`` (no transfer) or an entry's id, which overrides.
        default: index of what is used where nothing speaks against it; ``None``: the largest prior.
        proven: whether the default has a record on past tasks, and is not merely the broadest.
        margin: of the gate: the best of all options opens it by luck as often as a normal exceeds ``margin``.

    Raises:
        ValueError: no options.
    """
    if not options:
        raise ValueError("there is nothing to choose from")
    losses = [None if shots <= 1 else o.loss for o in options]
    judged = [i for i, loss in enumerate(losses) if loss is not None]
    compared = len(judged) > 1
    share = shots / (shots + 2) if compared else 0.0
    priors = _priors(options, default, compared)
    evidence = _standard([None if loss is None else -loss for loss in losses])
    prior = _standard(priors)
    scores = [share * e + (1 - share) * p for e, p in zip(evidence, prior, strict=True)]
    chosen, reason = _override(options, choice)
    overridden = chosen is not None
    if chosen is None:
        likeliest = max(range(len(options)), key=lambda i: priors[i])
        if compared:
            start = likeliest if default is None else default
            chosen, why = _gate(options, scores, start, margin, _merit(default, proven))
        else:
            chosen, why = likeliest, _by_similarity(options, likeliest, shots, default, _merit(default, proven))
        reason = f"{reason}{why}"
    others = [i for i in range(len(options)) if i != chosen]
    second = options[max(others, key=lambda i: scores[i])].title if others else ""
    images = len(options[judged[0]].loo_losses or ()) if compared and not overridden else 0
    return Choice(_candidates(options, losses, scores, chosen), reason, chosen, second, images, tuple(scores))


def _priors(options: Sequence[Option], default: int | None, compared: bool) -> list[float]:
    """What is expected of each, the default's seniority included where it resembles the task itself."""
    priors = [o.prior for o in options]
    if default is None or priors[default] < NO_TRANSFER_PRIOR:
        return priors
    ahead = SENIORITY if compared else SENIORITY * min(priors[default], 1.0)
    first = options[default].entry_id
    return [p + ahead * (o.entry_id == first) for p, o in zip(priors, options, strict=True)]


def _merit(default: int | None, proven: bool) -> str:
    """Why the default is the default; "" where it is the most similar."""
    if default is None:
        return ""
    return "has the best record so far" if proven else "is the broadest of what is known"


def _candidates(
    options: Sequence[Option], losses: Sequence[float | None], scores: Sequence[float], chosen: int
) -> tuple[Candidate, ...]:
    weights = _softmax(scores)
    rows: dict[EntryId | None, list[int]] = {}
    for i, option in enumerate(options):
        rows.setdefault(option.entry_id, []).append(i)
    found = []
    for members in rows.values():
        best = chosen if chosen in members else max(members, key=lambda i: scores[i])
        option, weight = options[best], math.fsum(weights[i] for i in members)
        source, similarity = option.nearest
        found.append(
            Candidate(
                option.entry_id, option.name, source, similarity, losses[best], weight, best == chosen, option.words
            )
        )
    return tuple(sorted(found, key=lambda c: (not c.chosen, -c.weight)))


def _override(options: Sequence[Option], choice: str) -> tuple[int | None, str]:
    if choice == "auto":
        return None, ""
    for i, option in enumerate(options):
        if option.entry_id == choice or (choice == "none" and option.entry_id is None):
            return i, "You chose to transfer nothing." if option.entry_id is None else f"You chose {option.name}."
    return None, "What you chose is not there any more. "


def _by_similarity(options: Sequence[Option], likeliest: int, shots: int, default: int | None, merit: str) -> str:
    option = options[likeliest]
    cause = (
        "one example per class cannot tell which works best"
        if shots <= 1
        else "only it could be tried on your examples"
    )
    if sum(o.entry_id is not None for o in options) == 0:
        return "Nothing is transferred: nothing has been learnt yet."
    if option.entry_id is None:
        return f"Nothing is transferred: no known source resembles your pictures enough ({cause})."
    source, similarity = option.nearest
    if similarity is None:
        return f"Chosen by similarity only: {option.title} ({cause})."
    known = [o for o in options if o.entry_id is not None]
    nearest = max(known, key=lambda o: min(o.nearest[1] or 0.0, o.most))
    place = f"{option.title}, for its source {source} ({similarity:.2f})"
    if min(nearest.nearest[1] or 0.0, nearest.most) <= min(similarity, option.most):
        return f"Chosen by similarity only: {place}; {cause}."
    if default is not None and option.entry_id == options[default].entry_id:
        beside = f"{nearest.title} is hardly more similar, and {option.name} {merit}"
        return f"Chosen by similarity: {place}; {beside}; {cause}."
    return f"Chosen by similarity and past tasks: {place}; on tasks like this one it did better than others; {cause}."


def _gate(
    options: Sequence[Option], scores: Sequence[float], default: int, margin: float, merit: str
) -> tuple[int, str]:
    """The default or the one with the best score, and why."""
    best = max(range(len(options)), key=lambda i: scores[i])
    a, b = options[default].loo_losses, options[best].loo_losses
    name, other = _phrase(options[default]), _phrase(options[best])
    like = _standing(options, default, merit)
    ahead = options[best].prior - options[default].prior
    if best == default:
        return default, f"{_capital(name)}: {like}{_tried(options, default)}."
    chance, tried = 1.0, [o.loo_losses for o in options if a is not None and len(o.loo_losses or ()) == len(a)]
    if a is not None and b is not None and len(a) == len(b):
        gain, error = paired_gain(a, b)
        chance = luck(a, b, [t for t in tried if t is not None])
        if gain < LEAST_GAIN and ahead <= SENIORITY:
            words = f"{other} does {'hardly' if gain > 0 else 'no'} better on your {len(b)} examples left out in turn"
            return default, f"{_capital(name)}: {like}; {words}."
        if gain >= LEAST_GAIN and chance <= 0.5 * math.erfc(margin / math.sqrt(2)):
            return best, (
                f"{_capital(other)}: on your {len(b)} examples left out in turn it does better than {name} (log-loss "
                f"lower by {gain:.2f}, give or take {error:.2f}), as the best of {len(tried)} would by luck in "
                f"{_percent(chance)} of such tasks."
            )
    if ahead > SENIORITY:
        source = options[best].nearest[0]
        return best, f"{_capital(other)}: your pictures resemble {source or 'its sources'} far more than {name}'s."
    if a is None or b is None:
        return default, f"{_capital(name)}: {like}{_tried(options, default)}."
    return default, (
        f"{_capital(name)}: {like}; {other} scored higher, but what it gains on your {len(a)} examples the best of "
        f"{len(tried)} would gain by luck in {_percent(chance)} of such tasks."
    )


def _percent(share: float) -> str:
    return "under 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def _standing(options: Sequence[Option], default: int, merit: str) -> str:
    """Why it is the default: the most similar, or what it has besides."""
    option = options[default]
    if merit and option.prior < max(o.prior for o in options):
        return f"it {merit}"
    source = option.nearest[0]
    return f"most similar ({source} resembles your pictures most)" if source else "most similar"


def _tried(options: Sequence[Option], default: int) -> str:
    """How the default did on the examples, beside the others."""
    losses = [o.loss if o.loss is not None else math.inf for o in options]
    if losses[default] == math.inf:
        return ""
    n = len(options[default].loo_losses or ())
    if losses[default] <= min(losses):
        return f" and does best on your {n} examples left out in turn"
    other = _phrase(options[losses.index(min(losses))])
    return f"; {other} has the lower loss on your {n} examples left out in turn, but not by enough to outweigh that"


def _phrase(option: Option) -> str:
    return "no transfer" if option.entry_id is None else option.title


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def paired_gain(default: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Mean of ``default - other`` over the same examples, and its standard error (infinite for a single example)."""
    gaps = [a - b for a, b in zip(default, other, strict=True)]
    n = len(gaps)
    mean = sum(gaps) / n
    if n < 2:
        return mean, math.inf
    return mean, math.sqrt(sum((g - mean) ** 2 for g in gaps) / (n - 1) / n)


def luck(default: Sequence[float], other: Sequence[float], tried: Sequence[Sequence[float]]) -> float:
    """How often the best of all that were tried would be ahead of the default by as much, were none of them better.

    If none is better, each example's differences to the default could as well have the other sign. With the signs of
    whole examples drawn anew, the largest ``sum_i d_ij / sqrt(sum_i d_ij^2)`` over the options ``j`` is compared with
    that of ``other`` (Westfall and Young 1993, single step): what options have in common is kept, so that copies of one
    network count once.

    With options that are equally good (losses of normals: what all share, and as much of their own; 300 tasks for each
    of 4, 12 and 24 options with 10 and 25 examples) a gate of one standard error opened in 11 to 16 % of the tasks. The
    best option was ahead by more than the standard error of its own comparison in 30 to 68 %. Losses that were left out
    in turn depend on one another, which the signs do not know: for them the figure is an approximation.

    Args:
        default: its losses ``[n]``.
        other: those of the one in question.
        tried: those of all options; the default's own change nothing.

    Returns:
        A share of 1000 drawings of signs (the seed is fixed), the present ones included; 1 where nothing differs.
    """
    start = np.asarray(default, dtype=np.float64)
    gaps = np.stack([start - np.asarray(t, dtype=np.float64) for t in [other, *tried]], 1)
    size = np.sqrt((gaps**2).sum(0))
    if size[0] <= 0:
        return 1.0
    unit = gaps[:, size > 0] / size[size > 0]
    reached = (_signs(len(start)) @ unit).max(1)
    return float((1 + (reached >= unit[:, 0].sum() - 1e-9).sum()) / (1 + _FLIPS))


@lru_cache(maxsize=64)
def _signs(n: int) -> np.ndarray:
    return np.random.default_rng(n).choice(np.array([-1.0, 1.0]), size=(_FLIPS, n))


def _standard(values: Sequence[float | None]) -> list[float]:
    """Standardise over what is there; what is missing, and everything where all are equal, becomes 0."""
    there = [v for v in values if v is not None]
    if not there:
        return [0.0] * len(values)
    mean = sum(there) / len(there)
    spread = math.sqrt(sum((v - mean) ** 2 for v in there) / len(there))
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return [0.0] * len(values)
    return [0.0 if v is None else (v - mean) / spread for v in values]


def _softmax(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    raised = [math.exp(s - top) for s in scores]
    return [r / sum(raised) for r in raised]
