"""Task2Vec: which filters of a fixed network matter for a task (Achille et al. 2019, arXiv 1902.03545).

A probe network that is the same for all tasks gets a classifier of the task's own. Then the diagonal of the Fisher
information of the *trunk's* weights is measured, and averaged over the weights of each filter::

    F_w  = mean over x of  E_{y ~ p(y|x)} [ (d log p(y|x) / d w)^2 ]
    F_f  = mean of F_w over the weights w of filter f                        one number per filter

A filter whose change alters the answers matters for the task. The classifier is left out: its rows are the task's
classes, which other tasks do not have.

Two tasks are compared filter by filter, so that a few large filters do not decide alone::

    d(a, b) = 1 - cos( F_a / (F_a + F_b),  F_b / (F_a + F_b) )

Mistakes that are easily made here, and not made (the authors' code makes the first two):

* squaring the gradient of a *batch's* mean: it is smaller by about the size of the batch, and depends on how pictures
  are batched. Here the gradients of single pictures are squared.
* batch normalisation with the batch's own statistics: one picture's gradient would then depend on its neighbours. Here
  the trunk's running statistics are used.
* taking the task's labels for ``y``: that is the empirical Fisher, which vanishes where the classifier is right. Here
  the expectation is over the model's own answers, and exact: with ``p_k`` and the gradients ``J_k`` of the logits,
  ``d log p(y) = J_y - sum_k p_k J_k``, weighted by ``p_y``. (It is the limit of many draws of ``y``.)

A diagonal Fisher wants tens of pictures per class. With fewer it is steadied by altered views of each picture (light,
contrast, shift; at least :data:`PICTURES` in all), but below six per class it still is mostly about the classifier and
the number of classes: meant for sources, not for a new task of a few examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.learn import augment, logistic
from workbench.learn.examples import canonical_order
from workbench.learn.functional import Tensors
from workbench.learn.protocol import generator
from workbench.transfer.kinds import TaskData, cosine

PICTURES = 50
"""Views per class, pictures and their altered copies together, that are aimed at."""
EPSILON = 1e-8
"""Added to ``F_a + F_b``, as a share of its mean: a filter that matters to neither task counts for nothing. (The paper
adds it as it is, to values of order one; as a share the distance does not depend on the values' scale.)"""
COMPLEXITY = 0.15
"""How much a source's distance to the trivial task is taken off in :func:`asymmetric_distance`."""


class Task2Vec:
    """The probe network behind the interface of all representations.

    Args:
        network: the trunk's skeleton ``[B, C, H, W] -> [B, D]``.
        tensors: its parameters and buffers by name.
        decay: of the classifier, ``mean CE + decay/2 |W|^2`` on features of length about 1. It is solved to its one
            minimum, without learning rate or epochs; the penalty keeps it from being certain, which would make every
            ``d log p`` vanish.
        views: pictures per class aimed at, see :data:`PICTURES`.
        chunk: pictures whose gradients are held at once.
    """

    key: ClassVar[str] = "task2vec"
    title: ClassVar[str] = "Task2Vec (which filters matter)"

    def __init__(
        self,
        network: nn.Module,
        tensors: Mapping[str, Tensor],
        *,
        decay: float = 1e-2,
        views: int = PICTURES,
        chunk: int = 16,
    ) -> None:
        self.network, self.decay, self.views, self.chunk = network, decay, views, chunk
        learnt = {name for name, _ in network.named_parameters()}
        self.fixed = {n: t.detach() for n, t in tensors.items()}
        paths = [p for p, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        self.weights = [f"{p}.weight" if p else "weight" for p in paths]
        missing = sorted(learnt - self.fixed.keys())
        if missing:
            raise ValueError(f"the probe network lacks {', '.join(missing)}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Filters of each layer, in the order of the vector."""
        return tuple(len(self.fixed[name]) for name in self.weights)

    def embed(self, task: TaskData, ctx: Context) -> Tensor:
        """``[filters]`` float64, not negative."""
        x, y = _views(task.needed_x(), task.y, task.ways, self.views)
        if not torch.isfinite(x).all():
            raise ValueError("a task with numbers that are not finite cannot be described")
        features = torch.cat([self._features(some) for some in _checked(x, self.chunk, ctx)])
        # features of length about one, so that the same decay means the same under every trunk
        scale = features.norm(dim=1).mean().clamp_min(1e-12)
        weight, bias = logistic.fit(features / scale, y, task.ways, c=1 / (len(y) * self.decay), ctx=ctx)
        f = self.fisher(x, (weight / scale, bias), ctx)
        return torch.cat([f[name].flatten(1).mean(1) for name in self.weights]).double().cpu()

    def similarity(self, a: Tensor, b: Tensor) -> float:
        """``1 - d(a, b)``, 0..1."""
        return 1 - distance(a, b)

    def fisher(self, x: Tensor, head: tuple[Tensor, Tensor], ctx: Context) -> Tensors:
        """The diagonal, mean over pictures ``[B, C, H, W]``, by name; for a classifier ``weight [N, D], bias [N]``."""
        at = {name: self.fixed[name] for name in self.weights}
        weight, bias = head

        def logits(theta: Tensors, picture: Tensor) -> Tensor:
            embedding = torch.func.functional_call(self.network, self.fixed | theta, (picture[None],))
            return F.linear(embedding, weight, bias)[0]

        def squares(picture: Tensor) -> Tensors:
            slopes = torch.func.jacrev(logits)(at, picture)  # by name, [N, *shape]
            p = logits(at, picture).softmax(0)
            out = {}
            for name, j in slopes.items():
                apart = j - torch.tensordot(p, j, 1)
                out[name] = torch.tensordot(p, apart.square(), 1)
            return out

        total = {name: torch.zeros_like(t) for name, t in at.items()}
        for some in _checked(x, self.chunk, ctx):
            found = torch.func.vmap(squares)(some)
            total = {name: t + found[name].sum(0) for name, t in total.items()}
        return {name: t / len(x) for name, t in total.items()}

    @torch.no_grad()
    def _features(self, x: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(self.network, self.fixed, (x,))
        return found


def distance(a: Tensor, b: Tensor) -> float:
    """Cosine distance of the two tasks' shares of each filter, 0..1; 0 for equal ones. Symmetric.

    Raises:
        ValueError: of two probe networks.
    """
    if a.shape != b.shape:
        raise ValueError("two tasks are compared under the same probe network only")
    if torch.equal(a, b):
        return 0.0
    total = a + b
    total = total + EPSILON * total.mean()
    if float(total.max()) <= 0:
        return 0.0
    return 1 - cosine(a / total, b / total)


def asymmetric_distance(source: Tensor, target: Tensor, sizes: tuple[int, ...], alpha: float = COMPLEXITY) -> float:
    """``d(source, target) - alpha d(source, trivial)``: of two sources as near, the one with more to it is preferred.

    The trivial task is one to which all filters of a layer matter alike, as much as they do on average to the source.

    Args:
        source: ``[filters]`` of what would be transferred.
        target: ``[filters]`` of the new task.
        sizes: filters of each layer.
        alpha: how much the source's complexity counts.
    """
    level = torch.cat([layer.mean().expand(len(layer)) for layer in torch.split(source, list(sizes))])
    return distance(source, target) - alpha * distance(source, level)


def _views(x: Tensor, y: Tensor, ways: int, wanted: int) -> tuple[Tensor, Tensor]:
    """Pictures and altered copies of all of them, until the mean class has ``wanted``; in an order of their own."""
    order = canonical_order(x)  # what is added up in another order differs in its last digits
    x, y = x[order], y[order]
    gen = generator(0)
    copies = max(0, -(-wanted * ways // len(x)) - 1)
    return torch.cat([x, *(augment.augmented(x, gen) for _ in range(copies))]), y.repeat(copies + 1)


def _checked(x: Tensor, chunk: int, ctx: Context) -> Iterator[Tensor]:
    """``x`` in parts; ``ctx`` is asked before each is handed out."""
    for some in torch.split(x, chunk):
        ctx.check()
        yield some
