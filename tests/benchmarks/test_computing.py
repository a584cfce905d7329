"""Budgets in seconds of computing."""

from __future__ import annotations

import time

from tests.benchmarks.computing import Computing


def test_waiting_costs_nothing_and_computing_does():
    begun, read = Computing.monotonic(), Computing.perf_counter()
    time.sleep(0.2)
    waited = Computing.monotonic() - begun
    while time.process_time() - read < 0.2:
        pass
    assert waited < 0.1
    assert Computing.perf_counter() - read >= 0.2
