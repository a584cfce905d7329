"""Transfer by task similarity: a start mixed from the networks that one ancestor became on similar sources.

To use it on a new task::

    trunks = [mixing.trunk_of(network, state, name=entry_id, ancestor=entry.provenance.get("ancestor", "")), ...]
    for family in mixing.families(trunks):                  # entries of one ancestor that is among the trunks too
        mixture = mixing.mix(family, similarities, recipe)  # similarities: entry id -> number, of any of them
        trunk = mixing.restated(network, mixture.trunk, support.x, recipe.pictures)
        # then any head on its features, or ``fine_tuning.tune(network, trunk, support, fine_tuning.Recipe(), ctx)``

``network`` is the backbone's skeleton (``forms.OnNetwork.network``). The trunk that comes out has all tensors of the
network under its own names, so ``functional.named`` puts it into the state of any algorithm on that backbone.

The start is::

    theta = theta_0 + sum_s w_s d_s,    d_s = theta_s - theta_0,    (w, w_0) = softmax((sim_s, null) / T) over the top k

with a *null source*, the ancestor itself, whose similarity is a fixed number: what resembles the task no more than
that is left out, so a library of which nothing resembles it gives the ancestor to the last bit. Since all weights add
to 1, ``theta = w_0 theta_0 + sum_s w_s theta_s``, a mean in the sense of :mod:`workbench.learn.averaging`, which
refuses networks without a common ancestor: their hidden units are numbered differently.

The running averages of batch norm are those of no network that was mixed. They are measured again on the support set,
and shrunk towards the mixture's, since a few pictures say little (as TaskNorm does; Bronskill et al. 2020, arXiv
2003.03284).

The mixture is one of "model soups" (Wortsman et al. 2022, arXiv 2203.05482) whose weights depend on the task.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.learn import averaging, functional, norm
from workbench.learn.features import batch_size
from workbench.learn.norm import Norm2d
from workbench.learn.protocol import State, Tensors
from workbench.transfer.rank import NO_TRANSFER_PRIOR

NULL = ""
"""The null source's name among weights: the ancestor as it is."""
PICTURES = 100.0
"""How many pictures a mixture's running averages count for, beside those of a few examples."""
MEASURED = 100
"""Examples that running averages are measured on at most, all of them in one pass, which holds what every picture is
inside the network at once: a third of a gigabyte with Conv-4 at 84 pixels. A choice. To measure more of them a few at a
time would take a pass for each layer, since what a layer meets depends on what was measured before it."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How sources are weighed. None of it is the person's to set. These are choices, not measured: where
    ``tests.benchmarks.transfer`` reports mixtures, ``k`` and the temperature are chosen for each domain on the others.

    Attributes:
        k: how many sources are mixed at most.
        temperature: of the softmax over similarities.
        null: the ancestor's similarity; ``-inf`` leaves the ancestor out.
        pictures: how many pictures the mixture's running averages count for; ``inf`` keeps them.
    """

    k: int = 3
    temperature: float = 0.1
    null: float = NO_TRANSFER_PRIOR
    pictures: float = PICTURES

    def __post_init__(self) -> None:
        if self.k < 1 or not self.temperature > 0 or not self.pictures >= 0:
            raise ValueError("k is at least 1, the temperature above 0, and pictures are not negative")


