"""Python 3.11 with PySide6 6.12.0 drops a reference to None on every void call and aborts later; our pair must not."""

from __future__ import annotations

import subprocess
import sys

import pytest

_COUNT = """
import sys
from PySide6.QtCore import QObject
o = QObject()
before = sys.getrefcount(None)
for _ in range(1000):
    o.setObjectName("x")
print(sys.getrefcount(None) - before)
"""

_MANY = """
from PySide6.QtCore import QObject
o = QObject()
for _ in range(20000):
    o.setObjectName("x")
"""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="counts of None are frozen from 3.12 on")
def test_void_calls_keep_the_references_to_none() -> None:
    done = subprocess.run([sys.executable, "-c", _COUNT], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) > -50


def test_many_void_calls_end_well() -> None:
    assert subprocess.run([sys.executable, "-c", _MANY], check=False, timeout=60).returncode == 0
