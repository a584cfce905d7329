"""The one-shot benchmark: what the file of runs says is what is asked, nothing else, and nothing twice."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.benchmarks import files, lake, omniglot
from tests.services.conftest import quick
from tests.services.material import picture, request, task
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.data.episodes import normalise
from workbench.project.library import Library
from workbench.services import jobs
from workbench.services import knowledge as known

RUNS, WAYS = 3, 4


def _rows() -> list[list[str]]:
    out = []
    for run in range(RUNS):
        for k in range(WAYS):
            member = f"Letters{run}/character{k:02d}"
            shown = WAYS - k  # the shown ones are numbered in another order than they are asked about
            out.append(
                [f"run{run:02d}", f"item{k:02d}", f"{member}/2.png", f"class{shown:02d}", f"{member}/{shown % 2}.png"]
            )
    return out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / lake.ZIP, "w") as archive:
        for run in range(RUNS):
            for k in range(WAYS):
                for number in range(3):
                    buffer = io.BytesIO()
                    picture(50 * run + k, number).save(buffer, "PNG")
                    archive.writestr(f"Letters{run}/character{k:02d}/{number}.png", buffer.getvalue())
    write(tmp_path, _rows())
    return tmp_path


def write(folder: Path, rows: list[list[str]]) -> None:
    head = "run,test_item,test_file,train_class,train_file"
    (folder / lake.RUNS).write_text("\n".join([head, *(",".join(r) for r in rows)]) + "\n", encoding="utf-8")


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")


def test_the_error_is_that_of_asking_by_hand(trained, data) -> None:
    ((name, result),) = lake.measure(["proto"], data, trained, Context())
    assert name == "proto"
    assert isinstance(result, files.Result)
    library = Library(trained)
    entry, path = library.find("proto")
    knowledge = known.load(entry, path, library)
    p = entry.preprocess
    errors = []
    with zipfile.ZipFile(data / lake.ZIP) as archive:

        def features(members: list[str]) -> torch.Tensor:
            from workbench.data.pixels import open_image, to_pixels

            pixels = [
                to_pixels(open_image(archive.read(m)), size=p.size, channels=p.channels, fit=p.fit, resample=p.resample)
                for m in members
            ]
            assert knowledge.trunk is not None
            with torch.no_grad():
                return knowledge.trunk(normalise(np.stack(pixels), p.mean, p.std))

        for run in range(RUNS):
            rows = _rows()[run * WAYS : (run + 1) * WAYS]
            shown, asked = features([r[4] for r in rows]), features([r[2] for r in rows])
            right = torch.cdist(asked, shown).argmin(1) == torch.arange(WAYS)
            errors.append(1 - float(right.double().mean()))
    assert result.figures["errors"] == pytest.approx(errors)
    assert result.figures["error"] == pytest.approx(np.mean(errors))
    assert result.figures["ci95"] == pytest.approx(1.96 * np.std(errors, ddof=1) / RUNS**0.5)
    assert result.figures["runs"] == RUNS
    assert result.figures["transductive"] is False


def test_entries_that_see_other_pixels_are_asked_the_same(trained, data) -> None:
    found = dict(lake.measure(["proto", "ridge", "maml"], data, trained, Context()))
    hashes = {r.figures["episodes_sha256"] for r in found.values() if isinstance(r, files.Result)}
    assert len(found) == 3
    assert len(hashes) == 1
    maml = found["maml"]
    assert isinstance(maml, files.Result)
    steps = maml.figures["by_step"]
    assert [s["step"] for s in steps] == [0, 1, 2]
    assert steps[-1]["error"] == pytest.approx(maml.figures["error"])
    assert {(s["runs"], s["episodes_sha256"]) for s in steps} == {(RUNS, *hashes)}


def test_what_was_measured_is_not_measured_again_unless_trained_anew(trained, data, monkeypatch) -> None:
    ((_, first),) = lake.measure(["proto"], data, trained, Context())
    calls = []
    real = lake.evaluate
    monkeypatch.setattr(lake, "evaluate", lambda *a, **k: calls.append(1) or real(*a, **k))
    assert list(lake.measure(["proto"], data, trained, Context())) == [("proto", first)]
    assert not calls
    list(lake.measure(["proto"], data, trained, Context(), again=True))
    assert len(calls) == 1
    assert isinstance(first, files.Result)
    files.write("lake", first.command, 0, {**first.figures, "weights_sha256": "another"})
    list(lake.measure(["proto"], data, trained, Context()))
    assert len(calls) == 2


def test_an_entry_that_cannot_do_it_does_not_hinder_the_others(trained, data, capsys) -> None:
    """``fixed`` has a head for three classes, a run has four."""
    found = dict(lake.measure(["fixed", "nobody", "proto"], data, trained, Context()))
    assert isinstance(found["fixed"], WorkbenchError)
    assert isinstance(found["nobody"], WorkbenchError)
    assert isinstance(found["proto"], files.Result)
    assert lake.main(["fixed", "proto", "--data", str(data), "--project", str(trained)]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("proto (protonet, inductive): error ")
    assert said.err.startswith("fixed: ")


def test_the_table_begins_with_the_least_error_and_compares_inductive_ones_with_people(trained, data, capsys) -> None:
    found = dict(lake.measure(["proto", "maml"], data, trained, Context()))
    for name, error, transductive in (("proto", 0.2, False), ("maml", 0.08, True)):
        result = found[name]
        assert isinstance(result, files.Result)
        changed = {"error": error, "ci95": 0.0123, "transductive": transductive}
        files.write("lake", result.command, 0, result.figures | changed)
    assert lake.main(["--table"]) == 0
    _, _, first, second, _, verdict = capsys.readouterr().out.splitlines()
    assert first.startswith("| `maml` | maml | 8.00 \u00b1 1.23 | transductive | ")
    assert second.startswith("| `proto` | protonet | 20.00 \u00b1 1.23 | inductive | ")
    assert "`proto` with 20.00 \u00b1 1.23 %; asked for: 10 % (missed); people: 4.5 %." in verdict


def test_what_the_benchmark_of_training_left_is_found(pictures, data, tmp_path, monkeypatch, capsys) -> None:
    """Each method of it has a project of its own; those that were not trained are left out."""
    recipe = omniglot.RECIPES[0]
    monkeypatch.setattr(omniglot, "RECIPES", omniglot.RECIPES[:2])
    key = omniglot.shown(omniglot.train_command(recipe))
    place = tmp_path / "project" / files.path_of(omniglot.BENCHMARK, key).stem
    quick(monkeypatch)
    jobs.train(request(task(pictures / "source"), name=f"omniglot-{recipe.name}"), place, Context())
    asked = ["--data", str(data), "--project", str(tmp_path / "project"), "--missing"]
    assert lake.main(asked) == 0
    first = capsys.readouterr()
    assert first.out.startswith(f"omniglot-{recipe.name} (protonet, inductive): error ")
    assert first.out.count("\n") == 1
    monkeypatch.setattr(lake, "evaluate", lambda *a, **k: pytest.fail("measured again"))
    assert lake.main(asked) == 0
    assert capsys.readouterr() == first


@pytest.mark.parametrize("arguments", [[], ["proto"], ["--missing"]])
def test_measuring_needs_the_pictures(arguments) -> None:
    with pytest.raises(SystemExit) as stopped:
        lake.main(arguments)
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        (4, "Letters0/character03/0.png", "not two drawings of one character"),
        (4, "Letters0/character00/2.png", "not two drawings of one character"),
        (3, "class03", "is there twice"),
    ],
)
def test_a_file_of_runs_that_is_wrong_is_refused(data, column, value, said) -> None:
    rows = _rows()
    rows[0][column] = value
    write(data, rows)
    with pytest.raises(ValueError, match=said):
        lake.read_runs(data / lake.RUNS)


def test_a_character_twice_in_a_run(data) -> None:
    rows = _rows()
    rows[1][2], rows[1][4] = "Letters0/character00/0.png", "Letters0/character00/1.png"
    write(data, rows)
    with pytest.raises(ValueError, match="one character"):
        lake.read_runs(data / lake.RUNS)
