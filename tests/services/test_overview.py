from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workbench.core import paths
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError
from workbench.core.values import EntryId, ImageRef, KnowledgeEntry, Preprocess, SourceInfo, Task, TaskClass, TaskId
from workbench.project.library import WEIGHTS, Library
from workbench.services import overview
from workbench.services.overview import Atlas, AtlasRequest, KnownTask, TaughtTask

CTX = Context()


def entry(id_: str, *sources: str, **more) -> KnowledgeEntry:
    infos = tuple(SourceInfo(s, f"/data/{s}", 3, 30, f"print of {s}") for s in sources)
    plain = Preprocess(28, "grey", mean=(0.5,), std=(0.5,))
    made = KnowledgeEntry(
        EntryId(id_), f"Entry {id_}", "protonet", {}, "conv4", plain, (5, 5), (1, 1), infos, None, "", "2026-11-18",
    )  # fmt: skip
    return replace(made, **more)


def known(name: str) -> KnownTask:
    return KnownTask(name, name, 3, 30, None, ())


@pytest.fixture
def project(home, tmp_path, monkeypatch) -> Path:
    """A project that also has what is shipped."""
    monkeypatch.setattr("workbench.project.library.starter_knowledge", lambda: paths.resources() / "knowledge")
    return tmp_path / "project"


@pytest.fixture
def saved(project):
    """Two entries of the project beside those that are shipped."""
    library = Library(project)
    for made in (entry("aaaa1111", "one", "two"), entry("bbbb2222", "two")):
        library.save(made, {"learned.w": np.zeros(3, np.float32)})
    return library


def test_the_shelf_tells_what_is_shipped_and_what_was_put_away(project, saved):
    found = overview.shelf(project, CTX)
    assert {"aaaa1111", "bbbb2222"} <= {e.id for e in found.entries}
    assert not found.retired
    assert found.shipped
    assert not {"aaaa1111", "bbbb2222"} & found.shipped
    assert found.folders[EntryId("aaaa1111")] == project / "knowledge" / "aaaa1111"
    shipped = next(iter(found.shipped))
    for id_ in (EntryId("aaaa1111"), shipped):
        overview.retire(id_, project, CTX)
    after = overview.shelf(project, CTX)
    assert {e.id for e in after.retired} == {"aaaa1111", shipped}
    assert after.find(EntryId("aaaa1111")).name == "Entry aaaa1111"
    # what is shipped may lie where nobody may write
    assert not (found.folders[shipped].parent / ".retired").exists()
    for id_ in (EntryId("aaaa1111"), shipped):
        overview.restore(id_, project, CTX)
    assert overview.shelf(project, CTX).entries == found.entries


def test_a_flipped_byte_is_found(project, saved):
    made = saved.find("aaaa1111")[0]
    folder = saved.path_of(made.id)
    assert overview.verify(folder, made.weights_sha256, CTX) == ""
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))
    assert overview.verify(folder, made.weights_sha256, CTX) != ""


def test_the_matrix_as_csv_runs_no_formula(tmp_path):
    tasks = (known("=1+1"), known("two"))
    atlas = Atlas("x", True, tasks, ((1.0, 0.25), (0.25, 1.0)), (), TaughtTask(("hat", "shoe"), 0.5, 0.5, (0.5, 0.75)))
    path = overview.save_similarity(atlas, tmp_path / "s.csv", CTX)
    rows = list(csv.reader(io.StringIO(path.read_text("utf-8"))))
    assert rows == [
        ["task", "'=1+1", "two"],
        ["'=1+1", "1.0000", "0.2500"],
        ["two", "0.2500", "1.0000"],
        ["Teach: hat, shoe", "0.5000", "0.7500"],
    ]


def test_the_nearest_of_a_task_leave_itself_out():
    atlas = Atlas("x", True, tuple(map(known, "abc")), ((1.0, 0.2, 0.7), (0.2, 1.0, 0.1), (0.7, 0.1, 1.0)))
    assert atlas.nearest(0) == [(2, 0.7), (1, 0.2)]
    assert atlas.nearest(1, 1) == [(0, 0.2)]


def test_what_an_entry_was_trained_on_is_told_by_its_fingerprint():
    image = ImageRef("/x/a.png", "", "a" * 64, 10, 28, 28)
    tasks = (
        Task(TaskId("t"), "renamed since", "/elsewhere", (TaskClass("c", (image,)),)),
        Task(TaskId("u"), "one", "/data/one", (TaskClass("d", (image,)),)),
    )
    mine = entry("cccc3333", "one")
    mine = replace(mine, sources=(replace(mine.sources[0], fingerprint=tasks[0].fingerprint),))
    assert [t.name for t in overview.learnt_from(mine, tasks)] == ["renamed since"]


