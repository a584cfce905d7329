"""Ten alphabets learnt one after the other: what is lost of the old ones, and what helps against it.

``uv run python -m tests.benchmarks.lifelong --data FOLDER`` takes three parts of Omniglot's background set, ten
alphabets each (of at least 14 characters, in an order that a seed decides): Prototypical Networks are first trained on
one part; the strengths of L2 and EWC are chosen on a series of five alphabets of the second; then the third is learnt,
one alphabet after the other, in each of these ways (see ``learn.continual``)::

    plain     fine-tuning, nothing is done against forgetting
    l2, ewc   the trunk is held near where it stood before each alphabet
    replay    half of the episodes come from the alphabets before, 5 drawings of each character
    frozen    the trunk stays as it is; streaming class means with one covariance (``learn.algorithms.slda``)

Of each character 14 drawings are learnt from and 6 asked about. ``R[i, j]`` is the accuracy on alphabet ``j`` after
learning ``i`` of them (row 0: before the first), 14-way 1-shot on fixed episodes whose examples are of the 14 drawings
and whose queries of the 6. Average accuracy is the mean of the last row, backward transfer the mean of ``R[T, j] - R[j,
j]`` over ``j < T``, forward transfer the mean of ``R[j - 1, j] - R[0, j]`` over ``j > 1``; intervals are over episodes,
and say nothing of other orders. The frozen form answers among the 14 to 55 characters of each alphabet with all
drawings seen so far, and its sums are held against those of all drawings at once, in another order.

Each series is kept when it is through and not measured again; ``--table`` prints what there is and puts it into the
README.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from PIL import Image

from tests.benchmarks import files
from workbench.core import storage
from workbench.core.context import Context
from workbench.core.paths import cache_home
from workbench.data.episodes import Sampler, Source
from workbench.data.source import mean_std
from workbench.learn import continual, registry
from workbench.learn.algorithms import slda
from workbench.learn.engine import Plan, train
from workbench.learn.evaluate import FrozenEpisodes, evaluate, freeze, mean_ci95
from workbench.learn.protocol import Algorithm, Setting, State, Tensors, generator
from workbench.services.knowledge import join_state, split_state

BENCHMARK, SEED, ORDERS = "lifelong", 0, (0, 1)
ARMS = ("plain", "ewc", "frozen", "replay", "l2")
BACKBONE, SIZE, WAYS, SHOTS, QUERIES = "conv4-32", 28, 14, 1, 3
FIRST_EPISODES, EPISODES, ASKED, LEARNT, REPLAYED = 400, 100, 60, 14, 5
STRENGTHS = {"l2": (0.01, 0.1, 1.0), "ewc": (100.0, 1000.0, 10000.0)}
_CHOICE_ALPHABETS = 5


@dataclass(frozen=True, slots=True)
class Alphabet:
    """One alphabet: 14 drawings per character to learn from, and fixed episodes that ask about the other 6.

    Attributes:
        learn: the drawings to learn from.
        whole: the same, then those asked about.
        asked: the episodes.
    """

    learn: Source
    whole: Source
    asked: FrozenEpisodes


@dataclass(frozen=True, slots=True)
class Parts:
    """The three parts, and how pictures are normalised."""

    first: tuple[Alphabet, ...]
    choice: tuple[Alphabet, ...]
    series: tuple[Alphabet, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read(data: Path) -> list[Source]:
    """The alphabets of the background set, by name."""
    found: dict[str, dict[str, list[npt.NDArray[np.uint8]]]] = {}
    with zipfile.ZipFile(data / "omniglot28_background.zip") as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".png"):
                alphabet, character, _ = name.split("/")[-3:]
                with Image.open(io.BytesIO(archive.read(name))) as picture:
                    drawing = np.asarray(picture.convert("L"))[:, :, None]
                found.setdefault(alphabet, {}).setdefault(character, []).append(drawing)
    return [Source(name, tuple(c), tuple(np.stack(a) for a in c.values())) for name, c in sorted(found.items())]


def parts(data: Path) -> Parts:
    """Omniglot's background alphabets in three parts of ten."""
    fit = [s for s in read(data) if len(s.arrays) >= WAYS]
    order = torch.randperm(len(fit), generator=generator(SEED)).tolist()
    learnt = [_learnt(fit[i]) for i in order]
    mean, std = mean_std(learnt[:10])
    made = tuple(
        Alphabet(few, fit[i], _asked(fit[i], mean, std, i)) for i, few in zip(order[:30], learnt[:30], strict=True)
    )
    third = len(made) // 3
    return Parts(made[:third], made[third : third + _CHOICE_ALPHABETS], made[-10:], mean, std)


