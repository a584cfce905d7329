"""Do two sets of answers to the same pictures agree, and by how much?

They count as the same when the best class is the same wherever the two best probabilities differ by more than
``NEAR_TIE``, when no logit is off by more than ``LOGIT_TOLERANCE`` of the largest one, and when no probability is off
by more than ``PROBABILITY_TOLERANCE``; for each picture asked alone and asked together with others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from workbench.core.context import Context
from workbench.core.values import Preprocess
from workbench.export.model import Manifest, SelfCheck
from workbench.export.weights import Array, state_of

if TYPE_CHECKING:
    from torch import nn

NEAR_TIE = 1e-3
LOGIT_TOLERANCE = 1e-5
PROBABILITY_TOLERANCE = 5e-4
_TOGETHER = 16
_SELF_CHECKS = 8


@dataclass(frozen=True, slots=True)
class Expected:
    """What the application answers.

    Attributes:
        logits: ``[n, N]``.
        probabilities: ``[n, N+1]``, "none of these" last.
        pixels_sha256: per picture, of its preprocessed ``uint8 [S, S, C]``.
        tensors_sha256: per tensor of the network, of type, shape and bytes.
    """

    logits: Array
    probabilities: Array
    pixels_sha256: tuple[str, ...]
    tensors_sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answers:
    """What an exported file answers: ``[n, N]`` and ``[n, N+1]``, pictures together and each alone."""

    logits_together: Array
    probabilities_together: Array
    logits_alone: Array
    probabilities_alone: Array


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verification: name, detail in words, figure in words, whether it passed."""

    name: str
    detail: str
    figure: str
    ok: bool


@dataclass(frozen=True, slots=True)
class NearTie:
    """A picture whose two best classes are so near that either may come first.

    Attributes:
        index: of the picture.
        classes: indices of the two best classes.
        here: their probabilities in the application.
        there: their probabilities in the file.
    """

    index: int
    classes: tuple[int, int]
    here: tuple[float, float]
    there: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Figures of a comparison; see ``compare``."""

    images: int
    clear: int
    same_top: int
    same_rejection: int
    near_ties: tuple[NearTie, ...]
    logit_difference: float
    probability_difference: float
    batch_difference: float
    agreement: tuple[tuple[int, float, float], ...]


def answers(network: nn.Module, pixels: Array, ctx: Context | None = None) -> tuple[Array, Array]:
    """Logits ``[n, N]`` and probabilities ``[n, N+1]`` of 8-bit pictures ``[n, S, S, C]``, in this process.

    Args:
        network: on the CPU, in eval mode.
        pixels: uint8.
        ctx: cancel, looked at every few pictures.
    """
    import torch

    logits, probabilities = [], []
    with torch.no_grad():
        for start in range(0, len(pixels), _TOGETHER):
            if ctx is not None:
                ctx.check()
            x = torch.from_numpy(np.ascontiguousarray(pixels[start : start + _TOGETHER].transpose(0, 3, 1, 2)))
            out = network(x.float().div(255))
            logits.append(out[0].float().numpy())
            probabilities.append(out[1].float().numpy())
    return np.concatenate(logits), np.concatenate(probabilities)


def expected_of(network: nn.Module, pixels: Array, ctx: Context | None = None) -> Expected:
    """What this network answers to 8-bit pictures ``[n, S, S, C]``."""
    logits, probabilities = answers(network, pixels, ctx)
    return Expected(logits, probabilities, tuple(pixel_hash(p) for p in pixels), tensor_hashes(state_of(network)))


def pixel_hash(pixels: Array) -> str:
    """Hash of the pixels of one picture."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def tensor_hashes(tensors: Mapping[str, Array]) -> dict[str, str]:
    """Hash of type, shape and bytes of each tensor."""
    return {
        name: hashlib.sha256(f"{value.dtype.str}{list(value.shape)}".encode() + value.tobytes()).hexdigest()
        for name, value in tensors.items()
    }


