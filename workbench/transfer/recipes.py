"""Recipes, what can be made of one piece of knowledge for a new task, and how well each answers left-out examples.

A recipe is an entry's trunk, the layer its features are taken from, an adapter, and a head. All heads but the entry's
own are closed forms of the features ``f [S, D]`` of the examples, so what they say of an example that was left out
follows from the matrix of inner products ``K = f f' [S, S]`` alone: nothing of width ``D`` is fitted again, and all
examples are left out at once::

    cosine, simpleshot   z_ik = 2 s <x_i, c_k> - s |c_k|^2  (or s <x_i, c_k> / |c_k|),  c_k without what is left out
    ridge                z_i  = scale K_i A^1/2 (A^1/2 K A^1/2 + strength I)^-1 A^1/2 T,   A = 0 for what is left out
    mahalanobis          -s u' K (beta t I + B_k K)^-1 u,   u = e_i - m_k / n_k,   Q_k = beta t I + f' B_k f

The ridge weighs classes alike (``A``), and leaving an example out changes the weights of all: with fixed weights the
residual over ``1 - h_ii`` of the hat matrix would say the same, with these it does not, hence the small systems. The
third follows from ``(b I + f' B f)^-1 f' = f' (b I + B f f')^-1``. Each equals the head of that name in
``learn/algorithms``, adapted again for every example that is left out.

Whatever shows one picture, its copies and its altered views, is one group, which is left out together: a view that
stays would give the answer away.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.core.values import EntryId
from workbench.learn.calibrate import fit_temperature
from workbench.learn.heads import one_hot
from workbench.learn.influence import Centroids, UnitRidge

Layer = Literal["last", "previous"]
Adapter = Literal["none", "norm"]
Head = Literal["own", "simpleshot", "ridge", "cosine", "mahalanobis"]

ONE_BY_ONE = 5
"""Up to so many examples of the largest class each is left out on its own, beyond in parts."""
PARTS, REPEATS = 5, 3

_HEADS: dict[Head, str] = {
    "own": "",
    "simpleshot": "SimpleShot head",
    "ridge": "ridge head",
    "cosine": "cosine head",
    "mahalanobis": "Mahalanobis head",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is made of an entry.

    Attributes:
        entry: whose trunk, ``None`` for the untrained one.
        layer: features of the last block, or of the one before it.
        adapter: ``norm`` measures the batch norms' statistics on the examples.
        head: ``own`` is the entry's algorithm as it was trained.
    """

    entry: EntryId | None
    layer: Layer = "last"
    adapter: Adapter = "none"
    head: Head = "own"

    def __post_init__(self) -> None:
        if self.head == "own" and (self.layer, self.adapter) != ("last", "none"):
            raise ValueError("an entry's own head belongs on its own trunk as it is")

    @property
    def own(self) -> bool:
        """Whether it is the entry as it was trained."""
        return self.head == "own"

    @property
    def words(self) -> str:
        """For people, after the entry's name; "" for the entry as it is."""
        layer = " on the block before the last" if self.layer == "previous" else ""
        return _HEADS[self.head] + layer + (", norms measured on the examples" if self.adapter == "norm" else "")


KINDS: tuple[tuple[Layer, Adapter, Head], ...] = (
    ("last", "none", "own"),
    ("last", "none", "ridge"),
    ("last", "none", "simpleshot"),
    ("last", "none", "mahalanobis"),
    ("previous", "none", "ridge"),
    ("previous", "none", "simpleshot"),
    ("last", "none", "cosine"),
    ("last", "norm", "ridge"),
    ("last", "norm", "simpleshot"),
    ("previous", "none", "mahalanobis"),
    ("previous", "none", "cosine"),
)
"""What is tried of every entry, the likeliest first."""
MOST = 24


def menu(entries: Sequence[EntryId], most: int = MOST) -> list[Recipe]:
    """At most ``most`` recipes: every kind for all entries before the next kind.

    Args:
        entries: the most promising first.
        most: recipes in all.
    """
    return [Recipe(entry, *kind) for kind in KINDS for entry in entries][:most]


class LeftOut(NamedTuple):
    """What a head says of examples that it was not shown.

    Attributes:
        rows: the examples that could be left out ``[M]``, ascending; none of a class that would be gone with them.
        logits: ``[R, M, N]``: once for examples that are left out one by one, else once for every way to part them.
    """

    rows: Tensor
    logits: Tensor


class Judged(NamedTuple):
    """A head's left-out answers, made as sure as they are right.

    Attributes:
        rows: as in :class:`LeftOut`.
        logits: ``[M, N]``, the mean over the repeats.
        temperature: that all left-out answers together ask for.
        losses: log-loss of each ``[M]``, nats, mean over the repeats.
    """

    rows: Tensor
    logits: Tensor
    temperature: float
    losses: Tensor


