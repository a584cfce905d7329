"""What a run says while it trains: numbers to the plots and to ``metrics.jsonl``, and the episode of the moment."""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
from PIL import Image
from torch import Tensor

from workbench.core import storage
from workbench.core.context import Context, Metric
from workbench.core.errors import StorageError
from workbench.core.training import EpisodeView
from workbench.data.episodes import Episode, Pixels, Sampler

METRICS = "metrics.jsonl"
_CLASSES, _QUERIES = 8, 8


class RunLog:
    """Numbers of a run, each handed to the job's context and appended to ``metrics.jsonl`` at once.

    Args:
        folder: of the run, or ``None`` for no file.
        ctx: of the job.
        episodes: done by the run that is gone on with; what was measured later is cut off, since it will be again.

    Attributes:
        history: everything since the run began, also before an interruption.

    Raises:
        StorageError: the file cannot be written.
    """

    def __init__(self, folder: Path | None, ctx: Context, episodes: int) -> None:
        self._ctx = ctx
        self._file = None
        self.history: list[Metric] = []
        if folder is None:
            return
        path = folder / METRICS
        if path.exists():
            self.history = [m for m in _decode(storage.load(path)) if m.step <= episodes]
            kept = b"".join(msgspec.json.encode(m) + b"\n" for m in self.history)
            storage.save(path, kept, keep_previous=False)
        folder.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, name: str, episodes: int, value: float, seconds: float, ci95: float | None = None) -> None:
        """One number, with half the width of its interval where it has one.

        Raises:
            WorkbenchError: it is not finite.
        """
        # an accuracy lies in 0..1, and so does its interval
        low, high = (None, None) if ci95 is None else (max(0.0, value - ci95), min(1.0, value + ci95))
        self._ctx.metric(name, episodes, value, low, high)
        metric = Metric(name, episodes, float(value), round(seconds, 3), low, high)
        self.history.append(metric)
        if self._file is not None:
            try:
                self._file.write(msgspec.json.encode(metric) + b"\n")
                self._file.flush()
            except OSError as error:
                raise StorageError(
                    f"{self._file.name} was not written",
                    error.strerror or str(error),
                    "Free some space and resume the run; its last checkpoint is kept",
                ) from error


def _decode(data: bytes) -> list[Metric]:
    out = []
    for line in data.splitlines():
        try:
            out.append(msgspec.json.decode(line, type=Metric))
        except msgspec.MsgspecError:
            continue  # cut short when the process was killed
    return out


def view(sampler: Sampler, episode: Episode, number: int, correct: Tensor | None) -> EpisodeView:
    """The episode for the gallery: at most 8 classes and 8 pictures of each kind per class.

    Args:
        sampler: it was drawn from.
        episode: shown.
        number: of the episode.
        correct: ``[Q]`` which queries were answered right; without it no query is shown.
    """
    support: list[tuple[bytes, ...]] = []
    queries: list[tuple[tuple[bytes, bool], ...]] = []
    support_ids, query_ids = episode.support_ids.numpy(), episode.query_ids.numpy()
    support_y, query_y = episode.support_y.cpu().numpy(), episode.query_y.cpu().numpy()
    right = None if correct is None else correct.cpu().numpy()
    for label in range(min(episode.ways, _CLASSES)):
        shown = np.flatnonzero(support_y == label)[:_QUERIES]
        support.append(tuple(map(_png, sampler.rows.pixels(support_ids[shown]))))
        asked = np.flatnonzero(query_y == label)[: _QUERIES if right is not None else 0]
        pictures = map(_png, sampler.rows.pixels(query_ids[asked]))
        queries.append(
            tuple((png, bool(right[i])) for png, i in zip(pictures, asked, strict=True) if right is not None)
        )
    good = None if right is None else int(right.sum())
    bad = None if right is None else len(right) - int(right.sum())
    names = episode.class_names[:_CLASSES]
    return EpisodeView(number, episode.task, names, tuple(support), tuple(queries), episode.ways, good, bad)


def _png(pixels: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()