@dataclass(frozen=True, slots=True, eq=False)
class Trunk:
    """A trained network that knows where it comes from.

    Attributes:
        name: of its entry; unique in a library.
        parameters: by their names in the network.
        buffers: its running averages, likewise.
        ancestor: :attr:`digest` of the trunk that its training began with; "" for none that is known.
    """

    name: str
    parameters: Tensors
    buffers: Tensors
    ancestor: str = ""

    @property
    def tensors(self) -> Tensors:
        """Parameters and running averages."""
        return {**self.parameters, **self.buffers}

    @property
    def digest(self) -> str:
        """What descendants of it bear as their ancestor."""
        return averaging.digest(self.tensors)


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """An ancestor and what became of it on some sources, in the order of their names."""

    ancestor: Trunk
    members: tuple[Trunk, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """A mixed trunk.

    Attributes:
        trunk: its running averages are the mixture's; see :func:`restated`.
        weights: by name, those above 0, :data:`NULL` for the ancestor; they add to 1.
    """

    trunk: Trunk
    weights: dict[str, float]


def trunk_of(network: nn.Module, state: State, name: str, ancestor: str = "") -> Trunk:
    """The trunk in an algorithm's state; which part of the state holds it does not matter.

    Args:
        network: the backbone's skeleton.
        state: of any algorithm on that backbone.
        name: of the entry.
        ancestor: as the entry's provenance has it, or "".

    Raises:
        WorkbenchError: the state lacks a tensor of the network, or has it in another shape.
    """
    held = functional.under({**state.learned, **state.memory})
    found: tuple[Tensors, Tensors] = ({}, {})
    for part, wanted in zip(found, (network.named_parameters(), network.named_buffers()), strict=True):
        for tensor, like in wanted:
            if tensor not in held or held[tensor].shape != like.shape:
                raise _refused(f"{name} lacks {tensor} of its network", "Train that knowledge again")
            part[tensor] = held[tensor].detach()
    return Trunk(name, *found, ancestor)


def families(trunks: Sequence[Trunk]) -> tuple[Family, ...]:
    """Which of these can be mixed: the descendants of each trunk that is here too and of the same shape.

    Any order gives the same families, by their ancestors' names. Where two trunks are the same to the last bit, the
    one whose name comes first is the ancestor.
    """
    known: dict[str, Trunk] = {}
    ordered = sorted(trunks, key=lambda t: t.name)
    for trunk in ordered:
        known.setdefault(trunk.digest, trunk)
    members: dict[str, list[Trunk]] = {}
    for trunk in ordered:
        parent = known.get(trunk.ancestor)
        if parent is not None and parent is not trunk and _shapes(parent) == _shapes(trunk):
            members.setdefault(trunk.ancestor, []).append(trunk)
    found = [Family(known[mark], tuple(children)) for mark, children in members.items()]
    return tuple(sorted(found, key=lambda f: f.ancestor.name))


def weights(similarities: Mapping[str, float], recipe: Recipe | None = None) -> dict[str, float]:
    """``w_s`` of the ``k`` most similar sources and ``w_0`` of the null source, under its name; they add to 1.

    Sources that are no more similar than the null source have no weight. Of equally similar ones at the end of the
    list the names decide, so that the order of the library does not matter.

    Args:
        similarities: by name; finite.
        recipe: ``None``: the default.

    Raises:
        ValueError: a similarity that is no number, or nothing to weigh: no source, and a null source of ``-inf``.
    """
    recipe = recipe or Recipe()
    if any(not math.isfinite(s) for s in similarities.values()):
        raise ValueError("a similarity is not finite")
    best = sorted((-s, name) for name, s in similarities.items() if s > recipe.null)[: recipe.k]
    scores = {name: -s for s, name in best}
    if recipe.null > -math.inf:
        scores[NULL] = recipe.null
    if not scores:
        raise ValueError("there is nothing to mix")
    top = max(scores.values())
    # in the order of the names, so that sums round alike in whatever order the library was read
    raised = {name: math.exp((scores[name] - top) / recipe.temperature) for name in sorted(scores)}
    total = math.fsum(raised.values())
    return {name: r / total for name, r in raised.items()}


def mix(family: Family, similarities: Mapping[str, float], recipe: Recipe | None = None) -> Mixture:
    """The start for a new task; see the module.

    Args:
        family: the ancestor and its descendants.
        similarities: of the task to members, by name; those of others are not looked at, and members without one are
            left out.
        recipe: ``None``: the default.

    Raises:
        WorkbenchError: a member does not come from the ancestor.
        ValueError: see :func:`weights`.
    """
    names = {m.name for m in family.members}
    return mixed(family, weights({n: s for n, s in similarities.items() if n in names}, recipe))


def mixed(family: Family, given: Mapping[str, float]) -> Mixture:
    """``theta_0 + sum_s w_s (theta_s - theta_0)`` with given weights, which are divided by their sum.

    Args:
        family: the ancestor and its descendants.
        given: by name, :data:`NULL` for the ancestor; not negative.

    Raises:
        WorkbenchError: a member does not come from the ancestor, or the weights are no weights.
        KeyError: a weight of somebody who is not in the family.
    """
    mark = family.ancestor.digest
    by_name = {m.name: m for m in family.members}
    models, used = [], {}
    for name in sorted(given):
        if given[name] == 0:
            continue
        trunk = family.ancestor if name == NULL else by_name[name]
        models.append(averaging.Model(trunk.tensors, mark if name == NULL else trunk.ancestor))
        used[name] = given[name]
    if any(m.ancestor != mark for m in models):
        raise _refused(
            "they do not come from one common network, so their hidden units are numbered differently",
            "Train them from one entry (--from), and mix those",
        )
    tensors = averaging.mean(models, list(used.values()))
    total = math.fsum(used.values())
    trunk = Trunk(
        "mixture",
        {n: tensors[n] for n in family.ancestor.parameters},
        {n: tensors[n] for n in family.ancestor.buffers},
        mark,
    )
    return Mixture(trunk, {name: w / total for name, w in used.items()})


def restated(
    network: nn.Module, trunk: Trunk, x: Tensor, pictures: float = PICTURES, ctx: Context | None = None
) -> Trunk:
    """The same weights with running averages that the examples were asked about.

    Each layer's are ``n / (n + pictures)`` those of the ``n`` examples and the rest the trunk's, as if both had been
    pooled: the variance holds the distance of the two means too. Layer by layer: what a layer measures has been
    normalised by the layers before it just as it will be in use. Of more than :data:`MEASURED` examples so many, spread
    evenly over their order, stand for all.

    Args:
        network: the backbone's skeleton.
        trunk: whose running averages are the start.
        x: the examples ``[n, C, H, W]``, normalised.
        pictures: how many pictures the trunk's own averages count for; ``inf`` keeps them.
        ctx: checked before each layer that is measured; ``None``: nobody can ask to stop.

    Raises:
        JobCancelledError: from ``ctx``.
    """
    return trunk if math.isinf(pictures) else _measured(network, trunk, x, range(len(x)), pictures, ctx)[0]


def measured(
    network: nn.Module,
    trunk: Trunk,
    x: Tensor,
    pictures: float = PICTURES,
    kept: Tensor | None = None,
    ctx: Context | None = None,
) -> tuple[Trunk, Tensor]:
    """The trunk restated on some of the examples, and the features of all of them under it; each is seen once.

    Args:
        network: the backbone's skeleton.
        trunk: whose running averages are the start.
        x: the examples ``[n, C, H, W]``, normalised.
        pictures: how many pictures the trunk's own averages count for.
        kept: ``[n]`` bool, those that are measured; ``None``: all. What is not kept changes nothing but its own row.
        ctx: checked before each layer that is measured and between passes; ``None``: nobody can ask to stop.

    Returns:
        The trunk, and features ``[n, D]``.

    Raises:
        JobCancelledError: from ``ctx``.
    """
    rows = range(len(x)) if kept is None else torch.nonzero(kept).flatten().tolist()
    restated, asked, own = _measured(network, trunk, x, rows, pictures, ctx)
    if len(asked) == len(x):
        return restated, own
    left = torch.ones(len(x), dtype=torch.bool)
    left[asked] = False
    others = features(network, restated, x[left], ctx)
    found = others.new_empty(len(x), others.shape[1])
    found[left] = others
    if asked:
        found[asked] = own
    return restated, found


@torch.no_grad()
def features(network: nn.Module, trunk: Trunk, x: Tensor, ctx: Context | None = None) -> Tensor:
    """``[n, D]`` of pictures ``[n, C, H, W]`` under a trunk as it is, a few at a time.

    Raises:
        JobCancelledError: from ``ctx``.
    """
    found = []
    for some in torch.split(x, batch_size(*x.shape[2:])):
        if ctx is not None:
            ctx.check()
        found.append(functional.call(network, trunk.parameters, trunk.buffers, some))
    return torch.cat(found)


@torch.no_grad()
def _measured(
    network: nn.Module, trunk: Trunk, x: Tensor, rows: Sequence[int], pictures: float, ctx: Context | None
) -> tuple[Trunk, list[int], Tensor]:
    """The trunk restated on these rows, which of them were asked, and their features, if any."""
    count = len(rows)
    if not count:
        return trunk, [], x[:0]
    asked = [rows[i * count // min(count, MEASURED)] for i in range(min(count, MEASURED))]
    share = count / (count + pictures)
    hooked = copy.deepcopy(network)  # hooks would stay in a network that others use

    def pool(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if ctx is not None:
            ctx.check()
        _pool(layer, norm.moments(inputs[0]), share)

    for part in hooked.modules():
        if isinstance(part, Norm2d):
            part.register_forward_pre_hook(pool)
    buffers = {n: t.detach().clone() for n, t in trunk.buffers.items()}
    return replace(trunk, buffers=buffers), asked, functional.call(hooked, trunk.parameters, buffers, x[asked])


def measuring(
    network: nn.Module, trunk: Trunk, x: Tensor, more: Tensor, pictures: float = PICTURES
) -> Callable[[Tensor, Context], Tensor]:
    """What gives the features ``[S + n, D]`` of ``x [S, ...]`` and ``more [n, ...]`` under a restated trunk.

    It is asked with what of ``x`` the trunk is restated on, ``[S]`` bool, and a context that is checked meanwhile;
    ``more`` is never measured.
    """

    def features(kept: Tensor, ctx: Context) -> Tensor:
        # put together for each pass: it costs little beside that, and a second copy of the pictures would stay
        everything, asked = torch.cat([x, more]), torch.cat([kept, kept.new_zeros(len(more))])
        return measured(network, trunk, everything, pictures, asked, ctx)[1]

    return features


def _pool(layer: nn.Module, seen: norm.Moments, share: float) -> None:
    """Pool a layer's running averages, in place, with those of what comes in."""
    assert isinstance(layer, Norm2d)
    mean, var = seen.mean, seen.var * (seen.values / max(seen.values - 1, 1))
    apart = (mean - layer.running_mean).square()
    layer.running_var.mul_(1 - share).add_(share * var).add_(share * (1 - share) * apart)
    layer.running_mean.lerp_(mean, share)


def _shapes(trunk: Trunk) -> dict[str, torch.Size]:
    return {n: t.shape for n, t in trunk.tensors.items()}


def _refused(why: str, what_to_do: str) -> WorkbenchError:
    return WorkbenchError("The networks were not mixed", why, what_to_do)
