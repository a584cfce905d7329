"""Going on from an entry: what is kept of what it knew, what is found again of its sources, and what was lost."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.services.conftest import quick
from tests.services.material import SIZE, folder, request, task
from workbench.__main__ import main
from workbench.cli.continuing import kept_lines
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.training import TrainRequest
from workbench.core.values import SourceInfo
from workbench.data.episodes import Sampler
from workbench.learn import continual, engine
from workbench.learn.checkpoint import load_checkpoint
from workbench.learn.engine import Outcome
from workbench.learn.evaluate import FrozenEpisodes, freeze
from workbench.project import runs
from workbench.project.library import Library
from workbench.services import continuing, forgetting, jobs, preparing
from workbench.services.continuing import continued, stored_information, to_store
from workbench.services.forgetting import compared


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two old folders, a new one, and a project with an entry learnt from the old ones; read it, never change it."""
    root = tmp_path_factory.mktemp("known")
    folder(root / "old a", range(6), 6)
    folder(root / "old b", range(6, 12), 6)
    folder(root / "new", range(12, 18), 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(root / "home"))
        patch.setenv("WORKBENCH_THREADS", "1")
        jobs.load_runtime(Context())
        quick(patch)
        asked = request(task(root / "old a"), task(root / "old b"), name="first")
        jobs.train(asked, root / "project", Context())
    return root


