"""Averages of trained networks: when they mean something, and which of them is meant.

``theta_bar = sum_i s_i theta_i`` of networks of one shape is a network that works only where the ``theta_i`` lie in one
basin. Fine-tuned from one common start ``theta_0`` they do (Wortsman et al. 2022, "model soups", arXiv 2203.05482; it
is one round of Reptile with step 1). Trained from starts of their own they do not: hidden units can be numbered in any
order without changing what a network computes, two networks number them differently, and their average is near chance.
So every :class:`Model` carries the digest of its ancestor's tensors, and models of different ancestors are refused.

The record says where a network comes from, not what was done to it since. :func:`checked` asks the data: an average
that is much worse than its members is refused too.

Three means, each of tensors *by name*:

* plain: ``s_i = 1 / n``;
* weighted: any ``s_i >= 0``, divided by their sum;
* Fisher-weighted (Matena, Raffel 2022, arXiv 2111.09832): ``(sum_i F_i)^-1 sum_i F_i theta_i`` with the diagonal
  ``F_i = E_x E_{y ~ p(y|x)} [(d log p(y|x) / d theta)^2]`` at ``theta_i``. Labels are *drawn from the model*: with the
  true ones it would be another matrix, which vanishes where a model is sure and right.

Where the sources' losses are quadratic, ``L_i = (theta - theta_i)' H_i (theta - theta_i) / 2``, the plain mean is the
minimum of their sum if all ``H_i`` are equal, and only the mean weighted by ``H_i`` is it otherwise.

What does not belong into an average and is left out: classifiers (class 3 of one source has nothing to do with class 3
of another), and tensors that are not floating point, such as counters. Running averages of batch norm are those of no
network that is averaged: they have to be measured again afterwards.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.learn.checkpoint import update_digest
from workbench.learn.protocol import Tensors

ANCESTOR, DELTA = "ancestor.", "delta."
"""Names in a state's memory: ``ancestor.<tensor>``, and ``delta.<source>.<tensor>`` in half precision."""