def _learnt(source: Source) -> Source:
    return replace(source, arrays=tuple(a[:LEARNT] for a in source.arrays))


def _asked(source: Source, mean: Sequence[float], std: Sequence[float], seed: int) -> FrozenEpisodes:
    split = replace(source, support_only=tuple(min(LEARNT, len(a) - 1) for a in source.arrays))
    drawn = Sampler([split], ways=(WAYS, WAYS), shots=(SHOTS, SHOTS), queries=QUERIES, mean=mean, std=std)
    return freeze(drawn, ASKED, seed)


def sampler(sources: Sequence[Source], p: Parts, queries: int = QUERIES) -> Sampler:
    """Of training episodes."""
    return Sampler(sources, ways=(WAYS, WAYS), shots=(SHOTS, SHOTS), queries=queries, mean=p.mean, std=p.std)


def protonet() -> Algorithm:
    """The method that is trained."""
    return registry.create("protonet", {}, Setting(BACKBONE, 1, SIZE, WAYS))


def learn(algorithm: Algorithm, drawn: Sampler, episodes: int, seed: int, **options: Any) -> State:
    """Train for some episodes; the last state, since nothing is held out to choose by."""
    plan = Plan(episodes=episodes, seed=seed, gallery_every_seconds=None)
    return train(algorithm, drawn, None, plan, Context(), **options).state


def started(p: Parts) -> tuple[State, Tensors]:
    """The network that all series begin with, kept in the user's cache, and the Fisher information of its alphabets."""
    algorithm, sources = protonet(), [a.learn for a in p.first]
    place = cache_home() / "benchmarks" / BENCHMARK / f"start-{FIRST_EPISODES}-{SEED}.safetensors"
    if place.exists():
        state = split_state(safetensors.torch.load(storage.load(place)))
    else:
        state = learn(algorithm, sampler(sources, p), FIRST_EPISODES, SEED)
        storage.save(place, safetensors.torch.save(join_state(state)), keep_previous=False)
    return state, information(algorithm, state, sources, p)


def information(algorithm: Algorithm, state: State, sources: Sequence[Source], p: Parts) -> Tensors:
    """What EWC holds on to."""
    network = cast("Any", algorithm).network
    drawn = Sampler(sources, ways=(5, 5), shots=(SHOTS, SHOTS), queries=1, mean=p.mean, std=p.std)
    return continual.fisher(network, state, drawn, generator(SEED), Context())


def series(
    arm: str, alphabets: Sequence[Alphabet], p: Parts, start: tuple[State, Tensors], strength: float, seed: int
) -> list[list[tuple[float, ...]]]:
    """``R``: for each row, for each alphabet the accuracy of each of its episodes."""
    algorithm = protonet()
    state, known = start
    rows = [answers(algorithm, state, alphabets)]
    for i, alphabet in enumerate(alphabets):
        drawn = sampler([alphabet.learn], p)
        if arm == "replay" and i:
            old = continual.exemplars([a.learn for a in alphabets[:i]], generator(seed), REPLAYED)
            drawn = continual.Replayed(drawn, sampler(old, p))
        keeping = None
        if arm in ("l2", "ewc"):
            keeping = continual.Keeping(cast("continual.How", arm), strength, lambda _, known=known: known)
        state = learn(algorithm, drawn, EPISODES, 100 * seed + i, start=state, keeping=keeping)
        if arm == "ewc":
            known = continual.running(known, information(algorithm, state, [alphabet.learn], p))
        rows.append(answers(algorithm, state, alphabets))
        print(f"  {arm} {strength:g}: {i + 1}, {sum(map(mean, rows[-1])) / len(alphabets):.3f}", flush=True)
    return rows


def mean(values: Sequence[float]) -> float:
    """Of some figures."""
    return sum(values) / len(values)


def answers(algorithm: Algorithm, state: State, alphabets: Sequence[Alphabet]) -> list[tuple[float, ...]]:
    """A row of ``R``."""
    return [evaluate(algorithm, state, a.asked, Context()).per_episode for a in alphabets]


