"""Hand-made meta-features: a task as a few named numbers, each with a unit, that a person can check by eye.

Of three kinds: how the task is laid out (classes, shots), what its pictures look like (size, colour, sharpness), and
how its classes lie in the features of a frozen trunk. What cannot be measured is left out instead of guessed: with one
example per class nothing is known of the spread within classes, and files are not always at hand.

The vector of ``F`` meta-features has ``2 F`` entries: the values (logarithms to base 2 of what counts in multiples, 0
where not measured) and, behind them, 1 where measured and 0 where not. Two tasks are compared by what was measured in
both, each difference in units of its spread over the library::

    similarity = exp(-1/2 mean_f ((a_f - b_f) / s_f)^2)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.learn import examples, heads
from workbench.transfer.kinds import TaskData
from workbench.transfer.represent import Representation, distance, represent

EDGE = 0.1
"""Change of brightness per pixel, as a share of the full range, from which a pixel counts as lying on an edge."""
COLOURED = 0.02
"""Mean difference between a pixel's largest and smallest channel from which a picture counts as in colour."""
_MOST = 1000
"""Examples whose distances to one another are measured; of more, an even choice."""


@dataclass(frozen=True, slots=True)
class MetaFeature:
    """One number that describes a task.

    Attributes:
        key: for files.
        title: for people.
        unit: of the number as shown.
        least: the smallest spread over a library that counts, so that a library of twins does not make a trifle
            decide; in the unit, or in doublings where ``doubling``.
        doubling: whether differences count in multiples; the vector then holds the logarithm to base 2.
    """

    key: str
    title: str
    unit: str
    least: float
    doubling: bool = False


_RANGE = "of full range"
META_FEATURES: tuple[MetaFeature, ...] = (
    MetaFeature("classes", "Classes", "classes", 0.5, doubling=True),
    MetaFeature("shots_fewest", "Examples of the smallest class", "pictures", 0.5, doubling=True),
    MetaFeature("shots_mean", "Examples per class, mean", "pictures", 0.5, doubling=True),
    MetaFeature("imbalance", "Largest class over smallest", "times", 0.5, doubling=True),
    MetaFeature("side", "Side of a square as large as the picture", "pixels", 0.5, doubling=True),
    MetaFeature("aspect", "Width over height", "times", 0.1, doubling=True),
    MetaFeature("jpeg", "JPEG files", "share of pictures", 0.1),
    MetaFeature("colour", "Pictures in colour", "share of pictures", 0.1),
    MetaFeature("red_mean", "Red, mean", _RANGE, 0.05),
    MetaFeature("green_mean", "Green, mean", _RANGE, 0.05),
    MetaFeature("blue_mean", "Blue, mean", _RANGE, 0.05),
    MetaFeature("red_spread", "Red, standard deviation", _RANGE, 0.02),
    MetaFeature("green_spread", "Green, standard deviation", _RANGE, 0.02),
    MetaFeature("blue_spread", "Blue, standard deviation", _RANGE, 0.02),
    MetaFeature("sharpness", "Sharpness (standard deviation of the Laplacian)", _RANGE, 0.02),
    MetaFeature("edges", "Pixels on an edge", "share of pixels", 0.02),
    MetaFeature("entropy", "Entropy of the brightness", "bits", 0.2),
    MetaFeature("within", "Spread of the features within a class", "squared feature units", 0.1, doubling=True),
    MetaFeature("rank", "Effective rank of that spread", "directions", 0.1, doubling=True),
    MetaFeature("fisher", "Spread between the classes over that within", "times", 0.2, doubling=True),
    MetaFeature("silhouette", "Silhouette of the classes", "-1 to 1", 0.05),
    MetaFeature("neighbour_error", "Nearest neighbour is of another class", "share of examples", 0.05),
)


class Measured(NamedTuple):
    """A meta-feature and its value in its unit; ``None`` where it could not be measured."""

    feature: MetaFeature
    value: float | None


