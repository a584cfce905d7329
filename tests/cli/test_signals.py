"""Real processes that are told to stop, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from workbench.__main__ import main
from workbench.core import paths
from workbench.project import runs
from workbench.project.library import Library

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are another thing there")

ALPHABET = str(paths.samples() / "alphabets" / "Luzomi")
TRAIN = ["train", ALPHABET, "--algorithm", "protonet", "--backbone", "conv4-32", "--ways", "3", "--queries", "3"]
TRAIN += ["--image-size", "16", "--channels", "grey", "--json"]
# a checkpoint every other step instead of every half minute, and short validations
DRIVER = """
import functools, sys
from workbench.services import jobs
from workbench.core.context import Context
jobs.load_runtime(Context())
from workbench.services import train
train.Plan = functools.partial(
    train.Plan, checkpoint_every_steps=2, validation_episodes=2, validate_every=0.01, report_episodes=2
)
from workbench.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


class Running:
    """A ``workbench`` process whose standard error is read along."""

    def __init__(self, *arguments: str) -> None:
        environment = {**os.environ, "WORKBENCH_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines += iter(self.process.stderr.readline, "")

    def end(self) -> tuple[int, dict[str, Any]]:
        """Exit code and the one object on standard output."""
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        code = self.process.wait(200)
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        assert "Traceback" not in "".join(self.lines)
        return code, json.loads(out) if out else {}


def until(there: Any, running: Running) -> None:
    """Wait for something that a process does."""
    for _ in range(20_000):
        if there():
            return
        assert running.process.poll() is None, "".join(running.lines)
        time.sleep(0.01)
    raise AssertionError("it did not come")


def checkpoints(project: Path) -> list[Path]:
    return list(project.glob("runs/*/step-*.json"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_keeps_the_best_and_prints_its_object(tmp_path, number) -> None:
    running = Running(*TRAIN, "--minutes", "5", "--project", str(tmp_path))
    until(lambda: checkpoints(tmp_path), running)
    running.process.send_signal(number)
    code, done = running.end()
    assert code == 0
    assert done["stopped"] is True
    assert done["episodes"] > 0
    assert (Path(done["path"]) / "entry.json").is_file()
    assert "Stopping; the best so far is kept\n" in running.lines
    (run,) = runs.list_runs(tmp_path)
    assert (run.state, run.entry) == ("stopped", done["entry"])


def test_a_second_ctrl_c_ends_it_and_the_run_can_be_resumed(tmp_path) -> None:
    slow = DRIVER.replace(
        "from workbench.__main__", "import time\ntrain.keep = lambda *a: time.sleep(100)\nfrom workbench.__main__"
    )
    environment = {**os.environ, "WORKBENCH_THREADS": "1", "OMP_NUM_THREADS": "1"}
    running = Running.__new__(Running)
    running.process = subprocess.Popen(
        [sys.executable, "-c", slow, *TRAIN, "--minutes", "5", "--project", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    running.lines = []
    running._reader = threading.Thread(target=running._read, daemon=True)
    running._reader.start()
    until(lambda: checkpoints(tmp_path), running)
    running.process.send_signal(signal.SIGINT)
    until(lambda: any("Stopping" in line for line in running.lines), running)
    time.sleep(0.3)
    running.process.send_signal(signal.SIGINT)
    code, said = running.end()
    assert code == 1
    assert "workbench resume" in said["error"]
    (run,) = runs.list_runs(tmp_path)
    assert run.state == "interrupted"


def test_killed_and_resumed_it_ends_bit_identical(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("WORKBENCH_THREADS", "1")
    asked = [*TRAIN, "--episodes", "60", "--seed", "4"]
    running = Running(*asked, "--project", str(tmp_path / "killed"))
    until(lambda: len(checkpoints(tmp_path / "killed")) >= 2, running)
    running.process.kill()
    code, _ = running.end()
    assert code == -signal.SIGKILL
    (run,) = runs.list_runs(tmp_path / "killed")
    assert run.state == "interrupted"
    whole = Running(*asked, "--project", str(tmp_path / "whole")).end()[1]
    code, resumed = Running("resume", run.id, "--json", "--project", str(tmp_path / "killed")).end()
    assert code == 0
    assert resumed["episodes"] == whole["episodes"] == 60
    first, second = (Library(Path(done["path"]).parent.parent).find(done["entry"])[0] for done in (whole, resumed))
    assert first.weights_sha256 == second.weights_sha256
    assert first.validation == second.validation
    assert first.calibration == second.calibration
    capsys.readouterr()
    assert main(["resume", run.id, "--json", "--project", str(tmp_path / "killed")]) == 1
    assert "it is done" in json.loads(capsys.readouterr().out)["error"]


def test_a_scan_that_is_stopped_says_so(tmp_path) -> None:
    """Ctrl-C reaches the whole group on a terminal; the decoder's processes must not answer it themselves."""
    code = (
        "import os, signal, sys, threading\n"
        "from workbench.core.context import Context\n"
        "real = Context.check\n"
        "def check(self):\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    real(self)\n"
        "Context.check = check\n"
        "from workbench.__main__ import main\n"
        f"sys.exit(main(['tasks', {ALPHABET!r}, '--json']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"error": "Stopped before there was a result"}
    assert "Traceback" not in done.stderr
