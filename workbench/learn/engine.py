"""The one training loop, for every algorithm: draw, step, measure, validate, keep.

A run is bit-identical after a kill and a resume (budget in episodes, one thread): everything random comes from named
sub-seeds or from the one generator whose state a checkpoint keeps, and all that decides is counted in episodes.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.core.context import Context, Metric
from workbench.core.errors import JobCancelledError, NotFiniteError, WorkbenchError
from workbench.core.values import Validation
from workbench.data.episodes import Batch, Episodes, Sampler
from workbench.learn import continual
from workbench.learn.aligning import Aligning
from workbench.learn.checkpoint import Position, Run, load_checkpoint, save_checkpoint
from workbench.learn.optimiser import Moments, norm, rates, stepped
from workbench.learn.plan import Plan
from workbench.learn.protocol import Algorithm, At, Phase, SourceSummary, State, StepResult, Tensors, detach, generator
from workbench.learn.runlog import RunLog, view
from workbench.learn.validation import Validator

__all__ = ["Outcome", "Plan", "train"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What training gave.

    Attributes:
        state: the best by validation accuracy; the last one where nothing was validated.
        episodes: done.
        steps: outer steps done.
        seconds: of training and validating on the way, interruptions and pauses left out.
        stopped: the person stopped it.
        validation: of ``state``, or ``None`` where nothing was validated.
        history: every number, also from before an interruption.
        note: for people, where a damaged checkpoint was passed over, else "".
    """

    state: State
    episodes: int
    steps: int
    seconds: float
    stopped: bool
    validation: Validation | None
    history: tuple[Metric, ...]
    note: str = ""


def train(
    algorithm: Algorithm,
    sampler: Sampler,
    validation: Sampler | None,
    plan: Plan,
    ctx: Context,
    folder: Path | None = None,
    *,
    start: State | None = None,
    keeping: continual.Keeping | None = None,
    aligning: Aligning | None = None,
) -> Outcome:
    """Train, or go on with the run whose checkpoint lies in ``folder``.

    Args:
        algorithm: bound to its hyperparameters and setting.
        sampler: of training episodes.
        validation: of validation episodes; without it the last state is kept.
        plan: budget and seed.
        ctx: of the job; its seed becomes the plan's. A cancel ends the training, and the best so far is returned.
        folder: for checkpoints and ``metrics.jsonl``; ``None`` keeps nothing.
        start: state to start from instead of a fresh one.
        keeping: what holds the trunk near where the run begins; its state lies in the run's memory, and in no outcome.
        aligning: what draws the trunk's features towards another domain's, in the same way.

    Raises:
        NotFiniteError: the loss or a gradient stopped being finite; the checkpoint before that is kept.
        WorkbenchError: ``folder`` holds another run, or training cannot have the plan's precision.
        StorageError: the folder cannot be written, or all its checkpoints are damaged.
    """
    ctx.seed = plan.seed
    ctx.status("drawing the first episode")
    phases = algorithm.phases(SourceSummary(sampler.classes_per_source, sampler.images))
    run, note = _begin(algorithm, sampler, plan, ctx, folder, start, keeping, aligning)
    validator = None if validation is None else Validator(algorithm, validation, plan, ctx, run.at)
    stopped, tested = False, None
    with RunLog(folder, ctx, run.at.episodes) as log:
        job = _Job(algorithm, sampler, plan, ctx, folder, log, phases, run, aligning)
        try:
            while run.at.phase < len(phases):
                job.train_phase(phases[run.at.phase], validator)
            job.save()
            tested = None if validator is None else validator.choose(run)
        except JobCancelledError:
            stopped = True
            job.save()
    best, at = run.at.best, run.at
    if tested is None and best is not None:
        tested = Validation(plan.validation_kind, best.accuracy, best.ci95, best.tested)
    kept = continual.own(run.state if run.best is None else run.best)
    if run.best is None and at.phase < len(phases):
        kept = algorithm.finish(kept, phases[at.phase], Context(seed=plan.seed))  # of its own: the job's is cancelled
    state = State(detach(kept.learned), detach(kept.memory))
    return Outcome(state, at.episodes, at.step, at.seconds, stopped, tested, tuple(log.history), note)


def _begin(
    algorithm: Algorithm,
    sampler: Sampler,
    plan: Plan,
    ctx: Context,
    folder: Path | None,
    start: State | None,
    keeping: continual.Keeping | None,
    aligning: Aligning | None,
) -> tuple[Run, str]:
    """A fresh run, or the one in the folder with a message about it."""
    asked = [algorithm.info.key, repr(algorithm.p), repr(replace(algorithm.setting, weights=None))]
    budget = (plan.episodes, plan.minutes, plan.seed, plan.tested, plan.validate_every, plan.patience)
    asked += [repr(budget), str(sampler.classes_per_source)]
    asked += [] if plan.precision == "full" else [plan.precision]
    asked += [] if keeping is None else [keeping.how, repr(keeping.strength)]
    asked += [] if aligning is None else [aligning.how, aligning.fingerprint]
    asked += [repr((sampler.ways, sampler.shots, sampler.queries, sampler.across_tasks, sampler.images))]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    found, note = (None, "") if folder is None else load_checkpoint(folder, plan.device)
    if found is None:
        state = algorithm.init(generator(ctx.seed_for("init"))) if start is None else start
        state = State(*({k: v.detach().to(plan.device) for k, v in part.items()} for part in state))
        state = state if keeping is None else keeping.begun(state)
        state = state if aligning is None else aligning.begun(state)
        return Run(Position(), _by_name(state), Moments(), generator(ctx.seed_for("episodes")), None, digest), note
    if found.asked != digest:
        raise WorkbenchError(
            "The run was not resumed",
            "its checkpoint belongs to a run with other data, settings or seed",
            "Start a new run, or resume this one with what it was started with",
        )
    found.state = _by_name(found.state)
    if note:
        ctx.status(note)
    return found, note