def judged(found: LeftOut, y: Tensor, start: float = 1.0, views: int = 1) -> Judged:
    """The log-losses of left-out answers under the one temperature that fits them all.

    Args:
        found: of :func:`left_out`.
        y: ``[S]``.
        start: temperature that few answers are held near.
        views: in how many views each picture is shown, one after the other for all pictures: ``S`` is so many times
            their number. A picture's loss is the mean over its views, its logits are those of the first.
    """
    truth = y[found.rows]
    repeats, _, ways = found.logits.shape
    weight = 2.0 * views  # the views of a picture say no more of a temperature than one picture does
    temperature = fit_temperature(found.logits.reshape(-1, ways), truth.repeat(repeats), start, weight)
    losses = torch.stack([F.cross_entropy(z / temperature, truth, reduction="none") for z in found.logits])
    first = len(found.rows) // views
    each = losses.mean(0).view(views, first).mean(0)
    return Judged(found.rows[:first], found.logits.mean(0)[:first], temperature, each)


def left_out(
    features: Tensor,
    y: Tensor,
    ways: int,
    head: Head | Form,
    groups: Sequence[Hashable] | None = None,
    centre: Tensor | None = None,
    seed: int = 0,
) -> LeftOut:
    """What a closed-form head says of every example that can be left out, in float64.

    One by one up to five examples a class; beyond, a fifth at a time, of every class alike, in three ways to part them.

    Args:
        features: ``[S, D]``.
        y: ``[S]`` in ``0..ways-1``.
        ways: ``N``.
        head: one of the closed forms, or one that an entry learnt, which has its features already.
        groups: per example, which picture it shows; what shows one picture is left out together.
        centre: ``[D]``, taken off the features by ``simpleshot``; ``None``: nothing is.
        seed: of the parts.

    Raises:
        ValueError: a head without a closed form, or features that are not finite.
    """
    keep, asked = masks(y, ways, groups, seed)
    return gathered(answers(features, y, ways, head, keep, centre), asked)


Form = Centroids | UnitRidge
"""A head that an entry learnt, on features that it was given."""


def answers(
    features: Tensor, y: Tensor, ways: int, head: Head | Form, keep: Tensor, centre: Tensor | None = None
) -> Tensor:
    """``[M, S, N]`` logits for all examples of a head fitted to what each mask keeps; see :func:`left_out`."""
    if isinstance(head, Centroids):
        inner, squared = _centroids(head.x.detach().double(), y, ways, keep)
        return head.scale * (2 * inner - squared)
    if isinstance(head, UnitRidge):
        return _ridge(F.normalize(head.x.detach().double(), dim=1), y, ways, keep, head.strength, head.scale)
    if head not in _CLOSED:
        raise ValueError(f"{head} has no closed form")
    x = features.detach().double()
    if not torch.isfinite(x).all():
        raise ValueError("features are not finite")
    return _CLOSED[head](_prepared(x, head, centre), y, ways, keep)


def gathered(z: Tensor, asked: Tensor) -> LeftOut:
    """What was asked about, ``z [M, S, N]``: once each where one is left out at a time, else once in every way."""
    if not len(z):
        return LeftOut(torch.zeros(0, dtype=torch.long), z.new_zeros((1, 0, z.shape[2])))
    times = asked.sum(0)
    rows = torch.nonzero(times == times.max()).flatten()
    # by example and then by mask: each example's masks in their order
    example, mask = torch.nonzero(asked[:, rows].T, as_tuple=True)
    found = z[mask, rows[example]].view(len(rows), int(times.max()), -1)
    return LeftOut(rows, found.transpose(0, 1))