def compare(expected: Expected, got: Answers) -> Comparison:
    """Figures that say how far two sets of answers are apart.

    Args:
        expected: of the application.
        got: of the exported file.

    Returns:
        ``clear`` counts the pictures whose two best classes differ by more than ``NEAR_TIE``, ``same_top`` those of
        them whose best class is the same; ``same_rejection`` the pictures with the same "none of these" (or as near
        to it).
        The logit difference is relative to the largest logit. Numbers that are not finite give infinite differences.
    """
    here, n = expected.probabilities, len(expected.probabilities)
    scale = max(float(np.abs(expected.logits).max(initial=0.0)), 1e-30)
    logit = max(_largest(expected.logits, got.logits_together), _largest(expected.logits, got.logits_alone)) / scale
    probability = max(_largest(here, got.probabilities_together), _largest(here, got.probabilities_alone))
    batch = _largest(got.logits_alone, got.logits_together) / scale
    clear = same = rejection = 0
    ties: list[NearTie] = []
    agreement = []
    for i in range(n):
        p, q, alone = here[i], got.probabilities_together[i], got.probabilities_alone[i]
        order = np.argsort(-p[:-1], kind="stable")
        first = int(order[0])
        second = int(order[1]) if len(order) > 1 else first
        agreement.append((first, float(p[first]), float(q[first])))
        if len(order) > 1 and p[first] - p[second] <= NEAR_TIE:
            pair = (first, second)
            ties.append(NearTie(i, pair, (float(p[first]), float(p[second])), (float(q[first]), float(q[second]))))
        else:
            clear += 1
            same += int(q[:-1].argmax()) == first and int(alone[:-1].argmax()) == first
        near = abs(float(p[-1] - p[first])) <= NEAR_TIE
        rejection += near or all((v.argmax() == len(v) - 1) == (p.argmax() == len(p) - 1) for v in (q, alone))
    return Comparison(n, clear, same, rejection, tuple(ties), logit, probability, batch, tuple(agreement))


def _largest(a: Array, b: Array) -> float:
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        difference = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))
    return difference if np.isfinite(difference) else float("inf")


def judge(found: Comparison) -> tuple[Check, ...]:
    """The comparison as lines for people, each passed or not."""
    n = found.images
    ties = len(found.near_ties)
    return (
        Check(
            "Same top class",
            f"two best differ by more than {NEAR_TIE:g}",
            f"{found.same_top} / {found.clear}",
            found.same_top == found.clear,
        ),
        Check("Near-ties listed", f"two best within {NEAR_TIE:g}; either may come first", str(ties), ok=True),
        Check(
            "Same probabilities",
            "largest difference; limit 5 × 10⁻⁴",
            figure(found.probability_difference),
            found.probability_difference <= PROBABILITY_TOLERANCE,
        ),
        Check(
            "Same logits",
            "largest difference, relative; limit 10⁻⁵",
            figure(found.logit_difference),
            found.logit_difference <= LOGIT_TOLERANCE,
        ),
        Check(
            "Same none-of-these",
            "rejected here, rejected there",
            f"{found.same_rejection} / {n}",
            found.same_rejection == n,
        ),
        Check(
            "Alone as in company",
            "one picture at a time and many at once",
            figure(found.batch_difference),
            found.batch_difference <= LOGIT_TOLERANCE,
        ),
    )


def figure(value: float) -> str:
    """A small number for eyes: ``3.4 × 10⁻⁶``."""
    if not np.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{power}"


def self_check(network: nn.Module, manifest: Manifest, thumbnails: Sequence[bytes]) -> tuple[SelfCheck, ...]:
    """What a model must answer on a few of its own thumbnails, spread over its classes.

    Args:
        network: as exported.
        manifest: its support images and preprocessing.
        thumbnails: PNG bytes, one per support image.
    """
    by_class: dict[int, list[int]] = {}
    for i, image in enumerate(manifest.support[: len(thumbnails)]):
        by_class.setdefault(image.class_index, []).append(i)
    rounds = [group[k : k + 1] for k in range(_SELF_CHECKS) for group in by_class.values()]
    chosen = sorted([i for part in rounds for i in part][:_SELF_CHECKS])
    if not chosen:
        return ()
    pixels = np.stack([thumbnail_pixels(thumbnails[i], manifest.preprocess) for i in chosen])
    _, probabilities = answers(network, pixels)
    return tuple(
        SelfCheck(i, pixel_hash(p), tuple(float(v) for v in row))
        for i, p, row in zip(chosen, pixels, probabilities, strict=True)
    )


def self_check_difference(network: nn.Module, manifest: Manifest, thumbnails: Sequence[bytes]) -> float:
    """Largest difference in probability between what a model was to answer on its thumbnails and what it answers here.

    Returns:
        0.0 where the model carries no self-check; infinite where a thumbnail is preprocessed to other pixels.
    """
    if not manifest.self_check:
        return 0.0
    pixels = [thumbnail_pixels(thumbnails[c.support], manifest.preprocess) for c in manifest.self_check]
    if any(pixel_hash(p) != c.pixels_sha256 for p, c in zip(pixels, manifest.self_check, strict=True)):
        return float("inf")
    _, probabilities = answers(network, np.stack(pixels))
    return _largest(np.asarray([c.probabilities for c in manifest.self_check], np.float32), probabilities)


def thumbnail_pixels(png: bytes, preprocess: Preprocess) -> Array:
    """A thumbnail as the model's 8-bit input, ``[S, S, C]``."""
    from workbench.data.pixels import open_image, to_pixels

    p = preprocess
    return to_pixels(open_image(png), size=p.size, channels=p.channels, fit=p.fit, resample=p.resample)