def frozen(alphabets: Sequence[Alphabet], p: Parts, state: State) -> dict[str, Any]:
    """The frozen form: ``R`` from the first alphabet on, and how far its sums are from all drawings' at once."""
    algorithm = cast("slda.SLDA", registry.create("slda", {}, Setting(BACKBONE, 1, SIZE)))
    trunk = algorithm.trunk(state)
    features, asked, classes, sums, rows = [], [], [0], None, []
    with torch.no_grad():
        for alphabet in alphabets:
            drawn = sampler([alphabet.whole], p)
            ids = [drawn.rows.offsets[c] + k for c in range(len(alphabet.whole.arrays)) for k in range(20)]
            f = trunk(drawn.tensors(4 * torch.tensor(ids).numpy())).double().view(len(alphabet.whole.arrays), 20, -1)
            features.append(f[:, :LEARNT])
            asked.append(f[:, LEARNT:])
            first = classes[-1]
            classes.append(first + len(f))
            y = torch.arange(first, classes[-1]).repeat_interleave(LEARNT)
            order = torch.randperm(len(y), generator=generator(first))
            for part in torch.split(
                order, 7
            ):  # some characters of an alphabet come again and again, as a person adds them
                sums = slda.streamed(sums, features[-1].flatten(0, 1)[part], y[part], classes[-1])
            weight, bias = slda.linear(sums, algorithm.p.prior)
            rows.append([])
            for j, q in enumerate(asked):
                mine = slice(classes[j], classes[j + 1])
                z = q @ weight[mine].T + bias[mine]
                rows[-1].append(float((z.argmax(2) == torch.arange(len(q))[:, None]).double().mean()))
        z = torch.cat([(q @ weight.T + bias).flatten(0, 1) for q in asked]).argmax(1)
        every = torch.arange(classes[-1]).repeat_interleave(20 - LEARNT)
        x = torch.cat([f.flatten(0, 1) for f in features])
        y = torch.arange(classes[-1]).repeat_interleave(LEARNT)
        back = torch.randperm(len(y), generator=generator(7))
        batch = slda.streamed(None, x[back], y[back], classes[-1])
    apart = max(float((sums[n] - batch[n]).abs().max() / batch[n].abs().max()) for n in batch)
    if apart > 1e-8:
        raise SystemExit(f"streamed and batch are {apart:.1e} apart")
    return {"R": rows, "apart": apart, "classes": classes[-1], "among_all": float((z == every).double().mean())}


