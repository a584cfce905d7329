"""Episodes of a target domain, and what every recipe answers on them: measured once, so that arms are arithmetic.

A recipe is an entry, a layer and a head, as in ``workbench/transfer/recipes.py``, whose closed forms are used as they
are: once with each example left out, and once with the queries beside examples that all stay. All episodes of one
number of shots have their labels in one order, so that they are computed side by side.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch import Tensor

from tests.benchmarks.transfer_domains import ANCESTOR, Entry, Pictures, features, network, untrained
from workbench.learn.calibrate import _LOG_TEMPERATURES, task_temperatures
from workbench.learn.leaving_out import HeldOut
from workbench.learn.protocol import generator
from workbench.transfer import mixing, recipes, scores
from workbench.transfer.represent import Representation, represent, similarity

WAYS, QUERIES, LEAST = 5, 15, 5
"""Classes, and queries of each: at most so many, and a class that has not so many left is not drawn."""
NONE = "none"
"""In place of an entry: the network that was never trained, under its own head."""
MIXED = "mixture"
"""The same: what the product mixes of the family for a task, under the heaviest one's own head."""
HEADS = {"last": ("own", "ridge", "simpleshot", "mahalanobis"), "previous": ("ridge", "simpleshot")}
"""By layer: what the workbench tries first of every entry; ``own`` is that of Prototypical Networks."""
FIRST = ("last", "ridge")
"""The layer and head that arms without a choice of them have."""
_AT_ONCE = 50
_LOGME_SHOTS = 3
_DESCRIBED = 200


class Kind(NamedTuple):
    """A recipe."""

    entry: str
    layer: str
    head: str


@dataclass(frozen=True, eq=False)
class Measured:
    """One target domain at one number of shots.

    Attributes:
        kinds: the recipes, ``R``.
        names: the entries, ``N``, the ancestor first.
        correct: ``[E, R, Q]`` bool, of queries.
        losses: ``[E, R, S]`` log-loss of left-out examples, nats; ``S = 0`` at one shot.
        likeness: ``[E, N]`` similarity of the examples to each entry's domain under the ancestor; the ancestor's own is
            to what it was trained on.
        logme: ``[E, N]``, or ``[E, 0]`` where there are too few examples.
        probabilities: ``[E, N, Q, ways]`` of each entry with the first layer and head.
        standings: ``[N, 3]`` of each entry's card: sources, classes, validation accuracy (NaN: none).
        scrambled: ``[E', N]`` accuracies of that head on examples with permuted labels.
        seconds: that choosing took per episode: similarities and left-out losses, features apart.
    """

    kinds: tuple[Kind, ...]
    names: tuple[str, ...]
    correct: np.ndarray
    losses: np.ndarray
    likeness: np.ndarray
    logme: np.ndarray
    probabilities: np.ndarray
    standings: np.ndarray
    scrambled: np.ndarray
    seconds: float

    @property
    def accuracy(self) -> np.ndarray:
        """``[E, R]``."""
        found: np.ndarray = self.correct.mean(2)
        return found


def to_bytes(m: Measured) -> bytes:
    """For a file."""
    arrays = {
        "correct": np.packbits(m.correct, axis=2),
        "shape": np.array(m.correct.shape),
        "losses": m.losses,
        "likeness": m.likeness,
        "logme": m.logme,
        "probabilities": m.probabilities,
        "standings": m.standings,
        "scrambled": m.scrambled,
        "seconds": np.array([m.seconds]),
    }
    words = {"kinds": ";".join("/".join(k) for k in m.kinds), "names": ";".join(m.names)}
    return bytes(save_arrays({n: np.ascontiguousarray(a) for n, a in arrays.items()} | _as_arrays(words)))


