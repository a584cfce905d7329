"""Training runs: refused early, stopped, broken, started from something, and what they leave behind."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from tests.services.conftest import STEPS, quick
from tests.services.material import folder, request, task
from tests.services.test_download import Server
from workbench.__main__ import main
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, NotFiniteError, WorkbenchError
from workbench.core.params import values_of
from workbench.core.training import TrainRequest
from workbench.core.values import KnowledgeEntry, Role, Task
from workbench.learn import registry, validation
from workbench.learn.algorithms.protonet import ProtoNet
from workbench.learn.protocol import StepResult
from workbench.learn.registry import Pretrained
from workbench.project import runs
from workbench.project.library import Library
from workbench.services import jobs, keeping, preparing
from workbench.services import train as service
from workbench.services.download import weights_path
from workbench.services.knowledge import split_state
from workbench.transfer import mixing


@pytest.fixture
def source(pictures: Path) -> Task:
    return task(pictures / "source")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)


def entries(project: Path) -> int:
    return len(list((project / "knowledge").glob("*/entry.json")))


class Stopping(Context):
    """Asks itself to stop at the n-th check."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def check(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.cancel()
        super().check()


def breaking(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The loss is not a number from the n-th step on."""
    real, count = ProtoNet.step, iter(range(10**6))

    def step(self, s, batch, at, ctx):  # type: ignore[no-untyped-def]
        found = real(self, s, batch, at, ctx)
        return found if next(count) < after else replace(found, loss=found.loss * float("nan"))

    monkeypatch.setattr(ProtoNet, "step", step)


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"algorithm": "magic"}, "none called 'magic'"),
            ({"backbone": "magic"}, "none called 'magic'"),
            ({"device": "cuda:77"}, "does not offer it"),
            ({"backbone": "resnet12", "precision": "bf16"}, "no fast path to compute in bf16"),
            ({"params": {"lr": "fast"}}, "lr must be a number"),
            ({"params": {"speed": "1"}}, "no hyperparameter called"),
            (
                {"algorithm": "maml", "params": {"head": "textbook"}, "ways": (2, 4)},
                "episodes of 2 to 4 were asked for",
            ),
            ({"size": 12}, "at least 16 pixels"),
            ({"size": 2000}, "not between 8 and 1024"),
            ({"backbone": "resnet18", "size": 32, "pretrained": True}, "not on this machine"),
            ({"start": "nobody"}, "no entry called nobody"),
        ],
    )
    def test_at_once_and_without_a_trace(self, source, tmp_path, changes, said) -> None:
        with pytest.raises(WorkbenchError, match=said):
            jobs.train(request(source, **changes), tmp_path, Context())
        assert not (tmp_path / "runs").exists()

    def test_too_many_ways_leave_a_failed_run_with_the_reason(self, source, tmp_path) -> None:
        with pytest.raises(WorkbenchError, match="40-way"):
            jobs.train(request(source, ways=(40, 40)), tmp_path, Context())
        (run,) = runs.list_runs(tmp_path)
        assert run.state == "failed"
        assert "40-way" in run.message

    def test_folders_held_out_for_testing_are_named(self, source, tmp_path) -> None:
        with pytest.raises(WorkbenchError, match="source is held out"):
            jobs.train(request(source.with_role(Role.HELD_OUT)), tmp_path, Context())

    def test_validation_on_what_is_trained_on_is_refused(self, source, tmp_path) -> None:
        with pytest.raises(WorkbenchError, match="trained on too"):
            jobs.train(request(source, source.with_role(Role.VALIDATION)), tmp_path, Context())

    def test_a_bug_does_not_leave_a_run_that_seems_to_run(self, source, tmp_path, monkeypatch) -> None:
        def fail(*_a: object, **_k: object) -> None:
            raise RuntimeError("out of memory")

        monkeypatch.setattr(ProtoNet, "step", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            jobs.train(request(source), tmp_path, Context())
        (run,) = runs.list_runs(tmp_path)
        assert run.state == "failed"
        assert "out of memory" in run.message

    def test_a_second_ctrl_c_leaves_a_run_that_can_be_resumed(self, source, tmp_path, monkeypatch) -> None:
        def interrupted(*_a: object, **_k: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(service, "keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            jobs.train(request(source), tmp_path, Context())
        (run,) = runs.list_runs(tmp_path)
        assert run.state == "running", "until this process is gone"


class TestSources:
    def test_folders_of_one_name_stay_apart(self, tmp_path) -> None:
        tasks = []
        for i, where in enumerate(("a", "b")):
            tasks.append(task(folder(tmp_path / where / "letters", range(10 * i, 10 * i + 6), 4)))
        done = jobs.train(request(*tasks, across_tasks=True), tmp_path / "p", Context())
        paths = {s.name: s.path for s in done.entry.sources}
        assert paths == {"letters": tasks[0].path, "letters (2)": tasks[1].path}
        assert len({s.fingerprint for s in done.entry.sources}) == 2

    def test_a_picture_that_is_trained_on_does_not_validate(self, source, pictures) -> None:
        other = task(pictures / "teach")
        mixed = replace(other, role=Role.VALIDATION, classes=(*other.classes, source.classes[0], source.classes[1]))
        _, validation = preparing.used_tasks((source, mixed))
        assert [c.name for c in validation.classes] == [c.name for c in other.classes]

    def test_given_folders_validate_as_classes(self, source, pictures, tmp_path) -> None:
        other = task(pictures / "teach", Role.VALIDATION)
        done = jobs.train(request(source, other), tmp_path, Context())
        assert done.entry.validation is not None
        assert done.entry.validation.kind == "classes"
        assert [s.name for s in done.entry.sources] == ["source"]
        assert done.entry.sources[0].classes == 8

    def test_few_classes_hold_images_out(self, pictures, tmp_path) -> None:
        done = jobs.train(request(task(pictures / "teach")), tmp_path, Context())
        assert done.entry.validation is not None
        assert done.entry.validation.kind == "images"
        assert done.entry.provenance["validation_kind"] == "images"

    @pytest.mark.parametrize("algorithm", ["protonet", "maml"])
    def test_a_class_that_has_gone_since_it_was_listed(self, tmp_path, algorithm) -> None:
        listed = task(folder(tmp_path / "set", range(9), 4))
        for file in (tmp_path / "set" / "c0").iterdir():
            file.write_bytes(b"gone")
        params = STEPS if algorithm == "maml" else {}
        done = jobs.train(request(listed, algorithm=algorithm, params=params), tmp_path / "p", Context())
        assert done.entry.sources[0].images < 36


class TestWaysAndShots:
    def test_ranges_are_drawn_from_to_and_kept_on_the_card(self, source, tmp_path, monkeypatch) -> None:
        seen: set[tuple[int, int]] = set()
        real = ProtoNet.step

        def step(self, s, batch, at, ctx):  # type: ignore[no-untyped-def]
            seen.update((e.ways, len(e.support_y) // e.ways) for e in batch.episodes)
            return real(self, s, batch, at, ctx)

        monkeypatch.setattr(ProtoNet, "step", step)
        done = jobs.train(request(source, ways=(2, 4), shots=(1, 3), episodes=60), tmp_path, Context())
        assert {w for w, _ in seen} == {2, 3, 4}
        assert {k for _, k in seen} == {1, 2, 3}
        assert done.entry.ways == (2, 4)
        assert done.entry.shots == (1, 3)


def validated_at(project: Path, run: str) -> list[int]:
    """The episodes after which a run was validated."""
    return [m.step for m in runs.read_metrics(project / "runs" / run) if m.name == "validation/accuracy"]


class TestPatience:
    @pytest.fixture
    def worse(self, monkeypatch):  # type: ignore[no-untyped-def]
        """Every state that is validated is worse than the one before, however often it is asked for."""
        real, left = validation.evaluate, iter(np.linspace(0.9, 0.1, 200))
        known: dict[float, float] = {}

        def evaluate(algorithm, state, *args, **kwargs):  # type: ignore[no-untyped-def]
            which = float(sum(t.double().sum() for t in state.learned.values()))
            if which not in known:
                known[which] = float(next(left))
            return replace(real(algorithm, state, *args, **kwargs), accuracy=known[which])

        monkeypatch.setattr(validation, "evaluate", evaluate)

    @pytest.mark.parametrize("patience", [1, 3])
    def test_a_run_ends_after_so_many_validations_without_a_better_one(self, source, tmp_path, worse, patience) -> None:
        done = jobs.train(request(source, episodes=100, patience=patience), tmp_path, Context())
        validated = validated_at(tmp_path, done.run)
        assert len(validated) == 1 + patience
        assert done.entry.provenance["episodes"] == validated[-1]
        assert done.entry.validation is not None
        assert done.entry.validation.accuracy == 0.9, "the first state, the best, is kept"
        assert not done.stopped

    def test_without_it_the_budget_is_used_up(self, source, tmp_path, worse) -> None:
        done = jobs.train(request(source, episodes=100), tmp_path, Context())
        assert validated_at(tmp_path, done.run)[-1] == 100

    def test_none_is_no_patience(self, source) -> None:
        with pytest.raises(ValueError, match="patience"):
            request(source, patience=0)

    def test_the_command_line_asks_for_it(self, pictures, tmp_path, worse, capsys) -> None:
        asked = ["train", str(pictures / "source"), "--algorithm", "protonet", "--backbone", "conv4-32", "--ways", "3"]
        asked += ["--queries", "3", "--episodes", "100", "--image-size", "16", "--project", str(tmp_path), "--json"]
        assert main([*asked, "--patience", "2"]) == 0
        run = json.loads(capsys.readouterr().out)["run"]
        assert len(validated_at(tmp_path, run)) == 3


class TestWhatIsLeft:
    def test_the_card_holds_all_hyperparameters_as_they_were_used(self, source, tmp_path) -> None:
        done = jobs.train(request(source, params={"lr": "0.01"}), tmp_path, Context())
        params = done.entry.params
        assert params["lr"] == 0.01
        assert set(params) == set(values_of(ProtoNet.Params()))

    @pytest.mark.parametrize("algorithm", ["protonet", "maml", "reptile", "ridge"])
    def test_it_is_calibrated_and_its_source_described(self, source, tmp_path, algorithm) -> None:
        params = {"maml": STEPS, "reptile": {"inner_steps": 1, "test_steps": 2, "tasks": 1}}.get(algorithm, {})
        done = jobs.train(request(source, algorithm=algorithm, params=params), tmp_path, Context())
        figures = done.entry.calibration
        assert set(figures) == {"temperature", "reject_factor", "reject_ratio", "reject_distance"}
        assert all(np.isfinite(v) and v > 0 for v in figures.values())
        tensors = Library(tmp_path).load_tensors(done.entry)
        width = tensors["source.0.mean"].shape[0]
        assert tensors["source.0.covariance"].shape == (width, width)

    def test_a_fixed_head_survives_the_end_of_its_run(self, source, tmp_path) -> None:
        """Its sources have eight classes, its head three."""
        params = STEPS | {"head": "textbook"}
        asked = request(source, algorithm="maml", params=params, ways=(3, 3), shots=(1, 1))
        done = jobs.train(asked, tmp_path, Context())
        assert done.entry.calibration["reject_ratio"] > 0

    def test_calibration_is_on_tasks_as_they_are_taught(self, source, tmp_path, monkeypatch) -> None:
        asked = request(source, ways=(3, 3), shots=(1, 1), queries=9)
        prepared = preparing.prepare(asked, tmp_path, Context())
        sampler = keeping.calibration_sampler(prepared, asked)
        assert sampler.shots == (1, 5)
        assert sampler.queries == 5
        assert sampler.ways == (3, 3)
        monkeypatch.setattr(keeping, "_MOST_WAYS", 2)
        assert keeping.calibration_sampler(prepared, asked).ways == (2, 2), "of sixty ways it takes ten"
        fixed = replace(asked, algorithm="maml", params=STEPS | {"head": "textbook"})
        assert keeping.calibration_sampler(preparing.prepare(fixed, tmp_path, Context()), fixed).ways == (3, 3)

    def test_a_stopped_run_does_not_take_its_time(self, source, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(keeping, "_CALIBRATION_EPISODES", 10_000)
        monkeypatch.setattr(keeping, "_SHORT", 0.0)
        asked = request(source)
        prepared = preparing.prepare(asked, tmp_path, Context())
        ctx = Context()
        ctx.cancel()
        state = prepared.algorithm.init(torch.Generator().manual_seed(0))
        drawn = []
        real = type(prepared.sampler).draw
        monkeypatch.setattr(type(prepared.sampler), "draw", lambda *a: drawn.append(1) or real(*a))
        assert keeping.calibration(prepared, asked, state, 0, ctx)["temperature"] > 0
        assert len(drawn) == 1

    def test_a_held_job_waits_also_while_it_saves(self, source, tmp_path) -> None:
        asked = request(source)
        prepared = preparing.prepare(asked, tmp_path, Context())
        state = prepared.algorithm.init(torch.Generator().manual_seed(0))
        ctx, done = Context(), threading.Event()
        ctx.pause()
        thread = threading.Thread(
            target=lambda: (keeping.calibration(prepared, asked, state, 0, ctx), done.set()), daemon=True
        )
        thread.start()
        assert not done.wait(0.3)
        ctx.resume()
        assert done.wait(30)
        thread.join()


class TestStopping:
    def test_before_the_first_step_nothing_is_kept(self, source, tmp_path) -> None:
        ctx = Context()
        ctx.cancel()
        with pytest.raises(JobCancelledError):
            service.train(request(source), tmp_path, ctx)
        assert entries(tmp_path) == 0
        assert runs.list_runs(tmp_path)[0].state == "stopped"

    def test_in_the_first_step_nothing_is_kept_either(self, source, tmp_path, monkeypatch) -> None:
        def cancelled(*_a: object, **_k: object) -> StepResult:
            raise JobCancelledError

        monkeypatch.setattr(ProtoNet, "step", cancelled)
        with pytest.raises(JobCancelledError):
            jobs.train(request(source), tmp_path, Context())
        assert entries(tmp_path) == 0
        assert "before anything was learnt" in runs.list_runs(tmp_path)[0].message

    def test_in_the_middle_the_best_so_far_is_kept(self, source, tmp_path, monkeypatch) -> None:
        real, ctx = ProtoNet.step, Context()

        def step(self, s, batch, at, c):  # type: ignore[no-untyped-def]
            if at.step == 6:
                ctx.cancel()
            return real(self, s, batch, at, c)

        monkeypatch.setattr(ProtoNet, "step", step)
        done = jobs.train(request(source, episodes=400), tmp_path, ctx)
        assert done.stopped
        assert done.episodes == 6
        assert entries(tmp_path) == 1
        assert runs.list_runs(tmp_path)[0].state == "stopped"
        assert done.entry.calibration["temperature"] > 0

    def test_stopped_and_resumed_is_the_same_as_never_stopped(self, source, tmp_path, monkeypatch) -> None:
        whole = jobs.train(request(source, episodes=9), tmp_path / "whole", Context())
        real, ctx = ProtoNet.step, Context()

        def step(self, s, batch, at, c):  # type: ignore[no-untyped-def]
            if at.step == 5:
                ctx.cancel()
            return real(self, s, batch, at, c)

        with monkeypatch.context() as patch:
            patch.setattr(ProtoNet, "step", step)
            half = jobs.train(request(source, episodes=9), tmp_path / "half", ctx)
        done = jobs.resume(half.run, tmp_path / "half", Context())
        assert done.entry.weights_sha256 == whole.entry.weights_sha256 != half.entry.weights_sha256
        assert done.entry.calibration == whole.entry.calibration
        assert done.entry.validation == whole.entry.validation
        with pytest.raises(WorkbenchError, match="it is done"):
            jobs.resume(half.run, tmp_path / "half", Context())


class TestNotFinite:
    def test_the_best_state_before_it_is_kept_and_named(self, source, tmp_path, monkeypatch) -> None:
        breaking(monkeypatch, after=30)
        with pytest.raises(NotFiniteError) as refusal:
            jobs.train(request(source, episodes=40, name="unlucky"), tmp_path, Context())
        (entry,) = [e for e in Library(tmp_path).entries() if e.name == "unlucky"]
        assert f"unlucky ({entry.id})" in refusal.value.what_to_do
        assert "episode 31" in refusal.value.what_happened
        assert 0 < entry.provenance["episodes"] <= 30
        assert entry.validation is not None
        (run,) = runs.list_runs(tmp_path)
        assert (run.state, run.entry) == ("failed", entry.id)
        assert "not a finite number" in run.message

    def test_where_nothing_was_learnt_nothing_is_kept(self, source, tmp_path, monkeypatch) -> None:
        breaking(monkeypatch, after=0)
        with pytest.raises(NotFiniteError, match="episode 1"):
            jobs.train(request(source, episodes=40), tmp_path, Context())
        assert entries(tmp_path) == 0
        assert runs.list_runs(tmp_path)[0].state == "failed"


def trunk_of(project: Path, name: str) -> dict[str, np.ndarray]:
    tensors = Library(project).load_tensors(Library(project).find(name)[0])
    return {n.split(".trunk.")[1]: t for n, t in tensors.items() if n.startswith(("learned.trunk.", "memory.trunk."))}


def start_of(asked: TrainRequest, project: Path) -> dict[str, np.ndarray]:
    """The trunk that a run begins with."""
    state = preparing.prepare(asked, project, Context()).algorithm.init(torch.Generator().manual_seed(5))
    both = {**state.learned, **state.memory}
    return {n.removeprefix("trunk."): t.numpy() for n, t in both.items() if n.startswith("trunk.")}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


class TestStart:
    @pytest.mark.parametrize("algorithm", ["protonet", "maml", "ridge"])
    def test_from_an_entry_by_name_id_path_or_card(self, trained, source, algorithm) -> None:
        entry, path = Library(trained).find("proto")
        wanted = trunk_of(trained, "proto")
        for start in ("proto", entry.id, str(path), str(path / "entry.json")):
            asked = request(source, algorithm=algorithm, start=start)
            assert same(start_of(asked, trained), wanted)
        prepared = preparing.prepare(request(source, start="proto"), trained, Context())
        assert prepared.preprocess.mean == entry.preprocess.mean

    def test_what_was_trained_from_an_entry_names_it_and_can_be_mixed_with_others(
        self, trained, source, tmp_path
    ) -> None:
        project = tmp_path / "p"
        shutil.copytree(trained / "knowledge", project / "knowledge")
        entry, path = Library(project).find("proto")
        for start in ("proto", str(path / "entry.json")):
            kept = jobs.train(request(source, start=start, name="child"), project, Context()).entry
            assert kept.provenance["ancestor_entry"] == entry.id
        assert "ancestor" not in entry.provenance
        file = tmp_path / "trunk.safetensors"
        save_arrays(trunk_of(project, "proto"), str(file))
        other = jobs.train(request(source, start=str(file), name="other"), project, Context()).entry
        assert "ancestor_entry" not in other.provenance
        network = registry.backbone(entry.backbone).skeleton(entry.preprocess.depth, entry.preprocess.size)

        def trunk(card: KnowledgeEntry) -> mixing.Trunk:
            library = Library(project)
            tensors = {n: torch.from_numpy(a) for n, a in library.load_tensors(library.path_of(card.id)).items()}
            return mixing.trunk_of(network, split_state(tensors), card.id, card.provenance.get("ancestor", ""))

        (family,) = mixing.families([trunk(e) for e in (entry, kept, other)])
        assert family.ancestor.name == entry.id
        assert {m.name for m in family.members} == {kept.id, other.id}

    def test_from_an_entry_of_another_backbone(self, trained, source) -> None:
        with pytest.raises(WorkbenchError, match="has the backbone conv4-32, not conv4"):
            jobs.train(request(source, start="proto", backbone="conv4"), trained, Context())

    def test_grey_weights_do_not_start_colours_but_the_other_way_round(self, trained, source) -> None:
        with pytest.raises(WorkbenchError, match="only know grey"):
            jobs.train(request(source, start="ridge", size=32), trained, Context())
        grey = preparing.prepare(request(source, start="proto", channels="grey"), trained, Context())
        assert grey.preprocess.mean == (pytest.approx(sum(Library(trained).find("proto")[0].preprocess.mean) / 3),)
        kernel = start_of(request(source, start="proto", channels="grey"), trained)["0.conv.weight"]
        assert kernel == pytest.approx(trunk_of(trained, "proto")["0.conv.weight"].sum(1, keepdims=True))

    def test_from_a_file(self, trained, source, tmp_path) -> None:
        weights = trunk_of(trained, "proto")
        file = tmp_path / "trunk.safetensors"
        save_arrays(weights, str(file))
        assert same(start_of(request(source, start=str(file)), tmp_path / "p"), weights)
        save_arrays({n: t for n, t in weights.items() if "norm" not in n}, str(file))
        with pytest.raises(WorkbenchError, match="the file lacks"):
            jobs.train(request(source, start=str(file)), tmp_path / "p", Context())

    def test_the_command_line_starts_from_an_entry_or_weights(self, project, pictures, tmp_path, capsys) -> None:
        """``ridge`` trains nothing: the trunk that it began with is the one that is kept."""
        wanted = trunk_of(project, "proto")
        save_arrays(wanted, str(tmp_path / "trunk.safetensors"))
        asked = ["train", str(pictures / "teach"), "--algorithm", "ridge", "--backbone", "conv4-32", "--ways", "3"]
        asked += ["--queries", "2", "--episodes", "1", "--image-size", "16", "--project", str(project), "--json"]
        for start in ("proto", str(tmp_path / "trunk.safetensors")):
            assert main([*asked, "--from", start]) == 0
            found = json.loads(capsys.readouterr().out)["entry"]
            assert same(trunk_of(project, found), wanted)
        assert main([*asked, "--from", "nobody"]) == 1
        assert "no entry called nobody" in json.loads(capsys.readouterr().out)["error"]


@pytest.fixture
def published(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    """A loopback server that publishes weights for the small Conv-4, with a classifier as published files have."""
    import hashlib

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    weights = {n: torch.from_numpy(t) for n, t in trunk_of(trained, "proto").items()}
    save_file({**weights, "fc.weight": torch.zeros(2, 2)}, tmp_path / "published.safetensors")
    with Server() as server:
        server.data = (tmp_path / "published.safetensors").read_bytes()
        digest = hashlib.sha256(server.data).hexdigest()
        offer = Pretrained(len(server.data), "MIT", "tests", digest[:8], lambda: server.url)
        registry.backbones()
        info = replace(registry._backbones["conv4-32"], pretrained=offer)
        monkeypatch.setitem(registry._backbones, "conv4-32", info)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class TestPretrained:
    def test_fetched_once_and_used(self, published, trained, source, tmp_path) -> None:
        asked = request(source, pretrained=True)
        with pytest.raises(WorkbenchError, match="--download"):
            jobs.train(asked, tmp_path, Context())
        assert not published.requests, "nothing is fetched unasked"
        jobs.fetch_weights("conv4-32", Context())
        assert len(published.requests) == 1
        assert same(start_of(asked, tmp_path), trunk_of(trained, "proto"))
        assert preparing.prepare(asked, tmp_path, Context()).preprocess.mean == (0.485, 0.456, 0.406)
        grey = preparing.prepare(replace(asked, channels="grey"), tmp_path, Context())
        assert grey.preprocess.mean == (pytest.approx(0.449),)

    def test_the_command_line_names_what_it_fetches(self, published, pictures, tmp_path, capsys) -> None:
        asked = ["train", str(pictures / "source"), "--algorithm", "ridge", "--backbone", "conv4-32", "--ways", "3"]
        asked += ["--episodes", "1", "--image-size", "16", "--project", str(tmp_path), "--download", "--json"]
        for _ in range(2):
            assert main(asked) == 0
        said = capsys.readouterr()
        assert said.err.count("Fetching the weights of") == 1
        assert "MIT, from 127.0.0.1" in said.err
        assert len(published.requests) == 1
        assert len(said.out.splitlines()) == 2

    def test_another_file_than_was_published_is_refused(self, published, source, tmp_path) -> None:
        published.data = published.data[:-1] + b"\x01"
        with pytest.raises(WorkbenchError):
            jobs.fetch_weights("conv4-32", Context())
        assert not weights_path("conv4-32").exists()
