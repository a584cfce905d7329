from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.core.faults import StopHereError, every_operation
from tests.project.material import image, images, task
from workbench.core import storage
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.storage import Ops
from workbench.core.teach import AddClass, AddQueries, Choose
from workbench.core.values import ClassId, ImageRef, Problem, Role, Task, TaskClass, TaskId
from workbench.project import listing, sealed
from workbench.project.project import Project, restore

FAULTS = [lambda: OSError(28, "No space left on device"), lambda: OSError(5, "Input/output error"), StopHereError]
A = ClassId("a")


def test_everything_is_there_again(tmp_path: Path) -> None:
    tasks = (task(), task("surfaces", Role.HELD_OUT), task("caf\u00e9", Role.VALIDATION))
    problems = (Problem(os.fsdecode(b"/data/\xff.png"), "cut short", "error"), Problem("/data/x", "hidden", "ignored"))
    with Project.open(tmp_path / "p") as p:
        assert (p.name, p.path, p.read_only, p.tasks(), p.problems()) == ("p", tmp_path / "p", "", (), ())
        p.set_tasks(tasks)
        p.set_problems(problems)
        p.rename("  Leaves of 2026 ")
        p.edit(AddClass(A, "shorts"))
        assert (p.tasks(), p.problems()) == (tasks, problems)
    with Project.open(tmp_path / "p") as p:
        assert (p.name, p.tasks(), p.problems()) == ("Leaves of 2026", tasks, problems)
        assert (p.can_undo, p.undo_text, p.can_redo, p.redo_text) == (True, "add the class shorts", False, "")
        p.undo()
        assert (p.can_redo, p.redo_text) == (True, "add the class shorts")
        p.redo()
        p.set_problems(())
        p.set_tasks(tasks[:1])
        assert (p.tasks(), p.problems()) == (tasks[:1], ())
    with Project.open(tmp_path / "p", create=False) as p:
        assert (p.tasks(), p.problems()) == (tasks[:1], ())


def test_odd_names_survive(tmp_path: Path) -> None:
    folder = os.fsdecode(b"/data/\xff\n\\x41 ")
    odd = Task(
        TaskId(folder),
        os.fsdecode(b"\xff\n"),
        folder,
        (
            TaskClass(
                "\u202edrawkcab", (image(1, folder + "/sub"), ImageRef("/z.zip", os.fsdecode(b"m\xfe"), "0", 1, 2, 3))
            ),
            TaskClass("caf\u00e9", ()),
            TaskClass("cafe\u0301", (image(2, folder + "2"),)),
        ),
    )
    with Project.open(tmp_path / os.fsdecode(b"caf\xe9 \xff")) as p:
        p.set_tasks([odd])
        p.edit(AddQueries((image(5, str(p.path / "blobs")),)))
        where = p.path
    with Project.open(where) as p:
        assert p.tasks() == (odd,)
        assert p.teach().queries[0].path == str(where / "blobs" / "5.png")