@pytest.fixture
def place(known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same to change, with its pictures where they were."""
    quick(monkeypatch)
    monkeypatch.setattr(continual, "EPISODES", 2)
    monkeypatch.setattr(continuing, "_EPISODES", 12)
    return Path(shutil.copytree(known / "project", tmp_path / "project"))


def going_on(known: Path, keep: str, **changes: object) -> TrainRequest:
    return request(task(known / "new"), start="first", keep=keep, **changes)


def moved(known: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As if some folders had gone: the entry's card names places that are not there."""
    real = Library.find

    def elsewhere(self: Library, wanted: str):  # type: ignore[no-untyped-def]
        entry, path = real(self, wanted)
        lost = (replace(s, path=s.path + " gone") if s.name in names else s for s in entry.sources)
        return replace(entry, sources=tuple(lost)), path

    monkeypatch.setattr(Library, "find", elsewhere)


def test_ewc_keeps_its_information_with_the_entry_and_adds_to_it(known: Path, place: Path) -> None:
    result = jobs.train(going_on(known, "ewc", name="second"), place, Context())
    kept = result.entry.provenance["kept"]
    assert (kept["how"], kept["strength"], kept["name"]) == ("ewc", continual.STRENGTHS["ewc"], "first")
    assert [s["name"] for s in kept["sources"]] == kept["old"] == ["old a", "old b"]
    assert kept["new"] == ["new"]
    assert kept["gone"] == []
    assert set(kept["before"]) == set(kept["after"]) == {"old a", "old b", "new"}
    assert kept["backward"]["episodes"] == 24
    assert kept["forward"]["episodes"] == 12
    assert kept["average"] == pytest.approx(sum(kept["after"].values()) / 3)
    tensors = continuing.known_tensors(place, Path(result.entry_path))
    assert not [n for n in tensors if "keep." in n], "what the run needed is not knowledge"
    first = stored_information(tensors)
    learned = {n.removeprefix("learned.") for n in tensors if n.startswith("learned.trunk.")}
    assert first.keys() == learned
    third = jobs.train(third_of(known), place, Context())
    again = stored_information(continuing.known_tensors(place, Path(third.entry_path)))
    assert all(bool((again[n] >= first[n] * 0.99).all()) for n in first), "the running information only grows"
    assert [s["name"] for s in third.entry.provenance["kept"]["sources"]] == ["new", "old a", "old b"]


def third_of(known: Path) -> TrainRequest:
    where = known / "newest"
    if not where.exists():
        folder(where, range(18, 24), 6)
    return request(task(where), start="second", keep="ewc", name="third")


def test_a_strong_pull_keeps_the_network_and_a_weak_one_does_not(known: Path, place: Path) -> None:
    def away(keep: str, strength: float | None) -> float:
        asked = going_on(known, keep, keep_strength=strength, episodes=6, params={"lr": 0.01})
        result = jobs.train(asked, place, Context())
        old, new = (
            continuing.known_tensors(place, path) for path in (Library(place).find("first")[1], Path(result.entry_path))
        )
        trunk = [n for n in old if n.startswith("learned.trunk.")]
        return sum(float((old[n] - new[n]).square().sum()) for n in trunk)

    plain, held = away("none", None), away("l2", 1e6)
    assert held < 0.5 * plain


def test_replay_draws_old_pictures_too(known: Path, place: Path) -> None:
    asked, ctx = going_on(known, "replay"), Context()
    c = continued(asked, place, ctx)
    assert c is not None
    prepared = preparing.prepare(asked, place, ctx, c.mixed)
    assert {s.name for s in prepared.sampler.sources} == {"new", "old a", "old b"}
    assert [s.name for s in prepared.sources] == ["new"], "what the entry is said to be learnt from"
    assert prepared.algorithm.setting.classes_per_source == prepared.sampler.classes_per_source
    kept = jobs.train(asked, place, Context()).entry.provenance["kept"]
    assert kept["how"] == "replay"
    assert "strength" not in kept


def test_what_is_gone_is_said_and_the_rest_is_used(
    known: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved(known, monkeypatch, "old a")
    command = ["train", str(known / "new"), "--algorithm", "protonet", "--backbone", "conv4-32", "--ways", "3"]
    command += ["--queries", "3", "--episodes", "2", "--image-size", str(SIZE), "--project", str(place)]
    assert main([*command, "--from", "first", "--keep", "replay", "--name", "second"]) == 0
    said = capsys.readouterr().out
    assert "went on from first" in said
    assert "not found any more, so neither used nor measured: old a" in said
    assert "accuracy on 1 old source:" in said
    assert "backward transfer" in said
    assert "forward transfer" in said
    assert main(["knowledge", "show", "second", "--project", str(place)]) == 0
    assert "old pictures among the new ones" in capsys.readouterr().out
    assert main([*command, "--from", "first", "--keep", "none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"]["how"] == "none"


def test_what_cannot_be_is_refused_before_a_run_begins(
    known: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(asked: TrainRequest, why: str) -> None:
        with pytest.raises(WorkbenchError, match=why):
            jobs.train(asked, place, Context())

    before = len(runs.list_runs(place))
    refused(request(task(known / "new"), keep="l2"), "Add --from ENTRY")
    refused(going_on(known, "replay", keep_strength=2.0), "replay has no strength")
    moved(known, monkeypatch, "old a", "old b")
    refused(going_on(known, "replay"), "replay needs pictures of the old sources.*is where it was")
    refused(going_on(known, "ewc"), "Choose --keep l2")
    assert len(runs.list_runs(place)) == before
    assert jobs.train(going_on(known, "l2"), place, Context()).entry.provenance["kept"]["gone"] == ["old a", "old b"]
    for wrong in ({"keep": "all"}, {"keep": "l2", "keep_strength": 0.0}):
        with pytest.raises(ValueError, match=r"keep|strength"):
            request(task(known / "new"), **wrong)


def test_a_run_cut_short_goes_on_with_what_it_kept(known: Path, place: Path) -> None:
    class Stopping(Context):
        def status(self, text: str) -> None:
            super().status(text)
            if text == "training":
                self.cancel()

    asked = going_on(known, "ewc", episodes=4)
    ctx = Stopping()
    with suppress(JobCancelledError):  # stopped before anything was learnt
        jobs.train(asked, place, ctx)
    (run,) = [r for r in runs.list_runs(place) if r.state == "stopped"]
    found, _ = load_checkpoint(run.folder)
    assert found is not None
    assert [n for n in found.state.memory if n.startswith(continual.FISHER)]
    result = jobs.resume(run.id, place, Context())
    assert result.entry.provenance["kept"]["how"] == "ewc"
    assert result.episodes == 4


def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the entry's card did not name the classes it was trained on."""
    real = Library.find

    def find(self: Library, wanted: str):  # type: ignore[no-untyped-def]
        entry, path = real(self, wanted)
        return replace(entry, sources=tuple(replace(s, class_names=()) for s in entry.sources)), path

    monkeypatch.setattr(Library, "find", find)


@pytest.mark.parametrize("named", [True, False])
def test_forgetting_is_measured_on_pictures_that_the_run_did_not_use(
    known: Path, place: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    measured: dict[str, set[bytes]] = {}
    drawn_from: dict[str, set[bytes]] = {}

    def pictures(of: dict[str, set[bytes]], sampler: Sampler) -> None:
        for s in sampler.sources:
            of.setdefault(s.name, set()).update(p.tobytes() for a in s.arrays for p in a)

    def freezing(sampler: Sampler, count: int, seed: int) -> FrozenEpisodes:
        pictures(measured, sampler)
        return freeze(sampler, count, seed)

    def learning(algorithm: object, sampler: Sampler, *rest: object, **more: object) -> Outcome:
        pictures(drawn_from, sampler)
        return engine.train(algorithm, sampler, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(continuing, "freeze", freezing)
    monkeypatch.setattr("workbench.services.train.run_engine", learning)
    if not named:
        unnamed(monkeypatch)
    result = jobs.train(going_on(known, "replay"), place, Context())
    kept = result.entry.provenance["kept"]
    assert set(measured) == set(drawn_from) == {"old a", "old b", "new"}
    for name, some in drawn_from.items():
        assert measured[name]
        assert some.isdisjoint(measured[name])
    assert kept["seen"] == ([] if named else ["old a", "old b"])
    assert ("before may be too high" in "\n".join(kept_lines(kept))) is not named


def test_an_old_source_is_divided_alike_in_every_run(known: Path) -> None:
    whole = task(known / "old a")
    names = tuple(c.name for c in whole.classes)
    info = SourceInfo(whole.name, whole.path, 6, 36, whole.fingerprint)
    used, held, seen = forgetting.parted(info, whole)
    assert seen
    for one, other, c in zip(used.classes, held.classes, whole.classes, strict=True):
        assert {i.sha256 for i in one.images} | {i.sha256 for i in other.images} == {i.sha256 for i in c.images}
        assert len(one.images) == len(other.images) == 3
    turned = replace(whole, classes=tuple(replace(c, images=c.images[::-1]) for c in whole.classes))
    assert forgetting.parted(info, turned) == (used, held, True)
    used, held, seen = forgetting.parted(replace(info, class_names=names[:4]), whole)
    assert not seen
    assert (used.classes, held.classes) == (whole.classes[:4], whole.classes[4:])
    few = replace(whole, classes=tuple(replace(c, images=c.images[:3]) for c in whole.classes))
    used, held, _ = forgetting.parted(info, few)
    assert [len(c.images) for c in used.classes] == [3] * 6
    assert not held.classes


def test_information_of_another_network_is_measured_again(known: Path, place: Path) -> None:
    """CORAL puts a layer behind the network: its numbers have other names, and pictures look otherwise from there."""
    jobs.train(going_on(known, "ewc", name="second"), place, Context())
    (target,) = (replace(t, classes=()) for t in (task(known / "old b"),))
    target = replace(target, unlabelled=tuple(i for c in task(known / "old b").classes for i in c.images))
    asked = request(task(known / "new"), start="second", target=(target,), align="coral", episodes=None, name="third")
    third = jobs.train(asked, place, Context()).entry
    for name in (third.backbone, "conv4-32"):
        asked = request(task(known / "new"), start="third", keep="ewc", backbone=name)
        ctx = Context()
        c = continued(asked, place, ctx)
        assert c is not None
        prepared = preparing.prepare(asked, place, ctx)
        keeping = c.keeping(prepared)
        assert keeping is not None
        state = prepared.algorithm.init(torch.Generator().manual_seed(0))
        memory = keeping.begun(state).memory
        trunk = [n for n in state.learned if n.startswith("trunk.")]
        assert [n for n in trunk if n.endswith("weight")]
        for n in trunk:
            if n.endswith("weight"):
                assert float(memory[continual.FISHER + n].sum()) > 0, f"{name}: {n} is not held"


class StoppingAfterSteps(Context):
    """Told to stop in the middle of training."""

    def progress(self, done: int, total: int | None, unit: str, seconds_left: float | None = None) -> None:
        super().progress(done, total, unit, seconds_left)
        if total == 400 and done >= 2:
            self.cancel()


@pytest.mark.parametrize("keep", ["ewc", "l2"])
def test_a_run_that_is_stopped_keeps_what_it_learnt(known: Path, place: Path, keep: str) -> None:
    result = jobs.train(going_on(known, keep, episodes=400, name="second"), place, StoppingAfterSteps())
    assert result.stopped
    assert 0 < result.episodes < 400
    kept = result.entry.provenance["kept"]
    assert kept["unmeasured"] == "the run was stopped"
    assert "uninformed" not in kept
    tensors = continuing.known_tensors(place, Path(result.entry_path))
    trunk = {n.removeprefix("learned.") for n in tensors if n.startswith("learned.trunk.")}
    assert stored_information(tensors).keys() == (trunk if keep == "ewc" else set())
    assert next(r for r in runs.list_runs(place) if r.entry == result.entry.id).state == "stopped"


class LosingTheEntry(Context):
    """While a run is on, what it began with is deleted by somebody else."""

    lost: Path

    def status(self, text: str) -> None:
        super().status(text)
        if text == "Saving what was learnt":
            shutil.rmtree(self.lost)


@pytest.mark.parametrize("keep", ["ewc", "l2"])
def test_what_cannot_be_reported_does_not_lose_what_was_learnt(known: Path, place: Path, keep: str) -> None:
    ctx = LosingTheEntry()
    ctx.lost = Library(place).find("first")[1]
    result = jobs.train(going_on(known, keep, name="second"), place, ctx)
    assert Library(place).find("second")[0].id == result.entry.id
    assert "first" not in [e.name for e in Library(place).entries()]
    kept = result.entry.provenance["kept"]
    assert kept["unmeasured"]
    assert f"what was lost was not measured: {kept['unmeasured']}" in "\n".join(kept_lines(kept))


def test_information_is_stored_to_a_thousandth() -> None:
    f = {"trunk.w": torch.tensor([0.0, 1e-12, 3e-7, 0.2, 5e3])}
    back = stored_information({**to_store(f), "learned.trunk.w": f["trunk.w"]})
    torch.testing.assert_close(back["trunk.w"][2:], f["trunk.w"][2:], rtol=2e-3, atol=0)
    assert float(back["trunk.w"][0]) == 0


def test_transfer_is_the_difference_on_the_same_episodes() -> None:
    found = compared(["a", "b"], ["c"], [(1.0, 0.8), (), (0.4, 0.6)], [(0.7, 0.7), (0.5,), (0.9, 0.7)], [(0.2, 0.2)])
    assert found["before"] == {"a": 0.9, "c": 0.5}
    assert found["backward"]["mean"] == pytest.approx(-0.2)
    assert found["forward"]["mean"] == pytest.approx(0.3)
    assert found["average"] == pytest.approx(0.7)
    assert "backward" not in compared(["a"], [], [()], [(0.5,)], [])
