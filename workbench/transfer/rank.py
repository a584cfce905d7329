"""Which knowledge to use for a few examples: a prior by similarity, evidence by leave-one-out log-loss, and a gate.

One example per class says nothing about which network is best, so the choice is then by similarity alone; with K
examples the evidence weighs ``K / (K + 2)``. The most similar knowledge is left only for a gain that exceeds its
standard error, which caps what can be lost by choosing among many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.core.values import Candidate, EntryId

NO_TRANSFER_PRIOR = 0.1
"""What "no transfer" counts as in place of a similarity: below what related sources reach, above unrelated ones."""


@dataclass(frozen=True, slots=True)
class Option:
    """One piece of knowledge to choose from.

    Attributes:
        entry_id: or ``None`` for the branch that transfers nothing.
        name: for people.
        source_similarities: (source's name, similarity 0..1) for each of its sources.
        loo_losses: log-loss of each left-out example, nats, in the order of the examples, which is the same for all
            options; ``None`` where it was not or cannot be measured.
    """

    entry_id: EntryId | None
    name: str
    source_similarities: tuple[tuple[str, float], ...]
    loo_losses: tuple[float, ...] | None

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
        return NO_TRANSFER_PRIOR if similarity is None else similarity

    @property
    def loss(self) -> float | None:
        """Mean leave-one-out log-loss, nats."""
        return sum(self.loo_losses) / len(self.loo_losses) if self.loo_losses else None


def shots_of(counts: Sequence[int]) -> int:
    """The one number of shots that stands for unequal ones: their mean, rounded down, at least 1."""
    return max(1, sum(counts) // len(counts)) if counts else 1


def choose(options: Sequence[Option], shots: int, choice: str = "auto") -> tuple[tuple[Candidate, ...], str]:
    """Rank knowledge for a new task and choose one.

    ``score = w z(-loss) + (1 - w) z(prior)`` with ``w = K / (K + 2)``, ``w = 0`` at one shot or without losses; ``z``
    standardises over the options (an option whose loss was not measured gets the mean). The weights are the softmax of
    the scores. The default is the option with the largest prior; the one with the best score replaces it only if the
    mean of the paired differences of their losses exceeds its standard error.

    Args:
        options: at least one; the order decides ties.
        shots: examples per class K; for unequal ones see :func:`shots_of`.
        choice: ``auto``, ``none`` (no transfer) or an entry's id, which overrides.

    Returns:
        The candidates, the chosen one first and the others by weight, and one sentence that says how it was chosen.

    Raises:
        ValueError: no options.
    """
    if not options:
        raise ValueError("there is nothing to choose from")
    losses = [None if shots <= 1 else o.loss for o in options]
    compared = sum(loss is not None for loss in losses) > 1
    share = shots / (shots + 2) if compared else 0.0
    evidence = _standard([None if loss is None else -loss for loss in losses])
    prior = _standard([o.prior for o in options])
    scores = [share * e + (1 - share) * p for e, p in zip(evidence, prior, strict=True)]
    chosen, reason = _override(options, choice)
    if chosen is None:
        default = max(range(len(options)), key=lambda i: options[i].prior)
        chosen, why = (
            _gate(options, scores, default) if compared else (default, _by_similarity(options, default, shots))
        )
        reason = f"{reason}{why}"
    weights = _softmax(scores)
    order = sorted(range(len(options)), key=lambda i: (i != chosen, -weights[i]))
    return tuple(_candidate(options[i], losses[i], weights[i], i == chosen) for i in order), reason


def _candidate(option: Option, loss: float | None, weight: float, chosen: bool) -> Candidate:
    source, similarity = option.nearest
    return Candidate(option.entry_id, option.name, source, similarity, loss, weight, chosen)


def _override(options: Sequence[Option], choice: str) -> tuple[int | None, str]:
    if choice == "auto":
        return None, ""
    for i, option in enumerate(options):
        if option.entry_id == choice or (choice == "none" and option.entry_id is None):
            return i, "You chose to transfer nothing." if option.entry_id is None else f"You chose {option.name}."
    return None, "What you chose is not there any more. "


def _by_similarity(options: Sequence[Option], default: int, shots: int) -> str:
    option = options[default]
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
        return f"Chosen by similarity only: {option.name} ({cause})."
    return f"Chosen by similarity only: {option.name}, for its source {source} ({similarity:.2f}); {cause}."


def _gate(options: Sequence[Option], scores: Sequence[float], default: int) -> tuple[int, str]:
    """The default or the one with the best score, and why."""
    best = max(range(len(options)), key=lambda i: scores[i])
    a, b = options[default].loo_losses, options[best].loo_losses
    name, other = _phrase(options[default]), _phrase(options[best])
    source = options[default].nearest[0]
    like = f" ({source} resembles your pictures most)" if source else ""
    if best == default or a is None or b is None or len(a) != len(b):
        return default, f"{_capital(name)}: most similar{like}{_tried(options, default)}."
    gain, error = paired_gain(a, b)
    if gain > error:
        return best, (
            f"{_capital(other)}: on your {len(b)} examples left out in turn it does better than {name} "
            f"by more than chance explains (log-loss lower by {gain:.2f}, give or take {error:.2f})."
        )
    return default, (
        f"{_capital(name)}: most similar{like}; {other} looked better on your {len(a)} examples, "
        f"but not by more than chance explains."
    )


def _tried(options: Sequence[Option], default: int) -> str:
    """How the most similar option did on the examples, beside the others."""
    losses = [o.loss if o.loss is not None else math.inf for o in options]
    if losses[default] == math.inf:
        return ""
    n = len(options[default].loo_losses or ())
    if losses[default] <= min(losses):
        return f" and does best on your {n} examples left out in turn"
    other = _phrase(options[losses.index(min(losses))])
    return f"; {other} has the lower loss on your {n} examples left out in turn, but not by enough to outweigh that"


def _phrase(option: Option) -> str:
    return "no transfer" if option.entry_id is None else option.name


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