class _Job:
    """The loop's parts: one phase, one step, and what is said and kept in between."""

    def __init__(
        self,
        algorithm: Algorithm,
        sampler: Sampler,
        plan: Plan,
        ctx: Context,
        folder: Path | None,
        log: RunLog,
        phases: Sequence[Phase],
        run: Run,
        aligning: Aligning | None = None,
    ) -> None:
        self.aligning = aligning
        self.algorithm, self.sampler, self.plan, self.ctx = algorithm, sampler, plan, ctx
        self.folder, self.log, self.phases, self.run = folder, log, phases, run
        self.take_step = _faster(algorithm, plan) or algorithm.step
        self.clock, self.held = time.monotonic(), ctx.held_seconds
        self.saved_at = (run.at.seconds, run.at.step)
        self.shown = -math.inf

    def train_phase(self, phase: Phase, validator: Validator | None) -> None:
        """Train one phase to its end, from wherever the run stands in it."""
        run, at, plan = self.run, self.run.at, self.plan
        doing = f"training: {phase.name}" if len(self.phases) > 1 else "training"
        self.tick()
        self.say_phase(phase)
        self.say_progress()
        while True:
            if validator is not None and validator.due(at):
                validator.measure(run, self.log, phase)
                self.tick()
            if self.save_is_due():
                self.save()
            used = self.fraction(phase)
            if used >= 1 or (plan.patience is not None and at.stale >= plan.patience):
                break
            self.ctx.check()
            batch, result, loss = self.step(phase, used)
            self.tick()
            if self.ctx.status_text != doing:
                self.ctx.status(doing)
            self.say_step(batch, result, loss)
            self.say_progress()
        memory, held = continual.parted(run.state.memory)
        done = self.algorithm.finish(State(run.state.learned, memory), phase, self.ctx)
        run.state = _by_name(State(done.learned, {**done.memory, **held}))
        run.moments = Moments()
        at.phase, at.phase_episodes, at.phase_seconds, at.stale = at.phase + 1, 0, 0.0, 0

    def step(self, phase: Phase, used: float) -> tuple[Batch, StepResult, float]:
        """One outer step; if it is cancelled or fails, the run stands where it stood before."""
        run, at = self.run, self.run.at
        before = run.gen.get_state()
        trained = rates(phase, run.state.learned)
        memory, held = continual.parted(run.state.memory)
        try:
            batch, episodes = self.draw(phase)
            leaves = {k: t.detach().requires_grad_(k in trained) for k, t in run.state.learned.items()}
            given = State(leaves, memory)
            result = self.take_step(given, batch, At(phase.name, at.step, used), self.ctx)
            grads = _gradients(result, {k: leaves[k] for k in trained})
            grads = continual.pulled(grads, run.state.learned, held, phase)
            if self.aligning is not None:
                grads, held, said = self.aligning.drawn_together(grads, run.state.learned, held, batch, used, run.gen)
                result = replace(result, metrics={**result.metrics, **said})
        except BaseException:
            run.gen.set_state(before)
            raise
        loss = float(result.metrics["loss"] if result.loss is None else result.loss.detach())
        size = norm(grads)
        if not (math.isfinite(loss) and math.isfinite(size)):
            run.gen.set_state(before)
            self.save()
            raise NotFiniteError(
                f"The run stopped at episode {at.episodes + episodes}",
                f"the {'gradient' if math.isfinite(loss) else 'loss'} is not a finite number any more",
                "Start again with a smaller learning rate; the best state before it is kept",
            )
        memory = memory if result.memory is None else detach(result.memory)
        learned = stepped(run.state.learned, grads, run.moments, phase, used, size)
        run.state = _by_name(State(learned, {**memory, **held}))
        at.step += 1
        at.episodes += episodes
        at.phase_episodes += episodes
        return batch, result, loss

    def draw(self, phase: Phase) -> tuple[Batch, int]:
        """The next batch of the phase's kind, and how many episodes of the budget it counts for."""
        gen, sampler, tasks = self.run.gen, self.sampler, phase.tasks_per_step
        if self.plan.episodes is not None:
            tasks = min(tasks, self.phase_budget() - self.run.at.phase_episodes)
        batch: Batch
        if phase.stream == "episodes":
            drawn = tuple(sampler.draw(gen) for _ in range(tasks))
            batch = Episodes(drawn, sampler.labelled(gen, phase.labelled) if phase.labelled else None)
        elif phase.stream == "sequences":
            batch = sampler.sequences(gen, tasks)
        else:
            one, even = phase.stream == "per_source", phase.stream == "mixed"
            batch, tasks = sampler.labelled(gen, phase.batch_size, one_source=one, balanced=even), 1
        return batch.to(self.plan.device), tasks

    # ---- the budget --------------------------------------------------------------------------------------------------
    def phase_budget(self) -> int:
        """The current phase's part of a budget of episodes; the parts add up to it exactly."""
        total, index = self.plan.episodes or 0, self.run.at.phase
        before = sum(p.share for p in self.phases[:index])
        return max(1, round(total * (before + self.phases[index].share)) - round(total * before))

    def fraction(self, phase: Phase) -> float:
        """Of the phase's budget used."""
        if self.plan.episodes is not None:
            return self.run.at.phase_episodes / self.phase_budget()
        return self.run.at.phase_seconds / (self.plan.seconds * phase.share)

    def tick(self) -> None:
        """Count the time since the last tick, pauses left out."""
        now, held = time.monotonic(), self.ctx.held_seconds
        passed = (now - self.clock) - (held - self.held)
        self.clock, self.held = now, held
        self.run.at.seconds += passed
        self.run.at.phase_seconds += passed

    # ---- what is said and kept ---------------------------------------------------------------------------------------
    def say_phase(self, phase: Phase) -> None:
        """``phase/STREAM/NAME`` where a phase begins, its value the number of later phases of episodes.

        Numbers of two phases are not comparable. A run of episodes alone has nothing to tell apart.
        """
        name = f"phase/{phase.stream}/{phase.name}"
        plain = len(self.phases) == 1 and phase.stream == "episodes"
        if not plain and all(m.name != name for m in self.log.history):
            later = sum(p.stream == "episodes" for p in self.phases[self.run.at.phase + 1 :])
            self.log.add(name, self.run.at.episodes, later, self.run.at.seconds)

    def say_step(self, batch: Batch, result: StepResult, loss: float) -> None:
        """Numbers to the plots, and now and then the episode to the gallery."""
        at, now, every = self.run.at, time.monotonic(), self.plan.gallery_every_seconds
        for name, value in {**result.metrics, "loss": loss}.items():
            self.log.add(f"train/{name}", at.episodes, value, at.seconds)
        # no further episode while the last one lies there untaken: nobody watches
        if (
            isinstance(batch, Episodes)
            and every is not None
            and now - self.shown >= every
            and not self.ctx.events_waiting
        ):
            self.shown = now
            self.ctx.event(view(self.sampler, batch.episodes[0], at.episodes, result.shown()))

    def say_progress(self) -> None:
        """How far, and how long still."""
        at, total, left = self.run.at, self.plan.episodes, None
        if total is None:
            left = max(0.0, self.plan.seconds - at.seconds)
            total = round(at.episodes * max(1.0, self.plan.seconds / at.seconds)) if at.episodes else None
        elif at.episodes:
            left = at.seconds / at.episodes * (total - at.episodes)
        self.ctx.progress(at.episodes, total, "episodes", left)

    def save_is_due(self) -> bool:
        """Whether enough time or steps have passed since the last checkpoint."""
        seconds, step = self.run.at.seconds - self.saved_at[0], self.run.at.step - self.saved_at[1]
        steps = self.plan.checkpoint_every_steps
        return seconds >= self.plan.checkpoint_every_seconds or (steps is not None and step >= steps)

    def save(self) -> None:
        """Write a checkpoint, where there is a folder for it."""
        self.saved_at = (self.run.at.seconds, self.run.at.step)
        if self.folder is not None:
            save_checkpoint(self.folder, self.run)


def _faster(algorithm: Algorithm, plan: Plan) -> Callable[[State, Any, At, Context], StepResult] | None:
    """The same step from the fast path, where there is one; in full precision nothing here needs that package."""
    if plan.precision == "full" and find_spec("workbench.learn.fast") is None:
        return None
    from workbench.learn import fast

    fast.check_precision(algorithm, plan.device, plan.precision)
    return fast.step_of(algorithm, plan.device, plan.precision)


def _by_name(state: State) -> State:
    """The state with its tensors in the order of their names.

    A checkpoint gives them back in another order than they were made in. What adds up over all of them, as a gradient
    for weights that all coordinates share does, must come to the same to the last bit.
    """
    return State(*(dict(sorted(part.items())) for part in state))


def _gradients(result: StepResult, leaves: Tensors) -> Tensors:
    if result.grads is not None:
        return {k: g for k, g in result.grads.items() if k in leaves}
    assert result.loss is not None, "a step gives a loss or gradients"
    found: Sequence[Tensor | None] = torch.autograd.grad(result.loss, list(leaves.values()), allow_unused=True)
    return {k: g for k, g in zip(leaves, found, strict=True) if g is not None}
