"""Does choosing what to transfer help? Every domain in turn is the new one, and its own entry is taken away.

``uv run python -m tests.benchmarks.transfer --data FOLDER`` trains one ancestor on alphabets that are never targets,
and from it one entry for each of ten domains (five Omniglot alphabets, the invented ones, two kinds of surfaces,
clothes, hands); asks on 300 episodes per target, 5-way with 1, 2 and 5 examples, what each arm makes of the library
without the target's entry; fine-tunes on the first 60 of them; and does the same with pictures of 64 pixels for
photos and surfaces. It keeps a result for each size and number of shots. What was done already is not done again.
``--table`` prints the table of what there is and puts it into the README.

The arms: "choose for me" as shipped, which is the product's own rule with its own settings and its own default; the
same rule with settings and default chosen on the other domains; a random entry; the *default*, which is the recipe
(entry, layer, head) that does best on the other domains, their ease taken off; all entries' answers averaged; the entry
of the most similar domain; the most similar averaged; the recipe with the least left-out log-loss; the largest LogME;
the oracle, the recipe that does best on this very domain, judged on other episodes; and what the product starts from.
What arms have to be told is chosen where other domains are the targets.

Placebos: with similarities and losses dealt out at random "choose for me" leaves its start for anything, and must gain
no more than what is taken blindly; with a library of noisy copies it must gain about nothing, as with the target's own
entry as its start; with permuted labels every arm must guess.

The cell that decides, named before anything was measured: "choose for me" as shipped minus the default, 5-way 5-shot,
unseen domain, at 28 pixels, where the library spans drawings, surfaces and photos.

The library is the benchmark's own project, asked for by the names of its entries. Shipped starter knowledge, some of
which was trained on what are targets here, is never among them.

``FOLDER`` holds ``omniglot28/``, ``clothing10/`` and ``signdigits10/``. With ``--scale short`` all of it is tried with
little training and few episodes; the figures then mean nothing, and no result is kept.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from tests.benchmarks import files
from tests.benchmarks import transfer_arms as arms
from tests.benchmarks import transfer_domains as domains
from tests.benchmarks import transfer_episodes as episodes
from tests.benchmarks import transfer_table as table
from tests.benchmarks.computing import Computing
from tests.benchmarks.transfer_domains import ANCESTOR, BACKGROUND, DOMAINS, SCALES, Entry, Scale
from tests.benchmarks.transfer_episodes import Measured
from tests.benchmarks.transfer_tuning import PARTS, STEPS, tune
from workbench.core import storage
from workbench.core.paths import samples
from workbench.learn import engine, evaluate, validation

BENCHMARK, SEED = "transfer", 0


def command(size: int, shots: int, what: str) -> str:
    """What a result is kept under."""
    return f"uv run python -m tests.benchmarks.transfer --data $DATA --size {size} --shots {shots} --arms {what}"


# ---- parts, each of which leaves a file ------------------------------------------------------------------------------


def parts(scale: Scale) -> list[list[str]]:
    """What has to be done, in stages whose parts do not depend on one another."""
    sizes = sorted(scale.domains, reverse=True)  # the long ones first
    return [
        [f"train/{size}/{ANCESTOR}" for size in sizes],
        [f"train/{size}/{name}" for size in sizes for name in scale.entries(size)],
        [f"measure/{size}/{name}" for size in sizes for name in scale.domains[size]],
        [f"tune/{size}/{name}" for size in sizes for name in scale.domains[size]],
    ]


def do(part: str, scale: Scale, data: Path, root: Path) -> None:
    """One part, unless it is done."""
    what, size, name = part.split("/")
    folders = {d.name: domains.put_out(d, data, samples(), root / "domains") for d in (BACKGROUND, *DOMAINS)}
    project = root / "project"
    if what == "train":
        domains.train(name, int(size), scale, data, root / "domains", project)
        return
    torch.set_num_threads(1)
    library = domains.entries(scale, int(size), project)
    mark = _mark(scale, library)
    wanted = {k: _file(root, what, int(size), name, k, mark) for k in scale.shots}
    if what == "tune":
        wanted = {k: f for k, f in wanted.items() if k in scale.tuned_at[int(size)]}
    if all(f.exists() for f in wanted.values()):
        return
    p = library[ANCESTOR].preprocess
    target = domains.read(folders[name], p)
    if what == "measure":
        known = {n: domains.read(folders[n], p) for n in (ANCESTOR, *scale.entries(int(size)))}
        seen = {n: episodes.described(x, library[ANCESTOR], int(size)) for n, x in known.items()}
    for shots, file in wanted.items():
        if file.exists():
            continue
        rows = episodes.drawn(target.members, shots, scale.apart + scale.episodes, SEED + shots)
        if what == "measure":
            m = episodes.measure(target, library, seen, int(size), rows, shots, scale.tuned, scale.apart, name)
            storage.save(file, episodes.to_bytes(m), keep_previous=False)
            continue
        everything = measured(scale, root, int(size), shots)
        s = arms.tuned(name, everything, scale.apart, shots)
        w = arms.world(name, everything, scale.apart)
        some = rows[scale.apart : scale.apart + scale.tuned]
        got = tune(w, library, s, target, int(size), some, shots, scale.starts[int(size)])
        flat = {f"{arm}/{n}": np.ascontiguousarray(v) for arm, found in got.items() for n, v in found.items()}
        storage.save(file, save_arrays(flat), keep_previous=False)


def _file(root: Path, what: str, size: int, name: str, shots: int, mark: str) -> Path:
    return root / what / f"{size}-{name}-{shots}-{mark}.safetensors"


def _mark(scale: Scale, library: Mapping[str, Entry]) -> str:
    """What measurements depend on besides the target and its shots: the networks, and what is asked of them."""
    counts = scale.apart, scale.episodes, scale.tuned
    sure = tuple(episodes.held_near(k) for k in scale.shots)
    return domains.mark(library, counts, episodes.HEADS, episodes.QUERIES, episodes.LEAST, STEPS, PARTS, sure)


def measured(scale: Scale, root: Path, size: int, shots: int) -> dict[str, Measured]:
    """What is known of every target of a size, about the networks that are there."""
    mark = _mark(scale, domains.entries(scale, size, root / "project"))
    names = scale.domains[size]
    return {d: episodes.from_bytes(storage.load(_file(root, "measure", size, d, shots, mark))) for d in names}


def tuned(scale: Scale, root: Path, size: int, shots: int) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """What the fine-tuned arms gave, by target, arm and what."""
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    mark = _mark(scale, domains.entries(scale, size, root / "project"))
    for d in scale.domains[size]:
        for name, array in load_arrays(storage.load(_file(root, "tune", size, d, shots, mark))).items():
            arm, _, what = name.partition("/")
            found.setdefault(d, {}).setdefault(arm, {})[what] = array
    return found


def run(scale: Scale, data: Path, root: Path, jobs: int, *, computing: bool = False) -> None:
    """Everything that is not done, ``jobs`` parts side by side, each in a process of its own; all here for 1.

    Raises:
        SystemExit: a part failed; what it said has been printed.
    """
    begun = time.monotonic()

    def one(part: str) -> None:
        if jobs == 1:
            do(part, scale, data, root)
        else:
            line = [sys.executable, "-m", "tests.benchmarks.transfer", "--part", part, "--scale", scale.name]
            line += ["--data", str(data), "--project", str(root), *(["--computing"] if computing else [])]
            environment = {**os.environ, "WORKBENCH_THREADS": "1", "OMP_NUM_THREADS": "1"}
            ended = subprocess.run(line, check=False, env=environment)
            if ended.returncode:
                raise SystemExit(f"{part} ended with {ended.returncode}")
        print(f"{time.monotonic() - begun:6.0f} s  {part}", flush=True)

    for d in (BACKGROUND, *DOMAINS):
        domains.put_out(d, data, samples(), root / "domains")
    for stage in parts(scale):
        if jobs == 1:  # in the main thread, which alone may handle signals
            for part in stage:
                one(part)
        else:
            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(one, stage))


def cells(scale: Scale, root: Path, *, keep: bool) -> list[tuple[int, int, str, dict[str, Any]]]:
    """The figures of every cell; kept as results if asked for."""
    found = []
    trained = domains.provenance(root / "project")
    for size in sorted(scale.domains):
        for shots in scale.shots:
            cell = table.figures(measured(scale, root, size, shots), scale.apart, shots)
            found.append((size, shots, "head", cell))
            if shots in scale.tuned_at[size]:
                found.append((size, shots, "all", table.tuned_figures(tuned(scale, root, size, shots))))
    if keep:
        for size, shots, what, cell in found:
            mine = {n: v for n, v in trained.items() if n.endswith(f"-{size}")}
            counted = scale.episodes if what == "head" else scale.tuned
            files.write(BENCHMARK, command(size, shots, what), SEED, {**cell, "trained": mine, "episodes": counted})
    return found


def kept() -> list[tuple[int, int, str, dict[str, Any]]]:
    """The results there are, in the order of the table."""
    full, found = SCALES["full"], []
    for size in sorted(full.domains):
        for shots in full.shots:
            for what in ("head", "all"):
                result = files.read(BENCHMARK, command(size, shots, what))
                if result is not None:
                    found.append((size, shots, what, result.figures))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="with omniglot28, clothing10 and signdigits10")
    parser.add_argument("--scale", choices=tuple(SCALES), default="full", help="how much is spent (default: full)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes side by side")
    parser.add_argument("--computing", action="store_true", help="count seconds of computing, where others compute too")
    parser.add_argument("--table", action="store_true", help="print the table of what there is and update the README")
    parser.add_argument("--project", type=Path, metavar="DIR", help="where networks and measurements lie")
    parser.add_argument("--part", help="do one part alone, for example measure/28/kannada")
    asked = parser.parse_args(arguments)
    if asked.table:
        lines = list(table.lines(kept()))
        print("\n".join(lines))
        files.into_readme(BENCHMARK, lines)
        return
    if asked.data is None:
        parser.error("--data is needed to train and measure")
    scale, data = SCALES[asked.scale], asked.data.absolute()
    root = (asked.project or domains.place(scale)).absolute()
    if asked.computing:
        for module in (engine, evaluate, validation):
            module.time = Computing  # type: ignore[attr-defined]
    if asked.part:
        do(asked.part, scale, data, root)
        return
    run(scale, data, root, max(1, asked.jobs), computing=asked.computing)
    found = cells(scale, root, keep=scale.name == "full")
    print("\n".join(table.lines(found)))


if __name__ == "__main__":
    main()
