"""Numbers of a live plot: growing arrays, smoothing, ticks and words. No Qt here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_FIRST = 256


class Series:
    """A curve that only grows: x, y and optionally the ends of an interval, with exponential smoothing kept up to date.

    ``smooth`` follows Adam's bias correction, so that the first points are not pulled to zero. Where the numbers begin
    to mean something else, as in another phase of training, a new stretch begins: nothing is smoothed across.

    Attributes:
        n: points.
        banded: any of them has an interval.
        begins: index of the first point of each stretch.
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        self.n = 0
        self.banded = False
        self.begins = [0]
        self._data = np.full((5, _FIRST), np.nan)
        self._smoothing = smoothing
        self._moment = 0.0

    def append(self, x: float, y: float, low: float | None = None, high: float | None = None) -> None:
        """One more point; amortised O(1)."""
        if self.n == self._data.shape[1]:
            grown = np.full((5, 2 * self.n), np.nan)
            grown[:, : self.n] = self._data
            self._data = grown
        column = self._data[:, self.n]
        column[0], column[1] = x, y
        if low is not None and high is not None:
            column[2], column[3] = low, high
            self.banded = True
        self.n += 1
        self._moment = self._smoothing * self._moment + (1 - self._smoothing) * y
        count = self.n - self.begins[-1]
        column[4] = self._moment / (1 - self._smoothing**count) if self._smoothing else y

    def split(self) -> None:
        """The next point begins a new stretch."""
        if self.n > self.begins[-1]:
            self.begins.append(self.n)
            self._moment = 0.0

    def clear(self) -> None:
        """Forget all points."""
        self.n, self._moment, self.banded, self.begins = 0, 0.0, False, [0]

    def set_smoothing(self, smoothing: float) -> None:
        """Smooth all points again with another weight of the past, 0..1."""
        if smoothing == self._smoothing:
            return
        self._smoothing, self._moment = smoothing, 0.0
        if not smoothing:
            self._data[4, : self.n] = self._data[1, : self.n]
            return
        moment, power, begins = 0.0, 1.0, set(self.begins)
        for i, y in enumerate(self._data[1, : self.n].tolist()):
            if i in begins:
                moment, power = 0.0, 1.0
            moment = smoothing * moment + (1 - smoothing) * y
            power *= smoothing
            self._data[4, i] = moment / (1 - power)
        self._moment = 0.0 if self.begins[-1] == self.n else moment

    @property
    def x(self) -> Floats:
        """Positions, a view ``[n]``."""
        return self._data[0, : self.n]

    @property
    def y(self) -> Floats:
        """Values as measured, a view ``[n]``."""
        return self._data[1, : self.n]

    @property
    def low(self) -> Floats:
        """Lower ends of the interval, NaN where there is none, a view ``[n]``."""
        return self._data[2, : self.n]

    @property
    def high(self) -> Floats:
        """Upper ends, a view ``[n]``."""
        return self._data[3, : self.n]

    @property
    def smooth(self) -> Floats:
        """Smoothed values, a view ``[n]``."""
        return self._data[4, : self.n]

    def nearest(self, x: float) -> int | None:
        """Index of the point nearest to a position, ``None`` while empty."""
        if not self.n:
            return None
        i = int(np.searchsorted(self.x, x))
        if i == 0:
            return 0
        if i == self.n:
            return self.n - 1
        return i if self.x[i] - x < x - self.x[i - 1] else i - 1


def thin(x: Floats, y: Floats, most: int = 4000) -> tuple[Floats, Floats]:
    """At most about ``most`` points that keep every peak: the smallest and the largest value of each bucket."""
    n = len(x)
    if n <= most:
        return x, y
    size = -(-n // (most // 2))
    whole = n // size * size
    block = y[:whole].reshape(-1, size)
    base = np.arange(0, whole, size)
    pick = np.sort(np.concatenate([base + block.argmin(1), base + block.argmax(1), np.arange(whole, n)]))
    return x[pick], y[pick]


def with_gaps(x: Floats, y: Floats, begins: Sequence[int]) -> tuple[Floats, Floats]:
    """Each stretch thinned by itself, with a NaN before every one but the first, so that no line joins two."""
    cuts = [i for i in begins if 0 < i < len(x)]
    if not cuts:
        return thin(x, y)
    most = 4000 // (len(cuts) + 1)
    parts = [thin(a, b, most) for a, b in zip(np.split(x, cuts), np.split(y, cuts), strict=True)]
    gaps = np.cumsum([len(a) for a, _ in parts])[:-1]
    few_x, few_y = (np.concatenate(each) for each in zip(*parts, strict=True))
    return np.insert(few_x, gaps, few_x[gaps]), np.insert(few_y, gaps, np.nan)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers within ``low..high``, at most ``most``, with steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / max(1, most)))
    for factor in (1, 2, 5, 10, 20, 50):
        if math.floor(high / (step * factor) + 1e-9) - math.ceil(low / (step * factor) - 1e-9) + 1 <= most:
            step *= factor
            break
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


