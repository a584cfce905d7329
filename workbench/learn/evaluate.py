"""Accuracy over frozen episodes, with its interval; the same list for every method that is compared.

The interval is ``1.96 * std / sqrt(E)`` over episodes: it measures the noise of the episodes, not that of the training.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.data.episodes import Drawn, Sampler, episodes_hash
from workbench.learn import quick
from workbench.learn.features import batch_size, embed
from workbench.learn.protocol import Adapted, Algorithm, State, Support, detach, generator

_Ask = Callable[[Adapted], Tensor]
_Answers = list[tuple[int, Tensor]]
"""Inner steps and logits ``[Q, N]`` after them; last those of the adapted network."""
_FEATURE_BYTES = 256_000_000
_BLOCK = 256
_TIMED = 10
"""Tasks that are adapted to once more, to be timed, where the time goes to asking after each inner step."""


@dataclass(frozen=True, slots=True, eq=False)
class FrozenEpisodes:
    """A list of episodes that stays the same; pictures are made into tensors when they are needed.

    Attributes:
        sampler: what they were drawn from.
        drawn: the episodes' ids.
        sha256: see ``episodes_hash``.
    """

    sampler: Sampler
    drawn: tuple[Drawn, ...]
    sha256: str

    def first(self, count: int) -> FrozenEpisodes:
        """The first ``count`` of them."""
        if count >= len(self.drawn):
            return self
        return FrozenEpisodes(self.sampler, self.drawn[:count], episodes_hash(self.drawn[:count]))


_EACH = 5
_SHOWN = (1, 2, 5)
_STEPPED = 100
"""Episodes whose queries are asked about on the way, which takes longer than adapting."""


class ByStep(NamedTuple):
    """Accuracy after an inner step, over the first hundred episodes; 0 = before the first step.

    The last row is of the adapted network, on the same episodes as the others.

    Attributes:
        step: after which.
        accuracy: mean over ``episodes``.
        ci95: half the width of its 95 % interval.
        episodes: how many were asked about on the way, the first of those evaluated.
        sha256: hash of exactly these.
    """

    step: int
    accuracy: float
    ci95: float
    episodes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        accuracy: mean over episodes.
        ci95: half the width of its 95 % interval.
        loss: mean cross entropy of the queries, nats.
        episodes: how many were evaluated.
        sha256: hash of exactly these episodes.
        per_episode: accuracy of each.
        seconds_per_task: adapting and predicting one task, its share of the features included; neither reading its
            pictures nor asking after each inner step is counted.
        by_step: for gradient-based methods, else ().
    """

    accuracy: float
    ci95: float
    loss: float
    episodes: int
    sha256: str
    per_episode: tuple[float, ...]
    seconds_per_task: float
    by_step: tuple[ByStep, ...] = ()


def freeze(sampler: Sampler, count: int, seed: int) -> FrozenEpisodes:
    """Draw ``count`` episodes from ``seed`` alone.

    Raises:
        ValueError: fewer than two, which have no interval.
    """
    if count < 2:
        raise ValueError("an interval needs at least two episodes")
    gen = generator(seed)
    drawn = tuple(sampler.pick(gen) for _ in range(count))
    return FrozenEpisodes(sampler, drawn, episodes_hash(drawn))


def mean_ci95(values: Sequence[float]) -> tuple[float, float]:
    """Mean of at least two figures, and half the width of its 95 % interval."""
    return statistics.fmean(values), 1.96 * statistics.stdev(values) / math.sqrt(len(values))


def paired(a: Evaluation, b: Evaluation) -> tuple[float, float]:
    """Mean of ``a - b`` over the same episodes, and half the width of its 95 % interval.

    Raises:
        WorkbenchError: they were not measured on the same episodes.
    """
    if a.sha256 != b.sha256:
        raise WorkbenchError(
            "The two were not compared",
            "they were measured on different episodes",
            "Evaluate both with the same ways, shots, queries, seed and number of episodes",
        )
    return mean_ci95([x - y for x, y in zip(a.per_episode, b.per_episode, strict=True)])