# ---- comparing -------------------------------------------------------------------------------------------------------


def test_near_tasks_stand_beside_each_other():
    from workbench.services.atlas import chained

    near = {(0, 2): 0.9, (1, 3): 0.8, (0, 3): 0.3}
    similar = [[1.0 if i == j else near.get((min(i, j), max(i, j)), 0.1) for j in range(4)] for i in range(4)]
    order = chained(similar)
    assert sorted(order) == [0, 1, 2, 3]
    assert abs(order.index(0) - order.index(2)) == 1
    assert abs(order.index(1) - order.index(3)) == 1
    assert chained([]) == []


def test_distances_on_the_map_keep_their_order_and_leave_room():
    import torch

    from workbench.services.atlas import _evened

    upper = torch.tensor([0.01, 0.02, 3.0, 0.04, 5.0, 2.0], dtype=torch.float64)  # of four tasks, the last far off
    distances = torch.zeros(4, 4, dtype=torch.float64)
    at = torch.triu_indices(4, 4, 1)
    distances[*at] = upper
    distances = distances + distances.T
    evened = _evened(distances)
    assert torch.equal(evened, evened.T)
    assert not evened.diagonal().any()
    drawn = evened[*at]
    assert drawn.argsort().tolist() == upper.argsort().tolist()
    assert float(drawn[3] / drawn.max()) > 4 * float(upper[3] / upper.max())
    assert torch.equal(_evened(distances[:2, :2]), distances[:2, :2])


@pytest.fixture
def samples():
    from workbench.services import jobs

    folders = tuple(str(paths.samples() / "alphabets" / n) for n in ("Drashil", "Gulmeri"))
    return jobs.scan((*folders, str(paths.samples() / "teach" / "characters" / "support")), CTX).tasks


def test_every_source_of_every_entry_has_a_place(project, samples):
    from workbench.services.atlas import atlas

    *_, taught = samples
    found = atlas(AtlasRequest("", samples[:2], taught.classes[:2]), project, CTX)
    names = [t.name for t in found.tasks]
    assert {"Drashil", "Gulmeri", "surfaces"} <= set(names)
    assert len(set(names)) == len(names)
    similar = np.array(found.similar)
    assert similar.shape == (len(names), len(names))
    assert np.array_equal(similar, similar.T)
    assert np.allclose(np.diag(similar), 1)
    # characters resemble characters more than they resemble surfaces
    a, b, s = (names.index(n) for n in ("Drashil", "Gulmeri", "surfaces"))
    assert similar[a, b] > similar[a, s]
    assert found.taught.classes == tuple(c.name for c in taught.classes[:2])
    assert found.taught.similar[a] > found.taught.similar[s]
    assert all(0 <= t.x <= 1 and 0 <= t.y <= 1 for t in found.tasks)
    shown = {t.name: t.picture for t in found.tasks}
    assert Path(shown["Drashil"].path).parent.parent.name == "Drashil"
    assert shown["surfaces"] is not None, "what is shipped has a picture of what is shipped"


def test_without_a_common_network_what_it_has_not_seen_is_measured_or_has_no_place(project, samples, monkeypatch):
    from workbench.services import atlas as work
    from workbench.services import probe

    monkeypatch.setattr(probe, "probe", lambda: None)
    shelf = overview.shelf(project, CTX)
    mine = next(e for e in shelf.entries if any(s.name == "Drashil" for s in e.sources))
    library = Library(project)
    arrays = library.load_tensors(library.find(mine.id)[1])
    new = SourceInfo("characters", "/gone", 5, 25, samples[2].fingerprint)
    other = replace(
        mine, id=EntryId("dddd4444"), name="Other", sources=(new, replace(new, name="lost", fingerprint="?"))
    )
    library.save(other, arrays)
    found = work.atlas(AtlasRequest(mine.id, samples[2:]), project, CTX)
    assert (found.under, found.common) == (mine.name, False)
    assert "characters" in [t.name for t in found.tasks], "its pictures are here"
    assert "lost" in [t.name for t in found.elsewhere]
    assert found.taught is None


def test_a_comparison_that_is_not_wanted_any_more_ends(project):
    from workbench.services.atlas import atlas

    ctx = Context()
    ctx.cancel()
    with pytest.raises(JobCancelledError):
        atlas(AtlasRequest("", ()), project, ctx)
