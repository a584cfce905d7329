"""Invented alphabets: how the ideal form of every character is composed.

A character is a list of strokes, a stroke is an array ``[n, 2]`` of points equally spaced along the pen's path (x to
the right, y down, the character fills the square -1..1). An alphabet is a row of the table ``GRAMMARS``: which kinds of
stroke it likes, in which directions they run, how many make a character, and what all its characters share (a
headline, a stem, dots). From its row an alphabet first draws a small repertoire of strokes, and its characters are
composed of these, so they look related; a candidate too near to an accepted character is thrown away.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Stroke = NDArray[np.float64]

POINTS = 40
"""Points per stroke."""


def seeded(*key: str | int) -> np.random.Generator:
    """A generator that depends on the key alone, so that any one file can be made without the others."""
    return np.random.default_rng([zlib.crc32(str(part).encode()) for part in key])


@dataclass(frozen=True, slots=True)
class Grammar:
    """The style of one alphabet.

    Attributes:
        name: The alphabet's folder.
        kinds: Stroke kinds, each named as often as it weighs.
        directions: Preferred directions of a stroke's chord, degrees clockwise from the right.
        strokes: Fewest and most strokes of a character, shared marks not counted.
        attach: Probability that a stroke starts on an earlier one.
        shared: Mark that every character carries: "", "headline", "stem", "baseline" or "ring".
        dots: Probability of one or two dots.
        width: Width of the character's box over its height.
        held_out: Whether the alphabet is kept from training.
    """

    name: str
    kinds: tuple[str, ...]
    directions: tuple[int, ...]
    strokes: tuple[int, int]
    attach: float = 0.8
    shared: str = ""
    dots: float = 0.0
    width: float = 0.85
    held_out: bool = False


_ALL = (0, 45, 90, 135, 180, 270, 315)

GRAMMARS: tuple[Grammar, ...] = (
    Grammar("Drashil", ("line", "line", "angle", "zig"), (0, 90, 45, 135), (3, 4)),
    Grammar("Gulmeri", ("arc", "arc", "ring", "hook"), (0, 90, 180), (2, 3), width=1.1),
    Grammar("Halvixo", ("line", "angle", "angle"), (45, 135, 90), (2, 4), attach=0.9, width=0.7),
    Grammar("Ibbenar", ("hook", "ess", "arc", "line"), (90, 90, 0), (1, 3), dots=0.6),
    Grammar("Keldrun", ("line", "line", "zig", "hook"), (90, 45, 135, 0), (2, 3), shared="stem"),
    Grammar("Luzomi", ("loop", "ess", "wave", "arc"), (0, 90, 45), (1, 2), width=1.15),
    Grammar("Mirelu", ("arc", "hook", "loop", "angle"), (90, 0, 135), (2, 3), shared="headline"),
    Grammar("Nofrisk", ("angle", "line", "box"), (0, 90), (2, 3), width=0.95),
    Grammar("Orvani", ("spiral", "arc", "hook"), _ALL, (1, 2), dots=0.3),
    Grammar("Peshada", ("ess", "ess", "line", "hook"), (90, 45, 0), (2, 3), attach=0.6),
    Grammar("Quoral", ("ring", "line", "arc", "line"), (0, 90, 135), (2, 3), width=0.8),
    Grammar("Sunveth", ("wave", "line", "hook", "angle"), (0, 90), (2, 3), shared="baseline", dots=0.3),
    Grammar("Tazhok", ("zig", "line", "arc"), (90, 45, 0), (2, 3), dots=0.4, held_out=True),
    Grammar("Venkora", ("hook", "loop", "arc", "line"), (90, 0, 45), (2, 3), width=1.0, held_out=True),
    Grammar("Yapteru", ("angle", "arc", "line", "ess"), (0, 90, 135, 45), (2, 4), attach=0.7, held_out=True),
)
"""The alphabets of ``samples/alphabets``."""

TAUGHT = Grammar("Wendolu", ("hook", "arc", "zig", "loop", "line"), (90, 0, 45, 135), (2, 3), attach=0.75)
"""The alphabet of ``samples/teach/characters``."""

_CONSONANTS = "bdfgjklmnprstvz"
_VOWELS = "aeiou"


def names(grammar: Grammar, count: int) -> tuple[str, ...]:
    """The folder names of an alphabet's characters: distinct syllables in alphabetical order."""
    every = [c + v for c in _CONSONANTS for v in _VOWELS]
    chosen = seeded("names", grammar.name).choice(len(every), size=count, replace=False)
    return tuple(sorted(every[i] for i in chosen))


