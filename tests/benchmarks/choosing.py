"""How long "choose for me" takes with a library of thirty entries: 25 examples of 84-pixel colour pictures.

``uv run python -m tests.benchmarks.choosing [--library metric] [--shots 5]``. The entries
have fresh weights, each has a source of its own, and the pictures are noise of coarse squares, as the sources were:
time depends on none of it, but so the short list is full of entries of this size. The project has records of past
tasks, which the choice learns from. ``--library`` says what the entries are:

* *metric*: prototypical networks on Conv-4;
* *family*: the same, all trained from the first, so that a mixture of them is tried, too. It is measured on the
  examples and made anew without each part of them that is left out, for which no feature can be kept;
* *steps*: every second is a MAML with its ten steps, of which the two likeliest are adapted anew without each third of
  the examples. No cache can spare that, either;
* *heads*: in turn a prototypical network, a ridge head, Baseline++ and distribution calibration, all on Conv-4. The
  last two have no closed form: what they say of left-out examples is fitted anew, part by part;
* *deep*: prototypical networks on ResNet-12.

What is timed is the way of ``teach``, from the pictures' files to a network that answered and the record of the task:

* *cold*: nothing was seen before; cards, records and pictures are read, entries loaded, features computed;
* *cached*: the same examples again, with earlier looks at examples, the last answer and mixtures forgotten. What a
  window that is open has at hand stays: features, loaded networks, decoded pictures, cards, records of past tasks;
* *unchanged*: once more with nothing forgotten, as after an edit that changes no example;
* *labelled*: 24 examples and 16 queries were answered, now one query is labelled; its features under the other networks
  are not known yet;
* *command*: ``workbench adapt auto`` from the start of Python to the written model, without anything at hand, and
* *command_again*: once more, with the features that it left on disk.

The choice has the same limits in the window and in the command, whose seconds hold the start of Python and of torch as
well. They are those of Conv-4, whatever is made of it; there is none for *deep*.

The figures are medians over rounds; each round has a cache and pictures of its own. A machine that does other work
measures that work: seconds of computing are reported beside them. ``--table`` puts what there is into the README, and
says below which limits are exceeded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.benchmarks import files
from workbench.core.context import Context
from workbench.core.values import EntryId, ImageRef, KnowledgeEntry, Preprocess, SourceInfo, TaskClass, Validation
from workbench.data.read import image_ref
from workbench.data.scan import scan
from workbench.learn import averaging, functional
from workbench.learn.features import trunk_digest
from workbench.learn.protocol import Setting, State, generator
from workbench.learn.registry import create
from workbench.project import past_tasks
from workbench.project.library import Library
from workbench.project.past_tasks import PastTask, Used
from workbench.services import jobs, looks, mixtures, probe, remembering, teaching
from workbench.services import knowledge as known
from workbench.services.teach import TeachRequest
from workbench.transfer.kinds import packed

BENCHMARK = "choosing"
WAYS, SHOTS, SIZE, QUERIES, SEED = 5, 5, 84, 15, 0
LIBRARIES = ("metric", "family", "heads", "steps", "deep")
HEADS = ("protonet", "ridge", "baseline++", "calibrated")
WITHIN = {"cold": 3.0, "cached": 0.5, "labelled": 0.5, "command": 3.0, "command_again": 0.5}
"""Seconds, with thirty entries whose networks are Conv-4."""
FIGURES = ("cold", "cached", "unchanged", "labelled", "command", "command_again")


def squares(count: int, height: int, width: int, seed: int) -> np.ndarray:
    """``[count, height, width, 3]`` uint8: coarse squares of colours drawn at random."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (count, -(-height // 10), -(-width // 10), 3), dtype=np.uint8)
    return small.repeat(10, 1).repeat(10, 2)[:, :height, :width]


def inputs(count: int, p: Preprocess, seed: int) -> Tensor:
    """The same as a network with ``p`` sees them, ``[count, C, size, size]``."""
    x = torch.from_numpy(squares(count, p.size, p.size, seed)).permute(0, 3, 1, 2).float() / 255
    x = x.mean(1, keepdim=True) if p.depth == 1 else x
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (p.mean, p.std))
    return (x - mean) / std


