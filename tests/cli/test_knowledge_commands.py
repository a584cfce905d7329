"""``workbench knowledge``: what is listed, shown, put away, taken out and in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_commands import run
from tests.project.test_past_tasks import OWN, record
from workbench.__main__ import main
from workbench.core.context import Context
from workbench.core.values import EntryId, KnowledgeEntry, Preprocess, SourceInfo
from workbench.project import past_tasks
from workbench.project.library import Library
from workbench.services import jobs


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two entries that were never trained, the second from the first, and a task that was taught with the first."""
    jobs.load_runtime(Context())
    from workbench.services import knowledge as known

    itself = known.untrained(Preprocess(16), "conv4-32")
    arrays = {n: np.asarray(t.numpy(), order="C") for n, t in known.join_state(itself.state).items()}
    library = Library(tmp_path)
    for id_, name, provenance in (("a1", "Letters", {}), ("a2", "Letters, more", {"ancestor_entry": "a1"})):
        source = SourceInfo("greek", "/data/greek", 2, 10, "f" * 64, ("alpha", "beta"))
        entry = KnowledgeEntry(
            id=EntryId(id_),
            name=name,
            algorithm="protonet",
            params={},
            backbone="conv4-32",
            preprocess=itself.preprocess,
            ways=(5, 5),
            shots=(1, 1),
            sources=(source,),
            validation=None,
            weights_sha256="",
            created="2026-01-01T00:00:00+00:00",
            provenance=provenance,
        )
        library.save(entry, arrays)
    past_tasks.save(tmp_path, record().seen_right(OWN, 2, 3))
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], project: Path, *more: str) -> list[str]:
    """Ids of what is listed."""
    code, found = run(capsys, "knowledge", "list", *more, "--project", str(project))
    assert code == 0
    return sorted(e["entry"] for e in found["entries"])


def test_show_names_classes_ancestors_and_how_it_went(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    shown = run(capsys, "knowledge", "show", "a2", "--project", str(project))[1]
    assert shown["sources"][0]["class_names"] == ["alpha", "beta"]
    assert shown["lineage"] == [{"entry": "a1", "name": "Letters"}]
    assert shown["realised"] == {"tasks": 0, "right": 0, "of": 0, "gain": None}
    shown = run(capsys, "knowledge", "show", "a1", "--project", str(project))[1]
    assert shown["realised"] == {"tasks": 1, "right": 2, "of": 3, "gain": None}
    assert shown["recipes"] == [{"layer": "last", "adapter": "none", "head": "own", "right": 2, "of": 3}]
    assert main(["knowledge", "show", "a1", "--project", str(project)]) == 0
    text = capsys.readouterr().out
    assert "alpha, beta" in text
    assert "2 of 3 pictures" in text


def test_search_and_retire_and_restore(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    assert listed(capsys, project) == ["a1", "a2"]
    assert listed(capsys, project, "--search", "MORE beta") == ["a2"]
    assert listed(capsys, project, "--search", "nothing") == []
    code, said = run(capsys, "knowledge", "retire", "a1", "--why", "too old", "--project", str(project))
    assert (code, said["retired"]) == (0, True)
    assert listed(capsys, project) == ["a2"]
    assert listed(capsys, project, "--retired") == ["a1"]
    shown = run(capsys, "knowledge", "show", "a1", "--project", str(project))[1]
    assert (shown["retired"], shown["retired_why"]) == (True, "too old")
    assert run(capsys, "knowledge", "restore", "a1", "--project", str(project))[1]["was_retired"]
    assert not run(capsys, "knowledge", "restore", "a1", "--project", str(project))[1]["was_retired"]
    assert listed(capsys, project) == ["a1", "a2"]
    assert run(capsys, "knowledge", "retire", "nobody", "--project", str(project))[0] == 1


def test_an_entry_goes_out_and_comes_in_elsewhere(
    capsys: pytest.CaptureFixture[str], project: Path, tmp_path: Path
) -> None:
    file, there = tmp_path / "it.knowledge", tmp_path / "there"
    code, out = run(capsys, "knowledge", "export", "a2", "--out", str(file), "--project", str(project))
    assert code == 0
    assert {"entry", "path"} <= set(out)
    assert out["path"] == str(file)
    code, taken = run(capsys, "knowledge", "import", str(file), "--project", str(there))
    assert code == 0
    assert (taken["entry"], taken["new"]) == ("a2", True)
    assert Path(taken["path"]) == there / "knowledge" / "a2"
    assert listed(capsys, there) == ["a2"]
    assert not run(capsys, "knowledge", "import", str(file), "--project", str(there))[1]["new"]
    file.write_bytes(b"no zip")
    code, said = run(capsys, "knowledge", "import", str(file), "--project", str(there))
    assert code == 1
    assert "not a zip" in said["error"]