class MetaFeatures:
    """Named numbers behind the interface of all representations.

    Args:
        sources: (name, mean and covariance under the same trunk) of known sources; the distance to each is one more
            meta-feature.
        spread: ``[F]`` standard deviation of each entry over a library; see :meth:`fitted`.
        mean: ``[F]`` mean of each entry over it.
    """

    key: ClassVar[str] = "meta-features"
    title: ClassVar[str] = "Meta-features"

    def __init__(
        self,
        sources: Sequence[tuple[str, Representation]] = (),
        spread: Tensor | None = None,
        mean: Tensor | None = None,
    ) -> None:
        self.sources = tuple(sources)
        far = (MetaFeature(f"distance:{n}", f"Distance to {n}", "share of the spread", 0.2) for n, _ in self.sources)
        self.features = META_FEATURES + tuple(far)
        least = torch.tensor([f.least for f in self.features], dtype=torch.float64)
        self.spread = least if spread is None else torch.maximum(spread, least)
        self.mean = torch.zeros_like(least) if mean is None else mean

    def fitted(self, library: Sequence[Tensor]) -> MetaFeatures:
        """The same, with mean and spread of each entry over a library of vectors, from those where it was measured."""
        if not library:
            return self
        table = torch.stack(list(library))
        values, there = table.chunk(2, dim=1)
        count = there.sum(0).clamp_min(1)
        mean = (values * there).sum(0) / count
        spread = (((values - mean) * there).square().sum(0) / count).sqrt()
        return MetaFeatures(self.sources, spread, mean)

    def table(self, task: TaskData) -> tuple[Measured, ...]:
        """What a person is shown.

        Raises:
            ValueError: numbers of the task are not finite.
        """
        found = layout(task) | looks(task) | geometry(task)
        if self.sources and task.features is not None:
            own = represent(task.features)
            far = {f"distance:{name}": distance(own, source) for name, source in self.sources}
            found |= {key: d for key, d in far.items() if math.isfinite(d)}
        return tuple(Measured(f, found.get(f.key)) for f in self.features)

    def embed(self, task: TaskData, ctx: Context) -> Tensor:
        """``[2 F]``: values and whether they were measured; see the module."""
        ctx.check()
        measured = [(m.feature, m.value) for m in self.table(task)]
        values = [0.0 if v is None else math.log2(max(v, 1e-6)) if f.doubling else v for f, v in measured]
        there = [float(v is not None) for _, v in measured]
        return torch.tensor(values + there, dtype=torch.float64)

    def standardised(self, vector: Tensor) -> Tensor:
        """``[F]`` in standard deviations from the library's mean; what was not measured counts as the mean, 0."""
        values, there = vector.chunk(2)
        return (values - self.mean) / self.spread * there

    def similarity(self, a: Tensor, b: Tensor) -> float:
        """0..1, a Gaussian kernel; 0 where nothing was measured in both."""
        (values_a, there_a), (values_b, there_b) = a.chunk(2), b.chunk(2)
        both = (there_a * there_b) > 0
        if not both.any():
            return 0.0
        gaps = ((values_a - values_b) / self.spread)[both]
        return math.exp(-0.5 * float(gaps.square().mean()))


def layout(task: TaskData) -> dict[str, float]:
    """How many classes and examples there are."""
    counts = torch.bincount(task.y, minlength=task.ways)
    fewest, most = int(counts.min()), int(counts.max())
    return {
        "classes": float(task.ways),
        "shots_fewest": float(fewest),
        "shots_mean": len(task.y) / task.ways,
        "imbalance": most / fewest,
    }


