"""How often the window closes with 0 within 8 seconds: ``python -m tests.ui.closing_many --times 50``.

Closes the real window at random moments of real training, each time in a process of its own, and prints what came of
it. The last line counts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from tests.ui.closing import MOMENTS, Closed, close_once
from tests.ui.driven import prepare

_SECONDS = 8.0


def main() -> None:
    """Close it many times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--moment", choices=MOMENTS)
    asked = parser.parse_args()
    found: list[Closed] = []
    moments = (asked.moment,) if asked.moment else MOMENTS
    for n in range(asked.times):
        with tempfile.TemporaryDirectory() as home:
            prepare(Path(home))
            closed = close_once(moments[n % len(moments)], asked.seed + n, Path(home))
        found.append(closed)
        load = os.getloadavg()[0]
        print(
            f"{n + 1:3}  {closed.moment:10}  code {closed.code}  {closed.seconds:5.2f} s  "
            f"{'closing shown' if closed.visible else 'nothing shown'}  runs {list(closed.states)}  load {load:.1f}",
            flush=True,
        )
        if closed.code or closed.said:
            print(closed.said, flush=True)
    well = [c for c in found if c.code == 0 and c.seconds <= _SECONDS]
    longest = max(found, key=lambda c: c.seconds)
    print(
        f"{len(well)} of {len(found)} ended with 0 within {_SECONDS:g} s; "
        f"the longest took {longest.seconds:.2f} s ({longest.moment}, seed {longest.seed})"
    )


if __name__ == "__main__":
    main()
