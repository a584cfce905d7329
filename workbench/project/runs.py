"""Training runs on disk.

``runs/<id>/`` holds ``request.json`` (written once), ``run.json`` (how it stands), ``metrics.jsonl`` and checkpoints.
Ids begin with a number that counts up, so runs are ordered by it and not by a clock. A run whose process is gone is
shown as interrupted. Every id is new: several processes may train into one project without a lock.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import msgspec

from workbench.core import storage
from workbench.core.context import Metric
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.training import TrainRequest
from workbench.core.values import EntryId, Problem, RunId, Validation
from workbench.project import sealed
from workbench.project.lock import alive, birth_of
from workbench.project.records import RequestRow, absolute, raw, request_of, request_row, text

State = Literal["running", "done", "stopped", "failed", "interrupted"]

REQUEST = "request.json"
RUN = "run.json"
METRICS = "metrics.jsonl"
_VERSION = 1
_NO_ENTRY = EntryId("")


@dataclass(frozen=True, slots=True)
class TrainRun:
    """How a run stands.

    Attributes:
        id: also the folder's name.
        folder: its folder.
        name: for people.
        algorithm: key.
        backbone: key.
        state: ``interrupted`` when its process died while running.
        message: why it failed or was stopped, or "".
        entry: what it left behind, or "".
        created: ISO 8601, UTC.
        seconds: of training.
        episodes: done.
        validation: of the kept state.
    """

    id: RunId
    folder: Path
    name: str
    algorithm: str
    backbone: str
    state: State
    message: str = ""
    entry: EntryId = _NO_ENTRY
    created: str = ""
    seconds: float = 0.0
    episodes: int = 0
    validation: Validation | None = None


class _RunRow(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    name: str
    algorithm: str
    backbone: str
    state: State
    message: str
    entry: str
    created: str
    seconds: float
    episodes: int
    validation: Validation | None
    pid: int
    host: str
    birth: str


def create_run(project: Path, request: TrainRequest) -> tuple[RunId, Path]:
    """Make the folder of a new run, state ``running``, held by this process.

    Returns:
        Its id and its folder.

    Raises:
        StorageError: it could not be written.
    """
    root = Path(absolute(str(project))) / "runs"
    try:
        root.mkdir(parents=True, exist_ok=True)
        number = max((_number(p.name) for p in root.iterdir()), default=0) + 1
        folder = root / f"{number:04d}-{secrets.token_hex(3)}"
        folder.mkdir()
    except OSError as error:
        raise StorageError(
            "The run did not start", f"{root}: {error.strerror or error}", "Choose another project folder"
        ) from error
    sealed.save(
        folder / REQUEST, "training request", _VERSION, request_row(request, str(root.parent)), keep_previous=False
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    row = _RunRow(text(request.name), request.algorithm, request.backbone, "running", "", "", now, 0.0, 0, None, *_me())
    sealed.save(folder / RUN, "training run", _VERSION, row, keep_previous=False)
    return RunId(folder.name), folder


def reopen_run(project: Path, run_id: str) -> tuple[RunId, Path, TrainRequest]:
    """Take up a run that was interrupted, stopped or failed: it is ``running`` again, held by this process.

    Args:
        project: the project's folder.
        run_id: an id, or the beginning of one.

    Raises:
        WorkbenchError: no such run, or one that still runs or is done.
    """
    run = find_run(project, run_id)
    if run.state in ("running", "done"):
        why = "it still runs" if run.state == "running" else "it is done"
        raise WorkbenchError("The run was not resumed", why, "Start a new run")
    request = read_request(run.folder)
    row = msgspec.structs.replace(_row(run.folder), state="running", message="")
    row = msgspec.structs.replace(row, **dict(zip(("pid", "host", "birth"), _me(), strict=True)))
    sealed.save(run.folder / RUN, "training run", _VERSION, row)
    return run.id, run.folder, request


def update_run(
    folder: Path,
    *,
    state: State | None = None,
    message: str | None = None,
    entry: str | None = None,
    seconds: float | None = None,
    episodes: int | None = None,
    validation: Validation | None = None,
) -> TrainRun:
    """Write how a run stands; what is not given stays.

    Raises:
        ValueError: an unknown state.
        StorageError: it could not be read or written.
    """
    if state is not None and state not in get_args(State):
        raise ValueError(f"{state} is not a state of a run")
    given = {
        "state": state,
        "message": None if message is None else text(message),
        "entry": entry,
        "seconds": seconds,
        "episodes": episodes,
        "validation": validation,
    }
    row = msgspec.structs.replace(_row(folder), **{k: v for k, v in given.items() if v is not None})
    sealed.save(folder / RUN, "training run", _VERSION, row)
    return read_run(folder)


def read_run(folder: Path) -> TrainRun:
    """How the run in a folder stands.

    Raises:
        StorageError: damaged, or not a run.
    """
    row = _row(folder)
    state, message = row.state, raw(row.message)
    if state == "running" and not alive(row.pid, row.host, row.birth):
        state, message = "interrupted", "Its process ended before it was done; it can be resumed"
    return TrainRun(
        id=RunId(folder.name),
        folder=folder,
        name=raw(row.name),
        algorithm=row.algorithm,
        backbone=row.backbone,
        state=state,
        message=message,
        entry=EntryId(row.entry),
        created=row.created,
        seconds=row.seconds,
        episodes=row.episodes,
        validation=row.validation,
    )


def read_request(folder: Path) -> TrainRequest:
    """What was asked of the run in a folder.

    Raises:
        StorageError: damaged, or not a request.
    """
    file = folder / REQUEST
    row = sealed.load(file, "training request", _VERSION, RequestRow)
    return request_of(row, absolute(str(folder.parent.parent)), str(file))


def list_runs(project: Path) -> tuple[TrainRun, ...]:
    """All runs that can be read, newest first."""
    return look_at_runs(project)[0]


def look_at_runs(project: Path) -> tuple[tuple[TrainRun, ...], tuple[Problem, ...]]:
    """All runs, newest first, and the folders that could not be read."""
    runs, problems = [], []
    root = Path(project) / "runs"
    folders = [p for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
    for folder in sorted(folders, key=lambda p: (_number(p.name), p.name), reverse=True):
        try:
            runs.append(read_run(folder))
        except StorageError as error:
            problems.append(Problem(str(folder), error.why, "error"))
    return tuple(runs), tuple(problems)


def find_run(project: Path, run_id: str) -> TrainRun:
    """A run by its id or the beginning of it.

    Raises:
        WorkbenchError: none, or several.
    """
    runs = list_runs(project)
    found = [r for r in runs if r.id == run_id] or [r for r in runs if run_id and r.id.startswith(run_id)]
    if len(found) == 1:
        return found[0]
    why = f"{len(found)} runs begin with {run_id}" if found else f"there is no run {run_id}"
    ids = ", ".join(r.id for r in (found or runs)[:5])
    raise WorkbenchError("The run was not found", why, f"Give one of {ids}" if ids else "Start one with train")


def read_metrics(folder: Path) -> list[Metric]:
    """The numbers of a run.

    Lines that a kill cut short are skipped; what a resumed run measured again replaces what it had measured before.
    """
    with contextlib.suppress(FileNotFoundError):
        data = storage.ops.read(folder / METRICS)
        return _unrepeated(list(_lines(data)))
    return []


def _lines(data: bytes) -> Iterable[Metric]:
    for line in data.split(b"\n"):
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            yield msgspec.json.decode(line, type=Metric)


def _unrepeated(metrics: list[Metric]) -> list[Metric]:
    """Drop, from the end backwards, what lies at or after a step that the same name reached again later."""
    first: dict[str, int] = {}
    kept = []
    for metric in reversed(metrics):
        if metric.step < first.get(metric.name, metric.step + 1):
            first[metric.name] = metric.step
            kept.append(metric)
    return kept[::-1]


def _row(folder: Path) -> _RunRow:
    return sealed.load(folder / RUN, "training run", _VERSION, _RunRow)


def _me() -> tuple[int, str, str]:
    return os.getpid(), socket.gethostname(), birth_of(os.getpid())


def _number(name: str) -> int:
    head = name.split("-", 1)[0]
    return int(head) if head.isdecimal() else 0
