"""The phases of a run as its numbers name them: where one begins, what it learns from, whether episodes come. No Qt."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.core.context import Metric

EPISODES = "The episode in training appears here"
_LEARNS_FROM = {
    "batches": "pictures of all classes at once",
    "mixed": "pictures of all sources at once",
    "per_source": "pictures of one source at a time",
    "sequences": "sequences of pictures, one after the other",
}


@dataclass(frozen=True, slots=True)
class RunPhase:
    """A phase of a run.

    Attributes:
        name: of the method.
        stream: what it is fed with, see ``learn.protocol.Phase``.
        begins: episodes done when it began.
        later: phases of episodes that come after it.
    """

    name: str
    stream: str
    begins: float
    later: int

    @property
    def by_chance(self) -> bool:
        """Whether guessing is right once in as many times as there are ways, as it is not among all classes."""
        return self.stream in ("episodes", "sequences")

    @property
    def words(self) -> str:
        """What stands where the episode of the moment would be."""
        if self.stream not in _LEARNS_FROM:
            return EPISODES
        coming = "episodes appear here in a later one" if self.later else "there is no episode to show"
        return f"This phase is fed {_LEARNS_FROM[self.stream]}; {coming}"


def phase_in(metric: Metric) -> RunPhase | None:
    """The phase that begins with this number, if it says so."""
    part, _, rest = metric.name.partition("/")
    if part != "phase":
        return None
    stream, _, name = rest.partition("/")
    return RunPhase(name, stream, float(metric.step), int(metric.value))