def from_bytes(data: bytes) -> Measured:
    """The inverse of :func:`to_bytes`."""
    a = load_arrays(data)
    kinds = tuple(Kind(*k.split("/")) for k in _text(a["kinds"]).split(";"))
    queries = int(a["shape"][2])
    return Measured(
        kinds,
        tuple(_text(a["names"]).split(";")),
        np.unpackbits(a["correct"], axis=2, count=queries).astype(bool),
        a["losses"],
        a["likeness"],
        a["logme"],
        a["probabilities"],
        a["standings"],
        a["scrambled"],
        float(a["seconds"][0]),
    )


def _as_arrays(words: Mapping[str, str]) -> dict[str, np.ndarray]:
    return {n: np.frombuffer(t.encode(), np.uint8) for n, t in words.items()}


def _text(a: np.ndarray) -> str:
    return a.tobytes().decode()


def asked_of(members: Sequence[np.ndarray], shots: int) -> int:
    """Queries per class of a domain's episodes: as many as its smallest class has beside its examples.

    Pictures are asked about once: asked about twice they would make errors look smaller than they are.
    """
    return min(QUERIES, *(len(m) - shots for m in _usable(members, shots)))


def _usable(members: Sequence[np.ndarray], shots: int) -> list[np.ndarray]:
    return [m for m in members if len(m) >= shots + LEAST]


def drawn(members: Sequence[np.ndarray], shots: int, count: int, seed: int) -> np.ndarray:
    """``[count, ways * (shots + queries)]`` rows: examples class after class, then queries class after class.

    As many queries of each class as :func:`asked_of` says.
    """
    usable, queries = _usable(members, shots), asked_of(members, shots)
    gen = generator(seed)
    episodes = []
    for _ in range(count):
        chosen = [usable[i] for i in torch.randperm(len(usable), generator=gen)[:WAYS].tolist()]
        mixed = [m[torch.randperm(len(m), generator=gen).numpy()] for m in chosen]
        asked = [m[shots : shots + queries] for m in mixed]
        episodes.append(np.concatenate([m[:shots] for m in mixed] + asked))
    return np.stack(episodes)


def labels(each: int) -> Tensor:
    """``[ways * each]``, class after class."""
    return torch.arange(WAYS).repeat_interleave(each)


def answers(head: str, support: Tensor, query: Tensor, shots: int) -> Tensor:
    """``[E, Q, ways]`` logits of queries ``[E, Q, D]``, given examples ``[E, S, D]``, in float64."""
    y = labels(shots)
    s, q = support.shape[1], query.shape[1]
    keep = (torch.arange(s + q) < s)[None]
    everybody = torch.cat([y, y.new_zeros(q)])

    def one(f: Tensor, g: Tensor) -> Tensor:
        return _closed(head, torch.cat([f, g]).double(), everybody, keep)[0, s:]

    return _side_by_side(one, support, query)


def left_out(head: str, support: Tensor, shots: int) -> Tensor:
    """``[E, S, ways]`` logits of each example when it alone is left out; for two shots or more."""
    y = labels(shots)
    keep, _ = recipes.masks(y, WAYS)
    rows = torch.arange(len(y))

    def one(f: Tensor) -> Tensor:
        return _closed(head, f.double(), y, keep)[rows, rows]

    return _side_by_side(one, support)


def _closed(head: str, x: Tensor, y: Tensor, keep: Tensor) -> Tensor:
    """``[M, S, ways]`` as ``transfer/recipes.py``; an entry's own head has squared distances as they are, times 1."""
    if head == "own":
        return recipes._simpleshot(x, y, WAYS, keep) / recipes.SCALE
    return recipes._CLOSED[head](recipes._prepared(x, head, None), y, WAYS, keep)