_LADDERS = ((1, 1.5, 2, 3, 4, 6, 8), (1, 2, 4, 6, 8), (1, 2, 5), (1, 3), (1,))


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers within ``low..high`` for a logarithmic axis."""
    if not 0 < low < high:
        return []
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for ladder in _LADDERS:
        found = [m * 10.0**d for d in decades for m in ladder if low * 0.999 <= m * 10.0**d <= high * 1.001]
        if len(found) <= most:
            break
    if len(found) > most:
        found = found[:: -(-len(found) // most)]
    return found if len(found) >= 2 else ticks(low, high, most)


def round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 5, 7.5 times a power of ten: a growing axis jumps seldom."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(f * power for f in (1, 1.5, 2, 3, 5, 7.5, 10) if f * power >= value * (1 - 1e-9))


def words(value: float) -> str:
    """A tick in words: 2,000 and 0.5 and 1e-05."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.0e}"
    text = f"{value:.3f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def tick_words(values: list[float], *, whole: bool = False) -> list[str]:
    """The ticks of one axis with the same number of decimals."""
    if whole or any(abs(v) >= 1000 for v in values):
        return [f"{v:,.0f}" for v in values]
    if any(0 < abs(v) < 1e-3 for v in values):
        return [words(v) for v in values]
    for places in range(1, 4):
        if all(abs(v - round(v, places)) < 1e-9 for v in values):
            return [f"{v:.{places}f}" for v in values]
    return [f"{v:.3f}" for v in values]


def spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart by at least ``gap``, in the given order of nearness, within ``low..high``.

    Args:
        wanted: centres, any order.
        gap: least distance.
        low: smallest centre.
        high: largest centre.

    Returns:
        Centres in the order of ``wanted``.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = [min(max(wanted[i], low), high) for i in order]
    for _ in range(len(placed)):
        for i in range(1, len(placed)):
            lack = gap - (placed[i] - placed[i - 1])
            if lack > 0:
                placed[i - 1] -= lack / 2
                placed[i] += lack / 2
        if placed and placed[0] < low:
            placed = [p + low - placed[0] for p in placed]
        if placed and placed[-1] > high:
            placed = [p - (placed[-1] - high) for p in placed]
    out = [0.0] * len(wanted)
    for rank, index in enumerate(order):
        out[index] = placed[rank]
    return out


def spread_labels(ends: Sequence[float], gap: float, low: float, high: float, crowd: Sequence[float]) -> list[float]:
    """Heights of labels beside the ends of curves: in their order, apart, and where the fewest other curves run.

    Args:
        ends: heights at which the curves end, px.
        gap: height of a label.
        low: top of the plot.
        high: bottom of the plot.
        crowd: heights of other curves behind the labels.
    """
    order = sorted(range(len(ends)), key=ends.__getitem__)
    middle = sum(ends) / len(ends)
    block = gap * (len(ends) - 1)

    def cost(centre: float) -> tuple[int, float]:
        top, bottom = centre - block / 2 - gap / 2, centre + block / 2 + gap / 2
        return sum(top - 2 <= c <= bottom + 2 for c in crowd), abs(centre - middle)

    least, most = low + block / 2 + gap / 2, high - block / 2 - gap / 2
    shifts = [0.0, *(s for k in range(1, 9) for s in (k * gap / 2, -k * gap / 2))]
    centres = [min(max(middle + s, least), max(least, most)) for s in shifts]
    best = min(centres, key=cost)
    placed = [0.0] * len(ends)
    for rank, index in enumerate(order):
        placed[index] = best - block / 2 + rank * gap
    return placed


def accuracy_range(drawn: Sequence[Series], reference: float | None) -> tuple[float, float]:
    """From the next tenth below the lowest value to a little above the highest, within 0..1."""
    values = [float(np.nanmin(s.smooth)) for s in drawn] + ([] if reference is None else [reference])
    tops = [float(np.nanmax(s.high if s.banded else s.smooth)) for s in drawn]
    low = math.floor(min(values, default=0.0) * 10 + 1e-9) / 10
    high = min(1.0, math.ceil((max(tops, default=1.0) + 0.06) * 20 - 1e-9) / 20)
    return low, max(high, low + 0.2)


def loss_range(drawn: Sequence[Series], log: bool) -> tuple[float, float]:
    """Ends of the axis (their logarithms for a logarithmic one), with room for the noise around the smoothed lines."""
    if log:
        least = min((float(s.smooth[s.smooth > 0].min()) for s in drawn if (s.smooth > 0).any()), default=0.1)
        most = max((float(s.smooth.max()) for s in drawn), default=1.0)
        return math.log10(least * 0.7), math.log10(max(most, least * 1.5) * 1.15)
    most = max((float(s.smooth.max()) for s in drawn), default=1.0)
    return 0.0, max(most * 1.1, 1e-3)