def library(project: Path, kind: str, entries: int) -> None:
    """Entries with fresh weights, described under their own trunks and under the probe, as training leaves them."""
    p, held = Preprocess(size=SIZE), Library(project)
    network, ancestor = probe.probe(), ""
    for i in range(entries):
        key, backbone = method(kind, i)
        algorithm = create(key, {}, Setting(backbone, p.depth, SIZE, WAYS))
        state = algorithm.init(generator(i + 1))  # not as "no transfer", whose features it would share
        bare = known.Knowledge(None, "", algorithm, state, p, "", (), algorithm.trunk(state))
        own = known.described(bare, inputs(20, p, 1000 + i), Context())
        tensors = known.join_state(state) | {"source.0.mean": own.mean, "source.0.covariance": own.covariance}
        provenance: dict[str, Any] = {"trunk": trunk_digest(state)}
        if network is not None:
            seen = known.described(network, inputs(40, network.preprocess, 2000 + i), Context())
            meta = torch.zeros(2 * len(probe.NAMES), dtype=torch.float64)
            tensors |= probe.tensors_of(0, probe.Represented(seen, meta))
            provenance["probe"] = network.digest
        if kind == "family" and i:
            provenance |= {"ancestor": ancestor, "ancestor_entry": _id(0)}
        else:
            ancestor = _mark(state)
        entry = KnowledgeEntry(
            id=_id(i),
            name=f"entry {i}",
            algorithm=key,
            params={},
            backbone=backbone,
            preprocess=p,
            ways=(WAYS, WAYS),
            shots=(1, SHOTS),
            sources=(SourceInfo(f"source {i}", "", 20, 400, f"{i:064x}"),),
            validation=Validation("classes", 0.7, 0.02, 100),
            weights_sha256="",
            created="2026-01-01T00:00:00+00:00",
            provenance=provenance,
        )
        held.save(entry, {n: np.asarray(t.numpy(), order="C") for n, t in tensors.items()})


def method(kind: str, i: int) -> tuple[str, str]:
    """Algorithm and backbone of an entry."""
    key = "maml" if kind == "steps" and i % 2 else HEADS[i % len(HEADS)] if kind == "heads" else "protonet"
    return key, "resnet12" if kind == "deep" else "conv4"


def _id(i: int) -> EntryId:
    return EntryId(f"{i:08x}")


def _mark(state: State) -> str:
    return averaging.digest(functional.under({**state.learned, **state.memory}))


def past(project: Path, tasks: int) -> None:
    """Records of tasks that were taught, in which the first two entries were judged."""
    network = probe.probe()
    assert network is not None, "past tasks have a place under the probe"
    for i in range(tasks):
        x = inputs(20, network.preprocess, 5000 + i)
        a, b = (Used(_id(n)) for n in range(2))
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


def pictures(folder: Path, seed: int, shots: int = SHOTS) -> tuple[tuple[TaskClass, ...], tuple[ImageRef, ...]]:
    """Five classes of five pictures (or so many) of 120 x 100 pixels, and pictures to ask about."""
    made = squares(WAYS * shots + QUERIES, 100, 120, seed)
    for n, pixels in enumerate(made):
        below = f"examples/class {n // shots}" if n < WAYS * shots else "queries"
        (folder / below).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / below / f"{n}.jpg")
    (task,) = scan((str(folder / "examples"),), Context()).tasks
    return task.classes, tuple(image_ref(str(path)) for path in sorted((folder / "queries").iterdir()))


def forget() -> None:
    """All that this thread remembers of earlier looks at examples; entries that were loaded stay."""
    looks._forget()
    teaching._forget()
    mixtures._forget()


