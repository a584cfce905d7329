"""What the benchmark of transfer comes to: figures of each cell, and the table of the README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tests.benchmarks import transfer_arms as arms
from tests.benchmarks import transfer_placebos as nothing
from tests.benchmarks import transfer_shipped as shipped
from tests.benchmarks.transfer_arms import SHIPPED, Settings, World
from tests.benchmarks.transfer_episodes import Measured, chance

Figures = dict[str, Any]
START = "default as shipped"


def settings_of(everything: Mapping[str, Measured], apart: int, shots: int) -> dict[str, Settings]:
    """For each target what was chosen on the others."""
    return {d: arms.tuned(d, everything, apart, shots) for d in everything}


def figures(everything: Mapping[str, Measured], apart: int, shots: int) -> Figures:
    """Everything that is said of one size and number of shots, of arms that fit a head alone.

    Args:
        everything: by target domain.
        apart: episodes that defaults and oracles are chosen on.
        shots: ``K``.
    """
    chosen = settings_of(everything, apart, shots)
    worlds = {d: arms.world(d, everything, apart) for d in everything}
    found = {
        d: {SHIPPED: shipped.combined(w, shots), **arms.arms(w, chosen[d], shots), START: shipped.default(w)}
        for d, w in worlds.items()
    }
    rows = compared(found)
    best = rows["oracle"]
    if best["low"] > 0:
        for row in rows.values():
            row["share"] = row["gain"] / best["gain"]
    correlations = [c for w in worlds.values() if (c := arms.spearman(w)) is not None]
    scrambled = [float(m.scrambled[:, worlds[d].names].mean()) for d, m in everything.items() if len(m.scrambled)]
    return {
        "arms": rows,
        "spearman": float(np.mean(correlations)) if correlations else None,
        "placebos": placebos(everything, worlds, chosen, apart, shots),
        "scrambled": {"accuracy": float(np.mean(scrambled)), "chance": chance()} if scrambled else None,
        "seconds": float(np.mean([m.seconds for m in everything.values()])),
        "recipes": len(next(iter(worlds.values())).kinds),
        "targets": {
            d: {
                "default": "/".join(w.measured.kinds[w.default]),
                START: "/".join(w.measured.kinds[w.start]),
                "settings": told(chosen[d]),
                "accuracy": {name: round(float(a.mean()), 4) for name, a in found[d].items()},
            }
            for d, w in worlds.items()
        },
    }


def told(s: Settings) -> dict[str, float | int | None]:
    """For a file, which has no infinities: ``None`` stands for never."""
    numbers = {"k": s.k, "temperature": s.temperature, "gate": s.gate, "margin": s.margin}
    return {n: None if np.isinf(v) else v for n, v in numbers.items()}


def compared(found: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Figures]:
    """Each arm against the default, over the domains; ``found`` is ``[E, Q]`` by domain and arm."""
    names = list(next(iter(found.values())))
    rows: dict[str, Figures] = {}
    for name in names:
        gaps = [a[name].mean(1) - a["default"].mean(1) for a in found.values()]
        gain, low, high = arms.bootstrapped(gaps)
        worse = [arms.negative(a[name], a["default"]) for a in found.values()]
        accuracy = float(np.mean([a[name].mean() for a in found.values()]))
        rows[name] = {"accuracy": accuracy, "gain": gain, "low": low, "high": high, "negative": float(np.mean(worse))}
    return rows


def placebos(
    everything: Mapping[str, Measured],
    worlds: Mapping[str, World],
    chosen: Mapping[str, Settings],
    apart: int,
    shots: int,
) -> dict[str, Figures]:
    """What "choose for me" gains over what it starts from where there is nothing to gain, as shipped and tuned.

    Where similarities and losses are dealt out, what it leaves its start for is drawn by lot: what that gains or loses
    is what anything does that is taken blindly.
    """
    dealt = nothing.shuffled(everything)
    told_nothing = {d: arms.world(d, dealt, apart) for d in dealt}
    again = {d: arms.tuned(d, dealt, apart, shots) for d in dealt}
    home = {d: nothing.at_home(w) for d, w in worlds.items()}

    def as_shipped(w: World) -> tuple[np.ndarray, np.ndarray]:
        return shipped.combined(w, shots), shipped.default(w)

    def tuned_by(w: World, s: Settings) -> tuple[np.ndarray, np.ndarray]:
        return arms.combined(w, s, shots), arms.default(w)

    cases = {
        "shuffled, as shipped": [as_shipped(w) for w in told_nothing.values()],
        "copies, as shipped": [as_shipped(nothing.of_copies(w, w.start)) for w in worlds.values()],
        "same domain, as shipped": [as_shipped(w) for w in home.values()],
        "shuffled, tuned": [tuned_by(w, again[d]) for d, w in told_nothing.items()],
        "copies, tuned": [tuned_by(nothing.of_copies(w, w.default), chosen[d]) for d, w in worlds.items()],
        "same domain, tuned": [tuned_by(w, chosen[d]) for d, w in home.items()],
    }
    found: dict[str, Figures] = {}
    for name, choices in cases.items():
        gain, low, high = arms.bootstrapped([a.mean(1) - b.mean(1) for a, b in choices])
        worse = float(np.mean([arms.negative(a, b) for a, b in choices]))
        found[name] = {"gain": gain, "low": low, "high": high, "negative": worse}
    by_chance = [arms.most_similar(w).mean(1) - arms.random(w).mean(1) for w in told_nothing.values()]
    gain, low, high = arms.bootstrapped(by_chance)
    found["most similar of shuffled, against random"] = {"gain": gain, "low": low, "high": high, "negative": None}
    return found


def tuned_figures(found: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]) -> Figures:
    """Of the fine-tuned arms; ``found`` is by domain and arm what ``transfer_tuning.tune`` gives."""
    rows = compared({d: {a: parts["correct"] for a, parts in by_arm.items()} for d, by_arm in found.items()})
    for name, row in rows.items():
        row["steps"] = float(np.mean([by_arm[name]["steps"].mean() for by_arm in found.values()]))
        row["seconds"] = float(np.mean([by_arm[name]["seconds"].mean() for by_arm in found.values()]))
    return {"arms": rows}


# ---- words -----------------------------------------------------------------------------------------------------------


def lines(cells: Sequence[tuple[int, int, str, Figures]]) -> Iterator[str]:
    """The table: (size, shots, what was fitted, figures) of each cell."""
    yield "| pictures | shots | fitted | arm | accuracy | against the default | of the oracle's gain | worse by 2 SE |"
    yield "|---" * 8 + "|"
    for size, shots, what, cell in cells:
        for name, row in cell["arms"].items():
            gain = "" if name == "default" else interval(row)
            share = f"{100 * row['share']:.0f} %" if "share" in row and name != "default" else ""
            worse = "" if name == "default" else f"{100 * row['negative']:.1f} %"
            accuracy = f"{100 * row['accuracy']:.1f}"
            yield f"| {size} px | {shots} | {what} | {name} | {accuracy} | {gain} | {share} | {worse} |"
    yield ""
    yield "| pictures | shots | placebo | gain | worse by 2 SE |"
    yield "|---" * 5 + "|"
    for size, shots, _, cell in cells:
        for name, row in cell.get("placebos", {}).items():
            worse = "" if row["negative"] is None else f"{100 * row['negative']:.1f} %"
            yield f"| {size} px | {shots} | {name} | {interval(row)} | {worse} |"
        if cell.get("scrambled"):
            got = cell["scrambled"]
            yield f"| {size} px | {shots} | permuted labels: accuracy | {100 * got['accuracy']:.1f} | |"


def interval(row: Figures) -> str:
    """A gain in points with its interval."""
    return f"{100 * row['gain']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
