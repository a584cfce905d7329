"""The command line with budgets and times counted in seconds of computing, not of waiting.

``python -m tests.benchmarks.computing train ... --minutes 10`` trains for ten minutes of the processor's time (of all
threads of the process together), however long that takes on a machine that does other work as well. With one thread on
an idle machine the two are the same.
"""

from __future__ import annotations

import sys
import time

from workbench.__main__ import main
from workbench.learn import engine, evaluate, validation


class Computing:
    """What training and evaluating use of :mod:`time`, by the processor's clock."""

    monotonic = perf_counter = staticmethod(time.process_time)


if __name__ == "__main__":
    for module in (engine, evaluate, validation):
        module.time = Computing  # type: ignore[attr-defined]
    sys.exit(main())