# ---- figures ---------------------------------------------------------------------------------------------------------
def figures(rows: list[list[tuple[float, ...]]]) -> dict[str, Any]:
    """What a series comes to; lists of episodes where figures of several series are to be put together."""
    last, count = rows[-1], len(rows[0])

    def differences(some: Sequence[tuple[int, int, int]]) -> list[float]:
        """Of alphabet ``j``: row ``a`` less row ``b``, episode by episode."""
        return [round(x - y, 5) for j, a, b in some for x, y in zip(rows[a][j], rows[b][j], strict=True)]

    return {
        "R": [[round(mean(cell), 5) for cell in row] for row in rows],
        "average": [round(x, 5) for cell in last for x in cell],
        "backward": differences([(j, count, j + 1) for j in range(count - 1)]),
        "forward": differences([(j, j, 0) for j in range(1, count)]),
        "lost": differences([(j, j + 1, count) for j in range(count // 2)]),
    }


def command(arm: str, order: int) -> str:
    """The key of a series' file."""
    return f"uv run python -m tests.benchmarks.lifelong --arm {arm} --order {order}"


CHOICE = "uv run python -m tests.benchmarks.lifelong --choice"


def chosen(arm: str, p: Parts, start: tuple[State, Tensors]) -> float:
    """The strength with the best average accuracy on the series that is for choosing; 0 where there is none."""
    found = files.read(BENCHMARK, CHOICE)
    tried: dict[str, Any] = {} if found is None else dict(found.figures["tried"])
    for strength in STRENGTHS.get(arm, ()):
        if f"{arm} {strength:g}" not in tried:
            made = figures(series(arm, p.choice, p, start, strength, 50))
            tried[f"{arm} {strength:g}"] = {n: round(mean(made[n]), 5) for n in ("average", "backward", "lost")}
            files.write(BENCHMARK, CHOICE, SEED, {"tried": tried})
    return max(STRENGTHS.get(arm, (0.0,)), key=lambda s: tried.get(f"{arm} {s:g}", {}).get("average", 0.0))


def measure(data: Path, arms: Sequence[str], orders: Sequence[int]) -> None:
    """All series that have not been measured."""
    missing = [(a, o) for o in orders for a in arms if files.read(BENCHMARK, command(a, o)) is None]
    if not missing:
        return
    torch.set_num_threads(1)
    p = parts(data)
    print(f"{len(p.series)} alphabets: {', '.join(a.whole.name for a in p.series)}", flush=True)
    start = started(p)
    print("started", flush=True)
    for arm, order in missing:
        turned = torch.randperm(len(p.series), generator=generator(order)).tolist()
        alphabets = [p.series[i] for i in turned]
        if arm == "frozen":
            made = frozen(alphabets, p, start[0])
        else:
            strength = chosen(arm, p, start)
            made = figures(series(arm, alphabets, p, start, strength, order))
            made["strength"] = strength
        made["alphabets"] = [a.whole.name for a in alphabets]
        files.write(BENCHMARK, command(arm, order), order, made)
        print(f"{arm}, order {order}: kept", flush=True)


# ---- the table -------------------------------------------------------------------------------------------------------
_TITLES = {
    "plain": "plain fine-tuning",
    "l2": "L2",
    "ewc": "EWC",
    "replay": f"replay, {REPLAYED} drawings a character",
    "frozen": "frozen trunk, streaming LDA",
}


def table() -> Iterator[str]:
    """What there is, as a table of the README."""
    yield "| way | average accuracy | lost on the first five | backward transfer | forward transfer | orders |"
    yield "|---" * 6 + "|"
    lost = {}
    for arm in ARMS:
        found = [r for o in ORDERS if (r := files.read(BENCHMARK, command(arm, o))) is not None]
        if not found:
            continue
        if arm == "frozen":
            rows = [r.figures["R"] for r in found]
            own = mean([x for r in rows for x in r[-1]])
            moved = mean([r[j][j] - r[-1][j] for r in rows for j in range(5)])
            back = mean([r[-1][j] - r[j][j] for r in rows for j in range(len(r) - 1)])
            apart = max(r.figures["apart"] for r in found)
            yield (
                f"| {_TITLES[arm]} (another task: all characters of an alphabet, 14 examples each; streamed = batch to "
                f"{apart:.0e}) | {100 * own:.1f} | {100 * moved:.1f} | {100 * back:+.1f} | - | {len(found)} |"
            )
            continue
        all_of = {n: [x for r in found for x in r.figures[n]] for n in ("average", "lost", "backward", "forward")}
        lost[arm] = mean(all_of["lost"])
        cells = " | ".join(_figure(all_of[n], signed=n not in ("average", "lost")) for n in all_of)
        strength = f", strength {found[0].figures['strength']:g}" if arm in STRENGTHS else ""
        yield f"| {_TITLES[arm]}{strength} | {cells} | {len(found)} |"
    if "plain" in lost and "ewc" in lost and lost["plain"] > 0:
        yield ""
        part = lost["ewc"] / lost["plain"]
        yield f"EWC loses {part:.2f} of what plain fine-tuning loses on the first five alphabets."


def _figure(values: Sequence[float], *, signed: bool) -> str:
    found, ci95 = mean_ci95(values)
    return f"{100 * found:{'+' if signed else ''}.1f} ± {100 * ci95:.1f}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="with omniglot28_background.zip")
    parser.add_argument("--arm", choices=ARMS, nargs="+", default=ARMS)
    parser.add_argument("--order", type=int, choices=ORDERS, nargs="+", default=ORDERS)
    parser.add_argument("--table", action="store_true", help="print the table of what there is and update the README")
    asked = parser.parse_args()
    if not asked.table:
        if asked.data is None:
            parser.error("--data is needed to train and evaluate")
        measure(asked.data.absolute(), asked.arm, asked.order)
    lines = list(table())
    print("\n".join(lines))
    if asked.table:
        files.into_readme(BENCHMARK, lines)


if __name__ == "__main__":
    main()
