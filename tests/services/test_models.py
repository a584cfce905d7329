"""From a folder to a model, its predictions and its bundle; and what is refused on the way."""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.services.material import folder, picture, task
from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, StorageError, WorkbenchError
from workbench.core.values import Problem, TaskClass
from workbench.data.read import image_ref
from workbench.export.model import read_model, write_model
from workbench.project import past_tasks
from workbench.project.library import Library
from workbench.services import exporting, jobs, models, predict
from workbench.services.adapt import adapt, similar
from workbench.services.requests import AdaptRequest, ApplyRequest
from workbench.services.teach import TeachRequest


@pytest.fixture(scope="module")
def model(trained: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A taught model, made in another home."""
    out = tmp_path_factory.mktemp("model") / "three.model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(out.parent / "home"))
        adapt(AdaptRequest("proto", str(pictures / "teach"), str(out)), trained, Context())
    return out


class TestAdapt:
    def test_what_was_not_taken_is_listed(self, trained, tmp_path) -> None:
        where = folder(tmp_path / "support", range(20, 23), 3)
        (where / "c20" / "bad.png").write_bytes(b"no")
        shutil.copy(where / "c20" / "0.png", where / "c20" / "again.png")
        shutil.copy(where / "c21" / "0.png", where / "c22" / "shared.png")
        (where / "empty").mkdir()
        done = adapt(AdaptRequest("auto", str(where), str(tmp_path / "m")), trained, Context())
        assert done["classes"] == ["c20", "c21", "c22"]
        found = {Path(p["path"]).name: (p["severity"], p["reason"]) for p in done["problems"]}
        assert found["bad.png"][0] == "error"
        assert found["again.png"] == ("ignored", "is the same picture as 0.png, taken once")
        assert found["shared.png"][0] == "warning"
        assert "c21 and of c22" in found["shared.png"][1]
        assert "empty" in found
        assert "10 examples" in done["estimate"]["how"]
        manifest, _, _ = read_model(tmp_path / "m")
        assert len(manifest.support) == 10

    def test_one_class_is_refused(self, trained, tmp_path) -> None:
        where = folder(tmp_path / "support", range(20, 21), 3)
        with pytest.raises(WorkbenchError, match="at least two classes"):
            adapt(AdaptRequest("auto", str(where), str(tmp_path / "m")), trained, Context())
        assert not (tmp_path / "m").exists()

    def test_several_tasks_and_flat_folders_are_refused(self, trained, tmp_path, pictures) -> None:
        with pytest.raises(WorkbenchError, match="holds 3 tasks"):
            adapt(AdaptRequest("auto", str(pictures), str(tmp_path / "m")), trained, Context())
        with pytest.raises(WorkbenchError, match="no class folders"):
            adapt(AdaptRequest("auto", str(pictures / "teach" / "c20"), str(tmp_path / "m")), trained, Context())

    def test_a_zip_of_examples(self, trained, pictures, tmp_path) -> None:
        archive = tmp_path / "examples.zip"
        with zipfile.ZipFile(archive, "w") as z:
            for file in sorted((pictures / "teach").rglob("*.png")):
                z.write(file, file.relative_to(pictures / "teach"))
        zipped = adapt(AdaptRequest("proto", str(archive), str(tmp_path / "a")), trained, Context())
        plain = adapt(AdaptRequest("proto", str(pictures / "teach"), str(tmp_path / "b")), trained, Context())
        assert zipped["classes"] == plain["classes"]
        assert zipped["estimate"] == plain["estimate"]

    def test_an_entry_by_its_path_need_not_lie_in_the_library(self, trained, pictures, tmp_path) -> None:
        entry, path = Library(trained).find("maml")
        away = Path(shutil.copytree(path, tmp_path / "away"))
        out = str(tmp_path / "m")
        done = adapt(AdaptRequest(str(away), str(pictures / "teach"), out), tmp_path / "empty", Context())
        assert done["chosen"]["entry"] == entry.id
        assert done["chosen"]["strategy"] == "asked for"
        assert done["chosen"]["reason"].startswith("You chose maml")

    def test_a_damaged_entry_that_was_asked_for_is_refused(self, project, pictures, tmp_path) -> None:
        """Not replaced by another one without a word."""
        path = Library(project).find("proto")[1]
        (path / "weights.safetensors").write_bytes(b"x" * 100)
        with pytest.raises(WorkbenchError):
            adapt(AdaptRequest("proto", str(pictures / "teach"), str(tmp_path / "m")), project, Context())
        assert not (tmp_path / "m").exists()

    @pytest.mark.parametrize(
        ("choice", "images", "strategy"),
        [
            ("auto", 4, "recipes, by similarity and leave-one-out loss"),
            ("auto", 1, "recipes, by similarity"),
            ("none", 4, "no transfer"),
            ("proto", 4, "asked for"),
        ],
    )
    def test_the_model_says_how_its_knowledge_was_chosen(self, trained, tmp_path, choice, images, strategy) -> None:
        where = folder(tmp_path / "support", range(20, 23), images)
        done = adapt(AdaptRequest(choice, str(where), str(tmp_path / "m")), trained, Context())
        if done["chosen"]["entry"] is None:
            strategy = "no transfer"
        assert done["chosen"]["strategy"] == strategy
        assert read_model(tmp_path / "m")[0].strategy == strategy

    def test_the_task_is_remembered_as_one_that_was_taught_is(self, project, pictures, tmp_path) -> None:
        before = {t.id for t in past_tasks.read(project)[0]}
        folder(tmp_path / "t", range(30, 33), 3)
        for choice in ("proto", "ridge"):
            done = adapt(AdaptRequest(choice, str(tmp_path / "t"), str(tmp_path / choice)), project, Context())
            (found,) = (t for t in past_tasks.read(project)[0] if t.id not in before)
            assert found.chosen.entry == done["chosen"]["entry"] == Library(project).find(choice)[0].id
            assert found.shots == (3, 3, 3)
            assert {t.used.entry for t in found.tried} >= {found.chosen.entry, None}
            assert found.representation, "its place under the probe"

    def test_a_folder_without_a_name_is_refused_before_the_work(self, trained, pictures) -> None:
        with pytest.raises(WorkbenchError, match="no usable name"):
            adapt(AdaptRequest("auto", str(pictures / "teach"), "/"), trained, Context())


class TestSimilar:
    def test_labels_do_not_matter(self, trained, pictures, tmp_path) -> None:
        flat = tmp_path / "flat"
        flat.mkdir()
        for n, file in enumerate(sorted((pictures / "source").rglob("*.png"))):
            shutil.copy(file, flat / f"{n}.png")
        labelled, unlabelled = (similar(str(w), trained, Context()) for w in (pictures / "source", flat))
        values, others = ({r.entry: r.similarity for r in found} for found in (labelled, unlabelled))
        assert set(values) == {e.id for e in Library(trained).entries()}
        assert values == pytest.approx(others, abs=1e-4)
        assert values[Library(trained).find("proto")[0].id] > 0.9, "it was trained on these"
        assert [r.similarity for r in labelled] == sorted(values.values(), reverse=True)
        assert all(r.by_probe for r in labelled), "one ships"

    def test_two_pictures_are_enough_for_a_fixed_head(self, trained, tmp_path) -> None:
        where = folder(tmp_path / "few", range(20, 21), 2)
        assert len(similar(str(where), trained, Context())) == 5

    def test_nothing_to_compare(self, trained, tmp_path) -> None:
        (tmp_path / "a.png").write_bytes(b"no")
        with pytest.raises(WorkbenchError, match="no picture that can be read"):
            similar(str(tmp_path), trained, Context())


class TestOpen:
    @pytest.mark.parametrize("choice", ["proto", "maml", "reptile", "ridge", "fixed", "none"])
    def test_a_model_answers_as_the_window_did(self, trained, classes, queries, tmp_path, choice) -> None:
        asked = tuple(i for c in queries for i in c.images)
        entry = choice if choice == "none" else Library(trained).find(choice)[0].id
        request = TeachRequest(1, classes, asked, entry)
        shown = jobs.teach(request, trained, Context()).steps[-1]
        out = jobs.save_taught(request, trained, tmp_path / "m", Context())
        answers, problems = predict.predict_images(models.open_model(out), asked, Context())
        assert not problems
        for here, there in zip(shown, answers, strict=True):
            assert here.probabilities == pytest.approx(there.probabilities, abs=1e-5)
            assert here.none == pytest.approx(there.none, abs=1e-5)
            assert [n.distance for n in here.nearest] == pytest.approx([n.distance for n in there.nearest], abs=1e-3)
            assert [n.class_index for n in here.nearest] == [n.class_index for n in there.nearest]

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda t: t.pop("support.label"),
            lambda t: t.update({"support.label": np.zeros_like(t["support.label"])}),
            lambda t: t.update({"support.prototypes": t["support.prototypes"][:2]}),
            lambda t: t.update({"adapted.prototypes": t["adapted.prototypes"][:, :3]}),
            lambda t: t.pop("learned.trunk.0.conv.weight"),
            lambda t: t.update({"learned.trunk.0.conv.weight": np.zeros((4, 4), np.float32)}),
            lambda t: [t.pop(n) for n in list(t) if n.startswith(("learned", "memory"))],
        ],
    )
    def test_tensors_that_do_not_fit_are_a_refusal_and_no_crash(self, model, tmp_path, spoil) -> None:
        manifest, tensors, thumbnails = read_model(model)
        spoil(tensors)
        out = write_model(tmp_path / "m", manifest, tensors, thumbnails)
        with pytest.raises(StorageError, match="do not fit its network"):
            models.open_model(out)

    def test_one_that_answers_otherwise_is_refused(self, model, tmp_path) -> None:
        manifest, tensors, thumbnails = read_model(model)
        tensors["adapted.prototypes"] = tensors["adapted.prototypes"][::-1].copy()
        out = write_model(tmp_path / "m", manifest, tensors, thumbnails)
        with pytest.raises(StorageError, match="does not answer as it did"):
            models.open_model(out)


def apply(model: Path, project: Path, *paths: Path, **more: object):  # type: ignore[no-untyped-def]
    request = ApplyRequest(str(model), tuple(map(str, paths)), **more)  # type: ignore[arg-type]
    return jobs.apply(request, project, Context())


class TestPredict:
    def test_files_folders_zips_and_what_is_none_of_these(self, model, trained, pictures, tmp_path) -> None:
        archive = tmp_path / "some.archive"
        with zipfile.ZipFile(archive, "w") as z:
            z.write(pictures / "query" / "c20" / "0.png", "in/a.png")
        bad = tmp_path / "bad.jpg"
        bad.write_bytes(b"\xff\xd8 no")
        single = pictures / "query" / "c21" / "0.png"
        found = apply(model, trained, single, single, bad, archive, pictures / "query" / "c22")
        assert len(found.predictions) == 1 + 1 + 5
        assert found.predictions[1].image.member == "in/a.png"
        assert [p.path for p in found.problems] == [str(bad)]

    def test_a_folder_inside_a_folder_is_asked_once(self, model, trained, pictures) -> None:
        found = apply(model, trained, pictures / "query", pictures / "query" / "c20")
        assert len(found.predictions) == 15

    def test_nothing_to_predict(self, model, trained, tmp_path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(WorkbenchError, match="is not there"):
            apply(model, trained, tmp_path / "missing")
        found = apply(model, trained, tmp_path / "empty")
        assert (found.predictions, len(found.problems)) == ((), 1)

    @pytest.mark.parametrize("at_once", [1, 64])
    def test_a_picture_that_vanished_is_a_problem_and_not_the_end(
        self, model, trained, tmp_path, monkeypatch, at_once
    ) -> None:
        monkeypatch.setattr(predict, "_AT_ONCE", at_once)
        for n in range(3):
            picture(20, 800 + n).save(tmp_path / f"{n}.png")
        images = tuple(image_ref(str(tmp_path / f"{n}.png")) for n in range(3))
        (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes())
        answers, problems = predict.predict_images(models.open_model(model), images, Context())
        assert [p.image.name for p in answers] == ["0.png", "2.png"]
        assert problems == (Problem(str(tmp_path / "1.png"), "it was changed since it was loaded", "error"),)

    def test_the_table_is_safe_and_a_person_has_the_last_word(self, model, trained, pictures, tmp_path) -> None:
        where = tmp_path / "=cmd"
        where.mkdir()
        for n in range(3):
            shutil.copy(pictures / "query" / "c20" / f"{n}.png", where / f"{n}.png")
        opened = models.open_model(model)
        images = tuple(image_ref(str(where / f"{n}.png")) for n in range(3))
        answers, _ = predict.predict_images(opened, images, Context())
        relative = tuple(replace(a, image=replace(a.image, path=f"=cmd/{i}.png")) for i, a in enumerate(answers))
        human = {images[0].sha256: "-c21", images[1].sha256: predict.NONE_OF_THESE}
        rows = list(csv.DictReader(io.StringIO(predict.to_csv(opened, relative, human).decode())))
        assert [r["image"] for r in rows] == [f"'=cmd/{i}.png" for i in range(3)]
        assert [r["class"] for r in rows[:2]] == ["'-c21", "none of these"]
        assert [r["by"] for r in rows] == ["human", "human", "machine"]
        assert [r["rejected"] for r in rows[:2]] == ["false", "true"]
        assert [float(r["probability"]) for r in rows[:2]] == [1.0, 1.0]

    def test_copies_are_sorted_and_never_overwritten(self, model, trained, pictures, tmp_path) -> None:
        out, archive = tmp_path / "sorted", tmp_path / "z.zip"
        with zipfile.ZipFile(archive, "w") as z:
            z.write(pictures / "query" / "c20" / "0.png", "0.png")
        labels = tuple(
            (i.sha256, "mine") for c in task(pictures / "query").classes for i in c.images if i.name == "0.png"
        )
        apply(model, trained, pictures / "query", archive, copy_to=str(out), labels=labels)
        assert sorted(p.name for p in (out / "mine").iterdir()) == ["0 (2).png", "0 (3).png", "0 (4).png", "0.png"]
        assert sum(1 for _ in out.rglob("*.png")) == 16
        apply(model, trained, pictures / "query" / "c20" / "0.png", copy_to=str(out), labels=labels)
        assert (out / "mine" / "0 (5).png").is_file()

    def test_a_stop_is_heeded(self, model, trained, pictures) -> None:
        ctx = Context()
        ctx.cancel()
        opened = models.open_model(model)
        with pytest.raises(JobCancelledError):
            predict.predict_images(opened, task(pictures / "query").classes[0].images, ctx)


class TestPictures:
    def remembered(self, project: Path, classes: tuple[TaskClass, ...], queries: tuple[TaskClass, ...], out: Path):  # type: ignore[no-untyped-def]
        asked = tuple(i for c in queries for i in c.images)
        request = TeachRequest(1, classes, asked, Library(project).find("proto")[0].id)
        jobs.save_taught(request, project, out, Context())
        return models.open_model(out)

    def test_an_export_is_compared_on_the_tasks_own_pictures(self, project, classes, queries, tmp_path) -> None:
        model = self.remembered(project, classes, queries, tmp_path / "m")
        found = exporting._pictures(model, project, tmp_path, Context())
        assert [i.name for i, _ in found] == ["0.png", "1.png", "2.png", "3.png"] * 3 + [
            f"{n}.png" for n in range(5)
        ] * 3
        assert all(p.shape == (16, 16, 3) for _, p in found)

    def test_of_very_many_some_are_taken(self, project, classes, queries, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(exporting, "_MOST", 4)
        model = self.remembered(project, classes, queries, tmp_path / "m")
        found = exporting._pictures(model, project, tmp_path, Context())
        assert len(found) == 12 + 4

    def test_elsewhere_its_thumbnails_do(self, project, classes, queries, tmp_path) -> None:
        model = self.remembered(project, classes, queries, tmp_path / "m")
        assert len(exporting._pictures(model, tmp_path / "elsewhere", tmp_path, Context())) == 12

    def test_a_damaged_note_is_no_hindrance(self, project, classes, queries, tmp_path) -> None:
        model = self.remembered(project, classes, queries, tmp_path / "m")
        (note,) = (project / "models").iterdir()
        note.write_bytes(b"{")
        assert len(exporting._pictures(model, project, tmp_path, Context())) == 12

    def test_changed_pictures_are_left_out(self, project, tmp_path) -> None:
        where = folder(tmp_path / "support", range(20, 22), 2)
        out = tmp_path / "m"
        adapt(AdaptRequest("proto", str(where), str(out)), project, Context())
        (where / "c20" / "0.png").write_bytes((where / "c20" / "1.png").read_bytes())
        assert len(exporting._pictures(models.open_model(out), project, tmp_path, Context())) == 3

    def test_the_note_holds_paths_that_the_model_does_not(self, project, classes, queries, tmp_path) -> None:
        self.remembered(project, classes, queries, tmp_path / "m")
        (note,) = (project / "models").iterdir()
        where = str(Path(classes[0].images[0].path).parent.parent)
        assert where in json.dumps(json.loads(storage.load(note)))
        assert where not in (tmp_path / "m" / "model.json").read_text()
