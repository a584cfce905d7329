"""Teaching: every kind of knowledge, every kind of support set, and a library in which not all is well."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.services.material import picture, task
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.values import EntryId, ImageRef, TaskClass
from workbench.data import read
from workbench.data.read import image_ref
from workbench.learn.algorithms.maml import MAML
from workbench.project.library import Library
from workbench.services import answers, knowledge, looks, teaching
from workbench.services.teach import TeachRequest, TeachResult
from workbench.services.teaching import teach
from workbench.transfer.prior import Experience

Classes = tuple[TaskClass, ...]


def ask(classes: Classes, project: Path, queries: tuple[ImageRef, ...] = (), choice: str = "auto") -> TeachResult:
    return teach(TeachRequest(1, classes, queries, choice), project, Context())


def pictures_of(classes: Classes) -> tuple[ImageRef, ...]:
    return tuple(i for c in classes for i in c.images)


def id_of(project: Path, name: str) -> EntryId:
    return Library(project).find(name)[0].id


def shots(classes: Classes, *counts: int) -> Classes:
    return tuple(replace(c, images=c.images[:n]) for c, n in zip(classes, counts, strict=True))


def only(project: Path, *names: str) -> Path:
    """The project with these entries alone."""
    for entry in Library(project).entries():
        if entry.name not in names:
            shutil.rmtree(project / "knowledge" / entry.id)
    return project


def change_card(project: Path, which: str, /, **changes: object) -> Path:
    """Save an entry anew with another card."""
    library = Library(project)
    entry, path = library.find(which)
    tensors = library.load_tensors(path)
    shutil.rmtree(path)
    return library.save(replace(entry, **changes), tensors)  # type: ignore[arg-type]


class TestAnswers:
    def test_all_knowledge_is_ranked_and_everything_adds_up(self, trained, classes, queries) -> None:
        asked = pictures_of(queries)
        result = ask(classes, trained, asked)
        assert {c.name for c in result.candidates} == {"proto", "maml", "fixed", "reptile", "ridge", "No transfer"}
        assert sum(c.weight for c in result.candidates) == pytest.approx(1)
        assert [c.chosen for c in result.candidates].count(True) == 1
        assert result.estimate is not None
        assert 0 <= result.estimate.low <= result.estimate.accuracy <= result.estimate.high <= 1
        assert [p.image for p in result.steps[-1]] == list(asked)
        for p in result.steps[-1]:
            assert sum(p.probabilities) + p.none == pytest.approx(1, abs=1e-5)
            assert [n.distance for n in p.nearest] == sorted(n.distance for n in p.nearest)
            assert len(p.nearest) == 3
        assert not result.problems
        assert [len(row) for row in result.influence] == [4, 4, 4]
        assert all(loss is not None for row in result.influence for loss in row)

    def test_new_pictures_are_told_apart(self, trained, classes, queries) -> None:
        asked = pictures_of(queries)
        truth = [c for c, k in enumerate(queries) for _ in k.images]
        answers = ask(classes, trained, asked, id_of(trained, "proto")).steps[-1]
        assert sum(p.best == t for p, t in zip(answers, truth, strict=True)) >= 12
        assert all(n.class_index == p.best for p in answers for n in p.nearest[:1] if not p.rejected)

    def test_without_queries_there_is_still_a_choice_and_an_estimate(self, trained, classes) -> None:
        result = ask(classes, trained)
        assert result.steps[-1] == ()
        assert len(result.steps) == len(result.step_names)
        assert result.estimate is not None

    def test_a_query_that_is_an_example_is_not_its_own_neighbour(self, trained, classes) -> None:
        first = classes[0].images[0]
        (answer,) = ask(classes, trained, (first,), id_of(trained, "proto")).steps[-1]
        assert len(answer.nearest) == 3
        assert all(n.image.sha256 != first.sha256 for n in answer.nearest)
        (answer,) = ask(shots(classes, 1, 1, 1), trained, (first,), id_of(trained, "proto")).steps[-1]
        assert [n.class_index for n in answer.nearest] != []
        assert len(answer.nearest) == 2, "the two other examples"

    def test_rows_in_pieces_are_the_same_rows(self, trained, classes, queries, monkeypatch) -> None:
        asked = pictures_of(queries)
        whole = ask(classes, trained, asked).steps[-1]
        monkeypatch.setattr(answers, "_ROWS", 4)
        pieces = ask(classes, trained, asked).steps[-1]
        assert [p.probabilities for p in pieces] == [pytest.approx(p.probabilities, abs=1e-6) for p in whole]
        assert [p.nearest[0].image for p in pieces] == [p.nearest[0].image for p in whole]


class TestShots:
    def test_one_example_each_is_judged_by_similarity_alone(self, trained, classes, queries) -> None:
        result = ask(shots(classes, 1, 1, 1), trained, pictures_of(queries))
        assert result.estimate is None
        assert all(c.loss is None for c in result.candidates)
        assert "similarity" in result.reason
        assert all(loss is None for row in result.influence for loss in row)
        assert len(result.steps[-1]) == 15

    @pytest.mark.parametrize("counts", [(1, 4, 2), (4, 1, 1), (2, 3, 4)])
    @pytest.mark.parametrize("name", ["proto", "maml", "ridge"])
    def test_unequal_shots(self, trained, classes, queries, counts, name) -> None:
        result = ask(shots(classes, *counts), trained, pictures_of(queries), id_of(trained, name))
        assert len(result.steps[-1]) == 15
        assert (result.estimate is None) == (min(counts) < 2)
        for n, row in zip(counts, result.influence, strict=True):
            assert len(row) == n
            assert all((loss is not None) == (n > 1) for loss in row)

    def test_sixty_examples_of_one_class(self, trained, classes, queries, tmp_path) -> None:
        for n in range(60):
            picture(20, 500 + n).save(tmp_path / f"{n}.png")
        many = replace(classes[0], images=tuple(image_ref(str(tmp_path / f"{n}.png")) for n in range(60)))
        result = ask((many, *classes[1:]), trained, pictures_of(queries))
        assert result.estimate is not None
        assert "68 examples" in result.estimate.how
        assert sum(p.best == 0 for p in result.steps[-1][:5]) >= 4

    def test_more_than_a_hundred_are_left_out_in_parts_and_all_are_judged(self, trained, classes, monkeypatch) -> None:
        monkeypatch.setattr(looks, "_ONE_BY_ONE", 5)
        adapted = []
        real = looks.held_out
        monkeypatch.setattr(looks, "held_out", lambda *a: adapted.append(a[4]) or real(*a))
        result = ask(shots(classes, 3, 4, 3), trained, choice="none")
        assert adapted
        assert set(adapted) <= {10, 3}
        assert all(loss is not None for row in result.influence for loss in row)

    def test_fewer_than_two_classes_are_refused(self, trained, classes) -> None:
        with pytest.raises(WorkbenchError, match="at least two classes"):
            ask(classes[:1], trained)
        with pytest.raises(WorkbenchError, match="no readable example"):
            ask((classes[0], replace(classes[1], images=())), trained)

    def test_a_picture_in_two_classes_is_odd_in_both(self, trained, classes) -> None:
        shared = classes[0].images[0]
        mixed = (classes[0], replace(classes[1], images=(*classes[1].images, shared)), classes[2])
        result = ask(mixed, trained, choice=id_of(trained, "proto"))
        wrong = result.influence[1][-1]
        assert wrong == max(result.influence[1])
        assert wrong > 0.5


class TestSteps:
    def test_the_slider_shows_every_inner_step_with_estimates_at_both_ends(self, trained, classes, queries) -> None:
        result = ask(classes, trained, pictures_of(queries), id_of(trained, "maml"))
        assert result.gradient_based
        assert result.step_names == ("Before", "After 1 step", "After 2 steps")
        assert len(result.steps) == 3
        before, between, after = result.step_estimates
        assert before is not None
        assert between is None
        assert after == result.estimate
        assert [p.probabilities for p in result.steps[0]] != [p.probabilities for p in result.steps[2]]

    def test_a_long_way_is_shown_in_eleven_positions(self, trained, classes, queries) -> None:
        result = ask(classes, trained, pictures_of(queries)[:4], id_of(trained, "reptile"))
        assert len(result.step_names) == 11
        assert result.step_names[0] == "Before"
        assert result.step_names[-1] == "After 24 steps"
        numbers = [0 if n == "Before" else int(n.split()[1]) for n in result.step_names]
        assert numbers == sorted(set(numbers))

    def test_very_long_ways_keep_few_networks(self) -> None:
        slider = teaching._Slider()
        for j in range(501):
            slider(j, teaching.Adapted({}, j))
            assert len(slider._kept) <= 23
        last = teaching.Adapted({}, 999)
        positions = slider.positions(last)
        assert len(positions) == 11
        assert positions[0][0] == 0
        assert positions[-1] == (500, last)
        gaps = [b[0] - a[0] for a, b in itertools.pairwise(positions)]
        assert max(gaps) <= 2 * min(gaps[:-1])

    def test_with_many_queries_only_the_ends_are_shown(self, trained, classes, queries, monkeypatch) -> None:
        monkeypatch.setattr(teaching, "_STEP_PICTURES", 20)
        result = ask(classes, trained, pictures_of(queries), id_of(trained, "maml"))
        assert result.step_names == ("Before", "After 2 steps")
        assert None not in result.step_estimates

    def test_metric_knowledge_is_shown_beside_no_transfer(self, trained, classes, queries) -> None:
        result = ask(classes, trained, pictures_of(queries), id_of(trained, "proto"))
        assert result.step_names == ("Without transfer", "With transfer")
        assert not result.gradient_based
        assert "picked from" not in result.step_estimates[0].how
        nothing = ask(classes, trained, pictures_of(queries), "none")
        assert nothing.step_names == ("After adapting",)
        assert [p.probabilities for p in nothing.steps[0]] == [p.probabilities for p in result.steps[0]]

    def test_a_stop_is_heeded(self, trained, classes, queries) -> None:
        ctx = Context()
        ctx.cancel()
        with pytest.raises(JobCancelledError):
            teach(TeachRequest(1, classes, pictures_of(queries)), trained, ctx)


class TestChoice:
    def test_only_what_was_picked_is_lowered_for_it(self, trained, classes, monkeypatch) -> None:
        teaching._forget()  # what was adapted before is not judged again
        monkeypatch.setattr(teaching, "lost_by_choosing", lambda *_: 2.0)
        asked_for = ask(classes, trained, choice=id_of(trained, "proto"))
        assert "picked from" not in asked_for.estimate.how
        picked = ask(classes, trained)
        assert "lowered by 2.0 because this was picked from" in picked.estimate.how
        assert picked.estimate.low < asked_for.estimate.low, "all of them recognise all examples"
        teaching._forget()

    def test_knowledge_that_is_gone_is_said_to_be_gone(self, trained, classes) -> None:
        result = ask(classes, trained, choice="0123abcd")
        assert result.reason.startswith("What you chose is not there any more.")
        assert any(c.chosen for c in result.candidates)

    def test_entries_of_other_sizes_and_channels_stand_side_by_side(self, trained, classes, queries) -> None:
        for name in ("proto", "ridge"):
            result = ask(classes, trained, pictures_of(queries), id_of(trained, name))
            assert next(c for c in result.candidates if c.chosen).name == name
            assert len(result.steps[-1]) == 15

    def test_two_entries_with_the_same_weights_stay_two(self, project, classes) -> None:
        """Two runs with one seed, or a copy under another name."""
        library = Library(only(project, "proto"))
        entry, path = library.find("proto")
        twin = replace(
            entry, id=EntryId("feedbeef"), name="twin", calibration={**entry.calibration, "temperature": 9.0}
        )
        library.save(twin, library.load_tensors(path))
        result = ask(classes, project, choice=twin.id)
        assert {c.name for c in result.candidates} == {"proto", "twin", "No transfer"}
        assert next(c for c in result.candidates if c.chosen).name == "twin"
        assert len({c.entry for c in result.candidates}) == 3

    def test_an_entry_that_was_saved_anew_is_read_anew(self, project, classes) -> None:
        only(project, "proto")
        before = ask(classes, project)
        change_card(project, "proto", name="renamed")
        after = ask(classes, project)
        assert {c.name for c in before.candidates} == {"proto", "No transfer"}
        assert {c.name for c in after.candidates} == {"renamed", "No transfer"}

    def test_the_empty_library_transfers_nothing(self, tmp_path, classes, queries) -> None:
        result = ask(classes, tmp_path / "new", pictures_of(queries))
        assert [c.name for c in result.candidates] == ["No transfer"]
        assert len(result.steps) == 1
        assert result.estimate is not None
        assert "picked from" not in result.estimate.how


class TestDamage:
    def test_a_damaged_entry_does_not_stop_teaching(self, project, classes, queries) -> None:
        file = project / "knowledge" / id_of(project, "proto") / "weights.safetensors"
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        file.write_bytes(data)
        result = ask(classes, project, pictures_of(queries))
        assert "proto" not in {c.name for c in result.candidates}
        (problem,) = result.problems
        assert problem.path.endswith(file.parent.name)
        assert problem.severity == "error"
        assert "not what was saved" in problem.reason
        with pytest.raises(WorkbenchError, match="damaged"):
            ask(classes, project, choice=file.parent.name)

    def test_an_unreadable_card_is_listed(self, project, classes) -> None:
        card = project / "knowledge" / id_of(project, "proto") / "entry.json"
        card.write_text("{}")
        result = ask(classes, project)
        assert "proto" not in {c.name for c in result.candidates}
        assert [Path(p.path).name for p in result.problems] == [card.parent.name]

    @pytest.mark.parametrize("changes", [{"algorithm": "from-the-future"}, {"backbone": "from-the-future"}])
    def test_an_entry_of_another_version_is_listed(self, project, classes, changes) -> None:
        path = change_card(project, "proto", **changes)
        result = ask(classes, project)
        assert "proto" not in {c.name for c in result.candidates}
        assert [p.path for p in result.problems] == [str(path)]
        assert "from-the-future" in result.problems[0].reason

    @pytest.mark.parametrize("name", ["proto", "maml"])
    def test_tensors_that_do_not_fit_are_listed(self, project, classes, name) -> None:
        change_card(project, name, backbone="conv4")
        result = ask(classes, project)
        assert name not in {c.name for c in result.candidates}
        assert "do not fit its network" in result.problems[0].reason

    def test_a_fixed_head_is_left_out_where_it_has_another_number_of_classes(self, trained, classes, queries) -> None:
        two = classes[:2]
        result = ask(two, trained, pictures_of(queries))
        assert "fixed" not in {c.name for c in result.candidates}
        (problem,) = result.problems
        assert (problem.path, problem.severity) == ("fixed", "ignored")
        assert "2 classes" in problem.reason
        with pytest.raises(WorkbenchError, match="2 classes"):
            ask(two, trained, choice=id_of(trained, "fixed"))
        assert ask(shots(classes, 1, 1, 1), trained, choice=id_of(trained, "fixed")).gradient_based

    @pytest.mark.parametrize("name", ["proto", "maml"])
    def test_a_query_that_is_gone_does_not_take_the_others_with_it(
        self, trained, classes, queries, tmp_path, name
    ) -> None:
        picture(20, 900).save(tmp_path / "gone.png")
        gone = image_ref(str(tmp_path / "gone.png"))
        (tmp_path / "gone.png").unlink()
        asked = (*pictures_of(queries)[:3], gone, *pictures_of(queries)[3:5])
        result = ask(classes, trained, asked, id_of(trained, name))
        for step in result.steps:
            assert [p.image for p in step] == [q for q in asked if q is not gone]
        assert [p.path for p in result.problems] == [gone.path]

    def test_all_queries_gone(self, trained, classes, tmp_path) -> None:
        picture(20, 901).save(tmp_path / "gone.png")
        gone = image_ref(str(tmp_path / "gone.png"))
        (tmp_path / "gone.png").unlink()
        result = ask(classes, trained, (gone,), id_of(trained, "proto"))
        assert result.steps == ((), ())
        assert len(result.problems) == 1

    def test_an_example_that_is_gone_is_named(self, trained, classes, tmp_path) -> None:
        picture(20, 902).save(tmp_path / "gone.png")
        gone = image_ref(str(tmp_path / "gone.png"))
        (tmp_path / "gone.png").unlink()
        with pytest.raises(WorkbenchError, match=r"gone\.png"):
            ask((replace(classes[0], images=(*classes[0].images, gone)), *classes[1:]), trained)


class TestCaches:
    def test_a_new_query_does_not_adapt_again(self, trained, classes, queries, monkeypatch) -> None:
        asked, choice = pictures_of(queries), id_of(trained, "maml")
        first = ask(classes, trained, asked[:2], choice)
        steps = []
        real = MAML.adapt
        monkeypatch.setattr(MAML, "adapt", lambda *a, **k: steps.append(1) or real(*a, **k))
        second = ask(classes, trained, asked, choice)
        assert not steps
        for a, b in zip(first.steps[-1], second.steps[-1][:2], strict=True):
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-6)
        ask(shots(classes, 4, 4, 3), trained, asked, choice)
        assert steps, "another example does"

    def test_another_choice_adapts_again(self, trained, classes, queries) -> None:
        asked = pictures_of(queries)
        a = ask(classes, trained, asked, id_of(trained, "maml"))
        b = ask(classes, trained, asked, id_of(trained, "reptile"))
        assert a.step_names != b.step_names
        assert ask(classes, trained, asked, id_of(trained, "maml")).steps == a.steps

    def test_another_default_is_not_answered_from_before(self, trained, classes, monkeypatch) -> None:
        """Other tasks may have made it so; the looks at the examples stay the same."""
        default, proven = id_of(trained, "proto"), False
        monkeypatch.setattr(teaching, "experience", lambda *_: Experience(default, proven=proven))

        def taught():
            return teaching.adapt_to(classes, trained, "auto", knowledge.feature_cache(), Context(), every_step=False)

        first = taught()
        assert taught() is first
        default = id_of(trained, "ridge")
        second = taught()
        assert second is not first
        proven = True
        assert taught() is not second

    def test_what_is_remembered_has_a_limit(self, trained, classes, monkeypatch) -> None:
        monkeypatch.setattr(looks, "_REMEMBERED", 1)
        monkeypatch.setattr(knowledge, "_KEPT", 1)
        whole = ask(classes, trained)
        assert len(looks._remembered.looks) == 1
        assert len(knowledge._kept.entries) == 1
        assert whole.candidates == ask(classes, trained).candidates

    def test_a_picture_is_decoded_once_for_all_networks_of_one_size(self, trained, classes, monkeypatch) -> None:
        knowledge._decoded.clear()
        opened: list[str] = []
        asked: list[tuple[str, str]] = []
        reading, decoding = read.read_bytes, knowledge.pixels
        monkeypatch.setattr(read, "read_bytes", lambda image: opened.append(image.sha256) or reading(image))
        monkeypatch.setattr(
            knowledge, "pixels", lambda image, p: asked.append((image.sha256, p.pixel_digest)) or decoding(image, p)
        )
        ask(classes, trained)
        assert {sha for sha, _ in asked} == {i.sha256 for i in pictures_of(classes)}
        assert len(asked) == len(set(asked))
        assert len(opened) == len(asked), "nothing is read beside what is kept"

    def test_whoever_waits_is_told_which_network_is_looked_with(self, trained, classes, monkeypatch) -> None:
        looks._forget()
        knowledge._forget()
        said, shares, loading = [], [], []
        real = knowledge._load
        monkeypatch.setattr(knowledge, "_load", lambda e, *rest: loading.append((e.name, said[-1:])) or real(e, *rest))
        ctx = Context(on_change=lambda c: said.append(c.status_text) or shares.append(c.progress_now))
        teach(TeachRequest(1, classes, ()), trained, ctx)
        looking = list(dict.fromkeys(s for s in said if s.startswith("Looking with")))
        assert [s.rpartition(" (")[2] for s in looking] == [f"{n} of 6)" for n in range(1, 7)]
        assert "Looking with No transfer (6 of 6)" in looking
        shortly = [f"Looking with {name} ({n} of 6)" for n, (name, _) in enumerate(loading[-5:], 1)]
        assert [text for _, [text] in loading[-5:]] == shortly, "reading a deep network takes long, too"
        counted = [(p.done, p.total) for p in shares if p is not None and p.unit == "networks"]
        assert counted == sorted(counted)
        assert set(counted) == {(n, 6) for n in range(7)}
        tried = {s for s in said if s.startswith("Trying")}
        assert len(tried) == 2, "two of the methods that take steps"
        assert tried < {f"Trying {name} on examples left out" for name in ("maml", "fixed", "reptile")}

    def test_no_two_threads_share_a_network(self, trained, classes, queries) -> None:
        """A structure is filled in while it is called; the window teaches and writes models at the same time."""
        asked, choices = pictures_of(queries), [id_of(trained, "maml"), id_of(trained, "reptile")]
        alone = {c: ask(classes, trained, asked, c).steps for c in choices}
        library = Library(trained)
        entry, path = library.find("maml")
        here, seen, found = knowledge.load(entry, path, library), [], {}

        def work(choice: str) -> None:
            seen.append(knowledge.load(entry, path, Library(trained)))
            found[choice] = [ask(shots(classes, 4, 4, 4), trained, asked, choice).steps for _ in range(3)]

        threads = [threading.Thread(target=work, args=(c,)) for c in choices]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len({id(k.algorithm) for k in (here, *seen)}) == 3
        assert knowledge.load(entry, path, library) is here
        for c in choices:
            for steps in found[c]:
                assert [[p.probabilities for p in s] for s in steps] == [
                    [pytest.approx(p.probabilities, abs=1e-6) for p in s] for s in alone[c]
                ]


def test_the_key_follows_what_is_asked(trained, classes) -> None:
    keys = {
        ask(classes, trained).key,
        ask(shots(classes, 4, 4, 3), trained).key,
        ask(classes, trained, choice="none").key,
        ask((replace(classes[0], name="other"), *classes[1:]), trained).key,
    }
    assert len(keys) == 4
    assert ask(classes, trained).key in keys


def test_the_map_places_the_task_among_the_sources(trained, classes) -> None:
    points = ask(classes, trained, choice=id_of(trained, "proto")).points
    assert [p.kind for p in points] == ["this", "source"]
    assert points[1].name == "source"
    assert all(0 <= v <= 1 for p in points for v in (p.x, p.y, p.similarity))
    assert json.dumps([p.similarity for p in points])


def test_the_task_fixture_is_what_it_says(pictures) -> None:
    assert [len(c.images) for c in task(pictures / "teach").classes] == [4, 4, 4]


def test_what_must_be_known_of_the_chosen_method_is_said(classes: Classes, project: Path) -> None:
    assert ask(classes, project, choice=id_of(project, "proto")).method == ()
    assert ask(classes, project, choice=id_of(project, "fixed")).method == ("It accepts exactly 3 classes.",)


def test_photographs_taught_with_knowledge_without_pretrained_weights_are_told(project: Path, tmp_path: Path) -> None:
    for kind in (20, 21):
        (tmp_path / "photos" / f"c{kind}").mkdir(parents=True)
        for number in range(2):
            picture(kind, number).save(tmp_path / "photos" / f"c{kind}" / f"{number}.jpg")
    photos = task(tmp_path / "photos").classes
    proto = id_of(project, "proto")
    assert "without pretrained weights" in ask(photos, project, choice=proto).caution
    entry = Library(project).find("proto")[0]
    change_card(project, "proto", provenance=entry.provenance | {"pretrained": True})
    assert ask(photos, project, choice=proto).caution == ""
