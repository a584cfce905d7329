"""Runs on disk as the room shows them: rows of the table, their curves, their requests. No Qt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.core.context import Context, Metric
from workbench.core.training import TrainRequest, TrainResult
from workbench.services.requests import Catalogue
from workbench.ui.rooms.train.phases import phase_in
from workbench.ui.rooms.train.rows import RunRow, interval_words, time_words
from workbench.ui.rooms.train.setup import Setup, count
from workbench.ui.widgets.words import held_out

if TYPE_CHECKING:
    from workbench.project.runs import TrainRun

_MOST = 600


@dataclass(frozen=True, slots=True)
class Curves:
    """The numbers of an earlier run.

    Attributes:
        run: id.
        metrics: all of them, in order.
    """

    run: str
    metrics: tuple[Metric, ...]

    def points(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of one name, thinned evenly to a few hundred."""
        found = [(m.step, m.value) for m in self.metrics if m.name == name]
        found = found[:: max(1, len(found) // _MOST)]
        return [float(s) for s, _v in found], [v for _s, v in found]

    def begins(self) -> list[float]:
        """Steps at which a phase began."""
        return [phase.begins for phase in map(phase_in, self.metrics) if phase is not None]


def read_curves(run: str, folder: Path, _ctx: Context) -> Curves:
    """Job: the numbers of a run."""
    from workbench.project.runs import read_metrics

    return Curves(run, tuple(read_metrics(folder)))


def read_request(folder: Path, _ctx: Context) -> TrainRequest:
    """Job: what was asked of a run."""
    from workbench.project.runs import read_request as read

    return read(folder)


def rows_of(runs: Sequence[TrainRun], catalogue: Catalogue | None) -> tuple[RunRow, ...]:
    """Runs as rows, newest first; without titles of algorithm and backbone while the catalogue is not known."""
    if catalogue is None:
        return tuple(replace(_row(run, {}, {}), algorithm="", backbone="") for run in runs)
    algorithms = {a.info.key: a.info.title for a in catalogue.algorithms}
    backbones = {b.key: b.title for b in catalogue.backbones}
    return tuple(_row(run, algorithms, backbones) for run in runs)


def _row(run: TrainRun, algorithms: Mapping[str, str], backbones: Mapping[str, str]) -> RunRow:
    number = run.id.split("-", 1)[0].lstrip("0") or "0"
    v = run.validation
    low, high = (v.interval or (v.accuracy, v.accuracy)) if v else (0.0, 0.0)
    return RunRow(
        id=run.id,
        name=f"Run {number}",
        algorithm=algorithms.get(run.algorithm, run.algorithm),
        backbone=backbones.get(run.backbone, run.backbone).split(",")[0],
        state=run.state,
        accuracy=v.accuracy if v else None,
        low=low,
        high=high,
        episodes=v.episodes if v else 0,
        seconds=run.seconds,
        message=run.message,
        entry=run.entry,
        created=run.created,
    )


def done_words(result: TrainResult) -> str:
    """What a run reached, as a sentence."""
    words = [count(result.episodes, "episode"), time_words(result.seconds)]
    v = result.entry.validation
    if v is not None:
        words.insert(0, f"validation accuracy {v.accuracy:.3f} {interval_words(v.interval)}".rstrip())
    text = ", ".join(words)
    aligned = result.entry.provenance.get("aligned")
    if isinstance(aligned, dict):
        accuracy, difference = held_out(aligned.get("held_out"))
        if aligned.get("unmeasured"):
            accuracy, difference = "not measured", str(aligned["unmeasured"])
        text = f"{text}. On labelled pictures of the domain that were held out: {accuracy}. {difference}".rstrip(" .")
    return f"{text[:1].upper()}{text[1:]}."


def setup_of(request: TrainRequest) -> Setup:
    """What the strip shows of a run that is gone on with."""
    return Setup(
        algorithm=request.algorithm,
        params=dict(request.params),
        backbone=request.backbone,
        size=request.size,
        channels=request.channels,
        pretrained=request.pretrained,
        ways=request.ways,
        shots=request.shots,
        queries=request.queries,
        across_tasks=request.across_tasks,
        rotations=request.rotations,
        unit="minutes" if request.episodes is None else "episodes",
        minutes=request.minutes or 5.0,
        episodes=request.episodes or 1000,
        seed=request.seed,
        device=request.device,
        precision=request.precision,
    )
