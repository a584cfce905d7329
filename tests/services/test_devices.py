"""Devices and the machine: nothing falls back silently, and every check says what to do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.services import devices, runtime
from workbench.services.catalogue import backbone_row, catalogue
from workbench.services.doctor import checks


def test_the_cpu_is_always_there_and_agrees_with_itself(monkeypatch) -> None:
    monkeypatch.setattr(devices, "_SECONDS", 0.05)
    rows = devices.devices(Context())
    assert rows[0].key == "cpu"
    assert rows[0].usable
    assert rows[0].agrees_with_cpu
    assert rows[0].images_per_second > 0


@pytest.mark.parametrize("key", ["cuda:2", "cuda:9", "cudaX", "mps", "tpu", ""])
def test_a_device_that_is_not_there_is_refused(monkeypatch, key) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(WorkbenchError, match="does not offer it"):
        devices.check_device(key)
    assert [devices.check_device(k) for k in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]


def test_a_device_that_fails_its_test_is_listed_with_the_reason(monkeypatch) -> None:
    monkeypatch.setattr(devices, "_SECONDS", 0.01)
    monkeypatch.setattr(devices, "keys", lambda: ("cpu", "nowhere", "cpu"))
    monkeypatch.setattr(devices, "_name", lambda key: key)
    rows = devices.devices(Context())
    assert [r.usable for r in rows] == [True, False, True]
    assert rows[1].note.startswith("cannot be used")


def test_every_check_of_the_doctor_has_words(tmp_path) -> None:
    rows = checks(tmp_path / "project")
    names = [c.name for c in rows]
    assert len(set(names)) == len(names)
    assert {"Python", "torch", "SQLite", "Project folder"} <= set(names)
    for c in rows:
        assert c.found
        assert c.ok or c.advice, c.name
    assert list((tmp_path / "project").iterdir()) == []


def test_the_catalogue_feeds_the_form() -> None:
    found = catalogue()
    assert {"protonet", "maml", "fomaml", "reptile", "ridge"} <= {a.info.key for a in found.algorithms}
    rows = {b.key: b for b in found.backbones}
    assert rows["resnet18"].pretrained_size > 0
    assert rows["resnet18"].pretrained_licence
    assert rows["conv4"].pretrained_size == 0
    assert not rows["resnet18"].pretrained_present


def test_a_small_network_does_not_load_the_library_of_a_large_one() -> None:
    code = (
        "import sys\n"
        "from workbench.core.context import Context\n"
        "from workbench.services import jobs\n"
        "assert jobs.backbone('conv4', Context()).recommended_size == 84\n"
        "assert 'torchvision' not in sys.modules\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=280, env=environment)
    with pytest.raises(WorkbenchError, match="none called"):
        backbone_row("magic")


def test_threads_can_be_set_from_outside(monkeypatch) -> None:
    monkeypatch.setenv("WORKBENCH_THREADS", "3")
    assert runtime.threads() == 3
    for wrong in ("0", "many", ""):
        monkeypatch.setenv("WORKBENCH_THREADS", wrong)
        assert runtime.threads() >= 1


def test_lanes_that_start_in_the_same_tick_load_torch_once() -> None:
    code = (
        "import sys, threading\n"
        "from workbench.services import runtime\n"
        "assert 'torch' not in sys.modules\n"
        "runtime.for_window()\n"
        "there = []\n"
        "go = threading.Barrier(3)\n"
        "def lane():\n"
        "    go.wait()\n"
        "    runtime.ready()\n"
        "    import torch\n"
        "    there.append(float(torch.ones(3).sum()))\n"
        "lanes = [threading.Thread(target=lane) for _ in range(3)]\n"
        "[t.start() for t in lanes]\n"
        "[t.join(200) for t in lanes]\n"
        "assert there == [3.0] * 3, there\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=280, env=environment)