# --------------------------------------------------------------------------------------------------- one stroke


def resample(points: Stroke, count: int = POINTS) -> Stroke:
    """The same path as ``count`` points equally spaced along it."""
    steps = np.sqrt(((points[1:] - points[:-1]) ** 2).sum(axis=1))
    along = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.linspace(0.0, along[-1], count)
    return np.stack([np.interp(at, along, points[:, 0]), np.interp(at, along, points[:, 1])], axis=1)


def _turning(turns: NDArray[np.floating[Any]]) -> Stroke:
    """The path that walks unit steps while its heading follows ``turns`` (radians)."""
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])


def _shape(kind: str, rng: np.random.Generator) -> Stroke:
    """A stroke of one kind from (0, 0), its chord or first heading along the x axis, about as long as 1."""
    t = np.linspace(0.0, 1.0, 120)
    side = 1.0 if rng.random() < 0.5 else -1.0
    if kind == "line":
        path = _turning(side * rng.uniform(0.0, 0.25) * (t - 0.5))
    elif kind == "arc":
        path = _turning(side * rng.uniform(1.6, 3.6) * (t - 0.5))
    elif kind == "hook":
        bend = rng.uniform(0.45, 0.7)
        path = _turning(side * rng.uniform(2.4, 4.2) * np.clip((t - bend) / (1 - bend), 0, 1))
    elif kind == "ess":
        path = _turning(side * rng.uniform(1.3, 2.2) * np.cos(2 * math.pi * t))
    elif kind == "wave":
        path = _turning(side * rng.uniform(1.0, 1.4) * np.cos(rng.uniform(3.2, 4.4) * math.pi * t))
    elif kind == "loop":
        start, end = rng.uniform(0.2, 0.35), rng.uniform(0.7, 0.85)
        path = _turning(side * 2 * math.pi * np.clip((t - start) / (end - start), 0, 1))
    elif kind == "ring":
        path = _turning(side * rng.uniform(5.6, 6.3) * t)
    elif kind == "spiral":
        path = _turning(side * rng.uniform(7.0, 9.5) * t ** rng.uniform(1.4, 1.8))
    elif kind == "angle":
        corner = rng.uniform(0.35, 0.65)
        path = _turning(side * rng.uniform(1.3, 2.3) * (t > corner))
    elif kind == "zig":
        first, turn = rng.uniform(0.28, 0.4), rng.uniform(1.6, 2.4)
        path = _turning(side * turn * ((t > first) & (t <= first + 0.33)))
    elif kind == "box":
        first, turn = rng.uniform(0.25, 0.36), math.pi / 2
        path = _turning(side * turn * ((t > first).astype(float) + (t > first + 0.33)))
    else:
        msg = f"unknown stroke kind {kind!r}"
        raise ValueError(msg)
    path = resample(path)
    extent = float(np.ptp(path, axis=0).max())
    return path / extent


def _turned(path: Stroke, degrees: float) -> Stroke:
    a = math.radians(degrees)
    c, s = math.cos(a), math.sin(a)
    return np.stack([c * path[:, 0] - s * path[:, 1], s * path[:, 0] + c * path[:, 1]], axis=1)


# ------------------------------------------------------------------------------------------------ one character

_SHARED: dict[str, Stroke] = {
    "headline": np.array([[-0.95, -0.9], [0.95, -0.9]]),
    "baseline": np.array([[-0.9, 0.9], [0.9, 0.9]]),
    "stem": np.array([[-0.45, -1.0], [-0.45, 1.0]]),
}