def _side_by_side(one, *given: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    parts = zip(*(torch.split(t, _AT_ONCE) for t in given), strict=True)
    return torch.cat([torch.vmap(one)(*part) for part in parts])


def temperatures(logits: Tensor, y: Tensor, weight: float = 2.0) -> Tensor:
    """``[E]``: ``calibrate.fit_temperature`` of each episode's ``logits [E, M, ways]``."""
    offsets = _LOG_TEMPERATURES.double()
    found = []
    for some in torch.split(logits, _AT_ONCE):
        scaled = some[:, None] / offsets.exp()[None, :, None, None]
        own = F.log_softmax(scaled, -1).gather(3, y[None, None, :, None].expand(*scaled.shape[:3], 1))
        found.append((-own.sum((2, 3)) + 0.5 * weight * offsets**2).argmin(1))
    return offsets.exp()[torch.cat(found)]


def held_near(shots: int) -> float:
    """What the temperature of distances to centres of so many examples is held near, over that of the card."""
    nothing = HeldOut(torch.zeros(0, dtype=torch.int64), torch.zeros(0, WAYS), None)
    return task_temperatures(nothing, labels(shots), WAYS, 1.0).answers


def losses_of(logits: Tensor, y: Tensor) -> Tensor:
    """``[E, M]`` log-losses under the temperature that fits each episode."""
    z = logits / temperatures(logits, y)[:, None, None]
    return -F.log_softmax(z, -1).gather(2, y[None, :, None].expand(len(z), -1, 1))[..., 0]


def described(pictures: Pictures, ancestor: Entry, size: int) -> Representation:
    """A domain under the ancestor's trunk, from evenly spaced pictures."""
    step = max(1, len(pictures.pixels) // _DESCRIBED)
    x = pictures.inputs(ancestor.preprocess, slice(None, None, step))
    return represent(features(ancestor.trunk, size, "last", x))


def measure(
    pictures: Pictures,
    library: Mapping[str, Entry],
    domains: Mapping[str, Representation],
    size: int,
    rows: np.ndarray,
    shots: int,
    scrambled: int,
    apart: int = 0,
    target: str = "",
) -> Measured:
    """All recipes on all episodes.

    Args:
        pictures: of the target domain.
        library: all entries, also the target's own; which of them an arm may see is decided later.
        domains: of each entry, as :func:`described`.
        size: of the pictures.
        rows: episodes, see :func:`drawn`.
        shots: ``K``.
        scrambled: on how many episodes labels are permuted too.
        apart: the first episodes, on which nobody has to choose: what only choosing needs is left at 0 there.
        target: whose own entry is not in mixtures.
    """
    x = pictures.inputs(library[ANCESTOR].preprocess)
    y = labels(shots)
    s = len(y)
    asked = labels((rows.shape[1] - s) // WAYS)
    kinds, correct, losses, probabilities, logme, permuted = [], [], [], [], [], []
    spent = 0.0
    index = torch.from_numpy(rows)
    gen = generator(7)
    # another permutation for each episode: one alone may leave some labels where they were
    shuffled = torch.stack([torch.randperm(s, generator=gen) for _ in range(scrambled)])[:, :, None]
    for name, entry in (*library.items(), (NONE, untrained(library[ANCESTOR].preprocess))):
        for layer in HEADS if name != NONE else (FIRST[0],):
            f = features(entry.trunk, size, layer, x)[index]
            support, query = f[:, :s], f[:, s:]
            for head in HEADS[layer] if name != NONE else ("own",):
                kinds.append(Kind(name, layer, head))
                z = answers(head, support, query, shots)
                correct.append((z.argmax(2) == asked).numpy())
                begun = time.perf_counter()
                missed = np.zeros((len(z), s if shots > 1 else 0), np.float32)
                if shots > 1:
                    out = left_out(head, support[apart:], shots)
                    if head == "own":
                        # the scale that was learnt and what its temperature is held near
                        out = out * entry.scale / held_near(shots - 1)
                    missed[apart:] = losses_of(out, y).float().numpy()
                losses.append(missed)
                spent += time.perf_counter() - begun
                if (layer, head) == FIRST:
                    # at one shot nothing was left out that a temperature could be fitted to
                    t = torch.ones(len(z)).double()
                    if shots > 1:
                        t[apart:] = temperatures(out, y)
                    probabilities.append((z / t[:, None, None]).softmax(2).float().numpy())
                    mixed_up = support[:scrambled].gather(1, shuffled.expand(-1, -1, support.shape[2]))
                    wrong = answers(head, mixed_up, query[:scrambled], shots)
                    permuted.append((wrong.argmax(2) == asked).double().mean(1).numpy())
            if name != NONE and layer == FIRST[0] and shots >= _LOGME_SHOTS:
                logme.append([0.0] * apart + [scores.logme(e, y, WAYS) for e in f[apart:, :s]])
    kinds.append(Kind(MIXED, FIRST[0], "own"))
    others = {n: e for n, e in library.items() if n != target}
    begun = time.perf_counter()
    seen = features(library[ANCESTOR].trunk, size, "last", x)
    likeness = np.zeros((len(rows), len(library)))
    for e, episode in enumerate(index[apart:, :s], apart):
        task = represent(seen[episode])
        likeness[e] = [similarity(task, domains[name]) for name in library]
    spent += time.perf_counter() - begun
    each = [dict(zip(library, row, strict=True)) for row in likeness[apart:]]
    found = [_of_mixture(others, a, x[r], size, shots) for a, r in zip(each, index[apart:], strict=True)]
    correct.append(np.zeros_like(correct[0]))
    losses.append(np.zeros_like(losses[0]))
    for e, (right, missed) in enumerate(found, apart):
        correct[-1][e], losses[-1][e] = right, missed
    return Measured(
        tuple(kinds),
        tuple(library),
        np.stack(correct, 1),
        np.stack(losses, 1),
        likeness,
        np.array(logme, np.float64).T if logme else np.zeros((len(rows), 0)),
        np.stack(probabilities, 1),
        np.array([[e.sources, e.classes, e.validation] for e in library.values()], np.float64),
        np.stack(permuted, 1) if scrambled else np.zeros((0, len(library))),
        spent / max(1, len(rows) - apart),
    )


def _of_mixture(
    library: Mapping[str, Entry], likeness: Mapping[str, float], x: Tensor, size: int, shots: int
) -> tuple[np.ndarray, np.ndarray]:
    """``[Q]`` of queries and ``[S]`` losses of left-out examples of an episode ``x``; see ``services/mixtures.py``.

    At one shot the product mixes nothing, and zeros stand for it.
    """
    s = WAYS * shots
    asked = labels((len(x) - s) // WAYS)
    if shots == 1:
        return np.zeros(len(asked), bool), np.zeros(0, np.float32)
    family = mixing.Family(library[ANCESTOR].trunk, tuple(e.trunk for n, e in library.items() if n != ANCESTOR))
    mixture = mixing.mix(family, {n: likeness[n] for n in library if n != ANCESTOR})
    trunk = mixing.restated(network(size), mixture.trunk, x[:s])
    f = features(trunk, size, FIRST[0], x)[None]
    right = answers("own", f[:, :s], f[:, s:], shots)[0].argmax(1) == asked
    used = {n: w for n, w in mixture.weights.items() if n != mixing.NULL}
    leader = library[max(used, key=lambda n: (used[n], n))] if used else library[ANCESTOR]
    out = left_out("own", f[:, :s], shots) * leader.scale / held_near(shots - 1)
    return right.numpy(), losses_of(out, labels(shots))[0].float().numpy()


def chance(ways: int = WAYS) -> float:
    """Accuracy of guessing."""
    return 1 / ways


def standard(values: np.ndarray) -> np.ndarray:
    """Each row to mean 0 and spread 1; 0 where all are equal."""
    centred = values - values.mean(-1, keepdims=True)
    spread = centred.std(-1, keepdims=True)
    flat = spread <= 1e-12 * np.maximum(1.0, np.abs(values).max(-1, keepdims=True))
    found: np.ndarray = np.where(flat, 0.0, centred / np.where(flat, 1.0, spread))
    return found
