from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.core.faults import StopHereError, every_operation
from tests.project.material import entry
from workbench.core import paths, storage
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.storage import Ops
from workbench.core.values import EntryId
from workbench.project import library as module
from workbench.project.library import Library, new_id, read_card, write_card

TENSORS = {
    "learned.conv.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "learned.scalar": np.float32(2.5).reshape(()),
    "memory.steps": np.array([1, 2, 3], dtype=np.int64),
    "source.0.mean": np.zeros((0,), dtype=np.float32),
    "learned.transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setattr(module.paths, "resources", lambda: tmp_path / "nothing shipped")
    return Library(tmp_path / "project")


def test_an_entry_and_its_tensors_survive(library: Library, tmp_path: Path) -> None:
    path = library.save(entry(), TENSORS)
    assert path == tmp_path / "project" / "knowledge" / "0123abcd"
    saved, where = library.find("0123abcd")
    assert where == path == library.path_of(saved.id)
    assert saved == replace(entry(), weights_sha256=saved.weights_sha256)
    assert len(saved.weights_sha256) == 64
    for tensors in (library.load_tensors(saved), library.load_tensors(path)):
        assert set(tensors) == set(TENSORS)
        for name, array in tensors.items():
            assert array.dtype == TENSORS[name].dtype
            assert array.shape == TENSORS[name].shape
            np.testing.assert_array_equal(array, TENSORS[name])
            assert array.flags.writeable, "torch warns of arrays that are not"


def test_the_card_keeps_every_field(library: Library) -> None:
    for kept in (
        entry(),
        entry(validation=None, calibration={}, provenance={}, sources=(), params={"a": [1, {"b": None}]}),
    ):
        assert read_card(write_card(kept), "it") == kept


@pytest.mark.starter
def test_the_order_is_that_of_the_folders_and_newest_first(library: Library) -> None:
    own, users, starter = library.folders
    library.save(entry("a1", "first", created="2026-01-01T00:00:00+00:00"), TENSORS)
    library.save(entry("a2", "second", created="2026-02-01T00:00:00+00:00"), TENSORS)
    library.save(entry("b1", "mine", created="2026-03-01T00:00:00+00:00"), TENSORS, users)
    library.save(entry("a1", "a copy of the first"), TENSORS, users)
    assert [e.id for e in library.entries()][:3] == ["a2", "a1", "b1"]
    assert library.find("a1")[0].name == "first", "the project's own comes before the library's"
    assert (own.name, users, starter) == ("knowledge", paths.data_home() / "library", paths.resources() / "knowledge")
    assert Library().folders == (users, starter)
    assert library.problems == ()


def test_find_by_id_name_and_path(library: Library, tmp_path: Path) -> None:
    one = library.save(entry("a1", "ProtoNet on Alphabets"), TENSORS)
    library.save(entry("a2", "MAML on surfaces"), TENSORS)
    library.save(entry("a3", "MAML on Surfaces"), TENSORS)
    elsewhere = library.save(entry("f00d", "Outside"), TENSORS, tmp_path / "elsewhere")
    assert library.find("a1")[1] == one
    assert library.find("protonet ON alphabets")[1] == one
    assert library.find(str(elsewhere))[0].id == "f00d"
    assert library.find(str(elsewhere / "entry.json"))[0].id == "f00d"
    for wanted, said in [
        ("maml on surfaces", "2 entries.*one of the ids a2, a3|2 entries.*one of the ids a3, a2"),
        ("ProtoNet on alphabet", r"Did you mean ProtoNet on Alphabets \(a1\)"),
        ("zzz", "There are"),
        ("", "There are"),
        ("x" * 5000, "There are"),
        ("a\0b", "There are"),
        (str(tmp_path / "nothing"), "There are"),
    ]:
        with pytest.raises(WorkbenchError, match=said):
            library.find(wanted)
    with pytest.raises(WorkbenchError, match="no entry f00d"):
        library.path_of(EntryId("f00d"))


def test_an_empty_library_says_what_to_do(library: Library) -> None:
    with pytest.raises(WorkbenchError, match="Train first"):
        library.find("anything")


def test_an_entry_is_never_overwritten(library: Library) -> None:
    library.save(entry(), TENSORS)
    with pytest.raises(WorkbenchError, match="already an entry"):
        library.save(entry(name="other"), TENSORS)
    assert library.find("0123abcd")[0].name == "ProtoNet on alphabets"
    assert len({new_id() for _ in range(200)}) == 200


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_not_saved(library: Library, bad: float) -> None:
    with pytest.raises(WorkbenchError, match=r"learned\.w holds"):
        library.save(entry(), {"learned.w": np.array([1.0, bad], dtype=np.float32)})
    with pytest.raises(ValueError, match="calibration"):
        library.save(entry(calibration={"temperature": bad}), TENSORS)
    assert library.entries() == ()


def test_every_flipped_bit_of_weights_and_card_is_noticed(library: Library) -> None:
    path = library.save(entry(), TENSORS)
    weights, card = path / "weights.safetensors", path / "entry.json"
    good = weights.read_bytes()
    for i in range(0, len(good), 7):
        weights.write_bytes(good[:i] + bytes([good[i] ^ (1 << (i % 8))]) + good[i + 1 :])
        with pytest.raises(StorageError):
            library.load_tensors(path)
    weights.write_bytes(good)
    library.load_tensors(path)
    good = card.read_bytes()
    for i in range(0, len(good), 13):
        bad = good[:i] + bytes([good[i] ^ (1 << (i % 8))]) + good[i + 1 :]
        with pytest.raises(StorageError):
            read_card(bad, "it")


def test_damaged_entries_are_listed_with_the_reason_and_the_others_stay(library: Library) -> None:
    library.save(entry("a1"), TENSORS)
    bad = library.save(entry("a2", "broken"), TENSORS)
    assert len(library.entries()) == 2
    (bad / "entry.json").write_bytes(b"rubbish!")
    half = library.folders[0] / "a3"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"")
    assert [e.id for e in library.entries()] == ["a1"]
    assert [(Path(p.path).name, p.severity) for p in library.problems] == [("a2", "error"), ("a3", "ignored")]
    (bad / "weights.safetensors").unlink()
    with pytest.raises(StorageError):
        library.load_tensors(bad)