def looks(task: TaskData) -> dict[str, float]:
    """What the pictures look like, means over them; of what is at hand."""
    found: dict[str, float] = {}
    if task.images:
        n = len(task.images)
        found["side"] = 2 ** (sum(math.log2(max(1, i.width * i.height)) / 2 for i in task.images) / n)
        found["aspect"] = 2 ** (sum(math.log2(max(1, i.width) / max(1, i.height)) for i in task.images) / n)
        found["jpeg"] = sum(i.name.lower().endswith((".jpg", ".jpeg", ".jpe", ".jfif")) for i in task.images) / n
    if task.x is None or task.preprocess is None:
        return found
    _finite(task.x)
    shape = (1, -1, 1, 1)
    mean, std = task.x.new_tensor(task.preprocess.mean), task.x.new_tensor(task.preprocess.std)
    pixels = (task.x.detach() * std.view(shape) + mean.view(shape)).clamp(0, 1).double()
    chroma = (pixels.amax(1) - pixels.amin(1)).mean((1, 2))
    found["colour"] = float((chroma > COLOURED).double().mean())
    for name, channel in zip(("red", "green", "blue"), pixels.expand(-1, 3, -1, -1).unbind(1), strict=True):
        found[f"{name}_mean"] = float(channel.mean())
        found[f"{name}_spread"] = float(channel.flatten(1).std(1, correction=0).mean())
    grey = pixels.mean(1)
    laplacian = (
        grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * grey[:, 1:-1, 1:-1]
    )
    found["sharpness"] = float(laplacian.flatten(1).std(1, correction=0).mean())
    down, right = (grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]) / 2, (grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]) / 2
    found["edges"] = float((torch.hypot(down, right) > EDGE).double().mean())
    found["entropy"] = sum(_entropy(g) for g in grey) / len(grey)
    return found


def geometry(task: TaskData) -> dict[str, float]:
    """How the classes lie in the features; what needs two examples of a class is left out where there are none."""
    if task.features is None:
        return {}
    _finite(task.features)
    f, y, ways = task.features.detach().double().cpu(), task.y.cpu(), task.ways
    counts = torch.bincount(y, minlength=ways)
    if int(counts.max()) < 2:
        return {}
    centres = heads.prototypes(f, y, ways)
    apart = f - centres[y]
    # unbiased: each class gives one example's worth of spread away for its own mean
    inside = float(apart.square().sum()) / (len(y) - ways)
    between = float((counts[:, None] * (centres - f.mean(0)).square()).sum()) / len(y)
    found = {"within": inside, **_neighbourhood(f, y, ways)}
    if inside > 0:
        found["rank"] = _effective_rank(apart)
        found["fisher"] = between / inside
    return found


def _effective_rank(apart: Tensor) -> float:
    """``exp`` of the entropy of the spread over its principal directions (Roy and Vetterli 2007)."""
    shares = torch.linalg.svdvals(apart).square()
    shares = shares / shares.sum()
    return math.exp(-float((shares * shares.clamp_min(1e-300).log()).sum()))


def _neighbourhood(f: Tensor, y: Tensor, ways: int) -> Mapping[str, float]:
    """Silhouette (Rousseeuw 1987; 0 for an example that is alone in its class) and error of the nearest neighbour.

    The latter only counts examples that have another of their class to find.
    """
    if len(f) > _MOST:
        order = examples.canonical_order(f)
        chosen = order[torch.linspace(0, len(f) - 1, _MOST).round().long()]
        f, y = f[chosen], y[chosen]
    member = heads.one_hot(y, ways, f)
    counts = member.sum(0)
    judged = counts[y] > 1
    if not judged.any():
        return {}
    gaps = torch.cdist(f, f)
    nearest = (gaps + torch.diag(torch.full((len(f),), math.inf, dtype=f.dtype))).argmin(1)
    found = {"neighbour_error": float((y[nearest] != y)[judged].double().mean())}
    if int((counts > 0).sum()) > 1:
        sums = gaps @ member
        own = sums.gather(1, y[:, None])[:, 0] / (counts[y] - 1).clamp_min(1)
        others = (sums / counts.clamp_min(1)).masked_fill((member > 0) | (counts == 0), math.inf).amin(1)
        largest = torch.maximum(own, others).clamp_min(1e-300)
        found["silhouette"] = float(torch.where(judged, (others - own) / largest, 0.0).mean())
    return found


def _entropy(grey: Tensor) -> float:
    """Of a picture's brightness in 256 steps, bits."""
    shares = torch.bincount((grey * 255).round().long().flatten(), minlength=256).double() / grey.numel()
    return -float((shares * shares.clamp_min(1e-300).log2()).sum())


def _finite(t: Tensor) -> None:
    if not torch.isfinite(t).all():
        raise ValueError("a task with numbers that are not finite cannot be described")