def evaluate(
    algorithm: Algorithm,
    state: State,
    frozen: FrozenEpisodes,
    ctx: Context,
    device: str = "cpu",
    *,
    by_step: bool = True,
    cached: bool = True,
    limit: float | None = None,
    progress: bool = False,
) -> Evaluation:
    """Adapt to each episode's examples and ask about its queries.

    Cacheable methods have each picture's features computed once for all episodes.

    Args:
        algorithm: bound to its setting.
        state: what it has learnt, on ``device``.
        frozen: the episodes.
        ctx: of the job; checked between forward passes.
        device: where to compute.
        by_step: ask about the queries after inner steps of gradient-based methods too, see :func:`asked_after`, in the
            first hundred episodes.
        cached: take the fast path where there is one.
        limit: seconds after which no further episode is begun (two are always done); ``None`` for all of them.
        progress: report how far it is; without, that is left to what asked for it.

    Raises:
        JobCancelledError: the person asked to stop.
    """
    begun = time.monotonic()
    state = State(detach(state.learned), detach(state.memory))
    steps = by_step and "gradient-based" in algorithm.info.tags
    trunk = algorithm.trunk(state) if cached and "cacheable" in algorithm.info.tags else None
    clock = _Clock()
    answers = _from_pictures(algorithm, state, frozen, ctx, device, steps, clock)
    if trunk is not None:
        answers = _from_features(algorithm, state, trunk.eval(), frozen, ctx, device, steps, clock)
    rights: list[dict[int, float]] = []
    finals: list[float] = []
    losses: list[float] = []
    for drawn, logits in zip(frozen.drawn, answers, strict=False):
        y = torch.from_numpy(drawn.query_y)
        rights.append({j: float((z.argmax(1) == y).double().mean()) for j, z in logits})
        finals.append(float((logits[-1][1].argmax(1) == y).double().mean()))
        losses.append(float(F.cross_entropy(logits[-1][1], y)))
        if progress:
            done, total = len(rights), len(frozen.drawn)
            ctx.progress(done, total, "episodes", (time.monotonic() - begun) / done * (total - done))
        if limit is not None and len(rights) >= 2 and time.monotonic() - begun > limit:
            break
    accuracy, ci95 = mean_ci95(finals)
    done = len(rights)
    return Evaluation(
        accuracy,
        ci95,
        statistics.fmean(losses),
        done,
        frozen.first(done).sha256,
        tuple(finals),
        clock.seconds_per_task(done),
        _by_step(rights[:_STEPPED], frozen) if steps else (),
    )


def _by_step(rights: Sequence[Mapping[int, float]], frozen: FrozenEpisodes) -> tuple[ByStep, ...]:
    """From the first episodes' accuracies by step, of the steps that are known of all of them."""
    common = sorted(set.intersection(*(set(r) for r in rights)))
    count, sha256 = len(rights), frozen.first(len(rights)).sha256
    return tuple(ByStep(j, *mean_ci95([r[j] for r in rights]), count, sha256) for j in common)


def asked_after(step: int) -> bool:
    """Whether the queries are asked about after this inner step: each of the first five, then 10, 20, 50, 100, 200 ...

    Twenty classes have 300 queries: asking after each of 50 steps would take thirty times as long as adapting.
    """
    if step <= _EACH:
        return True
    while step % 10 == 0:
        step //= 10
    return step in _SHOWN


@dataclass(slots=True)
class _Clock:
    """Seconds spent on features, and on adapting to and predicting those tasks that were timed."""

    features: float = 0.0
    tasks: float = 0.0
    timed: int = 0

    def seconds_per_task(self, done: int) -> float:
        """Of one task, after ``done`` of them."""
        return self.features / done + self.tasks / self.timed


def _from_pictures(
    algorithm: Algorithm,
    state: State,
    frozen: FrozenEpisodes,
    ctx: Context,
    device: str,
    steps: bool,
    clock: _Clock,
) -> Iterator[_Answers]:
    """Per episode, logits ``[Q, N]`` of the queries: after each inner step where asked for, and at the end."""
    transductive = "transductive" in algorithm.info.tags
    for n, drawn in enumerate(frozen.drawn):
        ctx.check()
        e = frozen.sampler.episode(drawn).to(device)
        # a transductive method sees all queries together; for the others pieces give the same, and Stop is heeded
        size = len(e.query_y) if transductive else batch_size(e.query_x.shape[2], e.query_x.shape[3], device)

        def ask(a: Adapted, x: Tensor = e.query_x, size: int = size) -> Tensor:
            parts = []
            for piece in torch.split(x, size):
                ctx.check()
                with torch.no_grad():
                    parts.append(algorithm.logits(state, a, piece).cpu())
            return torch.cat(parts)

        unlabelled = e.query_x if transductive else None
        support = Support(e.support_x, e.support_y, e.ways)
        with quick.passes():
            answers = _adapt(algorithm, state, support, ctx, ask, steps and n < _STEPPED, unlabelled, clock)
        yield answers


