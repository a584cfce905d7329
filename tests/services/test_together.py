"""Transductive methods: which pictures without labels they adapt with, and what is said of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.services.conftest import quick
from tests.services.material import picture, request, task
from tests.services.test_teaching import Classes, ask, id_of, pictures_of
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.data.read import image_ref
from workbench.learn.algorithms.tim import TIM
from workbench.learn.leaving_out import held_out
from workbench.learn.protocol import Adapted, Support
from workbench.project.library import Library
from workbench.services import jobs, knowledge
from workbench.services.adapt import save_taught
from workbench.services.models import open_model
from workbench.services.requests import AdaptRequest
from workbench.services.teach import TeachRequest, fixed_words


@pytest.fixture(scope="module")
def tim(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int | None]]:
    """A project with an entry of TIM and one of prototypes, and what calibrating the first was given each time."""
    project = tmp_path_factory.mktemp("tim")
    given: list[int | None] = []
    real = TIM.adapt

    def listening(*a: object, unlabelled: torch.Tensor | None = None, **k: object) -> Adapted:
        given.append(None if unlabelled is None else len(unlabelled))
        return real(*a, unlabelled=unlabelled, **k)  # type: ignore[arg-type]

    source = task(pictures / "source")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(project / "home"))
        patch.setenv("WORKBENCH_THREADS", "1")
        jobs.load_runtime(Context())
        quick(patch)
        jobs.train(request(source, name="proto"), project, Context())
        patch.setattr(TIM, "adapt", listening)
        asked = request(source, name="tim", algorithm="tim", params={"test_steps": 10, "head_lr": 0.05, "batch": 8})
        jobs.train(asked, project, Context())
    return project, given


@pytest.fixture
def project(tim: tuple[Path, list[int | None]]) -> Path:
    return tim[0]


def answers(result, of) -> list[float]:  # type: ignore[no-untyped-def]
    (row,) = (p.probabilities for p in result.steps[-1] if p.image.sha256 == of.sha256)
    return list(row)


def tensors(project: Path, images: tuple[object, ...]) -> torch.Tensor:
    """Features of pictures under TIM's trunk."""
    library = Library(project)
    entry, path = library.find("tim")
    loaded = knowledge.load(entry, path, library)
    assert loaded.trunk is not None
    with torch.no_grad():
        return loaded.trunk(knowledge.to_tensor(images, loaded.preprocess))  # type: ignore[arg-type,no-any-return]


class TestChosenByHand:
    def test_all_queries_help_it_to_adapt(self, project: Path, classes: Classes, queries: Classes, monkeypatch) -> None:  # type: ignore[no-untyped-def]
        asked, seen = pictures_of(queries), []
        real = TIM.adapt
        monkeypatch.setattr(TIM, "adapt", lambda *a, **k: seen.append(k.get("unlabelled")) or real(*a, **k))
        result = ask(classes, project, asked, id_of(project, "tim"))
        assert result.together
        assert result.method == ("It looks at all queries together, so each answer depends on the others.",)
        expected = tensors(project, asked)
        torch.testing.assert_close(seen[-1], expected, rtol=1e-5, atol=1e-5)
        # each example that was left out joins the queries, as one more that is asked about
        assert [len(u) - len(asked) for u in seen] == [6, 3, 3, 0]

    def test_one_query_more_or_less_changes_the_answers_to_the_others(
        self, project: Path, classes: Classes, queries: Classes
    ) -> None:
        asked, choice = pictures_of(queries), id_of(project, "tim")
        whole, less = (ask(classes, project, some, choice) for some in (asked, asked[:6]))
        assert answers(whole, asked[0]) != pytest.approx(answers(less, asked[0]), abs=1e-4)
        assert answers(ask(classes, project, asked, choice), asked[0]) == pytest.approx(answers(whole, asked[0]))
        assert len({whole.key, less.key}) == 2
        before = [answers_at(r, 0, asked[0]) for r in (whole, less)]
        assert before[0].index(max(before[0])) == before[1].index(max(before[1])), "class means are the examples'"

    def test_until_there_are_queries_it_is_said_to_have_seen_examples_alone(
        self, project: Path, classes: Classes
    ) -> None:
        result = ask(classes, project, (), id_of(project, "tim"))
        assert not result.together
        assert "examples alone" in result.method[0]
        assert result.estimate is not None

    def test_a_query_that_cannot_be_read_is_left_out(
        self, project: Path, classes: Classes, queries: Classes, tmp_path: Path
    ) -> None:
        picture(20, 900).save(tmp_path / "gone.png")
        gone = image_ref(str(tmp_path / "gone.png"))
        (tmp_path / "gone.png").unlink()
        asked, choice = pictures_of(queries), id_of(project, "tim")
        with_it, without = (ask(classes, project, some, choice) for some in ((gone, *asked), asked))
        assert with_it.together
        assert [p.path for p in with_it.problems] == [gone.path]
        assert answers(with_it, asked[3]) == pytest.approx(answers(without, asked[3]), abs=1e-5)
        assert not ask(classes, project, (gone,), choice).together

    def test_what_is_written_is_what_was_shown(
        self, project: Path, classes: Classes, queries: Classes, tmp_path: Path
    ) -> None:
        """And it stays: the model answers for one picture as it did for it among all."""
        asked, choice = pictures_of(queries), id_of(project, "tim")
        shown = ask(classes, project, asked, choice)
        model = open_model(save_taught(TeachRequest(1, classes, asked, choice), project, tmp_path / "m", Context()))
        x = knowledge.to_tensor((asked[0],), model.seen.knowledge.preprocess)
        with torch.no_grad():
            _, probabilities, _ = model.network.from_embedding(model.network.deployed.trunk(x))
        assert probabilities[0, :-1].tolist() == pytest.approx(answers(shown, asked[0]), abs=1e-4)


