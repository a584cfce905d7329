"""One small project with an entry of every kind, trained once; tests that change it copy it."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import pytest

from tests.services.material import folder, request, task
from workbench.core.context import Context
from workbench.core.values import TaskClass
from workbench.learn.engine import Plan
from workbench.services import jobs

STEPS = {"inner_steps": 1, "test_steps": 2, "tasks": 1}
ENTRIES = {
    "proto": {},
    "maml": {"algorithm": "maml", "params": STEPS},
    "fixed": {"algorithm": "maml", "params": STEPS | {"head": "textbook"}, "shots": (2, 2)},
    "reptile": {"algorithm": "reptile", "params": {"inner_steps": 1, "test_steps": 24, "tasks": 1}},
    "ridge": {"algorithm": "ridge", "size": 32, "channels": "grey"},
}


def quick(patch: pytest.MonkeyPatch) -> None:
    """Few episodes to validate and to calibrate on: a run is over in a fraction of a second."""
    few = functools.partial(Plan, validation_episodes=2, report_episodes=2)
    patch.setattr("workbench.services.train.Plan", few)
    patch.setattr("workbench.services.keeping._CALIBRATION_EPISODES", 4)
    patch.setattr("workbench.services.keeping._FEWEST_EPISODES", 2)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``source`` (8 classes x 7), ``teach`` (3 new classes x 4) and ``query`` (the same classes, 5 others each)."""
    root = tmp_path_factory.mktemp("pictures")
    folder(root / "source", range(8), 7)
    folder(root / "teach", range(20, 23), 4)
    folder(root / "query", range(20, 23), 5, first=50)
    return root


@pytest.fixture(scope="session")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the entries; read it, never change it."""
    project = tmp_path_factory.mktemp("trained")
    source = task(pictures / "source")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(project / "home"))
        patch.setenv("WORKBENCH_THREADS", "1")
        jobs.load_runtime(Context())
        quick(patch)
        for name, changes in ENTRIES.items():
            jobs.train(request(source, name=name, **changes), project, Context())
    return project


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(trained, tmp_path / "project", ignore=shutil.ignore_patterns("home", "runs", "models")))


@pytest.fixture
def classes(pictures: Path) -> tuple[TaskClass, ...]:
    """Three new classes of four examples."""
    return task(pictures / "teach").classes


@pytest.fixture
def queries(pictures: Path) -> tuple[TaskClass, ...]:
    """Five other pictures of each of them."""
    return task(pictures / "query").classes


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One thread, and nothing known but what a test's project holds."""
    monkeypatch.setenv("WORKBENCH_THREADS", "1")
    monkeypatch.setattr("workbench.project.library.starter_knowledge", lambda: tmp_path / "no starter knowledge")