def forget_entries() -> None:
    """Nothing is at hand any more."""
    forget()
    known._forget()
    probe._forget()
    remembering._forget()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of computing by this process and those that it waited for."""
    begun, worked = time.perf_counter(), _computing()
    work()
    return time.perf_counter() - begun, _computing() - worked


def _computing() -> float:
    used = os.times()  # Windows does not know of children, and says 0
    return time.process_time() + used.children_user + used.children_system


def one_round(project: Path, where: Path, seed: int, shots: int = SHOTS) -> dict[str, tuple[float, float]]:
    """Each figure once, with pictures and a cache that nobody has seen."""
    classes, queries = pictures(where / "pictures", seed, shots)
    os.environ["WORKBENCH_HOME"] = str(where / "home")

    def teach(classes: tuple[TaskClass, ...], queries: tuple[ImageRef, ...]) -> None:
        teaching.teach(TeachRequest(1, classes, queries), project, Context())

    found = {}
    forget_entries()
    found["cold"] = timed(lambda: teach(classes, ()))
    forget()
    found["cached"] = timed(lambda: teach(classes, ()))
    found["unchanged"] = timed(lambda: teach(classes, ()))
    os.environ["WORKBENCH_HOME"] = str(where / "home of the label")
    *others, last = classes
    *kept, asked = last.images
    forget()
    teach((*others, replace(last, images=tuple(kept))), (*queries, asked))
    found["labelled"] = timed(lambda: teach(classes, queries))
    os.environ["WORKBENCH_HOME"] = str(where / "home of the command")
    for name in ("command", "command_again"):
        found[name] = timed(lambda name=name: _command(project, where, name))  # type: ignore[misc]
    return found


def _command(project: Path, where: Path, name: str) -> None:
    line = ["adapt", "auto", str(where / "pictures" / "examples"), "--project", str(project), "--json"]
    line += ["--out", str(where / name)]
    subprocess.run([sys.executable, "-m", "workbench", *line], check=True, capture_output=True)


def measure(project: Path, where: Path, rounds: int, shots: int = SHOTS) -> dict[str, Any]:
    """Medians of seconds and of seconds of computing."""
    rows = [one_round(project, where / f"round {r}", r, shots) for r in range(rounds + 1)]
    rows = rows[1:] if rounds else rows  # the first warms the processor's kernels up
    return {
        f"{name}{kind}": round(statistics.median(row[name][n] for row in rows), 3)
        for name in FIGURES
        for n, kind in enumerate(("", "_computing"))
    }


def command(kind: str, entries: int, tasks: int, rounds: int, shots: int = SHOTS) -> str:
    """The line that measures it again."""
    line = f"uv run python -m tests.benchmarks.{BENCHMARK} --library {kind} --entries {entries} --tasks {tasks}"
    return f"{line} --shots {shots} --rounds {rounds}"


def missed(figures: dict[str, Any]) -> list[str]:
    """The targets that were not reached; there are none for networks that are deep."""
    if figures["library"] == "deep":
        return []
    return [name for name, most in WITHIN.items() if figures[name] > most]


def table() -> list[str]:
    """What there is, as a table of the README: seconds, of computing in brackets; and below it what is too slow."""
    titles = ("library", *FIGURES, "threads")
    limits = ["within"] + [f"<= {WITHIN[n]:g} s" if n in WITHIN else "" for n in FIGURES] + [""]
    lines = [_line(t.replace("_", " ") for t in titles), "|" + "---|" * len(titles), _line(limits)]
    figures, exceeded = [r.figures for r in files.all_of(BENCHMARK)], []
    for f in sorted(figures, key=lambda f: (LIBRARIES.index(f["library"]), -f["entries"], -f["examples"])):
        name = f"{f['entries']} entries, {f['library']}; {f['examples']} examples; {f['tasks']} past tasks"
        cells = [f"{f[n]:.2f} ({f[f'{n}_computing']:.2f})" for n in FIGURES]
        lines.append(_line([name, *cells, str(f["threads"])]))
        if names := missed(f):
            which = ", ".join(n.replace("_", " ") for n in names)
            exceeded.append(f"- {f['library']}, {f['examples']} examples: {which}")
    return [*lines, "", *(["Limits that are exceeded:", "", *exceeded] if exceeded else ["No limit is exceeded."])]


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and keep the figures; 1 where a target is missed."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(f"python -m tests.benchmarks.{BENCHMARK}", None, __doc__, formatter_class=form)
    parser.add_argument("--library", choices=LIBRARIES, default="metric")
    parser.add_argument("--entries", type=int, default=30)
    parser.add_argument("--shots", type=int, default=SHOTS)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--table", action="store_true", help="print the table of what there is and update the README")
    asked = parser.parse_args(arguments)
    if asked.table:
        lines = table()
        print("\n".join(lines))
        files.into_readme(BENCHMARK, lines)
        return 0
    jobs.load_runtime(Context())
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        os.environ["WORKBENCH_HOME"] = str(Path(folder) / "home")
        library(project, asked.library, asked.entries)
        past(project, asked.tasks)
        found = measure(project, Path(folder), asked.rounds, asked.shots)
    about = {"library": asked.library, "entries": asked.entries, "tasks": asked.tasks}
    figures = about | {"examples": WAYS * asked.shots, "threads": torch.get_num_threads()} | found
    line = command(asked.library, asked.entries, asked.tasks, asked.rounds, asked.shots)
    files.write(BENCHMARK, line, SEED, figures)
    for name in FIGURES:
        limit = f" (<= {WITHIN[name]:g})" if name in WITHIN else ""
        print(f"{name:14} {figures[name]:7.3f} s{limit}, computing {figures[f'{name}_computing']:7.3f} s")
    print("".join(f"MISSED {name}\n" for name in missed(figures)), end="")
    return int(bool(missed(figures)))


if __name__ == "__main__":
    sys.exit(main())