def answers_at(result, step: int, of) -> list[float]:  # type: ignore[no-untyped-def]
    (row,) = (p.probabilities for p in result.steps[step] if p.image.sha256 == of.sha256)
    return list(row)


class TestNotAskedFor:
    def test_the_automatic_choice_never_uses_queries_together(
        self, project: Path, classes: Classes, queries: Classes, tmp_path: Path
    ) -> None:
        alone = Path(shutil.copytree(project, tmp_path / "alone", ignore=shutil.ignore_patterns("home", "runs")))
        shutil.rmtree(alone / "knowledge" / id_of(alone, "proto"))
        asked = pictures_of(queries)
        whole, less = (ask(classes, alone, some) for some in (asked, asked[:6]))
        assert not whole.together
        # its network under another head has nothing to do with queries
        if next(c for c in whole.candidates if c.chosen).title == "tim":
            assert "examples alone" in whole.method[0]
        assert answers(whole, asked[0]) == pytest.approx(answers(less, asked[0]), abs=1e-6)
        losses = [{c.name: c.loss for c in r.candidates}["tim"] for r in (whole, less)]
        assert losses[0] == losses[1], "nor is it judged with them"

    def test_other_methods_and_other_choices_are_left_as_they_are(
        self, project: Path, classes: Classes, queries: Classes
    ) -> None:
        asked = pictures_of(queries)
        whole, less = (ask(classes, project, some, id_of(project, "proto")) for some in (asked, asked[:6]))
        assert not whole.together
        assert whole.method == ()
        assert whole.key == less.key
        assert answers(whole, asked[0]) == pytest.approx(answers(less, asked[0]), abs=1e-6)
        assert whole.candidates == less.candidates


def test_calibration_episodes_give_their_queries(tim: tuple[Path, list[int | None]]) -> None:
    _, given = tim
    # three classes of three queries in each episode, in validation as in calibration
    assert given[-2:] == [9, 9]


def test_what_is_left_out_joins_the_unlabelled(project: Path, classes: Classes) -> None:
    """Exactly those, in features as in pictures; without unlabelled pictures nothing is handed over."""
    library = Library(project)
    entry, path = library.find("tim")
    loaded = knowledge.load(entry, path, library)
    f = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    more = torch.ones(2, 3)
    given: list[torch.Tensor | None] = []

    class Listening:
        info = loaded.algorithm.info

        def adapt(self, s, support, ctx, *, unlabelled=None, on_step=None):  # type: ignore[no-untyped-def]
            given.append(unlabelled)
            return Adapted({}, support.ways)

        def head(self, s, a):  # type: ignore[no-untyped-def]
            return torch.nn.Identity()

    support = Support(f, torch.tensor([0, 0, 0, 1, 1, 1]), 2, f)
    held_out(Listening(), loaded.state, support, Context(), 3, None, more)  # type: ignore[arg-type]
    for at, found in enumerate(given):
        assert found is not None
        torch.testing.assert_close(found, torch.cat([f[[at, 3 + at]], more]))
    given.clear()
    held_out(Listening(), loaded.state, support, Context(), 3)  # type: ignore[arg-type]
    assert given == [None] * 3


class TestCommand:
    def adapt(self, project: Path, pictures: Path, out: Path, choice: str, *unlabelled: Path) -> dict[str, object]:
        asked = AdaptRequest(choice, str(pictures / "teach"), str(out), unlabelled=tuple(map(str, unlabelled)))
        return jobs.adapt(asked, project, Context())

    def test_a_folder_of_unlabelled_pictures_moves_the_classes(
        self, project: Path, pictures: Path, tmp_path: Path
    ) -> None:
        alone = self.adapt(project, pictures, tmp_path / "a", "tim")
        together = self.adapt(project, pictures, tmp_path / "b", "tim", pictures / "query")
        assert (alone["unlabelled"], together["unlabelled"]) == (0, 15)
        assert "from the examples alone" in str(alone["note"])
        assert str(together["note"]).startswith("15 unlabelled pictures helped")
        assert all("fixed now" in str(done["note"]) for done in (alone, together))
        rows = [open_model(Path(str(d["model"]))).tensors["adapted.weight"] for d in (alone, together)]
        assert abs(rows[0] - rows[1]).max() > 1e-4

    def test_methods_that_learn_from_examples_alone_say_so(self, project: Path, pictures: Path, tmp_path: Path) -> None:
        assert self.adapt(project, pictures, tmp_path / "a", "proto")["note"] == ""
        done = self.adapt(project, pictures, tmp_path / "a", "proto", pictures / "query")
        assert done["unlabelled"] == 0
        assert done["note"] == "The 15 unlabelled pictures were not used: proto learns from examples alone."

    def test_nothing_to_look_at_is_refused(self, project: Path, pictures: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(WorkbenchError, match="no picture that can be read"):
            self.adapt(project, pictures, tmp_path / "a", "tim", tmp_path / "empty")

    def test_the_words_count(self) -> None:
        assert fixed_words("x", transductive=True, used=1, given=1).startswith("1 unlabelled picture helped")
        assert fixed_words("x", transductive=False, used=0, given=0) == ""