@dataclass(frozen=True, slots=True)
class Model:
    """A trained trunk that knows where it comes from.

    Attributes:
        tensors: its floating-point tensors, by the names they have in the network.
        ancestor: :func:`digest` of the tensors that its training began with.
    """

    tensors: Tensors
    ancestor: str


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the floating-point tensors by name: two networks of one digest are the same, to the last bit."""
    h = hashlib.sha256()
    update_digest(h, "ancestor", _floats(tensors))
    return h.hexdigest()


def descendants(trained: Mapping[int, Mapping[str, Tensor]], ancestor: Mapping[str, Tensor]) -> dict[int, Model]:
    """Models that were trained from ``ancestor``, by source; all are a trunk's tensors by their names in the network.

    Raises:
        WorkbenchError: one is not a network of the ancestor's shape.
    """
    first, mark = _shapes(_floats(ancestor)), digest(ancestor)
    found = {i: Model(_floats(tensors), mark) for i, tensors in trained.items()}
    if any(_shapes(m.tensors) != first for m in found.values()):
        raise _refused("one is no network of its ancestor's shape", "Average networks of one backbone")
    return found


def mean(models: Sequence[Model], weights: Sequence[float] | None = None) -> Tensors:
    """``sum_i s_i theta_i``, without a graph; the mean of a single model is that model, to the last bit.

    Args:
        models: at least one, all of one ancestor.
        weights: not negative, one per model, divided by their sum; ``None``: all alike.

    Raises:
        WorkbenchError: the models do not share an ancestor or a shape, or the weights are no weights.
    """
    _related(models)
    given = [1.0] * len(models) if weights is None else [float(w) for w in weights]
    if len(given) != len(models) or not all(math.isfinite(w) and w >= 0 for w in given) or not sum(given) > 0:
        raise _refused("the weights are not one number from 0 up per network", "Give weights of which one is above 0")
    used = [(m, w) for m, w in zip(models, given, strict=True) if w > 0]
    if len(used) == 1:
        return {n: t.detach().clone() for n, t in used[0][0].tensors.items()}
    total = sum(w for _, w in used)
    return {n: torch.stack([(w / total) * m.tensors[n].detach() for m, w in used]).sum(0) for n in models[0].tensors}


def fisher_mean(models: Sequence[Model], fishers: Sequence[Mapping[str, Tensor]], floor: float = 0.0) -> Tensors:
    """``(sum_i F_i)^-1 sum_i F_i theta_i``, number by number.

    Args:
        models: at least one, all of one ancestor.
        fishers: the diagonal of each, by name and of the parameter's shape; a tensor that one lacks has the plain mean.
        floor: added to every ``F_i``, as a share of the tensor's mean over all models: a number that matters to nobody
            has the plain mean then, instead of one decided by noise. Where all are 0 it has it in any case.

    Raises:
        WorkbenchError: the models do not share an ancestor or a shape, or a diagonal has another shape.
    """
    _related(models)
    if len(fishers) != len(models):
        raise _refused("there is not one Fisher information per network", "Measure it for each of them")
    out = mean(models)
    if len(models) == 1:
        return out
    for name, plain in out.items():
        if not all(name in f for f in fishers):
            continue
        f = torch.stack([f[name].detach().to(plain.dtype) for f in fishers])
        if f.shape[1:] != plain.shape or bool((f < 0).any()):
            raise _refused(f"the Fisher information of {name} does not fit it", "Measure it anew")
        f = f + floor * f.mean()
        total = f.sum(0)
        weighted = (f * torch.stack([m.tensors[name].detach() for m in models])).sum(0) / total
        out[name] = torch.where(total > 0, weighted, plain)
    return out


def fisher_diagonal(
    logits: Callable[[Tensors, Tensor], Tensor], at: Mapping[str, Tensor], x: Tensor, gen: Generator, ctx: Context
) -> Tensors:
    """The *sum* over examples of the squared gradient of ``log p(y|x)`` for one drawn ``y`` each.

    Example by example: the square of a batch's mean gradient is something else, and far smaller.

    Args:
        logits: ``[1, N]`` of parameters by name and one picture ``[1, C, H, W]``.
        at: the parameters.
        x: pictures ``[B, C, H, W]``.
        gen: draws the labels from the model's own answers.
        ctx: checked before each example.
    """
    leaves = {n: t.detach().requires_grad_() for n, t in at.items()}
    total = {n: torch.zeros_like(t) for n, t in at.items()}
    for picture in x:
        ctx.check()
        with torch.enable_grad():
            z = logits(leaves, picture[None])
            # drawn where the generator lives: one on the processor serves every device
            y = torch.multinomial(z.detach().softmax(1).to(gen.device), 1, generator=gen)[:, 0]
            loss = F.cross_entropy(z, y.to(z.device))
            grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        total = {n: t if g is None else t + g.square() for (n, t), g in zip(total.items(), grads, strict=True)}
    return total


def delta(model: Model, ancestor: Mapping[str, Tensor]) -> Tensors:
    """``theta_i - theta_0`` in half precision: what a source changed, at half the size of a network.

    Differences of fine-tuning are small, so half precision of the difference is far finer than of the network.

    Raises:
        WorkbenchError: it is not of this ancestor.
    """
    if digest(ancestor) != model.ancestor:
        raise _refused("a network and the one it is said to come from do not belong together", _SHARE)
    return _changes(model, ancestor)


def remembered(models: Mapping[int, Model], ancestor: Mapping[str, Tensor]) -> Tensors:
    """What a state's memory holds of some sources' models: the ancestor, and what each source changed of it."""
    out = {ANCESTOR + n: t.detach() for n, t in _floats(ancestor).items()}
    _related(list(models.values()), digest(ancestor))
    for i, model in models.items():
        out |= {f"{DELTA}{i}.{n}": t for n, t in _changes(model, ancestor).items()}
    return out


def recalled(memory: Mapping[str, Tensor]) -> dict[int, Model]:
    """The models that :func:`remembered` put into a state's memory, up to the rounding of half precision, by source.

    None where it holds none; ``mean`` of some of them is a network whose statistics have to be measured anew.

    Raises:
        WorkbenchError: the memory was not made by that function.
    """
    ancestor = {n.removeprefix(ANCESTOR): t for n, t in memory.items() if n.startswith(ANCESTOR)}
    changes: dict[int, Tensors] = {}
    for name, t in memory.items():
        if name.startswith(DELTA):
            source, _, tensor = name.removeprefix(DELTA).partition(".")
            changes.setdefault(int(source), {})[tensor] = t
    if any(_shapes(c) != _shapes(ancestor) for c in changes.values()):
        raise _refused("what a source changed does not fit the ancestor", "Train the knowledge again")
    mark = digest(ancestor)
    return {i: Model({n: t.detach() + changes[i][n].to(t) for n, t in ancestor.items()}, mark) for i in sorted(changes)}


def checked(
    average: Tensors, models: Sequence[Model], accuracy: Callable[[Tensors], float], *, tolerance: float = 0.1
) -> Tensors:
    """``average``, if it does about as well as its members do.

    The ancestor alone cannot tell that a member's hidden units were renumbered since, or that it was trained so long
    that it has left the basin.

    Args:
        average: of ``models``.
        models: its members.
        accuracy: 0..1 of a network, on pictures that tell.
        tolerance: by how much it may be worse than the mean of its members.

    Raises:
        WorkbenchError: it is worse by more than that.
    """
    members = sum(accuracy(m.tensors) for m in models) / len(models)
    found = accuracy(average)
    if not found >= members - tolerance:
        raise _refused(
            f"the average is right in {found:.0%} and the networks themselves in {members:.0%}: "
            "they do not share a basin",
            "Fine-tune them from one common ancestor, and for a shorter time",
        )
    return average


def _changes(model: Model, ancestor: Mapping[str, Tensor]) -> Tensors:
    return {n: (t.detach() - ancestor[n].detach()).to(torch.float16) for n, t in model.tensors.items()}


_SHARE = "Fine-tune all of them from one trained network, and average what comes of that"


def _related(models: Sequence[Model], ancestor: str | None = None) -> None:
    if not models:
        raise _refused("there are none", "Train on at least one source")
    if len({m.ancestor for m in models} | ({ancestor} if ancestor else set())) > 1:
        raise _refused(
            "they do not share a common ancestor, so their hidden units are numbered differently and the average "
            "would be a network that knows nothing",
            _SHARE,
        )
    if any(_shapes(m.tensors) != _shapes(models[0].tensors) for m in models[1:]):
        raise _refused("they are networks of different shapes", "Average networks of one backbone")


def _floats(tensors: Mapping[str, Tensor]) -> Tensors:
    return {n: t for n, t in tensors.items() if t.is_floating_point()}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {n: t.shape for n, t in tensors.items()}


def _refused(why: str, what_to_do: str) -> WorkbenchError:
    return WorkbenchError("The networks were not averaged", why, what_to_do)