def _fit(strokes: list[Stroke], width: float) -> list[Stroke]:
    """Centred, the larger side of the box filling -1..1 (a character may be flatter than its alphabet's box)."""
    every = np.concatenate(strokes)
    low, high = every.min(axis=0), every.max(axis=0)
    half = np.maximum((high - low) / 2, 1e-6)
    box = np.array([width, 1.0]) / max(width, 1.0)
    scale = float((box / half).min())
    scales = np.minimum(box / half, 1.35 * scale)
    return [(s - (low + high) / 2) * scales for s in strokes]


def _compose(grammar: Grammar, repertoire: list[Stroke], rng: np.random.Generator) -> list[Stroke]:
    """One candidate character."""
    strokes: list[Stroke] = []
    if grammar.shared:
        strokes.append(resample(_SHARED[grammar.shared]))
    for k in range(int(rng.integers(grammar.strokes[0], grammar.strokes[1] + 1))):
        shape = repertoire[int(rng.integers(len(repertoire)))]
        if rng.random() < 0.3:
            shape = shape * np.array([1.0, -1.0])
        turn = float(rng.choice(grammar.directions)) + rng.uniform(-8, 8)
        path = _turned(shape, turn) * rng.uniform(0.8, 1.5)
        if strokes and (rng.random() < grammar.attach or (k == 0 and grammar.shared)):
            host = strokes[int(rng.integers(len(strokes)))]
            at = host[int(rng.choice([0, POINTS // 4, POINTS // 2, 3 * POINTS // 4, POINTS - 1]))]
            if k == 0 and grammar.shared == "baseline":
                path = path * np.array([1.0, -1.0 if path[-1, 1] > 0 else 1.0])
            path = path - path[int(rng.choice([0, 0, 0, POINTS // 2, POINTS - 1]))] + at
        else:
            path = path - path.mean(axis=0) + rng.uniform(-0.6, 0.6, size=2)
        strokes.append(path)
    strokes = _fit(strokes, grammar.width)
    if rng.random() < grammar.dots:
        every = np.concatenate(strokes)
        for _ in range(int(rng.integers(1, 3))):
            spots = rng.uniform(-0.9, 0.9, size=(40, 2))
            free = np.sqrt(((spots[:, None] - every[None]) ** 2).sum(axis=2)).min(axis=1)
            spot = spots[int(np.argmax(free > min(0.35, float(free.max()))))]
            strokes.append(resample(np.stack([spot, spot + np.array([0.04, 0.05])])))
            every = np.concatenate([every, spot[None]])
    return strokes


def distance(first: list[Stroke], second: list[Stroke]) -> float:
    """Mean distance from a point of one character to the other, the larger of both ways."""
    a, b = np.concatenate(first)[::2], np.concatenate(second)[::2]
    gaps = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2))
    return float(max(gaps.min(axis=0).mean(), gaps.min(axis=1).mean()))


def _legible(strokes: list[Stroke]) -> bool:
    """Neither a mere bar nor a scribble: both sides of the box in use, no two strokes on top of one another."""
    every = np.concatenate(strokes)
    side = np.ptp(every, axis=0)
    if side.min() < 0.75:
        return False
    length = sum(float(np.sqrt(((s[1:] - s[:-1]) ** 2).sum(axis=1)).sum()) for s in strokes)
    if not 3.0 < length < 10.0:
        return False
    for i, s in enumerate(strokes):
        others = [o for j, o in enumerate(strokes) if j != i]
        if others and np.ptp(s, axis=0).max() > 0.1:
            near = np.sqrt(((s[:, None] - np.concatenate(others)[None]) ** 2).sum(axis=2)).min(axis=1)
            if (near < 0.13).mean() > 0.4:
                return False
    return True


def characters(grammar: Grammar, count: int, apart: float) -> list[list[Stroke]]:
    """The ideal forms of an alphabet's characters, each at least ``apart`` (half boxes) from every other."""
    rng = seeded("characters", grammar.name)
    repertoire = [_shape(kind, rng) for kind in grammar.kinds for _ in range(2)]
    accepted: list[list[Stroke]] = []
    while len(accepted) < count:
        candidate = _compose(grammar, repertoire, rng)
        if _legible(candidate) and all(distance(candidate, other) >= apart for other in accepted):
            accepted.append(candidate)
    return accepted
