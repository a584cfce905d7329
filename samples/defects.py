"""Surface defects and textures: one function per class, each painting on whatever material it is given.

``PAINTERS`` are the classes of ``samples/surfaces``, ``TAUGHT`` those of ``samples/teach/surfaces``. Lengths are pixels
of the painting grid (``textures.N`` to a side); a positive height stands out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from textures import (
    COLUMNS,
    ROWS,
    N,
    Plane,
    Surface,
    blurred,
    hsv,
    hue,
    line,
    noise,
    radius_about,
    rotated,
    spots,
    step,
)

Painter = Callable[[Surface, np.random.Generator], None]


def _wander(rng: np.random.Generator, start: Plane, heading: float, length: float, curl: float, jag: float) -> Plane:
    """A path from ``start`` in steps of 3 pixels whose heading drifts by ``curl`` and jumps by ``jag`` (radians)."""
    points, drift = [start], rng.uniform(-curl, curl)
    for _ in range(int(length / 3)):
        drift = 0.9 * drift + curl * 0.3 * rng.standard_normal()
        heading += drift
        way = heading + jag * rng.standard_normal()
        points.append(points[-1] + 3 * np.array([math.cos(way), math.sin(way)]))
    return np.array(points)


def _tapered(count: int, width: float, rng: np.random.Generator) -> Plane:
    t = np.linspace(0, 1, count)
    return width * (0.35 + 0.65 * np.sin(math.pi * t) ** 0.5) * (1 + 0.2 * rng.standard_normal(count))


def scratch(s: Surface, rng: np.random.Generator) -> None:
    """One to four long thin grooves, bright or dark, roughly in one direction."""
    main, bright = rng.uniform(0, math.pi), rng.random() < 0.65
    for _ in range(int(rng.integers(1, 5))):
        heading = main + rng.normal(0, 0.25)
        length = rng.uniform(0.5, 1.1) * N
        middle = rng.uniform(0.25, 0.75, size=2) * N
        start = middle - length / 2 * np.array([math.cos(heading), math.sin(heading)])
        path = _wander(rng, start, heading, length, 0.006, 0.02)
        groove = line(path, np.maximum(_tapered(len(path), rng.uniform(1.4, 3.2), rng), 0.7))
        s.height -= 1.6 * blurred(groove, 0.8)
        s.blend(0.75 * groove, np.clip(s.colour.mean(axis=(0, 1)) * (1.7 if bright else 0.35), 0, 0.95))


def crack(s: Surface, rng: np.random.Generator) -> None:
    """A dark jagged line that branches."""
    heading = rng.uniform(0, 2 * math.pi)
    start = np.array([N / 2, N / 2]) - 0.52 * N * np.array([math.cos(heading), math.sin(heading)])
    trunk = _wander(rng, start + rng.normal(0, 14, size=2), heading, 1.15 * N, 0.03, 0.55)
    width = rng.uniform(2.2, 4.0)
    gap = line(trunk, np.maximum(width * (1 + 0.35 * rng.standard_normal(len(trunk))), 0.8))
    for _ in range(int(rng.integers(2, 6))):
        at = int(rng.integers(len(trunk) // 6, 5 * len(trunk) // 6))
        turn = heading + rng.choice([-1, 1]) * rng.uniform(0.5, 1.2)
        twig = _wander(rng, trunk[at], turn, rng.uniform(0.2, 0.55) * N, 0.03, 0.5)
        gap = np.maximum(gap, line(twig, np.linspace(0.7 * width, 0.7, len(twig))))
    s.height -= 2.0 * blurred(gap, 1.0)
    s.dim(0.92 * gap, 0.15)
    s.dim(0.25 * np.clip(blurred(gap, 3) * 3, 0, 1), 0.6)


def pitting(s: Surface, rng: np.random.Generator) -> None:
    """Many small round holes, dark inside, with a lit rim."""
    size = rng.uniform(2.5, 5.5)
    for x, y in spots(rng, int(rng.integers(18, 60)), size * 2.1):
        r = size * math.exp(0.35 * rng.standard_normal())
        depth = step(r - radius_about(x, y), 1.6)
        s.height -= 0.9 * r * depth
        s.dim(0.75 * depth, 0.35)


def rust(s: Surface, rng: np.random.Generator) -> None:
    """Orange and brown crust in ragged patches, grainy and dull, with stains around."""
    field = noise(rng, 1, 30, 1.7)
    edge = field - np.quantile(field, rng.uniform(0.35, 0.72))
    mask = step(edge + 0.12 * noise(rng, 20, 90, 0.8), 0.12)
    fine = noise(rng, 6, 90, 0.9)
    dark, light = hsv(rng.uniform(0.02, 0.06), 0.7, 0.28), hsv(rng.uniform(0.045, 0.08), 0.75, 0.62)
    tone = np.clip(0.45 + 0.22 * fine, 0, 1)[..., None]
    s.blend(0.45 * step(edge + 0.25, 0.35), hsv(0.075, 0.6, 0.55))
    s.blend(mask, dark + tone * (light - dark))
    s.height += mask * (0.9 + 0.5 * fine)
    s.gloss *= 1 - mask


def stain(s: Surface, rng: np.random.Generator) -> None:
    """A see-through blotch of liquid with a darker rim and, often, splashes."""
    colour = hsv(hue(rng), rng.uniform(0.35, 0.8), rng.uniform(0.2, 0.55))
    rough = noise(rng, 1, 9, 1.6)
    x, y = rng.uniform(0.32, 0.68, size=2) * N
    inside = rng.uniform(0.2, 0.36) * N - radius_about(x, y, 10 * rough)
    for u, v in spots(rng, int(rng.integers(0, 7)), 16, 0.28):
        inside = np.maximum(inside, rng.uniform(3, 11) - radius_about(u, v, 2 * rough))
    body, rim = step(inside, 1.5), step(inside, 1.5) * np.exp(-np.maximum(inside, 0) / 4)
    s.blend(np.clip(body * (0.38 + 0.06 * rough) + 0.32 * rim, 0, 1), colour)
    s.gloss += 0.25 * body


def dent(s: Surface, rng: np.random.Generator) -> None:
    """One or two smooth hollows that only the shading shows."""
    for _ in range(int(rng.integers(1, 3))):
        x, y = rng.uniform(0.25, 0.75, size=2) * N
        along, across, _ = rotated(rng)
        a = rng.uniform(0.13, 0.27) * N
        b = a * rng.uniform(0.5, 1)
        u, v = along - (x - N / 2), across - (y - N / 2)
        r = np.sqrt((u / a) ** 2 + (v / b) ** 2)
        s.height -= rng.uniform(0.35, 0.6) * b * np.exp(-(r**3.0)) - 0.05 * b * np.exp(-((r - 1.3) ** 2) * 8)
    s.gloss += 0.2


def weave(s: Surface, rng: np.random.Generator) -> None:
    """Threads over and under one another: plain, twill or basket, in one or two colours."""
    x, y, _ = rotated(rng)
    pitch, twill = rng.uniform(9, 20), int(rng.choice([1, 2, 3]))
    u, v = x / pitch + 0.06 * noise(rng, 1, 6), y / pitch + 0.06 * noise(rng, 1, 6)
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    over = ((i + j) % 2 == 0) if twill == 1 else ((i + (1 if twill == 2 else 2) * j) % (2 * twill) < twill)
    fu, fv = u - i - 0.5, v - j - 0.5
    warp, weft = np.sqrt(np.maximum(0.25 - fu * fu, 0)), np.sqrt(np.maximum(0.25 - fv * fv, 0))
    lift = np.where(over, warp * (1.25 - 1.6 * fv * fv), weft * (1.25 - 1.6 * fu * fu))
    base = s.colour.mean(axis=(0, 1))
    other = base if rng.random() < 0.5 else hsv(hue(rng), rng.uniform(0.1, 0.6), rng.uniform(0.3, 0.85))
    s.colour[:] = np.where(over[..., None], base, other) * (1 + 0.07 * noise(rng, 10, 96, 0.3))[..., None]
    s.dim(np.clip(1 - 2.4 * lift, 0, 1), 0.3)
    s.height[:] = 0.45 * pitch * lift
    s.gloss *= 0.15


def brushed(s: Surface, rng: np.random.Generator) -> None:
    """Fine parallel lines of a brushed sheet with a band of sheen across them."""
    _, across, angle = rotated(rng)
    coarse = rng.uniform(1.0, 2.2)
    streaks = noise(rng, 4, N / coarse, 0.35, angle, rng.uniform(18, 40))
    sheen = np.exp(-(((across / N - rng.uniform(-0.3, 0.3)) / rng.uniform(0.15, 0.4)) ** 2))
    s.colour *= (0.86 + rng.uniform(0.1, 0.17) * streaks + 0.3 * sheen)[..., None]
    s.height += 0.25 * streaks


def wood(s: Surface, rng: np.random.Generator) -> None:
    """Grain lines that flow around knots, with pores; plain, dark or stained wood."""
    along, across, angle = rotated(rng)
    warp = 14 * noise(rng, 0.5, 3, 1.6, angle, 3.0)
    for x, y in spots(rng, int(rng.integers(0, 3)), 50):
        r2 = (COLUMNS - x) ** 2 + (ROWS - y) ** 2
        warp += rng.uniform(10, 22) * np.exp(-r2 / rng.uniform(250, 900)) * rng.choice([-1, 1])
    rings = (across + warp + 0.02 * along) / rng.uniform(8, 20)
    late = (rings - np.floor(rings)) ** 2.2
    if rng.random() < 0.8:
        pale = hsv(rng.uniform(0.05, 0.11), rng.uniform(0.2, 0.55), rng.uniform(0.4, 0.85))
    else:  # stained or weathered
        pale = hsv(hue(rng), rng.uniform(0.05, 0.3), rng.uniform(0.45, 0.75))
    pores = noise(rng, 10, 96, 0.4, angle, 12)
    tone = np.clip(0.85 * late + 0.16 * pores, -0.2, 1.1)[..., None]
    s.colour[:] = pale * (1 - tone * (1 - np.array([0.62, 0.5, 0.42])))
    s.height[:] = -0.25 * late + 0.15 * pores
    s.gloss *= 0.5


def peeling(s: Surface, rng: np.random.Generator) -> None:
    """Paint flaked off in angular patches: another material below, curled edges with a shadow."""
    cells = spots(rng, int(rng.integers(28, 70)), 13)
    u, v = 5 * noise(rng, 3, 24, 1.2), 5 * noise(rng, 3, 24, 1.2)
    gaps = np.stack([np.sqrt((COLUMNS + u - x) ** 2 + (ROWS + v - y) ** 2) for x, y in cells])
    field = noise(rng, 1, 4, 1.6)
    level = np.array([field[min(int(y), N - 1), min(int(x), N - 1)] for x, y in cells])
    level += 0.35 * rng.standard_normal(len(cells))
    bare = (level > np.quantile(level, rng.uniform(0.45, 0.75)))[gaps.argmin(axis=0)].astype(float)
    paint = 1 - blurred(bare, 0.7)
    below = (
        hsv(hue(rng), rng.uniform(0.05, 0.6), rng.uniform(0.2, 0.8)) * (1 + 0.08 * noise(rng, 6, 96, 0.7))[..., None]
    )
    s.blend(1 - paint, below)
    lip = np.clip(paint - blurred(paint, 4), 0, 1)
    s.height += 3.2 * paint + 4.5 * lip
    s.dim(0.6 * np.clip(np.roll(blurred(paint, 2.5), 2, axis=0) - paint, 0, 1), 0.2)
    second = np.sort(gaps, axis=0)
    s.dim(0.5 * step(1.3 - (second[1] - second[0]), 0.8) * paint, 0.35)


def spatter(s: Surface, rng: np.random.Generator) -> None:
    """Raised beads of weld metal, mostly in a cluster, each in a ring of burnt surface."""
    size = rng.uniform(3, 6.5)
    metal = hsv(rng.uniform(0.55, 0.7), rng.uniform(0, 0.15), rng.uniform(0.4, 0.7))
    for x, y in spots(rng, int(rng.integers(10, 32)), size * 1.8, rng.uniform(0.14, 0.3)):
        r = size * math.exp(0.45 * rng.standard_normal())
        d = radius_about(x, y)
        bead = step(r - d, 1.2)
        s.dim(0.55 * np.exp(-np.maximum(d - r, 0) / (0.7 * r)), 0.25)
        s.blend(bead, metal * rng.uniform(0.7, 1.2))
        s.height += 1.1 * np.sqrt(np.maximum(r * r - d * d, 0))
        s.gloss += 0.8 * bead


def bloom(s: Surface, rng: np.random.Generator) -> None:
    """Powdery pale rosettes of corrosion: rays around a centre, fading outwards."""
    pale = hsv(
        rng.choice([0.15, 0.38, 0.45, 0.5, 0.6]) + rng.normal(0, 0.02), rng.uniform(0.05, 0.45), rng.uniform(0.75, 0.95)
    )
    powder = noise(rng, 10, 96, 0.5)
    for x, y in spots(rng, int(rng.integers(2, 9)), 30):
        r = rng.uniform(12, 34)
        theta = np.arctan2(ROWS - y, COLUMNS - x)
        rays = np.zeros((N, N))
        for k in rng.integers(5, 22, size=5):
            rays += np.cos(int(k) * theta + rng.uniform(0, 6.3)) / 2.2
        d = radius_about(x, y) / (r * (1 + 0.15 * rays + 0.1 * powder))
        mask = np.clip(1.15 - d, 0, 1) ** 0.8 * np.clip(0.8 + 0.25 * powder, 0, 1)
        s.dim(0.35 * np.exp(-(((d - 1.1) / 0.3) ** 2)), 0.5)
        s.blend(0.9 * mask, pale * (1 + 0.08 * powder)[..., None])
        s.height += mask * (1.2 + 0.7 * powder)
        s.gloss *= 1 - mask


def ridges(s: Surface, rng: np.random.Generator) -> None:
    """Evenly spaced parallel ridges, round or sharp, as left by a cutter or a corrugation."""
    _, across, _ = rotated(rng)
    pitch = rng.uniform(12, 30)
    phase = 2 * math.pi * across / pitch + 0.15 * noise(rng, 1, 4)
    wave = np.cos(phase) if rng.random() < 0.6 else np.abs(np.cos(phase / 2)) * 2 - 1
    s.height += rng.uniform(0.1, 0.17) * pitch * wave
    s.dim(np.clip(-wave, 0, 1) * 0.4, 0.6)


def pebbled(s: Surface, rng: np.random.Generator) -> None:
    """Orange peel: even, soft, closely packed bumps over the whole surface."""
    pitch = rng.uniform(8, 18)
    bumps = noise(rng, 0.75 * N / pitch, 1.3 * N / pitch, 0.2)
    s.height += rng.uniform(0.1, 0.2) * pitch * np.tanh(0.8 * bumps)
    s.gloss += 0.2


# ----------------------------------------------------------------------------------------- classes of the new task


def fingerprint(s: Surface, rng: np.random.Generator) -> None:
    """A greasy print: fine curved lines around a core inside an oval."""
    along, across, _ = rotated(rng, 60)
    x, y = along - rng.normal(0, 14), across - rng.normal(0, 14)
    a = rng.uniform(48, 68)
    oval = step(1 - np.sqrt((x / a) ** 2 + (y / (1.3 * a)) ** 2) + 0.08 * noise(rng, 1, 8), 0.12)
    twist = rng.uniform(-0.6, 0.6)
    r = np.sqrt((x * rng.uniform(1.0, 1.5)) ** 2 + (y - 10) ** 2) + twist * a * np.arctan2(y - 10, x) / math.pi
    lines = step(np.cos(2 * math.pi * (r + 3 * noise(rng, 1, 6)) / rng.uniform(6.0, 8.5)) + 0.1, 0.5)
    mask = oval * lines * np.clip(0.75 + 0.3 * noise(rng, 2, 40, 0.8), 0, 1)
    bright = s.colour.mean() < 0.45
    s.blend(
        (0.5 if bright else 0.6) * mask,
        s.colour.mean(axis=(0, 1)) * (0.35 if not bright else 1.0) + (0.45 if bright else 0),
    )
    s.gloss += 0.3 * mask


def drips(s: Surface, rng: np.random.Generator) -> None:
    """Runs of wet paint: vertical tongues of different length, each ending in a thick drop."""
    colour = hsv(hue(rng), rng.uniform(0.2, 0.85), rng.uniform(0.25, 0.9))
    lean = rng.normal(0, 0.07)
    top = rng.uniform(0.02, 0.22) * N
    inside = top + 5 * noise(rng, 1, 6, 1.2)[0] - ROWS
    for x in np.arange(rng.uniform(4, 14), N, rng.uniform(16, 30)):
        centre = x + rng.normal(0, 4)
        length, width = top + rng.uniform(0.08, 0.8) * N, rng.uniform(3, 6.5)
        off = np.abs(COLUMNS - centre - lean * ROWS - 1.2 * np.sin(ROWS / 19 + x))
        swell = width * (0.75 + 0.6 * np.exp(-(((ROWS - length + width) / (2.2 * width)) ** 2)))
        tongue = np.minimum(swell - off, np.sqrt(np.maximum((1.6 * width) ** 2 - off * off, 0)) + length - ROWS)
        inside = np.maximum(inside, tongue)
    body = step(inside, 1.0)
    s.dim(0.5 * np.roll(body, (2, 2), axis=(0, 1)) * (1 - body), 0.4)
    s.blend(body, colour)
    s.height = s.height * (1 - body) + 2.4 * np.sqrt(np.clip(inside, 0, 7))
    s.gloss += 0.6 * body


def blisters(s: Surface, rng: np.random.Generator) -> None:
    """Smooth domes of lifted paint of different sizes in the surface's own colour, a few of them burst."""
    size = rng.uniform(9, 17)
    for x, y in spots(rng, int(rng.integers(5, 15)), 1.5 * size):
        r = size * math.exp(0.3 * rng.standard_normal())
        d = radius_about(x, y, 1.5 * noise(rng, 1, 8))
        s.height += rng.uniform(0.45, 0.7) * r * np.clip(1 - (d / r) ** 2, 0, 1) ** 0.75
        if rng.random() < 0.2:
            hole = step(0.4 * r - radius_about(x, y, 2 * noise(rng, 3, 20)), 1)
            s.dim(hole, 0.25)
            s.height -= 3 * hole
    s.gloss += 0.35


