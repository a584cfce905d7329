"""How long and how carefully a run trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workbench.core.training import Precision

# Of a budget of episodes: all validation episodes on the way, and those behind the reported figure. Such an episode
# costs about a third of a training episode, and far less where features are kept.
_ON_THE_WAY, _REPORT = 0.2, 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how carefully to train.

    Attributes:
        episodes: budget, or ``None`` with ``minutes``.
        minutes: budget, or ``None`` with ``episodes``; validations on the way count, pauses and the last figure do not.
        seed: of everything random.
        device: where to compute, e.g. ``cpu`` or ``cuda:0``.
        validation_kind: what the validation sampler holds, for the result.
        validation_episodes: for each validation on the way; ``None`` = as many as there is time for, 20 to 100.
        validate_every: fraction of the budget between validations; ``None`` = as there is time for, 2 to 30 times.
        report_episodes: for the reported figure, at most; ``None`` = 600, fewer where they would take too long.
        patience: a phase ends after so many validations without a better one; ``None`` = never.
        checkpoint_every_seconds: between checkpoints.
        checkpoint_every_steps: also after so many outer steps; ``None`` = never.
        precision: of training; validation is in full precision.
        gallery_every_seconds: between episodes sent as events, as long as somebody takes them; ``None`` = none.
    """

    episodes: int | None = None
    minutes: float | None = None
    seed: int = 0
    device: str = "cpu"
    validation_kind: Literal["classes", "images"] = "classes"
    validation_episodes: int | None = None
    validate_every: float | None = None
    report_episodes: int | None = None
    patience: int | None = None
    checkpoint_every_seconds: float = 30.0
    checkpoint_every_steps: int | None = None
    precision: Precision = "full"
    gallery_every_seconds: float | None = 1.0

    def __post_init__(self) -> None:
        if (self.episodes is None) == (self.minutes is None):
            raise ValueError("a run needs a budget: either episodes or minutes")
        if (self.episodes is not None and self.episodes < 1) or (self.minutes is not None and self.minutes <= 0):
            raise ValueError("a budget must be positive")

    @property
    def seconds(self) -> float:
        """The budget of minutes, in seconds; 0 where it is counted in episodes."""
        return 60 * (self.minutes or 0.0)

    @property
    def tested(self) -> int:
        """Episodes of a validation on the way; with a budget of minutes at most so many."""
        if self.validation_episodes is not None:
            return max(2, self.validation_episodes)
        return 100 if self.episodes is None else round(min(100, max(20, _ON_THE_WAY * self.episodes / 20)))

    @property
    def every(self) -> int:
        """With a budget of episodes: training episodes between validations."""
        total = self.episodes or 0
        if self.validate_every is not None:
            return max(1, round(self.validate_every * total))
        return max(1, total // min(20, max(2, round(_ON_THE_WAY * total / self.tested))))

    @property
    def reported(self) -> int:
        """Episodes behind the reported figure; with a budget of minutes at most so many."""
        if self.report_episodes is not None:
            return max(2, self.report_episodes)
        return 600 if self.episodes is None else round(min(600, max(60, _REPORT * self.episodes)))
