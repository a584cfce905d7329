"""A hand that writes characters: the writer's habits, the accidents of one drawing, and ink on paper.

What a writer does to every character (``Writer``): slant, proportions, size, rotation, pen width, pressure that swells
or tapers along a stroke, rounding or sharpening of corners, bulging or flattening of curves, overshooting or stopping
short at stroke ends, tremor, and how sloppy the hand is. What happens in one drawing only: every stroke is shifted,
turned and stretched a little on its own (so joints drift apart or cross), bends slowly along its length, and the whole
character is warped. ``Ink`` is one number per source of variation; ``make_samples.py`` fixes them.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from glyphs import POINTS, Stroke, resample
from numpy.typing import NDArray
from PIL import Image

SIDE = 56
"""Pixels per side of a drawing."""

_LEVELS = 17
"""Grey levels are multiples of this (16 levels), which keeps the anti-aliasing and halves the file."""


@dataclass(frozen=True, slots=True)
class Variation:
    """Standard deviations of the handwriting model; lengths in half boxes, angles in degrees.

    Attributes:
        slant: Shear of a writer (x per y).
        turn: Rotation of a writer; a drawing adds half of it.
        aspect: Logarithm of width over height.
        size: Logarithm of the size.
        place: Shift on the paper.
        bulge: Relative curvature of strokes.
        part_shift: Shift of one stroke in one drawing.
        part_turn: Rotation of one stroke in one drawing.
        part_size: Logarithm of a stroke's size in one drawing.
        bend: Slow bending along a stroke.
        warp: Bending of the whole plane.
        ends: Overshoot (or lack) at stroke ends, relative to the stroke.
    """

    slant: float = 0.11
    turn: float = 3.5
    aspect: float = 0.11
    size: float = 0.1
    place: float = 0.065
    bulge: float = 0.14
    part_shift: float = 0.05
    part_turn: float = 5.0
    part_size: float = 0.07
    bend: float = 0.035
    warp: float = 0.055
    ends: float = 0.05


@dataclass(frozen=True, slots=True)
class Writer:
    """The habits of one hand."""

    slant: float
    turn: float
    aspect: float
    size: float
    place: tuple[float, float]
    pen: float
    taper: float
    swell: float
    rounding: float
    bulge: float
    ends: float
    tremor: float
    sloppy: float
    warp: tuple[float, ...]


def writer(v: Variation, rng: np.random.Generator) -> Writer:
    """A hand drawn at random; one in six or so is markedly sloppier or neater than the others."""
    n = rng.standard_normal
    return Writer(
        slant=v.slant * n(),
        turn=v.turn * n(),
        aspect=v.aspect * n(),
        size=v.size * n(),
        place=(v.place * n(), v.place * n()),
        pen=math.exp(0.2 * n()),
        taper=max(0.0, 0.25 * n()),
        swell=0.15 * n(),
        rounding=max(0.0, 2.0 + 1.8 * n()),
        bulge=v.bulge * n(),
        ends=v.ends * n(),
        tremor=0.006 * math.exp(0.6 * n()),
        sloppy=math.exp(0.3 * n()),
        warp=tuple(v.warp * 0.6 * n(6)),
    )


def _rounded(path: Stroke, window: float) -> Stroke:
    """Corners smoothed by a moving average of about ``2 window + 1`` points; the ends stay."""
    reach = int(window)
    if reach < 1:
        return path
    padded = np.concatenate([np.repeat(path[:1], reach, 0), path, np.repeat(path[-1:], reach, 0)])
    total = np.zeros_like(path)
    for k in range(2 * reach + 1):
        total += padded[k : k + len(path)]
    mixed = total / (2 * reach + 1)
    mixed[0], mixed[-1] = path[0], path[-1]
    return mixed


def _slow(rng: np.random.Generator, count: int, terms: int) -> NDArray[np.float64]:
    """A smooth random curve over a stroke, unit size, lower frequencies stronger."""
    t = np.linspace(0.0, math.pi, count)
    out = np.zeros(count)
    for k in range(1, terms + 1):
        out += rng.standard_normal() / k * np.cos(k * t + rng.uniform(0, math.pi))
    return out


def _written(path: Stroke, w: Writer, v: Variation, rng: np.random.Generator) -> Stroke:
    """One stroke as this hand puts it down this time."""
    n = rng.standard_normal
    loose = w.sloppy
    dot = float(np.ptp(path, axis=0).max()) < 0.1
    if not dot:
        chord = path[0] + np.linspace(0, 1, len(path))[:, None] * (path[-1] - path[0])
        path = chord + (path - chord) * (1 + w.bulge + 0.4 * v.bulge * loose * n())
        path = _rounded(path, w.rounding)
        span = path[-1] - path[-4], path[0] - path[3]
        tails = [(w.ends + v.ends * loose * n()) * POINTS / 3 for _ in range(2)]
        for which, tail in enumerate(tails):
            if tail > 0:
                extra = path[-1 if which == 0 else 0] + span[which] * tail
                path = np.concatenate([path, extra[None]] if which == 0 else [extra[None], path])
            else:
                cut = min(int(-tail), POINTS // 5)
                path = path[: len(path) - cut] if which == 0 else path[cut:]
        path = resample(path)
        reach = float(np.ptp(path, axis=0).max())
        for axis in range(2):
            path[:, axis] += v.bend * reach * loose * _slow(rng, POINTS, 3)
            path[:, axis] += w.tremor * _slow(rng, POINTS, 14)
    centre = path.mean(axis=0)
    a = math.radians(v.part_turn * loose * n())
    c, s = math.cos(a), math.sin(a)
    grow = np.exp(v.part_size * loose * n(2))
    local = (path - centre) * grow
    turned: Stroke = np.stack([c * local[:, 0] - s * local[:, 1], s * local[:, 0] + c * local[:, 1]], axis=1)
    turned += centre + v.part_shift * loose * n(2)
    return turned


def _placed(strokes: list[Stroke], w: Writer, v: Variation, rng: np.random.Generator) -> list[Stroke]:
    """The character bent, slanted, turned, scaled and shifted, in pixels."""
    n = rng.standard_normal
    bend = np.array(w.warp) + v.warp * 0.8 * n(6)
    a = math.radians(w.turn + 0.5 * v.turn * n())
    c, s = math.cos(a), math.sin(a)
    slant = w.slant + 0.4 * v.slant * n()
    aspect = w.aspect + 0.4 * v.aspect * n()
    size = 0.355 * SIDE * math.exp(w.size + 0.4 * v.size * n())
    shift = np.array(w.place) + 0.5 * v.place * n(2)
    out = []
    for path in strokes:
        x, y = path[:, 0], path[:, 1]
        bx = x + bend[0] * x * y + bend[1] * x * x + bend[2] * y * y
        by = y + bend[3] * x * y + bend[4] * x * x + bend[5] * y * y
        bx = (bx + slant * -by) * math.exp(aspect / 2)
        by = by * math.exp(-aspect / 2)
        out.append(np.stack([c * bx - s * by, s * bx + c * by], axis=1) * size)
    every = np.concatenate(out)
    low, high = every.min(axis=0), every.max(axis=0)
    room = SIDE / 2 - 2.5
    shrink = min(1.0, float((2 * room / np.maximum(high - low, 1e-6)).min()))
    slack = np.maximum(room - (high - low) * shrink / 2, 0.0)
    offset = SIDE / 2 - 0.5 + np.clip(shift * SIDE / 2, -slack, slack) - (low + high) / 2 * shrink
    return [path * shrink + offset for path in out]


def _inked(strokes: list[Stroke], w: Writer, rng: np.random.Generator) -> NDArray[np.float64]:
    """Coverage 0..1 of each pixel: the nearest distance to any stroke against the pen's local radius."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    cover = np.zeros((SIDE, SIDE))
    base = 1.15 * w.pen
    for path in strokes:
        t = np.linspace(0.0, 1.0, len(path))
        radius = base * (1 + w.swell * (2 * t - 1) + 0.07 * _slow(rng, len(path), 4))
        radius = (
            radius * (1 - w.taper * np.maximum(1 - 6 * (1 - t), 0)) * (1 - 0.5 * w.taper * np.maximum(1 - 8 * t, 0))
        )
        if float(np.ptp(path, axis=0).max()) < 3:
            radius = radius * 1.35
        radius = np.maximum(radius, 0.55)
        for p, q, r0, r1 in zip(path[:-1], path[1:], radius[:-1], radius[1:], strict=True):
            reach = max(r0, r1) + 1.5
            x0, x1 = max(int(min(p[0], q[0]) - reach), 0), int(max(p[0], q[0]) + reach) + 2
            y0, y1 = max(int(min(p[1], q[1]) - reach), 0), int(max(p[1], q[1]) + reach) + 2
            px, py = columns[y0:y1, x0:x1] - p[0], rows[y0:y1, x0:x1] - p[1]
            dx, dy = q[0] - p[0], q[1] - p[1]
            along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
            gap = np.sqrt((px - along * dx) ** 2 + (py - along * dy) ** 2)
            part = np.clip(r0 + along * (r1 - r0) - gap + 0.5, 0, 1)
            cover[y0:y1, x0:x1] = np.maximum(cover[y0:y1, x0:x1], part)
    return cover


def draw(character: list[Stroke], w: Writer, v: Variation, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One drawing, ``[SIDE, SIDE]`` grey values, dark ink on white paper."""
    strokes = _placed([_written(path, w, v, rng) for path in character], w, v, rng)
    ink = _inked(strokes, w, rng) * min(1.0, 0.9 + 0.08 * w.pen)
    picture: NDArray[np.uint8] = (np.round((1 - ink) * 255 / _LEVELS) * _LEVELS).astype(np.uint8)
    return picture


def png(picture: NDArray[np.uint8]) -> bytes:
    """The picture as a small 8-bit grey PNG without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
