from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.core.faults import StopHereError, every_operation
from tests.project.material import image, request, task
from workbench.core import storage
from workbench.core.context import Metric
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.storage import Ops
from workbench.core.values import Role, TaskClass, Validation
from workbench.project import runs, sealed
from workbench.project.runs import (
    create_run,
    list_runs,
    look_at_runs,
    read_metrics,
    read_request,
    read_run,
    reopen_run,
    update_run,
)

ASKED = request(
    name="caf\u00e9 \\ \n",
    start=os.fsdecode(b"/weights/\xff.safetensors"),
    command=os.fsdecode(b"workbench train /data/\xff"),
    minutes=None,
    ways=(5, 20),
    shots=(1, 5),
    channels="grey",
    size=28,
    rotations=True,
    seed=7,
)


def _orphan(folder: Path) -> None:
    """Make a run look like one whose process was killed."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    row = msgspec.structs.replace(runs._row(folder), pid=child.pid)
    sealed.save(folder / runs.RUN, "training run", 1, row)


def test_a_run_remembers_what_was_asked(tmp_path: Path) -> None:
    id_, folder = create_run(tmp_path, ASKED)
    assert folder == tmp_path / "runs" / id_
    assert read_request(folder) == ASKED
    run = read_run(folder)
    assert (run.id, run.state, run.algorithm, run.backbone, run.name) == (
        id_,
        "running",
        "protonet",
        "conv4",
        ASKED.name,
    )
    assert run.created.endswith("+00:00")


def test_pictures_of_the_project_move_with_the_run(tmp_path: Path) -> None:
    blob = image(1, str(tmp_path / "a" / "blobs"))
    source = replace(
        task(), path=str(tmp_path / "a" / "blobs"), classes=(TaskClass("x", (blob,)),), role=Role.VALIDATION
    )
    _, folder = create_run(tmp_path / "a", request(sources=(source,)))
    (tmp_path / "a").rename(tmp_path / "b")
    moved = read_request(tmp_path / "b" / "runs" / folder.name).sources[0]
    assert moved.role is Role.VALIDATION
    assert moved.classes[0].images[0].path == str(tmp_path / "b" / "blobs" / "1.png")


def test_how_it_stands_is_updated_field_by_field(tmp_path: Path) -> None:
    _, folder = create_run(tmp_path, ASKED)
    update_run(folder, episodes=10, seconds=1.5)
    run = update_run(folder, state="done", entry="0123abcd", validation=Validation("classes", 0.9, 0.01, 400))
    assert run == read_run(folder)
    assert (run.state, run.entry, run.episodes, run.seconds) == ("done", "0123abcd", 10, 1.5)
    assert run.validation == Validation("classes", 0.9, 0.01, 400)
    with pytest.raises(ValueError, match="not a state"):
        update_run(folder, state="asleep")  # type: ignore[arg-type]


def test_runs_are_ordered_by_their_number_and_not_by_the_clock(tmp_path: Path) -> None:
    ids = [create_run(tmp_path, ASKED)[0] for _ in range(4)]
    assert [r.id for r in list_runs(tmp_path)] == ids[::-1]
    assert [i.split("-")[0] for i in ids] == ["0001", "0002", "0003", "0004"]
    assert list_runs(tmp_path / "none") == ()


def test_a_run_whose_process_died_is_interrupted_and_can_be_taken_up(tmp_path: Path) -> None:
    id_, folder = create_run(tmp_path, ASKED)
    with pytest.raises(WorkbenchError, match="still runs"):
        reopen_run(tmp_path, id_)
    _orphan(folder)
    run = read_run(folder)
    assert (run.state, "resumed" in run.message) == ("interrupted", True)
    assert reopen_run(tmp_path, id_[:6]) == (id_, folder, ASKED)
    assert (read_run(folder).state, read_run(folder).message) == ("running", "")
    update_run(folder, state="done")
    with pytest.raises(WorkbenchError, match="it is done"):
        reopen_run(tmp_path, id_)


def test_a_run_on_another_machine_is_taken_to_run(tmp_path: Path) -> None:
    _, folder = create_run(tmp_path, ASKED)
    sealed.save(
        folder / runs.RUN, "training run", 1, msgspec.structs.replace(runs._row(folder), pid=1, host="elsewhere")
    )
    assert read_run(folder).state == "running"


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match="Start one with train"):
        reopen_run(tmp_path, "0001")
    a, _ = create_run(tmp_path, ASKED)
    b, _ = create_run(tmp_path, ASKED)
    with pytest.raises(WorkbenchError, match=f"2 runs begin with 000.*{b}, {a}"):
        reopen_run(tmp_path, "000")
    with pytest.raises(WorkbenchError, match="there is no run "):
        reopen_run(tmp_path, "")


def test_damaged_runs_are_listed_and_the_others_stay(tmp_path: Path) -> None:
    good, _ = create_run(tmp_path, ASKED)
    bad, folder = create_run(tmp_path, ASKED)
    (folder / runs.RUN).write_bytes((folder / runs.RUN).read_bytes().replace(b"protonet", b"protomet"))
    found, problems = look_at_runs(tmp_path)
    assert [r.id for r in found] == [good]
    assert [Path(p.path).name for p in problems] == [bad]
    _, folder = create_run(tmp_path, ASKED)
    (folder / runs.REQUEST).write_bytes((folder / runs.REQUEST).read_bytes().replace(b"class 1", b"class 7"))
    with pytest.raises(StorageError, match="damaged"):
        read_request(folder)


@pytest.mark.parametrize("rest", [{"future": 1}, {"ways": "five"}, {"episodes": None}, {"shots": [0, 1]}])
def test_requests_from_others_are_checked(tmp_path: Path, rest: dict[str, object]) -> None:
    _, folder = create_run(tmp_path, ASKED)
    row = sealed.load(folder / runs.REQUEST, "training request", 1, runs.RequestRow)
    sealed.save(
        folder / runs.REQUEST,
        "training request",
        1,
        msgspec.structs.replace(row, rest=row.rest | rest),
        keep_previous=False,
    )
    with pytest.raises(StorageError, match=r"request\.json was not opened"):
        read_request(folder)


def _log(folder: Path, metrics: list[Metric]) -> None:
    """What a run appends, a line for each number; a line cut short is closed first."""
    with (folder / runs.METRICS).open("ab") as stream:
        if stream.tell() and not (folder / runs.METRICS).read_bytes().endswith(b"\n"):
            stream.write(b"\n")
        stream.write(b"".join(msgspec.json.encode(m) + b"\n" for m in metrics))


def _metric(step: int, value: float, name: str = "train/loss") -> Metric:
    return Metric(name, step, value, step / 10, value - 0.1 if step % 2 else None, None)


def test_metrics_are_read_in_order(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    first, second = [_metric(n, 1 / (n + 1)) for n in range(5)], [_metric(5, 0.1), _metric(5, 0.9, "train/accuracy")]
    _log(tmp_path, first)
    _log(tmp_path, second)
    assert read_metrics(tmp_path) == first + second


def test_a_line_that_was_cut_is_skipped_wherever_the_cut_was(tmp_path: Path) -> None:
    metrics = [_metric(n, 0.5) for n in range(3)]
    _log(tmp_path, metrics)
    file = tmp_path / runs.METRICS
    whole = file.read_bytes()
    last = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for cut in range(last, len(whole) - 1):
        file.write_bytes(whole[:cut])
        assert read_metrics(tmp_path) == metrics[:2]
        _log(tmp_path, [_metric(7, 0.25)])
        assert read_metrics(tmp_path) == [*metrics[:2], _metric(7, 0.25)]
    file.write_bytes(whole[:last] + b"\xff\xfe\n" + whole[last:])
    assert read_metrics(tmp_path) == metrics


def test_what_a_resumed_run_measured_again_replaces_what_came_before(tmp_path: Path) -> None:
    _log(tmp_path, [_metric(n, 0.5) for n in range(6)] + [_metric(3, 0.7, "validation/accuracy")])
    _log(tmp_path, [_metric(n, 0.25) for n in range(4, 6)])
    found = read_metrics(tmp_path)
    assert [(m.step, m.value) for m in found if m.name == "train/loss"] == [
        (0, 0.5), (1, 0.5), (2, 0.5), (3, 0.5), (4, 0.25), (5, 0.25),
    ]  # fmt: skip
    assert [m.step for m in found if m.name == "validation/accuracy"] == [3]


@pytest.mark.parametrize("error", [lambda: OSError(28, "No space left on device"), StopHereError])
def test_every_fault_while_updating_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
) -> None:
    _, folder = create_run(tmp_path, ASKED)
    update_run(folder, episodes=1)

    def run(ops: Ops) -> None:
        monkeypatch.setattr(storage, "ops", Ops())
        update_run(folder, episodes=1)
        monkeypatch.setattr(storage, "ops", ops)
        update_run(folder, episodes=2)

    for _ in every_operation(run, error):
        monkeypatch.setattr(storage, "ops", Ops())
        assert read_run(folder).episodes in (1, 2)
    monkeypatch.setattr(storage, "ops", Ops())
    assert read_run(folder).episodes == 2


def test_a_folder_that_cannot_be_made_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="did not start"):
        create_run(tmp_path / "file", ASKED)
