"""What a person is told when something cannot be done."""

from __future__ import annotations


class WorkbenchError(Exception):
    """A refusal that a person reads: what happened, why, and what to do.

    Anything else that is raised is a bug and is shown as one.

    Attributes:
        what_happened: one clause, without a full stop.
        why: the reason, one clause.
        what_to_do: the next step for the person, one clause.
    """

    def __init__(self, what_happened: str, why: str, what_to_do: str) -> None:
        super().__init__(what_happened, why, what_to_do)
        self.what_happened = what_happened
        self.why = why
        self.what_to_do = what_to_do

    def __str__(self) -> str:
        return f"{self.what_happened}: {self.why}. {self.what_to_do}."


class NotFiniteError(WorkbenchError):
    """A run's numbers stopped being finite; the best state before that is in its checkpoint."""


class StorageError(WorkbenchError):
    """Writing or reading one of our own files failed; nothing was lost."""


class JobCancelledError(Exception):
    """The person asked a running job to stop; not a failure."""
