"""Done and undone edits of the taught task, in memory: any depth, without holding a state per edit."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.core.teach import Edit, TeachTask, apply
from workbench.project.edits import describe

DEEPEST = 512
"""Edits that can be undone at most; above it the oldest ones are folded into the base (never below half of it)."""
_STRIDE = 16


@dataclass(frozen=True, slots=True)
class Step:
    """An edit and its description."""

    edit: Edit
    words: str


class History:
    """A base, the edits done since, and the edits undone.

    Only every sixteenth state is held; the ones between are rebuilt by :func:`workbench.core.teach.apply`.

    Attributes:
        task: the task as it is now.
        done: oldest first.
        undone: the next to redo last.
    """

    def __init__(self, base: TeachTask) -> None:
        self.task = base
        self.done: list[Step] = []
        self.undone: list[Step] = []
        self._marks = [base]

    @property
    def base(self) -> TeachTask:
        """The state that the oldest done edit was applied to."""
        return self._marks[0]

    def push(self, edit: Edit, after: TeachTask) -> None:
        """A new edit, whose result is known; forgets what was undone."""
        self.undone.clear()
        self._append(Step(edit, describe(edit, self.task)), after)

    def undo(self) -> None:
        """Back by one edit."""
        before = self.at(len(self.done) - 1)
        self.undone.append(self.done.pop())
        del self._marks[len(self.done) // _STRIDE + 1 :]
        self.task = before

    def redo(self) -> None:
        """Forward by one edit."""
        step = self.undone.pop()
        self._append(step, apply(self.task, step.edit))

    def at(self, depth: int) -> TeachTask:
        """The state after the first ``depth`` done edits."""
        nearest = depth // _STRIDE
        task = self._marks[nearest]
        for step in self.done[nearest * _STRIDE : depth]:
            task = apply(task, step.edit)
        return task

    def restore(self, done: list[Edit], undone: list[Edit]) -> None:
        """Fill a fresh history: apply ``done``, then keep ``undone`` (next to redo last) for redoing."""
        for edit in done:
            self.push(edit, apply(self.task, edit))
        task, steps = self.task, []
        for edit in reversed(undone):
            steps.append(Step(edit, describe(edit, task)))
            task = apply(task, edit)
        self.undone = steps[::-1]

    def fold(self) -> None:
        """Forget the oldest half of the edits where there are more than :data:`DEEPEST`."""
        if len(self.done) > DEEPEST:
            strides = (len(self.done) - DEEPEST // 2) // _STRIDE
            del self.done[: strides * _STRIDE]
            del self._marks[:strides]

    def _append(self, step: Step, after: TeachTask) -> None:
        self.done.append(step)
        self.task = after
        if len(self.done) % _STRIDE == 0:
            self._marks.append(after)