def test_a_card_is_read_once_until_it_changes(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = library.save(entry(), TENSORS) / module.CARD
    read: list[Path] = []
    real = Library.read
    monkeypatch.setattr(Library, "read", lambda self, path: read.append(path) or real(self, path))

    def names() -> list[str]:
        return [e.name for e in Library(tmp_path / "project").entries()]

    def written(name: str, seconds_ago: float) -> None:
        card.write_bytes(write_card(replace(library.read(card.parent), name=name)))
        then = time.time() - seconds_ago
        os.utime(card, (then, then))
        read.clear()

    written("first", 60)
    assert (names(), names(), len(read)) == (["first"], ["first"], 1), "another library on the same folder knows it"
    written("other", 50)
    assert (names(), names(), len(read)) == (["other"], ["other"], 1)
    written("young", 0)
    assert names() == ["young"]
    young = card.stat()
    written("still", 0)
    os.utime(card, ns=(young.st_atime_ns, young.st_mtime_ns))
    assert names() == ["still"], "a card may change twice within a tick of the file system's clock"


def _sealed_card(change: Callable[[dict[str, object]], object], version: int = 1) -> bytes:
    from workbench.project import sealed

    value = json.loads(write_card(entry()))["value"]
    del value["seal"]
    change(value)
    return sealed.seal("knowledge entry", version, value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.update(hook="rm"), "hook"),
        (lambda v: v["preprocess"].update(extra=1), "extra"),
        (lambda v: v["preprocess"].update(size=2), "not between"),
        (lambda v: v["preprocess"].update(fit="tile"), "tile"),
        (lambda v: v["validation"].update(kind="luck"), "luck"),
        (lambda v: v.update(id="../../x"), "not an id"),
        (lambda v: v.update(id=""), "not an id"),
        (lambda v: v.update(ways=[5]), "ways"),
        (lambda v: v.update(name="a\\b"), "not a path"),
    ],
)
def test_cards_from_others_are_checked(change: Callable[[dict[str, object]], object], said: str) -> None:
    with pytest.raises(StorageError, match=said):
        read_card(_sealed_card(change), "it")


def test_a_newer_card_is_refused() -> None:
    with pytest.raises(StorageError, match="newer version"):
        read_card(_sealed_card(lambda v: None, version=module.VERSION + 1), "it")


def test_a_card_of_version_1_knows_no_names_of_classes() -> None:
    """A sample of that version: the sources had five fields."""
    old = _sealed_card(lambda v: [s.pop("class_names") for s in v["sources"]], version=1)  # type: ignore[attr-defined]
    kept = read_card(old, "it")
    assert kept == entry()
    assert kept.sources[0].class_names == ()
    named = replace(kept, sources=(replace(kept.sources[0], class_names=("alpha", "beta\udcff")),))
    assert read_card(write_card(named), "it") == named


def _header(payload: bytes, length: int | None = None) -> bytes:
    return (len(payload) if length is None else length).to_bytes(8, "little") + payload


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (_header(b"{}", 1 << 40), "header claims"),
        (_header(b"{" + b" " * (1 << 20) + b"}"), "header claims"),
        (
            _header(
                json.dumps(
                    {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(5000)}
                ).encode()
            ),
            "5000 tensors",
        ),
        (_header(b"[1, 2]"), "not opened"),
        (_header(b'{"a"'), "not opened"),
        (b"abc", "not opened"),
    ],
)
def test_headers_that_take_long_to_parse_are_refused_before_that(
    library: Library, monkeypatch: pytest.MonkeyPatch, data: bytes, said: str
) -> None:
    path = library.save(entry(), TENSORS)
    (path / "weights.safetensors").write_bytes(data)
    monkeypatch.setattr(
        storage, "load", lambda file, sha256=None: pytest.fail("read") if sha256 else Path(file).read_bytes()
    )
    with pytest.raises(StorageError, match=said):
        library.load_tensors(path)