def masks(
    y: Tensor,
    ways: int,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    gone: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Which examples stay, and which are asked about, for each part that is left out: two ``[M, S]`` bools.

    A class of which nothing would stay keeps its examples, and these are not asked about.

    Args:
        y: ``[S]``.
        ways: ``N``.
        groups: per example, which picture it shows.
        seed: of the parts.
        gone: ``[S]`` bool, examples that neither stay nor are asked about, as if they had never been there.
    """
    names = list(groups) if groups is not None else list(range(len(y)))
    if gone is not None and gone.any():
        here = torch.nonzero(~gone).flatten()
        found = masks(y[here], ways, [names[i] for i in here.tolist()], seed)
        keep, asked = (torch.zeros(len(part), len(y), dtype=torch.bool) for part in found)
        keep[:, here], asked[:, here] = found
        return keep, asked
    number = {g: i for i, g in enumerate(dict.fromkeys(names))}
    group = torch.tensor([number[g] for g in names])
    member = one_hot(y, ways, torch.zeros(())).bool()
    # a class's size is its number of pictures, however many views there are of each
    pictures = torch.zeros(len(number), ways, dtype=torch.bool).index_put((group, y), torch.tensor(True)).sum(0)
    if int(pictures.max()) <= ONE_BY_ONE:
        away = group[None, :] == torch.arange(len(number))[:, None]
    else:
        away = torch.cat([_parts(y, ways, group, seed + r) for r in range(REPEATS)])
    empty = (away[:, :, None] | ~member[None]).all(1)
    away = away & ~empty[:, y]
    away = away[away.any(1)]
    return ~away, away


def _parts(y: Tensor, ways: int, group: Tensor, seed: int) -> Tensor:
    """``[PARTS, S]``: a fifth of every class's groups in each part; a group is where it is first met."""
    gen = torch.Generator().manual_seed(seed)
    part: dict[int, int] = {}
    for c in range(ways):
        own = torch.unique(group[y == c])
        free = [g for g in own[torch.randperm(len(own), generator=gen)].tolist() if g not in part]
        # the classes do not all begin with part 0, or small ones would leave the last parts empty
        part |= {g: (i + c) % PARTS for i, g in enumerate(free)}
    place = torch.tensor([part[g] for g in group.tolist()])
    return torch.stack([place == p for p in range(PARTS)])


# ---- the closed forms: features [S, D], labels, ways and what stays [M, S] to logits [M, S, N] -----------------------


SCALE = 10.0
STRENGTH = 0.5
BETA = 1.0
"""As the heads' hyperparameters are by default; a test compares."""


def _prepared(x: Tensor, head: Head, centre: Tensor | None) -> Tensor:
    """The features as the head sees them."""
    if head == "mahalanobis":
        return x
    if head == "simpleshot" and centre is not None:
        x = x - centre.to(x)
    return F.normalize(x, dim=1)


def _members(y: Tensor, ways: int, keep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """``[M, S, N]``: 1 where an example of the class stays, and their number ``[M, N]``."""
    member = keep.to(like)[:, :, None] * one_hot(y, ways, like)[None]
    return member, member.sum(1)


def _centroids(x: Tensor, y: Tensor, ways: int, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products with the class means ``[M, S, N]``, and the means' squared lengths ``[M, 1, N]``."""
    kernel = x @ x.T
    member, count = _members(y, ways, keep, x)
    inner = (kernel @ member) / count[:, None]
    return inner, ((member * inner).sum(1) / count)[:, None]


def _simpleshot(x: Tensor, y: Tensor, ways: int, keep: Tensor) -> Tensor:
    inner, squared = _centroids(x, y, ways, keep)
    return SCALE * (2 * inner - squared)


def _cosine(x: Tensor, y: Tensor, ways: int, keep: Tensor) -> Tensor:
    inner, squared = _centroids(x, y, ways, keep)
    return SCALE * inner / squared.clamp_min(1e-24).sqrt()


def _ridge(x: Tensor, y: Tensor, ways: int, keep: Tensor, strength: float = STRENGTH, scale: float = SCALE) -> Tensor:
    kernel = x @ x.T
    member, count = _members(y, ways, keep, x)
    stay = keep.to(x)
    root = (stay * (stay.sum(1, keepdim=True) / ways) / count[:, y]).sqrt()
    system = root[:, :, None] * kernel * root[:, None, :] + strength * torch.eye(len(x), dtype=x.dtype)
    weights = torch.linalg.solve(system, root[:, :, None] * member)
    out: Tensor = scale * (kernel @ (root[:, :, None] * weights))
    return out


def _mahalanobis(x: Tensor, y: Tensor, ways: int, keep: Tensor) -> Tensor:
    n, width = x.shape
    stay = keep.to(x)
    # inner products about the mean of what stays: distances do not change, and large means do not cost digits
    x = x - x.mean(0)
    kernel = x @ x.T
    eye = torch.eye(n, dtype=x.dtype)
    everything = _spread(stay, stay.sum(1))
    unit = (everything * kernel).sum((1, 2)) / width
    unit = torch.where(unit > 1e-12, unit, torch.ones_like(unit)) * BETA
    member, count = _members(y, ways, keep, x)
    out = []
    for k in range(ways):
        own, number = member[:, :, k], count[:, k]
        share = (number / (number + 1))[:, None, None]
        b = share * _spread(own, number) + (1 - share) * everything
        u = eye - (own / number[:, None])[:, :, None]  # column i: e_i minus the class's mean
        solved = torch.linalg.solve(unit[:, None, None] * eye + b @ kernel, u)
        out.append(-((kernel @ u) * solved).sum(1))
    z = torch.stack(out, 2)
    # what no kept example spans is the same for all classes, and large
    return z - z.amax(2, keepdim=True)


def _spread(member: Tensor, count: Tensor) -> Tensor:
    """``[M, S, S]`` ``C`` with ``f' C f`` the covariance of the members ``[M, S]``, 0 for one."""
    centred = torch.diag_embed(member) - member[:, :, None] * member[:, None, :] / count[:, None, None]
    return centred / (count - 1).clamp_min(1)[:, None, None]


_CLOSED: dict[Head, Callable[[Tensor, Tensor, int, Tensor], Tensor]] = {
    "simpleshot": _simpleshot,
    "ridge": _ridge,
    "cosine": _cosine,
    "mahalanobis": _mahalanobis,
}
CLOSED = tuple(_CLOSED)
