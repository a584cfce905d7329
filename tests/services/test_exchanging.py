"""An entry as one file, out and in, and files that no honest writer makes."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from workbench.core.context import Context
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.values import EntryId, KnowledgeEntry, Preprocess, SourceInfo
from workbench.export.archive import pack
from workbench.project import retiring
from workbench.project.library import CARD, WEIGHTS, Library, write_card
from workbench.services import exchanging, jobs
from workbench.services import knowledge as known

HOME = "/home/someone/pictures"


@pytest.fixture
def entry(tmp_path: Path) -> KnowledgeEntry:
    """An entry of a project that names folders of its machine."""
    jobs.load_runtime(Context())
    itself = known.untrained(Preprocess(16), "conv4-32")
    card = KnowledgeEntry(
        id=EntryId("0badcafe"),
        name="Gr\u00fc\u00dfe, Welt",
        algorithm="protonet",
        params={},
        backbone="conv4-32",
        preprocess=itself.preprocess,
        ways=(5, 5),
        shots=(1, 1),
        sources=(SourceInfo("one", f"{HOME}/one", 2, 10, "f" * 64, ("a", "b")),),
        validation=None,
        weights_sha256="",
        created="2026-01-01T00:00:00+00:00",
        provenance={"command": f"workbench train {HOME}/one '{HOME}/a b' --ways 5", "start": f"{HOME}/w.safetensors"},
    )
    arrays = {n: np.asarray(t.numpy(), order="C") for n, t in known.join_state(itself.state).items()}
    library = Library(tmp_path / "here")
    library.save(card, arrays)
    return library.find(card.id)[0]


def out(tmp_path: Path) -> Path:
    """The entry as a file."""
    return exchanging.export_entry("0badcafe", tmp_path / "it.knowledge", tmp_path / "here", Context())[1]


def test_an_entry_goes_out_and_comes_in_elsewhere_with_the_same_weights(entry: KnowledgeEntry, tmp_path: Path) -> None:
    file = out(tmp_path)
    assert b"someone" not in file.read_bytes(), "no folder of this machine goes out"
    there = tmp_path / "there"
    found, path, new = exchanging.import_entry(file, there, Context())
    assert new
    assert path == there / "knowledge" / "0badcafe"
    assert found.weights_sha256 == entry.weights_sha256
    assert found.sources == (replace(entry.sources[0], path="one"),)
    assert found.provenance == {"command": "workbench train one 'a b' --ways 5", "start": "w.safetensors"}
    again = Library(there)
    ours, theirs = Library(tmp_path / "here").load_tensors(entry), again.load_tensors(found)
    assert all(np.array_equal(ours[n], theirs[n]) for n in ours)
    assert known.load(found, path, again).name == entry.name


def test_the_same_file_again_changes_nothing_and_brings_back_what_was_retired(
    entry: KnowledgeEntry, tmp_path: Path
) -> None:
    file = out(tmp_path)
    there = tmp_path / "there"
    _, path, _ = exchanging.import_entry(file, there, Context())
    before = {p: p.stat().st_mtime_ns for p in path.iterdir()}
    retiring.retire(there / "knowledge", entry.id, "now")
    found, same, new = exchanging.import_entry(file, there, Context())
    assert (same, new) == (path, False)
    assert {p: p.stat().st_mtime_ns for p in path.iterdir()} == before
    assert [e.id for e in Library(there).entries()] == [found.id]


def test_an_id_that_another_entry_has_is_replaced(entry: KnowledgeEntry, tmp_path: Path) -> None:
    file = out(tmp_path)
    library = Library(tmp_path / "here")
    (tmp_path / "other").mkdir()
    tensors = library.load_tensors(entry)
    tensors[min(tensors)] = tensors[min(tensors)] + 1
    Library(tmp_path / "other").save(entry, tensors)
    found, path, new = exchanging.import_entry(file, tmp_path / "other", Context())
    assert new
    assert found.id != entry.id
    assert path.name == found.id
    assert len(Library(tmp_path / "other").entries()) == 2


def test_a_folder_to_write_into_gets_a_file_named_after_the_entry(entry: KnowledgeEntry, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    file = exchanging.export_entry(entry.name, tmp_path / "out", tmp_path / "here", Context())[1]
    assert file.name == "Gre-Welt-0badcafe.knowledge"


Files = dict[str, bytes]


def changed_card(change: Callable[[KnowledgeEntry], KnowledgeEntry]) -> Callable[[KnowledgeEntry, Files], Files]:
    """A bundle whose card was written for a changed entry."""
    return lambda entry, files: files | {CARD: write_card(change(entry))}


def changed_weights(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[KnowledgeEntry, Files], Files]:
    """A bundle with other tensors and the card that belongs to them."""

    def make(entry: KnowledgeEntry, files: Files) -> Files:
        tensors = load(files[WEIGHTS])
        change(tensors)
        data = save({name: np.ascontiguousarray(t) for name, t in tensors.items()})
        card = write_card(replace(entry, weights_sha256=hashlib.sha256(data).hexdigest()))
        return {CARD: card, WEIGHTS: data}

    return make


def claiming(length: int) -> Callable[[KnowledgeEntry, Files], Files]:
    """A bundle whose weights claim a header of this length."""

    def make(entry: KnowledgeEntry, files: Files) -> Files:
        data = length.to_bytes(8, "little") + files[WEIGHTS][8:]
        return {CARD: write_card(replace(entry, weights_sha256=hashlib.sha256(data).hexdigest())), WEIGHTS: data}

    return make


def first(tensors: dict[str, np.ndarray]) -> str:
    """A tensor of the network."""
    return min(n for n in tensors if n.startswith("learned."))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda e, f: {CARD: f[CARD]}, "weights.safetensors is missing"),
        (lambda e, f: f | {"run.py": b"x"}, "run.py too"),
        (lambda e, f: f | {"../entry.json": b"x"}, "outside the archive"),
        (lambda e, f: f | {"/etc/x": b"x"}, "outside the archive"),
        (lambda e, f: f | {CARD: f[CARD].replace(b'"protonet"', b'"protonot"')}, "not what was saved"),
        (lambda e, f: f | {CARD: b"[" * 1000}, "Expected .object."),
        (lambda e, f: f | {CARD: f[CARD] + b" " * (5 << 20)}, "description has"),
        (lambda e, f: f | {WEIGHTS: f[WEIGHTS][:-1] + b"x"}, "not those of its card"),
        (changed_card(lambda e: replace(e, id=EntryId("../../x"))), "not an id"),
        (changed_card(lambda e: replace(e, ways=(5, 10**9))), "1000000000 classes"),
        (changed_card(lambda e: replace(e, name="a\u202eb")), "invisible"),
        (changed_card(lambda e: replace(e, name="a" * 300)), "too long"),
        (changed_card(lambda e: replace(e, algorithm="no-such")), "no-such"),
        (changed_card(lambda e: replace(e, backbone="resnet12")), "do not fit|missing"),
        (claiming(1 << 40), "header claims"),
        (changed_weights(lambda t: t.pop(first(t))), "missing or has another shape"),
        (changed_weights(lambda t: t.update({first(t): np.zeros((1, 2), np.float32)})), "another shape"),
        (changed_weights(lambda t: t.update({first(t): t[first(t)] + np.inf})), "not finite"),
        (changed_weights(lambda t: t.update({f"x{i}": np.zeros(1, np.float32) for i in range(4090)})), "tensors"),
    ],
)
def test_what_no_honest_writer_makes_is_refused_and_nothing_is_left(
    entry: KnowledgeEntry, tmp_path: Path, make: Callable[[KnowledgeEntry, Files], Files], said: str
) -> None:
    folder = tmp_path / "here" / "knowledge" / entry.id
    files = {name: (folder / name).read_bytes() for name in (CARD, WEIGHTS)}
    file = tmp_path / "hostile.knowledge"
    file.write_bytes(pack(make(entry, files)))
    with pytest.raises(WorkbenchError, match=said):
        exchanging.import_entry(file, tmp_path / "there", Context())
    assert not list((tmp_path / "there").rglob("*"))


def test_files_that_are_no_bundle_are_refused(entry: KnowledgeEntry, tmp_path: Path) -> None:
    whole = out(tmp_path).read_bytes()
    file = tmp_path / "it"
    for data, said in (
        (b"", "not a zip"),
        (b"not a zip", "not a zip"),
        (whole[: len(whole) // 2], "not a zip"),
        (whole[:500] + bytes([whole[500] ^ 1]) + whole[501:], "not what was saved"),
    ):
        file.write_bytes(data)
        with pytest.raises(StorageError, match=said):
            exchanging.import_entry(file, tmp_path / "there", Context())
    for wrong in (tmp_path, tmp_path / "nobody"):
        with pytest.raises(StorageError):
            exchanging.import_entry(wrong, tmp_path / "there", Context())
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CARD, b"0" * 10_000_000)
    file.write_bytes(bomb.getvalue())
    with pytest.raises(StorageError, match="would grow"):
        exchanging.import_entry(file, tmp_path / "there", Context())


def test_a_file_that_is_too_large_is_not_read(
    entry: KnowledgeEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = out(tmp_path)
    monkeypatch.setattr(exchanging, "LARGEST", 1000)
    with pytest.raises(StorageError, match="at most"):
        exchanging.import_entry(file, tmp_path / "there", Context())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/a/b", "b"),
        ("C:\\Users\\me\\set", "set"),
        ("~/set", "set"),
        ("samples/alphabets", "samples/alphabets"),
        ("train --out=/home/me/x 'left alone'", "train --out=x 'left alone'"),
        ("it's 10/20 of them", "it's 10/20 of them"),
        ("/home/john doe/my data/birds", "birds"),
        ("C:\\Users\\john doe\\my data\\birds", "birds"),
        ("read from /home/john doe/my data/birds", "read from birds"),
        ("data:/home/john doe/birds", "data:birds"),
        ("file:///home/john doe/birds", "file:birds"),
        ("see https://example.org/a, CC and/or BY", "see https://example.org/a, CC and/or BY"),
        ("/home/john", "~"),
        ("~john", "~"),
    ],
)
def test_of_an_absolute_path_only_the_last_part_goes_out(entry: KnowledgeEntry, text: str, expected: str) -> None:
    cut = exchanging.without_places(replace(entry, provenance={"a": [{"b": text}]}))
    assert cut.provenance == {"a": [{"b": expected}]}


def test_no_part_of_a_place_with_blanks_goes_out(entry: KnowledgeEntry) -> None:
    place = "/home/john doe/my data/birds"
    command = f"workbench train '{place}' --from '/home/jane roe/secret' --set weights=/home/jane/w"
    told = {"start": "/home/jane roe/secret", "command": command, "kept": {"sources": [{"path": place}]}}
    away = replace(entry, sources=(replace(entry.sources[0], path=place),), provenance=told)
    cut = exchanging.without_places(away)
    assert cut.sources[0].path == "birds"
    assert cut.provenance == {
        "start": "secret",
        "command": "workbench train birds --from secret --set weights=w",
        "kept": {"sources": [{"path": "birds"}]},
    }