def test_a_project_that_was_moved_finds_its_own_pictures(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "elsewhere" / "b"
    with Project.open(first) as p:
        blob = p.add_blob(b"picture", ".png")
        ref = ImageRef(str(blob), "", blob.stem, 7, 1, 1)
        inside = Task(TaskId("i"), "i", str(first / "blobs"), (TaskClass("x", (ref,)),))
        p.set_tasks([inside, task()])
        p.edit(AddClass(A, "shorts", (ref,)))
    second.parent.mkdir()
    first.rename(second)
    with Project.open(second) as p:
        assert Path(p.teach().classes[0].images[0].path).read_bytes() == b"picture"
        assert Path(p.tasks()[0].classes[0].images[0].path).read_bytes() == b"picture"
        assert p.tasks()[0].path == str(second / "blobs")
        assert p.tasks()[1] == task()


def test_twenty_thousand_pictures_cost_few_bytes_and_a_role_costs_none(tmp_path: Path) -> None:
    classes = tuple(TaskClass(f"c{c}", tuple(image(1000 * c + i, f"/d/c{c}") for i in range(1000))) for c in range(20))
    big = Task(TaskId("big"), "big", "/d", classes)
    with Project.open(tmp_path / "p") as p:
        p.set_tasks([big])
        (listed,) = (tmp_path / "p" / "sources").iterdir()
        assert listed.stat().st_size < 20_000 * 250
        written = listed.stat().st_mtime_ns
        p.set_tasks([big.with_role(Role.HELD_OUT), task()])
        assert listed.stat().st_mtime_ns == written
        assert p.tasks()[0].role is Role.HELD_OUT
    with Project.open(tmp_path / "p") as p:
        assert p.tasks() == (big.with_role(Role.HELD_OUT), task())


def test_lists_that_are_not_used_any_more_are_dropped_but_for_the_last(tmp_path: Path) -> None:
    with Project.open(tmp_path / "p") as p:
        for n in range(5):
            p.set_tasks([task(f"t{n}")])
        assert len(list((tmp_path / "p" / "sources").iterdir())) == 2
        p.set_tasks([task("t4"), task("t4")])
        assert len(p.tasks()) == 1, "of two with the same id one stands"


def take_back(p: Project) -> tuple[Task, ...]:
    left = p.without_last_change()
    p.set_tasks(left, undone=1)
    assert p.tasks() == left
    return left


def test_a_change_of_the_sources_is_taken_back_after_a_restart(tmp_path: Path) -> None:
    first, second, third = task("a"), task("b"), task("c")
    with Project.open(tmp_path / "p") as p:
        p.set_tasks([first, second, third])
        assert p.sources_undo_text == "", "what has no words is not taken back"
        p.set_tasks([first, third], "remove b")
        p.set_tasks([first, task("new"), third], "make new")
        p.set_tasks([first.with_role(Role.HELD_OUT), task("new"), third, task("later")])
    with Project.open(tmp_path / "p") as p:
        assert p.sources_undo_text == "make new"
        left = take_back(p)
        assert left == (first.with_role(Role.HELD_OUT), third, task("later")), "the rest is as it is now"
    with Project.open(tmp_path / "p") as p:
        assert take_back(p) == (first.with_role(Role.HELD_OUT), second, third, task("later"))
        assert p.sources_undo_text == ""
        with pytest.raises(WorkbenchError, match="no change"):
            p.without_last_change()


def test_a_source_that_was_changed_comes_back_in_its_place_and_present_role(tmp_path: Path) -> None:
    whole, other = task("a"), task("b")
    part = replace(whole, classes=whole.classes[:1])
    with Project.open(tmp_path / "p") as p:
        p.set_tasks([whole, other])
        p.set_tasks([part, other], "take pictures out of a")
        p.set_tasks([other, part.with_role(Role.HELD_OUT)])
        for n in range(4):  # lists that are needed to take it back are not swept
            p.set_tasks([other, part.with_role(Role.HELD_OUT), task(f"t{n}")])
    with Project.open(tmp_path / "p") as p:
        assert take_back(p)[:2] == (other, whole.with_role(Role.HELD_OUT))


def test_what_was_found_since_is_not_taken_away_with_a_change(tmp_path: Path) -> None:
    whole, other = task("a"), task("b")
    part = replace(whole, classes=whole.classes[:1])
    again = replace(whole, unlabelled=(*whole.unlabelled, image(77, "/data/new")))
    with Project.open(tmp_path / "p") as p:
        p.set_tasks([whole, other])
        p.set_tasks([whole], "remove b")
        p.set_tasks([part], "take pictures out of a")
        p.set_tasks([again])  # its folder was read again
    with Project.open(tmp_path / "p") as p:
        assert p.sources_undo_text == "remove b", "what was taken out is there again, and new pictures besides"
        assert take_back(p) == (again, other)
        assert p.sources_undo_text == ""


def test_what_came_into_a_source_that_a_change_had_made_stays(tmp_path: Path) -> None:
    loose, rest, made = task("loose"), task("loose", n=1), task("made")
    bigger = replace(made, unlabelled=(image(78, "/data/made"),))
    with Project.open(tmp_path / "p") as p:
        p.set_tasks([loose, task("c")])
        p.set_tasks([loose], "remove c")
        p.set_tasks([replace(loose, name="loose too")], "rename loose")
        p.set_tasks([rest, made], "make a class of loose")
        p.set_tasks([rest, bigger])
        assert p.sources_undo_text == "remove c", "nor can what was done to the same sources before it be undone"
        assert take_back(p) == (rest, task("c"), bigger)
        p.set_tasks([rest, bigger], "remove c")
        p.set_tasks([rest, task("c", n=3), bigger])
        assert p.sources_undo_text == "", "it was found again"


def test_a_source_that_went_without_words_does_not_come_back_with_an_older_change(tmp_path: Path) -> None:
    whole, other = task("a"), task("b")
    with Project.open(tmp_path / "p") as p:
        p.set_tasks([whole, other])
        p.set_tasks([whole], "remove b")
        p.set_tasks([replace(whole, classes=whole.classes[:1])], "take pictures out of a")
        p.set_tasks([])
        assert p.sources_undo_text == "remove b"
        assert take_back(p) == (other,)


def test_only_the_change_that_the_sources_are_without_is_forgotten(tmp_path: Path) -> None:
    whole, other = task("a"), task("b")
    part = replace(whole, classes=whole.classes[:1])
    with Project.open(tmp_path / "p") as p:
        p.set_tasks([whole, other])
        p.set_tasks([whole], "remove b")
        p.set_tasks([part], undone=1)
        assert p.sources_undo_text == "remove b", "b is still gone"
        p.set_tasks([part, other], undone=1)
        assert p.sources_undo_text == ""


def test_changes_that_were_undone_are_forgotten_and_the_oldest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MOST", 3)
    with Project.open(tmp_path / "p") as p:
        for n in range(5):
            p.set_tasks([task(f"t{n}")], f"change {n}")
        p.set_tasks([task("t3")], undone=1)
        assert p.sources_undo_text == "change 3"
        p.set_tasks([task("t3")], "nothing")
        assert p.sources_undo_text == "change 3", "what changes nothing leaves no trace"
        assert take_back(p) == (task("t2"),)
        assert take_back(p) == (task("t1"),)
        assert p.sources_undo_text == ""


def test_a_second_opener_reads_and_learns_who_writes(tmp_path: Path) -> None:
    with Project.open(tmp_path / "p") as first:
        first.set_tasks([task()])
        first.edit(AddClass(A, "shorts"))
        with Project.open(tmp_path / "p") as second:
            assert f"process {os.getpid()}" in second.read_only
            assert (second.tasks(), second.teach()) == (first.tasks(), first.teach())
            assert not second.can_undo
            refused: list[Callable[[], object]] = [
                lambda: second.edit(Choose("none")),
                second.undo,
                second.redo,
                lambda: second.rename("x"),
                lambda: second.set_tasks([]),
                lambda: second.set_problems([]),
                lambda: second.add_blob(b"", ".png"),
            ]
            for change in refused:
                with pytest.raises(WorkbenchError, match="process"):
                    change()
        assert first.edit(Choose("none")).choice == "none"
    with Project.open(tmp_path / "p") as third:
        assert (third.read_only, third.teach().choice) == ("", "none")


def test_the_lock_of_a_killed_process_does_not_keep_the_project_shut(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom workbench.project.project import Project\n"
        "Project.open(Path(sys.argv[1])).rename('theirs')\nos._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "p")], check=False).returncode == 9
    assert (tmp_path / "p" / "lock").exists()
    with Project.open(tmp_path / "p") as p:
        assert (p.read_only, p.name) == ("", "theirs")


def test_a_folder_that_cannot_be_written_opens_for_reading(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    with Project.open(folder) as p:
        p.set_tasks([task()])
        p.edit(AddClass(A, "shorts"))
    if os.geteuid() == 0:
        # for root nothing is read-only: a lock that cannot be made stands for it
        (guard := folder / ".lock-guard").unlink()
        guard.symlink_to(folder / "missing" / "guard")  # which cannot be opened
    else:
        folder.chmod(0o555)
    try:
        with Project.open(folder) as p:
            assert "cannot be written" in p.read_only
            assert (p.tasks(), len(p.teach().classes)) == ((task(),), 1)
            copy = p.save_as(tmp_path / "copy")
    finally:
        folder.chmod(0o755)
    with Project.open(copy) as p:
        assert not p.read_only
        p.undo()


def test_save_as_copies_everything(tmp_path: Path) -> None:
    with Project.open(tmp_path / "p") as p:
        p.set_tasks([task()])
        p.edit(AddClass(A, "shorts", images(1)))
        blob = p.add_blob(b"picture", ".png")
        (p.path / "knowledge" / "x").mkdir(parents=True)
        (p.path / "knowledge" / "x" / "entry.json").write_bytes(b"{}")
        copy = p.save_as(tmp_path / "new" / "copy")
        p.edit(Choose("none"))
        for bad in (tmp_path / "p", tmp_path / "p" / "inside", copy):
            with pytest.raises(WorkbenchError, match="not copied"):
                p.save_as(bad)
    assert sorted(f.name for f in copy.parent.iterdir()) == ["copy"]
    with Project.open(copy) as q:
        assert (q.read_only, q.tasks(), q.teach().choice, len(q.teach().classes)) == ("", (task(),), "auto", 1)
        assert (q.path / "blobs" / blob.name).read_bytes() == b"picture"
        assert (q.path / "knowledge" / "x" / "entry.json").exists()


def test_save_as_leaves_nothing_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with Project.open(tmp_path / "p") as p:
        p.set_tasks([task()])
        monkeypatch.setattr(shutil, "copyfile", full)
        with pytest.raises(StorageError, match="No space"):
            p.save_as(tmp_path / "new" / "copy")
    assert list((tmp_path / "new").iterdir()) == []


def test_blobs_are_kept_once_and_mended(tmp_path: Path) -> None:
    with Project.open(tmp_path / "p") as p:
        blob = p.add_blob(b"picture", ".PNG")
        assert blob == p.path / "blobs" / f"{hashlib.sha256(b'picture').hexdigest()}.png"
        assert p.add_blob(b"picture", ".png") == blob
        blob.write_bytes(b"rubbish")
        assert p.add_blob(b"picture", ".png").read_bytes() == b"picture"
        for bad in ("png", "", ".p/g", ".toolongsuffix", "/../x.png"):
            with pytest.raises(ValueError):
                p.add_blob(b"", bad)


@pytest.mark.parametrize("name", ["", "   ", "n" * 101, "a\nb", "\u202ex"])
def test_names_that_are_refused(tmp_path: Path, name: str) -> None:
    with Project.open(tmp_path / "p") as p, pytest.raises(WorkbenchError, match="not renamed"):
        p.rename(name)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(WorkbenchError, match=r"already holds holiday\.jpg"):
        Project.open(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(WorkbenchError, match="not a project"):
        Project.open(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    with pytest.raises(WorkbenchError, match="not made"):
        Project.open(tmp_path / "holiday.jpg")
    (tmp_path / "started" / "knowledge").mkdir(parents=True)
    Project.open(tmp_path / "started").close()


def test_a_damaged_project_file_names_the_copy_before_it_which_can_be_put_back(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    with Project.open(folder) as p:
        p.set_tasks([task()])
        p.set_tasks([task(), task("more")])
    good = (folder / "project.json").read_bytes()
    for bad in (good[:-20], good.replace(b"meta-train", b"meta-trail"), b"", None):
        (folder / "project.json").unlink()
        if bad is not None:
            (folder / "project.json").write_bytes(bad)
        with pytest.raises(StorageError) as raised:
            Project.open(folder)
        assert "project.json" in str(raised.value)
        assert "project.json.prev" in raised.value.what_to_do
        assert not (folder / "lock").exists(), "a project that did not open is not held"
        (folder / "project.json").write_bytes(good)
    (folder / "project.json").write_bytes(b"rubbish")
    assert len(restore(folder)) == 1
    with Project.open(folder) as p:
        assert p.tasks() == (task(),)
        with pytest.raises(WorkbenchError, match="not restored"):
            restore(folder)


def test_a_damaged_list_costs_one_source(tmp_path: Path) -> None:
    with Project.open(tmp_path / "p") as p:
        p.set_tasks([task(), task("more")])
    for listed in (tmp_path / "p" / "sources").iterdir():
        if b"more" in listed.read_bytes():
            listed.write_bytes(listed.read_bytes().replace(b"class 1", b"class 7"))
    with Project.open(tmp_path / "p") as p:
        assert p.tasks() == (task(),)
        assert [(x.path, x.severity) for x in p.problems()] == [("more", "error")]


def test_a_newer_project_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    Project.open(folder).close()
    newer = sealed.seal("workbench project", 3, {"name": "p", "sources": [], "problems": "", "future": 1})
    (folder / "project.json").write_bytes(newer)
    labels = (folder / "labels.db").read_bytes()
    for attempt in (Project.open, restore):
        with pytest.raises(StorageError, match="newer version"):
            attempt(folder)
    assert (folder / "project.json").read_bytes() == newer
    assert (folder / "labels.db").read_bytes() == labels


def test_a_project_of_the_version_before_is_read_and_written_as_one_that_that_version_calls_newer(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "p"
    with Project.open(folder) as p:
        p.set_tasks([task()])
        (listed,) = (folder / "sources").iterdir()
    source = {"id": str(task().id), "name": "alphabets", "role": "meta-train", "pictures": listed.stem}
    first = {"name": "Leaves", "sources": [source], "problems": ""}
    (folder / "project.json").write_bytes(sealed.seal("workbench project", 1, first))
    with Project.open(folder) as p:
        assert (p.name, p.tasks(), p.sources_undo_text) == ("Leaves", (task(),), "")
        p.set_tasks([], "remove it")
    with pytest.raises(StorageError, match="newer version"):
        sealed.load(folder / "project.json", "workbench project", 1, dict)
    with Project.open(folder) as p:
        assert take_back(p) == (task(),)


def test_fields_that_are_not_known_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    Project.open(folder).close()
    (folder / "project.json").write_bytes(
        sealed.seal("workbench project", 1, {"name": "p", "sources": [], "problems": "", "run": "rm"})
    )
    with pytest.raises(StorageError, match="run"):
        Project.open(folder)


@pytest.mark.parametrize("error", FAULTS)
def test_every_fault_while_setting_sources_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
) -> None:
    folder = tmp_path / "p"
    old, new = (task(), task("b")), (task("b", Role.HELD_OUT), task("c"))
    with Project.open(folder) as p:
        p.set_tasks(old)

    def run(ops: Ops) -> None:
        project = Project.open(folder)
        try:
            project.set_tasks(old)
            monkeypatch.setattr(storage, "ops", ops)
            project.set_tasks(new)
        finally:
            monkeypatch.setattr(storage, "ops", Ops())
            project.close()

    failed = []
    for ops in every_operation(run, error):
        failed.append(ops.failed)
        with Project.open(folder) as p:
            assert p.tasks() in (old, new), ops.failed
            assert p.problems() == ()
    assert failed.count("replace") == 2, "the list of the new source, and project.json"
    with Project.open(folder) as p:
        assert p.tasks() == new


@pytest.mark.parametrize("error", FAULTS)
def test_every_fault_while_making_a_project_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
) -> None:
    number = 0

    def run(ops: Ops) -> None:
        nonlocal number
        number += 1
        monkeypatch.setattr(storage, "ops", ops)
        Project.open(tmp_path / str(number)).close()

    for _ in every_operation(run, error):
        monkeypatch.setattr(storage, "ops", Ops())
        with Project.open(tmp_path / str(number)) as p:
            assert (p.read_only, p.tasks()) == ("", ())


def test_what_a_killed_process_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    Project.open(tmp_path / "p").close()
    old, young = tmp_path / "p" / ".project.json-1.99.tmp", tmp_path / "p" / ".a-1.98.tmp"
    for stray in (old, young):
        stray.write_bytes(b"")
    os.utime(old, (time.time() - 7200,) * 2)
    Project.open(tmp_path / "p").close()
    assert (old.exists(), young.exists()) == (False, True)


def test_no_torch_and_no_numpy_for_labelling() -> None:
    code = (
        "import sys, workbench.project.project, workbench.project.runs, workbench.project.library\n"
        "print(sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
