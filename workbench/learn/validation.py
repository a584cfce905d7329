"""Validation while training: on fixed episodes, keeping the best state, in about a tenth of the time."""

from __future__ import annotations

import time

from workbench.core.context import Context
from workbench.core.values import Validation, has_interval
from workbench.data.episodes import Sampler
from workbench.learn import continual
from workbench.learn.checkpoint import Best, Position, Run
from workbench.learn.evaluate import Evaluation, FrozenEpisodes, evaluate, freeze
from workbench.learn.plan import Plan
from workbench.learn.protocol import Algorithm, Phase, State
from workbench.learn.runlog import RunLog

# Shares of a budget of minutes: all validations on the way, and how many; the choice between two states, each; the
# reported figure.
_ON_THE_WAY, _TIMES, _CHOICE, _REPORT = 0.05, 12, 0.015, 0.03
_AT_LEAST = 0.2  # seconds


class Validator:
    """Measures a run on validation episodes.

    Three lists of episodes, each fixed by the seed: one for validations on the way, one for the choice between the best
    state of these and the last state, one for the reported figure, which the choice therefore cannot flatter.

    With a budget of episodes everything is counted in episodes, so that a resumed run makes the same choices; with one
    of minutes the first validation finds out for how many episodes there is time.
    """

    def __init__(self, algorithm: Algorithm, sampler: Sampler, plan: Plan, ctx: Context, at: Position) -> None:
        self._algorithm, self._sampler, self._plan, self._ctx = algorithm, sampler, plan, ctx
        self._frozen: FrozenEpisodes | None = None
        self._next = at.seconds + self._pause(0.0)

    def due(self, at: Position) -> bool:
        """Whether enough of the budget was used since the last validation."""
        if at.episodes == at.validated_at:
            return False
        if self._plan.episodes is None:
            return at.seconds >= self._next
        return at.episodes // self._plan.every > at.validated_at // self._plan.every

    def measure(self, run: Run, log: RunLog, phase: Phase) -> None:
        """Measure the current state, and keep it if it is the best so far.

        It is measured and kept as it would be if its phase ended now: what a phase needs besides is not knowledge.

        Raises:
            JobCancelledError: the person asked to stop; the run is as it was.
        """
        at, limit = run.at, None
        if self._frozen is None:
            count = self._plan.tested
            if self._plan.minutes is not None and at.best is not None:
                count = at.best.tested
            elif self._plan.minutes is not None:
                limit = self._limit(_ON_THE_WAY / _TIMES)
            self._frozen = self._freeze("validation", count)
        begun = time.monotonic()
        state = self._algorithm.finish(continual.own(run.state), phase, self._ctx)
        found = self._test(state, self._frozen, limit)
        self._frozen = self._frozen.first(found.episodes)
        ci95 = found.ci95 if has_interval(found.ci95, found.episodes) else None
        log.add("validation/accuracy", at.episodes, found.accuracy, at.seconds, ci95)
        log.add("validation/loss", at.episodes, found.loss, at.seconds)
        at.validated_at, at.stale = at.episodes, at.stale + phase.kept
        # of equals the later one has seen more
        if phase.kept and (at.best is None or found.accuracy >= at.best.accuracy):
            run.best, at.stale = state, 0
            at.best = _best(found, at.episodes)
        took = time.monotonic() - begun
        self._next = at.seconds + took + self._pause(took)

    def choose(self, run: Run) -> Validation:
        """Keep the best state or the last, and measure the one that is kept.

        Raises:
            JobCancelledError: the person asked to stop; ``run.best`` is as good as is known by then.
        """
        at = run.at
        if run.best is not None and at.best is not None and at.best.episode != at.episodes:
            frozen = self._freeze("validation/choice", 2 * self._plan.tested)
            last = self._test(continual.own(run.state), frozen, self._limit(_CHOICE))
            best = self._test(run.best, frozen.first(last.episodes), None)
            if last.accuracy >= best.accuracy:
                run.best, at.best = continual.own(run.state), _best(last, at.episodes)
            else:
                at.best = _best(best, at.best.episode)
        best_state = continual.own(run.state) if run.best is None else run.best
        found = self._test(best_state, self._freeze("validation/report", self._plan.reported), self._limit(_REPORT))
        run.best, at.best = best_state, _best(found, at.episodes if at.best is None else at.best.episode)
        return Validation(self._plan.validation_kind, found.accuracy, found.ci95, found.episodes)

    def _freeze(self, name: str, count: int) -> FrozenEpisodes:
        return freeze(self._sampler, count, self._ctx.seed_for(name))

    def _limit(self, share: float) -> float | None:
        return None if self._plan.minutes is None else max(_AT_LEAST, share * self._plan.seconds)

    def _pause(self, took: float) -> float:
        """Seconds of training until the next validation, after one that took so long."""
        if self._plan.validate_every is not None:
            return self._plan.validate_every * self._plan.seconds
        return max(took / _ON_THE_WAY, self._plan.seconds / 30)

    def _test(self, state: State, frozen: FrozenEpisodes, limit: float | None) -> Evaluation:
        self._ctx.status("validating")
        return evaluate(self._algorithm, state, frozen, self._ctx, self._plan.device, by_step=False, limit=limit)


def _best(found: Evaluation, episode: int) -> Best:
    return Best(found.accuracy, found.ci95, found.episodes, episode)
