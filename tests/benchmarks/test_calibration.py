"""The measures of the benchmark of honest estimates, the tasks it draws, and what it makes of its results."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.benchmarks import calibration, files
from tests.benchmarks.calibrated_tasks import Domain, area, calibration_error, domain, draw, mislabel
from workbench.core.values import ImageRef, TaskClass
from workbench.project import library
from workbench.project.library import Library


def test_calibration_error_by_hand():
    # two bins: 0.9 is right half of the time, 0.3 never
    assert calibration_error([0.9, 0.9, 0.3, 0.3], [True, False, False, False]) == pytest.approx(0.35)
    assert calibration_error([1.0, 1.0], [True, True]) == 0.0
    with pytest.raises(ValueError):
        calibration_error([], [])


def test_answers_drawn_as_sure_as_they_are_have_no_error():
    gen = np.random.default_rng(0)
    sure = gen.uniform(0.2, 1.0, 40_000)
    assert calibration_error(sure, gen.uniform(size=40_000) < sure) < 0.02
    assert calibration_error(sure, gen.uniform(size=40_000) < sure - 0.1) > 0.08


def test_area_counts_pairs_and_ties_half():
    gen = np.random.default_rng(1)
    known, unknown = gen.integers(0, 6, 30), gen.integers(2, 8, 20)
    pairs = [(u > k) + 0.5 * (u == k) for u in unknown for k in known]
    assert area(known, unknown) == pytest.approx(np.mean(pairs))
    with pytest.raises(ValueError):
        area([], [1.0])


def group(name, classes, images=8):
    def picture(c, i):
        return ImageRef(f"{name}/{c}/{i}.png", "", f"{name}{c}{i}", 1, 28, 28)

    return tuple(TaskClass(f"{c}", tuple(picture(c, i) for i in range(images))) for c in range(classes))


WHERE = Domain("letters", (group("a", 6), group("b", 4), group("c", 7)))


@pytest.mark.parametrize("seed", range(5))
def test_a_task_comes_from_one_group_and_never_asks_about_its_examples(seed):
    task = draw(WHERE, np.random.default_rng(seed), 5, 3, 2, withheld=1)
    support = [i for c in task.classes for i in c.images]
    assert [len(c.images) for c in task.classes] == [3] * 5
    assert len({i.path[0] for i in (*support, *task.queries)}) == 1
    assert not {i.sha256 for i in support} & {i.sha256 for i in task.queries}
    assert sorted(task.truth) == sorted([*range(6)] * 2)
    for query, truth in zip(task.queries, task.truth, strict=True):
        own = {i.path.split("/")[1] for i in task.classes[truth].images} if truth < 5 else set()
        assert (query.path.split("/")[1] in own) == (truth < 5)


def test_all_other_pictures_are_asked_about():
    task = draw(WHERE, np.random.default_rng(0), 4, 3, None)
    assert len(task.queries) == 4 * 5


def test_one_label_is_wrong_and_it_is_said_which():
    gen = np.random.default_rng(3)
    task = draw(WHERE, gen, 5, 3, 2)
    planted, (wrong, place) = mislabel(task, gen)
    names = [{i.path.split("/")[1] for i in c.images} for c in planted.classes]
    assert [len(n) for n in names] == [2 if c == wrong else 1 for c in range(5)]
    assert planted.classes[wrong].images[place].path.split("/")[1] != task.classes[wrong].images[0].path.split("/")[1]
    assert len({i.sha256 for c in planted.classes for i in c.images}) == 15


def row(**more):
    covered = {"covered": 0.95, "covered_plain": 0.93, "width": 0.3, "estimated": 0.8, "realised": 0.82, "tried": 9.0}
    return {"arm": "chosen", "tasks": 200, **covered, **more}


def test_the_table_is_that_of_the_results_of_one_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    assert len(list(calibration.table("mine"))) == 2
    key = calibration.command("interval", "evaluation", "mine")
    files.write(calibration.BENCHMARK, key, 0, {"rows": [row()]})
    lines = list(calibration.table("mine"))
    assert len(lines) == 3
    assert "0.950 (plain share 0.930; width 0.30; estimated 0.800, realised 0.820)" in lines[2]
    assert "chosen among 9 on average" in lines[2]
    assert len(list(calibration.table(""))) == 2


@pytest.mark.parametrize(("covered", "missed"), [(0.95, 0), (0.89, 1), (0.995, 1)])
def test_too_many_count_as_missed_like_too_few(covered, missed):
    assert len(calibration.missed("interval", [row(covered=covered)])) == missed


def test_what_was_measured_of_one_network_is_not_asked_again_and_not_taken_for_anothers(tmp_path, monkeypatch):
    asked = []

    class Entry:
        id, sources, provenance = "1", (), {"trunk": "first", "seconds": 1.0}

    def measured(_):
        asked.append(1)
        return {"rows": [row(covered=0.5)]}

    monkeypatch.setattr(files, "RESULTS", tmp_path)
    monkeypatch.setattr(calibration, "trained", lambda *_, **__: Entry)
    monkeypatch.setattr(calibration, "MEASURES", {"interval": measured})
    line = ["--data", str(Path(tmp_path)), "--only", "interval", "--project", str(tmp_path)]
    assert calibration.main(line) == 1
    assert calibration.main(line) == 1
    assert len(asked) == 1
    assert calibration.main([*line, "--again"]) == 1
    Entry.provenance = {"trunk": "second", "seconds": 1.0}
    assert calibration.main(line) == 1
    assert len(asked) == 3


def test_nothing_is_asked_about_that_anything_to_choose_was_trained_on(tmp_path):
    for n, place in enumerate(("one/a", "one/b", "two/a", "two/b")):
        folder = tmp_path / "letters" / place
        folder.mkdir(parents=True)
        for i in range(2):
            Image.new("L", (28, 28), 40 * n + 20 * i).save(folder / f"{i}.png")

    def entry(*names):
        return SimpleNamespace(sources=[SimpleNamespace(name=n) for n in names])

    assert len(domain("letters", tmp_path / "letters", [entry(), entry("others")]).groups) == 2
    assert len(domain("letters", tmp_path / "letters", [entry(), entry("one")]).groups) == 1
    with pytest.raises(SystemExit, match="trained on all of it"):
        domain("letters", tmp_path / "letters", [entry("two"), entry("one")])


@pytest.mark.parametrize(("on", "shipped"), [("validation", False), ("evaluation", True)])
def test_what_is_shipped_is_not_chosen_where_it_was_trained(tmp_path, monkeypatch, on, shipped):
    """The shipped knowledge has seen all alphabets that are held out for choosing defaults."""
    there = tmp_path / "shipped"
    monkeypatch.setattr(library, "starter_knowledge", lambda: there)
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    entry = SimpleNamespace(id="1", sources=(), provenance={"trunk": "first"})
    monkeypatch.setattr(calibration, "trained", lambda *_, **__: entry)
    found = []

    def measured(setup):
        found.append(there in Library(setup.project).folders)
        return {"rows": [row()]}

    monkeypatch.setattr(calibration, "MEASURES", {"interval": measured})
    calibration.main(["--data", str(tmp_path), "--only", "interval", "--project", str(tmp_path), "--on", on])
    assert found == [shipped]
