"""What becomes a task, a class, a problem."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from tests.data.pictures import blocks, encode, write
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.values import Preprocess, Problem, Role, ScanResult, Task
from workbench.data import scan as module
from workbench.data import tree
from workbench.data.read import pixels
from workbench.data.scan import scan
from workbench.data.tree import natural


def run(*paths: Path | str) -> ScanResult:
    return scan([str(p) for p in paths], Context())


def shape(task: Task) -> tuple[str, dict[str, int], int]:
    return task.name, {c.name: len(c.images) for c in task.classes}, len(task.unlabelled)


def shapes(result: ScanResult) -> list[tuple[str, dict[str, int], int]]:
    return [shape(t) for t in result.tasks]


def said(result: ScanResult, root: Path) -> dict[str, tuple[str, str]]:
    """Problems by path relative to the root."""
    return {os.path.relpath(p.path, root): (p.reason, p.severity) for p in result.problems}


def fill(root: Path, **counts: int) -> Path:
    """Class folders ``a__b=2`` -> two pictures in ``a/b``."""
    for seed, (name, n) in enumerate(counts.items()):
        for i in range(n):
            write(root, f"{name.replace('__', '/')}/{i}.png", seed=100 * seed + i)
    return root


def zipped(root: Path, prefix: str = "") -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as z:
        for file in sorted(root.rglob("*")):
            z.write(file, prefix + file.relative_to(root).as_posix())
    return path


def test_class_folders_are_one_task(tmp_path: Path) -> None:
    root = fill(tmp_path / "pets", cat=2, dog=3)
    result = run(root)
    assert shapes(result) == [("pets", {"cat": 2, "dog": 3}, 0)]
    assert result.problems == ()
    task = result.tasks[0]
    assert task.path == str(root)
    assert task.role is Role.TRAIN
    assert len({c.id for c in task.classes}) == 2
    image = task.classes[1].images[2]
    assert (image.path, image.member, image.width, image.height) == (str(root / "dog" / "2.png"), "", 5, 6)
    assert pixels(image, Preprocess(8)).shape == (8, 8, 3)


def test_domains_are_a_task_each(tmp_path: Path) -> None:
    root = fill(tmp_path / "scripts", Latin__a=2, Latin__b=2, Greek__alpha=1, Greek__beta=4)
    result = run(root)
    assert shapes(result) == [("Greek", {"alpha": 1, "beta": 4}, 0), ("Latin", {"a": 2, "b": 2}, 0)]
    assert [t.path for t in result.tasks] == [str(root / "Greek"), str(root / "Latin")]
    assert result.tasks[0].id != result.tasks[1].id
    assert result.problems == ()


def test_deeper_domains_are_named_by_their_way(tmp_path: Path) -> None:
    root = fill(tmp_path / "all", old__Latin__a=1, old__Latin__b=1, new__Greek__c=1, new__Greek__d=1)
    assert [t.name for t in run(root).tasks] == ["new/Greek", "old/Latin"]


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    root = tmp_path / "flat"
    for i in range(3):
        write(root, f"{i}.png", seed=i)
    assert shapes(run(root)) == [("flat", {}, 3)]


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [(k, p) for k in ("classes", "domains", "flat") for p in ("", "wrapped/", "wrapped/twice/")][:-1],
)
def test_a_zip_of_each_is_the_same_and_read_in_place(tmp_path: Path, kind: str, prefix: str) -> None:
    counts = {"classes": {"cat": 2, "dog": 3}, "domains": {"A__x": 1, "A__y": 2, "B__z": 2}}
    root = tmp_path / "set"
    if kind == "flat":
        write(root, "1.png", seed=1)
        write(root, "2.png", seed=2)
    else:
        fill(root, **counts[kind])
    archive = zipped(root, prefix)
    folder, packed = run(root), run(archive)
    assert shapes(folder) == shapes(packed)
    assert [t.fingerprint for t in folder.tasks] == [t.fingerprint for t in packed.tasks]
    assert packed.problems == ()
    for task in packed.tasks:
        assert task.path == str(archive)
        for image in [*task.unlabelled, *(i for c in task.classes for i in c.images)]:
            assert image.path == str(archive)
            assert pixels(image, Preprocess(8)).any()


def test_a_wrapped_single_class_stays_a_class(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", cat=2)
    assert shapes(run(zipped(root, "wrapped/"))) == [("set", {"cat": 2}, 0)]


def test_every_odd_file_is_listed_with_its_reason(tmp_path: Path) -> None:
    root = fill(tmp_path / "odd", cat=2, dog=1)
    (root / "cat" / "cut.jpg").write_bytes(encode(blocks().repeat(20, 0), "JPEG")[:-300])
    (root / "cat" / "empty.png").write_bytes(b"")
    (root / "cat" / "notes.txt").write_text("hello")
    (root / "cat" / "text.png").write_text("hello")
    (root / "cat" / ".DS_Store").write_text("x")
    (root / "cat" / "Thumbs.db").write_text("x")
    (root / "cat" / "more.zip").write_bytes(b"PK\3\4")
    (root / "cat" / "picture.dat").write_bytes(encode(blocks(), "PNG"))
    (root / "empty").mkdir()
    (root / "words").mkdir()
    (root / "words" / "a.csv").write_text("a,b")
    (root / ".git").mkdir()
    (root / ".git" / "x.png").write_bytes(encode(blocks(), "PNG"))
    os.mkfifo(root / "dog" / "pipe.png")
    (root / "dog" / "broken.png").symlink_to(root / "nowhere")
    (root / "readme.md").write_text("# x")
    result = run(root)
    assert shapes(result) == [("odd", {"cat": 3, "dog": 1}, 0)]
    assert said(result, root) == {
        "cat/cut.jpg": ("ends early", "error"),
        "cat/empty.png": ("is empty", "error"),
        "cat/notes.txt": ("is not a picture of a format that can be read", "ignored"),
        "cat/text.png": ("is not a picture of a format that can be read", "error"),
        "cat/.DS_Store": ("is a hidden file", "ignored"),
        "cat/Thumbs.db": ("is a hidden file", "ignored"),
        "cat/more.zip": ("is an archive inside a folder or archive; open it by itself", "ignored"),
        "empty": ("holds nothing, so it is no class", "warning"),
        "words": ("holds no picture that can be read, so it is no class", "warning"),
        "words/a.csv": ("is not a picture of a format that can be read", "ignored"),
        ".git": ("is a hidden folder", "ignored"),
        "dog/pipe.png": ("is not a plain file", "ignored"),
        "dog/broken.png": ("is a link to something that is not there", "error"),
        "readme.md": ("is not a picture of a format that can be read", "ignored"),
    }


def test_odd_entries_of_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("set/cat/1.png", encode(blocks(), "PNG"))
        z.writestr("set/dog/1.png", encode(blocks(), "PNG")[:60])
        z.writestr("set/dog/2.png", encode(blocks() // 2, "PNG"))
        z.writestr("__MACOSX/set/cat/._1.png", b"x")
        z.writestr("__MACOSX/set/dog/._2.png", b"x")
        z.writestr("set/cat/.hidden.png", b"x")
        z.writestr("set/inner.zip", b"PK\3\4")
    result = run(path)
    assert shapes(result) == [("odd", {"cat": 1, "dog": 1}, 0)]
    found = said(result, path)
    assert found.pop("set/dog/1.png")[0].startswith("ends early: 60 of at least")
    assert found == {
        "__MACOSX": ("is a hidden folder with 2 files", "ignored"),
        "set/cat/.hidden.png": ("is a hidden file", "ignored"),
        "set/inner.zip": ("is an archive inside a folder or archive; open it by itself", "ignored"),
    }


def test_a_hostile_archive_is_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as z:
        z.writestr("cat/1.png", encode(blocks(), "PNG"))
        z.writestr("../out.png", encode(blocks(), "PNG"))
    cut = tmp_path / "cut.zip"
    cut.write_bytes(bad.read_bytes()[:100])
    good = fill(tmp_path / "good", cat=1, dog=1)
    result = run(bad, cut, good)
    assert [t.name for t in result.tasks] == ["good"]
    assert said(result, tmp_path) == {
        "bad.zip": ("is refused: the entry \u201c../out.png\u201d leads out of the archive", "error"),
        "cut.zip": ("is cut short: the list at its end is missing; copy or download it again", "error"),
    }


def test_a_folder_of_archives_says_what_to_do(tmp_path: Path) -> None:
    root = tmp_path / "zips"
    (root / "more").mkdir(parents=True)
    for name in ("a.zip", "more/b.ZIP"):
        with zipfile.ZipFile(root / name, "w") as z:
            z.writestr("cat/1.png", encode(blocks(), "PNG"))
    (root / "c.rar").write_bytes(b"Rar!")
    (tmp_path / "zips too" / "d").mkdir(parents=True)
    (tmp_path / "zips too" / "d.zip").write_bytes(b"x")
    result = run(root, tmp_path / "zips too")
    assert result.tasks == ()
    found = said(result, tmp_path)
    inside = ("is an archive inside a folder or archive; open it by itself", "ignored")
    assert found["zips/a.zip"] == found["zips/more/b.ZIP"] == found["zips too/d.zip"] == inside
    assert found["zips/c.rar"] == ("is an archive, and not a zip; unpack it first", "ignored")
    empty = "holds no picture that can be read"
    assert found["zips"] == (f"{empty}, but 2 zip archives: open each by itself", "error")
    assert found["zips too"] == (f"{empty}, but 1 zip archive: open it by itself", "error")


def test_an_empty_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "here", cat=1)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(WorkbenchError, match="the path is empty"):
        scan([""], Context())
    with pytest.raises(WorkbenchError, match="the path is empty"):
        scan([".", ""], Context())


def test_links_loops_and_hard_links_count_once(tmp_path: Path) -> None:
    root = fill(tmp_path / "links", cat=2, dog=2)
    (root / "cat" / "loop").symlink_to(root)
    (root / "again").symlink_to(root / "dog")
    (root / "cat" / "0 link.png").symlink_to(root / "dog" / "1.png")
    os.link(root / "dog" / "0.png", root / "dog" / "9.png")
    (root / "self.png").symlink_to(root / "self.png")
    outside = fill(tmp_path / "outside", bird=3)
    (root / "bird").symlink_to(outside / "bird")
    result = run(root)
    assert shapes(result) == [("links", {"bird": 3, "cat": 2, "dog": 2}, 0)]
    found = said(result, root)
    assert found["cat/loop"] == ("is a link to a folder that is here already", "ignored")
    assert found["again"] == ("is a link to a folder that is here already", "ignored")
    assert found["cat/0 link.png"] == (f"is the same file as {root / 'dog' / '1.png'}", "ignored")
    assert found["self.png"] == ("is a link that leads round to itself", "error")
    (twin,) = {"dog/0.png", "dog/9.png"} & found.keys()
    assert found[twin][0].startswith("is the same file as")
    assert len(found) == 5


def test_folders_that_lie_too_deep_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_DEPTH", 3)
    root = tmp_path / "deep"
    write(root, "a/b/1.png", seed=1)
    write(root, "a/b/c/2.png", seed=2)
    write(root, "a/b/c/d/3.png", seed=3)
    folder, archive = run(root), run(zipped(root))
    assert said(folder, root)["a/b/c/d"] == ("lies more than 3 folders deep", "warning")
    assert any(p.reason == "lies more than 3 folders deep" for p in archive.problems)
    assert [sum(t.images + len(t.unlabelled) for t in r.tasks) for r in (folder, archive)] == [2, 2]


def test_pictures_beside_class_folders_are_unlabelled_and_it_is_said(tmp_path: Path) -> None:
    root = fill(tmp_path / "mixed", cat=2, dog=2)
    write(root, "loose.png", seed=7)
    result = run(root)
    assert shapes(result) == [("mixed", {"cat": 2, "dog": 2}, 1)]
    assert said(result, root) == {
        ".": ("has 1 picture beside its class folders, taken as unlabelled", "warning"),
    }


def test_class_folders_beside_folders_of_class_folders(tmp_path: Path) -> None:
    root = fill(tmp_path / "mixed", cat=2, dog=2, birds__crow=1, birds__gull=1)
    result = run(root)
    assert shapes(result) == [("mixed", {"cat": 2, "dog": 2}, 0), ("birds", {"crow": 1, "gull": 1}, 0)]
    ((reason, severity),) = said(result, root).values()
    assert severity == "warning"
    assert reason.startswith("holds 2 class folders and 1 folder of class folders")


def test_a_flat_folder_among_domains_is_an_unlabelled_task(tmp_path: Path) -> None:
    root = fill(tmp_path / "mixed", A__x=1, A__y=1, B__z=1, B__w=1, pile=3)
    result = run(root)
    assert shapes(result) == [("A", {"x": 1, "y": 1}, 0), ("B", {"w": 1, "z": 1}, 0), ("pile", {}, 3)]
    ((reason, _),) = said(result, root).values()
    assert "unlabelled task of its own" in reason


def test_a_class_with_a_few_more_in_folders_below_it_stays_a_class(tmp_path: Path) -> None:
    root = fill(tmp_path / "nested", cat=4, cat__old=2, dog=3)
    result = run(root)
    assert shapes(result) == [("nested", {"cat": 6, "dog": 3}, 0)]
    assert said(result, root) == {"cat": ("has 2 pictures in folders below it, counted to this class", "warning")}


def test_pictures_without_a_suffix_are_found(tmp_path: Path) -> None:
    root = tmp_path / "bare"
    for name in ("A/x/1", "A/y/2", "B/z/3", "B/w/4"):
        write(root, name, seed=len(name) + ord(name[-1]))
    assert [t.name for t in run(root).tasks] == ["A", "B"]


def test_roles_are_read_from_a_file(tmp_path: Path) -> None:
    root = fill(tmp_path / "roles", A__x=1, A__y=1, B__x=2, C__y=2)
    (root / "A" / "role.txt").write_text("held out\n")
    (root / "B" / "role.txt").write_text("meta-validation")
    (root / "C" / "role.txt").write_text("best friend")
    for source in (root, zipped(root)):
        result = run(source)
        assert [t.role for t in result.tasks] == [Role.HELD_OUT, Role.VALIDATION, Role.TRAIN]
        ((where, (reason, severity)),) = said(result, source).items()
        assert (where, severity) == ("C/role.txt", "warning")
        assert "best friend" not in reason
    (root / "role.txt").write_text("meta-validation")
    assert [t.role for t in run(root).tasks] == [Role.HELD_OUT, Role.VALIDATION, Role.VALIDATION]


def test_names_of_every_kind(tmp_path: Path) -> None:
    names = {
        b"caf\xe9 \xff": "caf\\xe9 \\xff",
        "\U0001f469\u200d\U0001f52c".encode(): "\U0001f469\u200d\U0001f52c",
        "e\u0301".encode(): "e\u0301",
        "\u00e9".encode(): "\u00e9",
        "\u05e9\u05dc\u05d5\u05dd".encode(): "\u05e9\u05dc\u05d5\u05dd",
        b"two\nlines": "two\\x0alines",
        "fake\u202egnp.exe".encode(): "fake\\xe2\\x80\\xaegnp.exe",
        b" space ": " space ",
        b"dot.": "dot.",
        b"x" * 255: "x" * 255,
        b"caf\\xe9 \\xff": "caf\\xe9 \\xff (2)",
    }
    root = tmp_path / "names"
    for i, name in enumerate(names):
        write(root, f"{os.fsdecode(name)}/\udcff{i}.png", seed=i)
    result = run(root)
    assert result.problems == ()
    classes = result.tasks[0].classes
    assert sorted(c.name for c in classes) == sorted(names.values())
    for c in classes:
        (image,) = c.images
        assert os.fsencode(image.path).split(b"/")[-2] in names
        assert Path(image.path).exists()
        assert pixels(image, Preprocess(8)).shape == (8, 8, 3)
        c.name.encode()  # any screen and any file can hold it


def test_numbers_sort_as_people_count(tmp_path: Path) -> None:
    root = fill(tmp_path / "numbers", character10=1, character2=1, Character1=11)
    (task,) = run(root).tasks
    assert [c.name for c in task.classes] == ["Character1", "character2", "character10"]
    assert [i.name for i in task.classes[0].images] == [f"{i}.png" for i in range(11)]
    assert natural("9" * 10_000) < natural("9" * 10_001)


def test_single_pictures_are_an_unlabelled_task(tmp_path: Path) -> None:
    one, two = write(tmp_path / "here", "2.png", seed=1), write(tmp_path / "here", "1.png", seed=2)
    bad = tmp_path / "here" / "bad.png"
    bad.write_text("hello")
    result = run(one, two, bad)
    assert shapes(result) == [("here", {}, 2)]
    assert said(result, tmp_path) == {"here/bad.png": ("is not a picture of a format that can be read", "error")}


def test_several_sources_and_the_same_one_twice(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "one", a=1, b=1), fill(tmp_path / "two", c=1, d=1)
    result = run(one, two, one, two / "c")
    assert [t.name for t in result.tasks] == ["one", "two"]
    assert said(result, tmp_path) == {"two/c": ("is a part of a folder that was given as well", "ignored")}


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match="there is nothing of that name"):
        run(tmp_path / "absent")
    with pytest.raises(WorkbenchError):
        run("a\0b")


def test_a_folder_without_pictures_says_so(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("x")
    result = run(tmp_path / "none", tmp_path / "words")
    assert result.tasks == ()
    assert Problem(str(tmp_path / "none"), "holds no picture that can be read", "error") in result.problems
    assert Problem(str(tmp_path / "words"), "holds no picture that can be read", "error") in result.problems


def test_a_folder_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path / "locked", cat=1, dog=1)
    real = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(tree.os, "scandir", refuse)
    result = run(root)
    assert said(result, root)["dog"] in {
        ("cannot be opened (permission denied)", "error"),
        ("holds nothing, so it is no class", "warning"),
    }
    assert Problem(str(root / "dog"), "cannot be opened (permission denied)", "error") in result.problems
    assert shapes(result) == [("locked", {"cat": 1}, 0)]


def test_ids_are_stable_and_tell_tasks_apart(tmp_path: Path) -> None:
    root = fill(tmp_path / "stable", A__x=1, A__y=1, B__x=1, B__y=1)
    first = [(t.id, [c.id for c in t.classes]) for t in run(root).tasks]
    write(root, "A/z/1.png", seed=9)
    second = [(t.id, [c.id for c in t.classes]) for t in run(root).tasks]
    assert [i for i, _ in first] == [i for i, _ in second]
    assert first[1] == second[1]
    assert len({i for i, _ in first}) == 2


def test_tasks_are_sent_as_they_are_read_and_progress_counts_images(tmp_path: Path) -> None:
    root = fill(tmp_path / "many", A__x=60, A__y=60, B__x=60, B__y=60)
    seen: list[tuple[int, int | None]] = []
    early: list[object] = []

    def watch(ctx: Context) -> None:
        if ctx.progress_now is not None:
            seen.append((ctx.progress_now.done, ctx.progress_now.total))
            assert ctx.progress_now.unit == "images"
            if ctx.progress_now.done == 200:
                early.extend(ctx.take_events())

    ctx = Context(on_change=watch)
    result = scan([str(root)], ctx)
    assert early == [result.tasks[0]]
    assert ctx.take_events() == [result.tasks[1]]
    assert seen[-1] == (240, 240)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


@pytest.mark.parametrize("after", [1, 3, 6])
def test_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    root = fill(tmp_path / "stop", a=30, b=30)
    ctx = Context()
    calls = 0
    real = ctx.check

    def check(self: Context) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            ctx.cancel()
        real()

    monkeypatch.setattr(Context, "check", check)
    made = []
    decoder = module.Decoder
    monkeypatch.setattr(module, "Decoder", lambda *a, **k: made.append(decoder(*a, **k)) or made[-1])
    with pytest.raises(JobCancelledError):
        scan([str(root)], ctx)
    assert not any(d._children for d in made)
