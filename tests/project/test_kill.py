"""A labelling process killed at any moment loses nothing that it had been told was saved."""

from __future__ import annotations

import os
import random  # noqa: TID251
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.project.project import Project

KILLS = int(os.environ.get("WORKBENCH_TEST_KILLS", "50"))

_CHILD = """
import sys
from pathlib import Path
from workbench.core.teach import AddClass, AddQueries, Label
from workbench.core.values import ClassId, ImageRef
from workbench.project import journal
from workbench.project.project import Project
journal.SNAPSHOT_EVERY = 16
p = Project.open(Path(sys.argv[1]))
assert not p.read_only, p.read_only
if not p.teach().classes:
    p.edit(AddClass(ClassId("a"), "shorts"))
n = len(p.teach().queries)
while True:
    image = ImageRef(f"/data/{n}.png", "", f"{n:064x}", 1, 1, 1)
    p.edit(AddQueries((image,)))
    p.edit(Label((image.sha256,), ClassId("a")))
    if n % 3 == 0:
        p.undo()
        p.redo()
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
    n += 1
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_kills_lose_no_acknowledged_label(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    pick = random.Random(0)
    acknowledged: set[int] = set()
    for _ in range(KILLS):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert child.stdout is not None
        lines = [child.stdout.readline()]
        time.sleep(pick.uniform(0, 0.15))
        child.kill()
        rest, complaint = child.communicate()
        assert child.returncode == -signal.SIGKILL, complaint.decode()
        lines += rest.split(b"\n")[:-1]
        acknowledged |= {int(line) for line in lines}
        project = Project.open(folder)
        try:
            assert project.read_only == "", "the lock of the killed process is taken over"
            task = project.teach()
            numbers = [int(q.sha256, 16) for q in task.queries]
            assert numbers == list(range(len(numbers)))
            assert numbers[-1] - max(acknowledged) in (0, 1), "at most the action in flight is lost"
            assert acknowledged <= {int(h, 16) for h in task.labels}
            assert project.can_undo
        finally:
            project.close()
    assert len(acknowledged) > 100
