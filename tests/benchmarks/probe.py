"""Which small network tells domains apart: few pictures of some classes, and each domain's other classes.

::

    uv run python -m tests.benchmarks.probe --data FOLDER [--entry ENTRY ...]     measure
    uv run python -m tests.benchmarks.probe --write resources/probe               make the network that is shipped

A domain's classes are parted in two halves by chance. One is the source, represented once; from the other come tasks of
five classes with one or five pictures each. ``own``: how often the nearest source is the task's own; ``kind``: is of
the same set of pictures, whichever alphabet it is; ``auc``: how often the distance to the own source is smaller than to
another. Over ten alphabets of Omniglot's evaluation set, three of the samples, clothes, hands and surfaces, 288 tasks:

==============================  =================  =================
network (5 classes)             1 picture each     5 pictures each
                                own   kind  auc    own   kind  auc
==============================  =================  =================
random Conv-4, 28 px, rgb       .646  .983  .919   .726  .986  .945
random Conv-4, 32 px, rgb       .615  .878  .885   .628  .844  .918
Starter: surfaces, 48 px, rgb   .719  .979  .931   .771  .979  .932
Starter: drawn, 28 px, grey     .667  .819  .921   .729  .830  .937
==============================  =================  =================

So the shipped one is the first: it takes a third of the third one's time and an entry keeps a quarter of the numbers,
and as nothing was trained, no task that it is asked about can have been seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from workbench.core import paths
from workbench.core.context import Context
from workbench.core.values import EntryId, KnowledgeEntry, Preprocess, Task
from workbench.data.scan import scan
from workbench.learn.protocol import generator
from workbench.project.library import Library
from workbench.services import jobs
from workbench.services import knowledge as known
from workbench.services.knowledge import Knowledge
from workbench.transfer.represent import distance, represent

PREPROCESS = Preprocess(28, "rgb")
CLASSES, REPEATS, TASKS = 5, 6, 3
_OF_A_CLASS = 20


class Separation(NamedTuple):
    """Shares of 0..1; see the module."""

    own: float
    kind: float
    auc: float


def domains(data: Path) -> dict[str, Task]:
    """Kind and name -> task."""
    ctx = Context()

    def tasks(path: Path) -> tuple[Task, ...]:
        return scan((str(path),), ctx).tasks

    out = {f"omniglot/{t.name}": t for t in tasks(data / "omniglot28" / "omniglot28_evaluation.zip")[:10]}
    out |= {f"samples/{t.name}": t for t in tasks(paths.samples() / "alphabets")[-3:]}
    for path in (data / "clothing10", data / "signdigits10", paths.samples() / "surfaces"):
        out[f"{path.name}/"] = tasks(path)[0]
    return out


def measure(features: dict[str, list[Tensor]], shots: int, seed: int = 0) -> Separation:
    """How well tasks are told apart.

    Args:
        features: per domain and class ``[n, D]``.
        shots: pictures of each class of a task.
        seed: of the draws.
    """
    gen = generator(seed)
    nearest: list[tuple[str, str]] = []
    own: list[float] = []
    others: list[float] = []
    for _ in range(REPEATS):
        sources, rest = {}, {}
        for name, classes in features.items():
            order = torch.randperm(len(classes), generator=gen).tolist()
            half = len(classes) // 2
            sources[name] = represent(torch.cat([classes[i] for i in order[:half]]))
            rest[name] = [classes[i] for i in order[half:]]
        for name, classes in rest.items():
            for _ in range(TASKS):
                drawn = torch.randperm(len(classes), generator=gen)[:CLASSES].tolist()
                rows = [classes[i][torch.randperm(len(classes[i]), generator=gen)[:shots]] for i in drawn]
                task = represent(torch.cat(rows))
                far = {source: distance(task, r) for source, r in sources.items()}
                nearest.append((name, min(far, key=lambda s: far[s])))
                own.append(far.pop(name))
                others += far.values()
    same, other = torch.tensor(own), torch.tensor(others)
    return Separation(
        sum(a == b for a, b in nearest) / len(nearest),
        sum(a.split("/")[0] == b.split("/")[0] for a, b in nearest) / len(nearest),
        float((same[:, None] < other).double().mean()),
    )


def networks(entries: Sequence[str]) -> Iterator[tuple[str, Knowledge]]:
    """The untrained ones, and entries."""
    for size in (28, 32):
        yield f"random Conv-4, {size} px, rgb", known.untrained(Preprocess(size, "rgb"))
    library = Library(None)
    for wanted in entries:
        entry, path = library.find(wanted)
        yield entry.name, known.load(entry, path, library)


def write(folder: Path) -> Path:
    """The untrained Conv-4 of seed 0 as the probe; the file is the same on every machine that draws the same."""
    itself = known.untrained(PREPROCESS)
    entry = KnowledgeEntry(
        id=EntryId(folder.name),
        name="Probe",
        algorithm="protonet",
        params={},
        backbone="conv4",
        preprocess=PREPROCESS,
        ways=(5, 5),
        shots=(1, 1),
        sources=(),
        validation=None,
        weights_sha256="",
        created="2026-11-21T00:00:00+00:00",
        provenance={
            "data": "none: the weights are drawn at random, seed 0",
            "licence": "CC0 1.0 (weights)",
            "command": "uv run python -m tests.benchmarks.probe --write resources/probe",
            "trunk": itself.digest,
        },
    )
    arrays = {n: np.asarray(t.numpy(), order="C") for n, t in known.join_state(itself.state).items()}
    return Library(None).save(entry, arrays, folder.parent)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--entry", nargs="*", default=[])
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    ctx = Context()
    jobs.load_runtime(ctx)
    if arguments.write is not None:
        print(write(arguments.write))
    if arguments.data is None:
        return
    there = domains(arguments.data)
    cache = known.feature_cache()
    for title, knowledge in networks(arguments.entry):
        features = {
            name: [known.embed(knowledge, c.images[:_OF_A_CLASS], cache, ctx) for c in task.classes]
            for name, task in there.items()
        }
        for shots in (1, 5):
            found = measure(features, shots)
            print(f"{title}, {shots} each: own {found.own:.3f}  kind {found.kind:.3f}  auc {found.auc:.3f}", flush=True)


if __name__ == "__main__":
    main()