def _from_features(
    algorithm: Algorithm,
    state: State,
    trunk: nn.Module,
    frozen: FrozenEpisodes,
    ctx: Context,
    device: str,
    steps: bool,
    clock: _Clock,
) -> Iterator[_Answers]:
    """The same from features, each picture's computed once as long as they fit."""
    shape = frozen.sampler.rows.arrays[0].shape[1:]
    transductive = "transductive" in algorithm.info.tags
    # never looked at; if it were, the answers would be NaN
    nothing = torch.full((), math.nan, device=device).expand(1, shape[2], *shape[:2])
    kept: dict[int, Tensor] = {}
    n = 0
    for block in _blocks(frozen.drawn):
        if kept and len(kept) * next(iter(kept.values())).nbytes > _FEATURE_BYTES:
            kept.clear()
        ids = np.unique(np.concatenate([i for d in block for i in (d.support_ids, d.query_ids)]))
        new = np.asarray([i for i in ids.tolist() if i not in kept], dtype=np.int64)
        if len(new):
            begun = time.perf_counter()
            rows = embed(
                trunk,
                lambda i, j, new=new: frozen.sampler.tensors(new[i:j]).to(device),  # type: ignore[misc]
                len(new),
                batch_size(shape[0], shape[1], device),
                ctx,
            )
            kept |= zip(new.tolist(), rows.unbind(), strict=True)
            clock.features += time.perf_counter() - begun
        for d in block:
            ctx.check()
            support_f, query_f = (torch.stack([kept[i] for i in ids.tolist()]) for ids in (d.support_ids, d.query_ids))
            y = torch.from_numpy(d.support_y).to(device)
            support = Support(nothing.expand(len(y), *nothing.shape[1:]), y, d.ways, support_f)

            def ask(a: Adapted, f: Tensor = query_f) -> Tensor:
                with torch.no_grad():
                    logits: Tensor = algorithm.head(state, a)(f)
                return logits.cpu()

            unlabelled = query_f if transductive else None
            yield _adapt(algorithm, state, support, ctx, ask, steps and n < _STEPPED, unlabelled, clock)
            n += 1


def _blocks(drawn: Sequence[Drawn]) -> Iterator[list[Drawn]]:
    """Episodes whose pictures go through the trunk together: few, so that a limit of time holds."""
    block: list[Drawn] = []
    pictures = 0
    for d in drawn:
        block.append(d)
        pictures += len(d.support_ids) + len(d.query_ids)
        if pictures >= _BLOCK:
            yield block
            block, pictures = [], 0
    if block:
        yield block


def _adapt(
    algorithm: Algorithm,
    state: State,
    support: Support,
    ctx: Context,
    ask: _Ask,
    steps: bool,
    unlabelled: Tensor | None,
    clock: _Clock,
) -> _Answers:
    """Adapt and ask the queries, on the way too where ``steps`` says so; the last answer is the last step's."""
    seen: _Answers = []
    last = 0

    def after(j: int, a: Adapted) -> None:
        nonlocal last
        last = j
        if asked_after(j):
            seen.append((j, ask(a)))

    if steps:
        stepped = algorithm.adapt(state, support, ctx, unlabelled=unlabelled, on_step=after)
        if clock.timed >= _TIMED:
            return [*(s for s in seen if s[0] < last), (last, ask(stepped))]
    begun = time.perf_counter()
    answer = ask(algorithm.adapt(state, support, ctx, unlabelled=unlabelled))
    clock.tasks += time.perf_counter() - begun
    clock.timed += 1
    return [*(s for s in seen if s[0] < last), (last, answer)]