def tread(s: Surface, rng: np.random.Generator) -> None:
    """Tread plate: raised lozenges in rows, each row turned against the next."""
    x, y, _ = rotated(rng)
    pitch = rng.uniform(24, 40)
    i, j = np.floor(x / pitch), np.floor(y / pitch)
    u, v = x / pitch - i - 0.5, y / pitch - j - 0.5
    sign = np.where((i + j) % 2 == 0, 1.0, -1.0)
    p, q = (u + sign * v) / math.sqrt(2), (u - sign * v) / math.sqrt(2)
    bar = step(1 - (p / rng.uniform(0.42, 0.52)) ** 2 - (q / rng.uniform(0.13, 0.19)) ** 2, 0.35)
    s.height += rng.uniform(3.0, 4.5) * bar
    s.colour *= (1 + 0.15 * bar)[..., None]
    s.gloss += 0.2 * bar


def ring_mark(s: Surface, rng: np.random.Generator) -> None:
    """Rings left by a wet cup: one to three thin circles, broken and uneven."""
    colour = (
        hsv(rng.uniform(0.03, 0.12), rng.uniform(0.4, 0.8), rng.uniform(0.15, 0.4))
        if rng.random() < 0.7
        else hsv(hue(rng), 0.2, 0.95)
    )
    r = rng.uniform(0.2, 0.36) * N
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(0.3, 0.7, size=2) * N
        gap = np.abs(radius_about(x, y, 1.5 * noise(rng, 1, 6)) - r * rng.uniform(0.95, 1.05))
        strength = np.clip(0.7 + 0.35 * noise(rng, 1, 7, 1.0), 0.05, 1)
        width = rng.uniform(2.0, 4.2)
        s.blend(0.8 * strength * step(width - gap, 1.3), colour)
        s.blend(0.1 * step(r - radius_about(x, y), 2.0), colour)


PAINTERS: dict[str, Painter] = {
    "brushed-metal": brushed,
    "corrosion-bloom": bloom,
    "crack": crack,
    "dent": dent,
    "orange-peel": pebbled,
    "peeling-paint": peeling,
    "pitting": pitting,
    "ridges": ridges,
    "rust": rust,
    "scratch": scratch,
    "stain": stain,
    "weave": weave,
    "weld-spatter": spatter,
    "wood-grain": wood,
}
"""Classes of ``samples/surfaces``."""

TAUGHT: dict[str, Painter] = {
    "blisters": blisters,
    "drips": drips,
    "fingerprint": fingerprint,
    "ring-mark": ring_mark,
    "tread-plate": tread,
}
"""Classes of ``samples/teach/surfaces``."""
