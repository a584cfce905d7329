"""Noise, materials and light: what every surface picture is made of.

A picture starts as a ``Surface``: a colour per pixel, a height per pixel and a glossiness. A material (painted sheet,
bare metal, plastic, concrete, enamel ...) is drawn first, whatever the class; ``defects.py`` then changes colour,
height and gloss, and ``lit`` renders the result under a lamp of random direction, strength and warmth. So the colour
of the background, the light, the scale and the orientation say nothing about the class.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Plane = NDArray[np.float64]

SIDE = 96
"""Pixels per side of a picture."""

N = 2 * SIDE
"""Pixels per side while painting; the result is averaged over 2 x 2."""

ROWS, COLUMNS = np.mgrid[0:N, 0:N].astype(float)


@dataclass(slots=True)
class Surface:
    """What is painted: ``colour [N, N, 3]`` 0..1, ``height [N, N]`` in pixels, ``gloss [N, N]`` 0..1."""

    colour: Plane
    height: Plane
    gloss: Plane

    def blend(self, mask: Plane, colour: Plane) -> None:
        """Cover with ``colour`` (``[3]`` or ``[N, N, 3]``) where ``mask`` (0..1) says so."""
        self.colour += mask[..., None] * (colour - self.colour)

    def dim(self, mask: Plane, factor: float) -> None:
        """Multiply the colour by ``factor`` where ``mask`` says so."""
        self.colour *= (1 - mask * (1 - factor))[..., None]


# ------------------------------------------------------------------------------------------------------- building


def noise(
    rng: np.random.Generator, low: float, high: float, slope: float = 1.5, angle: float = 0.0, stretch: float = 1.0
) -> Plane:
    """Random plane, zero mean and unit deviation.

    Args:
        rng: Source of chance.
        low: Fewest periods per picture.
        high: Most periods per picture.
        slope: How fast the amplitude falls with the frequency.
        angle: Direction of the streaks, degrees.
        stretch: How many times longer than wide the streaks are.
    """
    white = np.fft.rfft2(rng.standard_normal((N, N)))
    fy, fx = np.fft.fftfreq(N, 1 / N)[:, None], np.fft.rfftfreq(N, 1 / N)[None]
    a = math.radians(angle)
    u, v = (math.cos(a) * fx + math.sin(a) * fy) * stretch, -math.sin(a) * fx + math.cos(a) * fy
    f = np.sqrt(u * u + v * v)
    gain = np.where((f >= low) & (f <= high), np.maximum(f, 1e-9) ** -slope, 0.0)
    plane = np.fft.irfft2(white * gain, s=(N, N))
    level: Plane = (plane - plane.mean()) / (plane.std() + 1e-12)
    return level


def step(edge: Plane, softness: float) -> Plane:
    """0 where ``edge`` is negative, 1 where positive, smooth over about ``softness`` on either side."""
    t = np.clip(edge / (2 * softness) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def blurred(plane: Plane, radius: float) -> Plane:
    """Gaussian blur with wrapped borders; ``radius`` is the standard deviation in pixels."""
    fy, fx = np.fft.fftfreq(N)[:, None], np.fft.rfftfreq(N)[None]
    gain = np.exp(-2 * (math.pi * radius) ** 2 * (fx * fx + fy * fy))
    return np.fft.irfft2(np.fft.rfft2(plane) * gain, s=(N, N))


def line(points: Plane, widths: Plane | float) -> Plane:
    """Anti-aliased path ``[n, 2]`` (x, y) in pixels as coverage 0..1; ``widths`` per point or for all."""
    zoom = 3
    canvas = Image.new("L", (N * zoom, N * zoom), 0)
    pen = ImageDraw.Draw(canvas)
    every = np.broadcast_to(np.asarray(widths, dtype=float), (len(points),))
    for p, q, w in zip(points[:-1], points[1:], every, strict=False):
        half = float(w) * zoom / 2
        a, b = tuple(float(c) * zoom for c in p), tuple(float(c) * zoom for c in q)
        pen.line([a, b], fill=255, width=max(1, round(2 * half)))
        if half > 1:
            pen.ellipse([b[0] - half, b[1] - half, b[0] + half, b[1] + half], fill=255)
    return np.asarray(canvas.reduce(zoom), dtype=float) / 255


def spots(rng: np.random.Generator, count: int, apart: float, spread: float = 0.0) -> list[tuple[float, float]]:
    """Up to ``count`` centres at least ``apart`` pixels from one another; ``spread`` > 0 gathers them in a cluster."""
    middle = rng.uniform(0.25, 0.75, size=2) * N
    found: list[tuple[float, float]] = []
    for _ in range(count * 6):
        x, y = middle + spread * N * rng.standard_normal(2) if spread else rng.uniform(0.04, 0.96, size=2) * N
        if len(found) < count and all((x - u) ** 2 + (y - v) ** 2 > apart * apart for u, v in found):
            found.append((float(x), float(y)))
    return found


def radius_about(x: float, y: float, rough: Plane | float = 0.0) -> Plane:
    """Distance of every pixel from (x, y), shifted by ``rough``."""
    gap: Plane = np.sqrt((COLUMNS - x) ** 2 + (ROWS - y) ** 2) + rough
    return gap


def rotated(rng: np.random.Generator, limit: float = 90.0) -> tuple[Plane, Plane, float]:
    """Coordinates along and across a random direction (pixels from the centre), and the angle in degrees."""
    angle = rng.uniform(-limit, limit)
    a = math.radians(angle)
    x, y = COLUMNS - N / 2, ROWS - N / 2
    return math.cos(a) * x + math.sin(a) * y, -math.sin(a) * x + math.cos(a) * y, angle


def hue(rng: np.random.Generator) -> float:
    """A hue that paint, dye and dirt have: reds, ochres, greens and blues, seldom magenta."""
    usual = (0.0, 0.03, 0.07, 0.1, 0.13, 0.16, 0.27, 0.38, 0.48, 0.55, 0.59, 0.63, 0.8)
    return float(rng.choice(usual) + 0.015 * rng.standard_normal()) % 1.0


def hsv(turns: float, saturation: float, value: float) -> Plane:
    """A colour ``[3]`` from hue (in turns), saturation and value (0..1)."""
    k = (np.array([5.0, 3.0, 1.0]) + turns * 6) % 6
    colour: Plane = value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
    return colour


# ------------------------------------------------------------------------------------------------------- material


def material(rng: np.random.Generator) -> Surface:
    """A clean surface of a random material and colour."""
    kind = int(rng.integers(5))
    if kind == 0:  # painted sheet, any colour
        base, gloss, grain, bumps = hsv(hue(rng), rng.uniform(0.1, 0.6), rng.uniform(0.35, 0.8)), 0.5, 0.012, 0.1
    elif kind == 1:  # bare or anodised metal
        base, gloss, grain, bumps = hsv(hue(rng), rng.uniform(0, 0.12), rng.uniform(0.4, 0.7)), 0.7, 0.025, 0.1
    elif kind == 2:  # plastic
        base, gloss, grain, bumps = hsv(hue(rng), rng.uniform(0, 0.45), rng.uniform(0.25, 0.75)), 0.3, 0.012, 0.22
    elif kind == 3:  # concrete, plaster
        base, gloss, grain, bumps = (
            hsv(rng.uniform(0.05, 0.17), rng.uniform(0, 0.18), rng.uniform(0.45, 0.75)),
            0,
            0.03,
            0.4,
        )
    else:  # pale enamel
        base, gloss, grain, bumps = hsv(hue(rng), rng.uniform(0, 0.12), rng.uniform(0.7, 0.88)), 0.6, 0.008, 0.08
    mottle = 0.02 * noise(rng, 1, 12) + grain * noise(rng, 12, N / 2, 0.4)
    colour = base * (1 + mottle)[..., None]
    height = bumps * noise(rng, 8, 80, 0.8)
    return Surface(colour, height, np.full((N, N), gloss * rng.uniform(0.6, 1.2)))


# ---------------------------------------------------------------------------------------------------------- light


def lit(surface: Surface, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The surface as a photograph, ``[SIDE, SIDE, 3]``: lamp, shading, highlight, vignette, focus, noise."""
    azimuth, elevation = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(32, 62))
    lamp = (math.cos(azimuth) * math.cos(elevation), math.sin(azimuth) * math.cos(elevation), math.sin(elevation))
    gy, gx = np.gradient(surface.height)
    length = np.sqrt(gx * gx + gy * gy + 1)
    diffuse = np.maximum((-gx * lamp[0] - gy * lamp[1] + lamp[2]) / length, 0) / lamp[2]
    half = np.array([lamp[0], lamp[1], lamp[2] + 1])
    half = half / np.sqrt((half * half).sum())
    shine = np.maximum((-gx * half[0] - gy * half[1] + half[2]) / length, 0) ** 24
    ambient = rng.uniform(0.25, 0.45)
    across = ((COLUMNS - N / 2) * math.cos(azimuth) + (ROWS - N / 2) * math.sin(azimuth)) / N
    falloff = 1 + rng.uniform(0.05, 0.45) * across - rng.uniform(0, 0.25) * (radius_about(N / 2, N / 2) / N) ** 2
    light = (ambient + (1 - ambient) * diffuse) * falloff * rng.uniform(0.8, 1.15)
    warmth = rng.uniform(-0.07, 0.07)
    tint = np.array([1 + warmth, 1.0, 1 - warmth])
    picture = surface.colour * light[..., None] * tint + (0.45 * surface.gloss * shine * falloff)[..., None] * tint
    small = picture.reshape(SIDE, 2, SIDE, 2, 3).mean(axis=(1, 3))
    soft = rng.uniform(0, 0.25)
    padded = np.pad(small, ((1, 1), (1, 1), (0, 0)), mode="edge")
    cross = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    small = (1 - soft) * small + soft * cross / 4
    small = small + rng.uniform(0.004, 0.014) * rng.standard_normal(small.shape)
    picture8: NDArray[np.uint8] = np.round(np.clip(small, 0, 1) * 255).astype(np.uint8)
    return picture8


def jpeg(picture: NDArray[np.uint8]) -> bytes:
    """The picture as a JPEG of quality 85 without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85, optimize=True, subsampling="4:2:0")
    return buffer.getvalue()