def test_weights_with_the_right_hash_and_a_hostile_header_are_refused(library: Library) -> None:
    path = library.save(entry(), TENSORS)
    overlap = {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}
    digest = storage.save(path / "weights.safetensors", _header(json.dumps(overlap).encode()) + bytes(8))
    (path / "entry.json").write_bytes(write_card(entry(weights_sha256=digest)))
    with pytest.raises(StorageError, match="not a safetensors file"):
        library.load_tensors(path)


@pytest.mark.parametrize("error", [lambda: OSError(28, "No space left on device"), StopHereError])
def test_every_fault_while_saving_leaves_no_entry_or_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
) -> None:
    number = 0

    def run(ops: Ops) -> None:
        nonlocal number
        number += 1
        monkeypatch.setattr(storage, "ops", ops)
        Library(tmp_path / str(number)).save(entry(), TENSORS)

    seen = set()
    for ops in every_operation(run, error):
        monkeypatch.setattr(storage, "ops", Ops())
        fresh = Library(tmp_path / str(number))
        own = [e for e in fresh.entries() if e.id == "0123abcd"]
        seen.add(bool(own))
        for found in own:
            assert ops.failed == "fsync_dir", "only a folder that could not be flushed comes after the rename"
            assert set(fresh.load_tensors(found)) == set(TENSORS)
        if not own:
            fresh.save(entry(), TENSORS)  # the same save succeeds afterwards
    assert False in seen


@pytest.mark.starter
def test_starter_knowledge_is_found_through_the_resources(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.paths, "resources", lambda: tmp_path / "shipped")
    fresh = Library()
    fresh.save(entry("5ta4"), TENSORS, tmp_path / "shipped" / "knowledge")
    assert [e.id for e in fresh.entries()] == ["5ta4"]


KEPT = {"how": "l2", "entry": "a", "name": "A", "sources": []}


@pytest.mark.parametrize(
    ("told", "part"),
    [
        ({"kept": "x"}, "kept"),
        ({"kept": None}, "kept"),
        ({"kept": {"how": "l2"}}, "entry"),
        ({"kept": KEPT | {"how": "magic"}}, "how"),
        ({"kept": KEPT | {"sources": [{"name": 1}]}}, "sources"),
        ({"kept": KEPT | {"backward": {"mean": "far"}}}, "backward"),
        ({"kept": KEPT | {"more": 1}}, "more"),
        ({"aligned": ["x"]}, "aligned"),
        ({"aligned": {"method": "adabn", "target": "night", "pictures": 3}}, "target"),
        ({"mixed": [{"entry": "a"}]}, "mixed"),
        ({"earlier": [1]}, "earlier"),
        ({"ancestor_entry": 7}, "ancestor_entry"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_a_card_that_tells_what_cannot_be_is_refused(told: dict[str, Any], part: str) -> None:
    with pytest.raises(StorageError, match=part):
        read_card(write_card(entry(provenance=told)), "it")


def test_a_card_may_tell_more_than_is_read() -> None:
    source = {"name": "a", "path": "a", "classes": 1, "images": 1, "fingerprint": "f", "class_names": ["x"]}
    told = {"kept": KEPT | {"sources": [source], "before": {"gr\u00fcn \udcff": 0.5}}, "weather": {"x": [1]}, "seed": 3}
    assert read_card(write_card(entry(provenance=told)), "it").provenance == told


def test_only_what_lies_in_the_library_is_put_away(library: Library, tmp_path: Path) -> None:
    library.folders = tuple(tmp_path / name for name in ("project", "own", "shipped"))
    library.save(entry(), TENSORS)
    elsewhere = library.save(entry("0000beef"), TENSORS, tmp_path / "elsewhere")
    shipped = library.save(entry("0000cafe"), TENSORS, library.folders[-1])
    with pytest.raises(WorkbenchError, match="lies in no library"):
        library.retire(*library.find(str(elsewhere)))
    library.retire(*library.find("0123abcd"), why="too old")
    library.retire(*library.find("0000cafe"))
    assert {e.id for e in library.retired()} == {"0123abcd", "0000cafe"}
    marks = {p.parent.parent: p.stem for folder in library.folders for p in folder.glob(".retired/*.json")}
    assert marks == {library.folders[0]: "0123abcd", library.folders[1]: "0000cafe"}, "what is shipped is not ours"
    assert shipped.is_dir()
