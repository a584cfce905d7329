"""How long "choose for me" takes with a library of thirty entries: 25 examples of 84-pixel colour pictures.

``uv run python -m tests.benchmarks.choosing [--rounds 5] [--entries 30] [--tasks 0]``. The entries are Conv-4 with
fresh weights, each on a source of its own, and the pictures are noise: time depends on neither. What is timed is the
whole way from the pictures' files to a network that can answer, as ``workbench adapt auto`` and the window take it:

* *cold*: nothing was seen before; pictures are decoded, entries loaded, features computed (of at most eight trunks);
* *cached*: the same examples again, from the features on disk and in memory, with all earlier looks forgotten;
* *unchanged*: once more with nothing forgotten, as after an edit that changes no example.

With ``--tasks`` the project has so many past tasks, which the choice learns from: read when cold, and again if changed.

The figures are medians over rounds; each cold round has a cache and pictures of its own. A machine that does other work
measures that work: seconds of computing by this process are reported beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from workbench.core.context import Context
from workbench.core.values import EntryId, KnowledgeEntry, Preprocess, SourceInfo, TaskClass, Validation
from workbench.data.scan import scan
from workbench.learn.features import FeatureCache, trunk_digest
from workbench.learn.protocol import Setting, generator
from workbench.learn.registry import create
from workbench.project import past_tasks
from workbench.project.library import Library
from workbench.project.past_tasks import PastTask, Used
from workbench.services import jobs, looks, probe, remembering, teaching
from workbench.services import knowledge as known
from workbench.transfer.kinds import packed

WAYS, SHOTS, SIZE = 5, 5, 84
COLD, CACHED = 3.0, 0.5
"""Seconds, with thirty entries."""


def library(project: Path, entries: int) -> None:
    """Entries with fresh weights, described under their own trunks and under the probe, as training leaves them."""
    p, held = Preprocess(size=SIZE), Library(project)
    network = probe.probe()
    for i in range(entries):
        algorithm = create("protonet", {}, Setting("conv4", 3, SIZE, WAYS))
        state = algorithm.init(generator(i))
        bare = known.Knowledge(None, "", algorithm, state, p, "", (), algorithm.trunk(state))
        x = torch.randn(20, 3, SIZE, SIZE, generator=generator(1000 + i))
        own = known.described(bare, x, Context())
        tensors = known.join_state(state) | {"source.0.mean": own.mean, "source.0.covariance": own.covariance}
        if network is not None:
            side = network.preprocess.size
            seen = known.described(network, torch.randn(40, network.preprocess.depth, side, side), Context())
            meta = torch.zeros(2 * len(probe.NAMES), dtype=torch.float64)
            tensors |= probe.tensors_of(0, probe.Represented(seen, meta))
        entry = KnowledgeEntry(
            id=EntryId(f"{i:08x}"),
            name=f"entry {i}",
            algorithm="protonet",
            params={},
            backbone="conv4",
            preprocess=p,
            ways=(WAYS, WAYS),
            shots=(1, SHOTS),
            sources=(SourceInfo(f"source {i}", "", 20, 400, f"{i:064x}"),),
            validation=Validation("classes", 0.7, 0.02, 100),
            weights_sha256="",
            created="2026-01-01T00:00:00+00:00",
            provenance={"trunk": trunk_digest(state)} | ({"probe": network.digest} if network is not None else {}),
        )
        held.save(entry, {n: np.asarray(t.numpy(), order="C") for n, t in tensors.items()})


def past(project: Path, tasks: int) -> None:
    """Records of tasks that were taught, in which the first two entries were judged."""
    network = probe.probe()
    assert network is not None, "past tasks have a place under the probe"
    side = network.preprocess.size
    for i in range(tasks):
        x = torch.randn(20, network.preprocess.depth, side, side, generator=generator(5000 + i))
        a, b = (Used(EntryId(f"{n:08x}")) for n in range(2))
        record = PastTask(
            id=f"{i:016x}",
            when="2026-01-01T00:00:00+00:00",
            shots=(5,) * WAYS,
            probe=network.digest,
            representation=tuple(packed(known.described(network, x, Context())).tolist()),
            metafeatures=(0.0,) * 2 * len(probe.NAMES),
            names=probe.NAMES,
            tried=(),
            chosen=a,
        )
        past_tasks.save(project, record.seen_right(a, i % 3, 3).seen_right(b, i % 2, 3))


def pictures(folder: Path, seed: int) -> tuple[TaskClass, ...]:
    """Five classes of five pictures of 120 x 100 pixels."""
    noise = np.random.default_rng(seed)
    for c in range(WAYS):
        (folder / f"class {c}").mkdir(parents=True)
        for n in range(SHOTS):
            small = noise.integers(0, 256, (10, 12, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
            Image.fromarray(small).save(folder / f"class {c}" / f"{n}.jpg")
    (task,) = scan((str(folder),), Context()).tasks
    return task.classes


def forget() -> None:
    """All that this thread remembers of earlier looks at examples; entries that were loaded stay."""
    looks._forget()
    teaching._forget()


def forget_entries() -> None:
    """Nothing is at hand any more."""
    forget()
    known._forget()
    probe._forget()
    remembering._forget()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of this process's computing."""
    begun, worked = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - worked


def measure(project: Path, where: Path, rounds: int) -> dict[str, float]:
    """Medians."""
    rows: dict[str, list[tuple[float, float]]] = {"cold": [], "cached": [], "unchanged": []}
    for r in range(rounds + 1):
        classes = pictures(where / f"pictures {r}", r)
        cache = FeatureCache(where / f"cache {r}")

        def choose(classes: tuple[TaskClass, ...] = classes, cache: FeatureCache = cache) -> None:
            teaching.adapt_to(classes, project, "auto", cache, Context(), every_step=False)

        forget_entries()
        cold = timed(choose)
        forget()
        cached, unchanged = timed(choose), timed(choose)
        if r:  # the first round loads the library and warms the processor's kernels up
            rows["cold"].append(cold)
            rows["cached"].append(cached)
            rows["unchanged"].append(unchanged)
    return {
        f"{name}{kind}": statistics.median(row[n] for row in found)
        for name, found in rows.items()
        for n, kind in enumerate(("", "_computing"))
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print one JSON object; 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.choosing", description=(__doc__ or "")[:80])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--entries", type=int, default=30)
    parser.add_argument("--tasks", type=int, default=0)
    asked = parser.parse_args(arguments)
    jobs.load_runtime(Context())
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        library(project, asked.entries)
        if asked.tasks:
            past(project, asked.tasks)
        found = measure(project, Path(folder), asked.rounds)
    met = found["cold"] <= COLD and found["cached"] <= CACHED
    row = {
        "entries": asked.entries,
        "tasks": asked.tasks,
        "examples": WAYS * SHOTS,
        "threads": torch.get_num_threads(),
        **found,
    }
    print(json.dumps(row | {"cold_limit": COLD, "cached_limit": CACHED, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
