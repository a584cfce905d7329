"""Fixtures for all tests: a home of their own, and nothing written outside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

from workbench.project import library

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

_APP = "meta-transfer-workbench"


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``WORKBENCH_HOME`` in a temporary folder; fails a test that writes to the real user's folders."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("WORKBENCH_HOME", str(folder))
    real = [Path(f(_APP, appauthor=False)) for f in _FOLDERS]
    before = [_newest(p) for p in real]
    yield folder
    touched = [p for p, was in zip(real, before, strict=True) if _newest(p) != was]
    assert not touched, f"the test wrote to the user's own folders: {touched}"


@pytest.fixture(autouse=True)
def _no_starter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Knowledge is what a test made itself, unless it is marked ``starter``."""
    if "starter" not in request.keywords:
        monkeypatch.setattr(library, "starter_knowledge", lambda: Path("/nonexistent/knowledge"))


_FOLDERS = (platformdirs.user_data_dir, platformdirs.user_cache_dir, platformdirs.user_config_dir)


def _newest(folder: Path) -> float:
    return folder.stat().st_mtime if folder.exists() else 0.0
