"""SimpleShot (Wang, Chao, Weinberger, van der Maaten 2019, arXiv 1911.04623).

A network ``f: [B, C, H, W] -> [B, D]`` is trained to tell all classes of all sources apart, as any classifier is: no
episodes. The classifier is then thrown away, and a new task is answered by the nearest centroid of *transformed*
features (CL2N: centred, then of length 1)::

    x   = (f(picture) - m) / |f(picture) - m|          m [D]: mean feature of the *source* pictures
    c_k = mean of x over the examples of class k       [N, D]; a mean of unit vectors is no unit vector
    z   = -s |x - c_k|^2                               [B, N]

``m`` is followed while training (a moving average over some 6 000 pictures, in the state's memory) and does not change
afterwards. ``s`` changes no decision, only how sure it looks; it is fitted together with the temperature.

The plain bar that meta-learners are held against: on Conv-4 and miniImageNet it is level with Prototypical Networks.

Mistakes that are easily made here, and not made:

* centring by the mean of the examples (a handful of pictures: noise) or of the queries (which leaks);
* transforming the queries and not the examples, or scaling centroids back to length 1 and not the queries;
* ``m`` measured on the validation classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, functional, heads, influence, norm, registry, supervised
from workbench.learn.protocol import (
    Adapted,
    At,
    Phase,
    SourceSummary,
    State,
    StepResult,
    Tensors,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Labelled

MEAN, COUNT = "base.mean", "base.batches"
MOMENTUM = 0.01
"""Weight of the newest batch in the mean feature; with 64 pictures each, the last 6 000 or so count."""


@registry.register
class SimpleShot(forms.FittedHead):
    """Plain training, then nearest centroid of centred features of length 1; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="simpleshot",
        title="SimpleShot",
        family="metric",
        paper="Wang et al. 2019, arXiv 1911.04623",
        summary="Trains an ordinary classifier of all source classes, then compares centred features of length 1.",
        tags=frozenset({"trains", "any-way", "cacheable"}),
    )

    nearest_mean: ClassVar[bool] = True  # see ``calibrate.compares_means``

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        transform: str = param(
            "CL2N",
            choices=("CL2N", "L2N", "UN"),
            help="What is done to features before they are compared: centred and of length 1, of length 1, nothing.",
        )
        lr: float = forms.learning_rate()
        batch: int = param(64, low=2, high=1024, step=16, title="Batch size", help="Pictures in a training step.")
        scale: float = param(10.0, low=0.1, high=1000.0, step=1.0, help="Factor from squared distances to logits.")

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One supervised phase; every source picture is as likely as any other."""
        return (Phase("classes", stream="batches", batch_size=self.p.batch, lr={"": self.p.lr}),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), a classifier of the sources' classes, and a mean feature of 0."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        classifier = supervised.classifier(self.setting.classes_per_source, self.features, gen)
        zero = torch.zeros(self.features, device=gen.device)
        memory = {**functional.named(buffers), MEAN: zero, COUNT: zero.new_zeros(())}
        return State({**functional.named(trunk), **classifier}, memory)

    def step(self, s: State, batch: Labelled, at: At, ctx: Context) -> StepResult:  # noqa: ARG002 - no schedule
        """Cross entropy over all source classes; running averages and the mean feature move on."""
        ctx.check()
        with norm.batch_statistics() as statistics:
            features = functional.call(self.network, functional.under(s.learned), {}, batch.x)
        loss, accuracy = supervised.classified(s.learned, features, batch, self.setting.classes_per_source)
        buffers = norm.running_average(functional.under(s.memory), statistics)
        seen = s.memory[COUNT] + 1
        # a plain mean at first, so that the start at 0 leaves no trace
        mean = torch.lerp(s.memory[MEAN], features.detach().mean(0), (1 / seen).clamp_min(MOMENTUM))
        memory = {**functional.named(buffers), MEAN: mean, COUNT: seen}
        return StepResult(loss=loss, memory=memory, metrics={"loss": float(loss.detach()), "accuracy": accuracy})

    def finish(self, s: State, phase: Phase, ctx: Context) -> State:  # noqa: ARG002
        """The classifier is not needed any more."""
        return supervised.dropped(s)

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:  # noqa: ARG002
        """The classes' centroids, ``prototypes [N, D]``."""
        x = transformed(features, self._mean(s.memory), unit=self.p.transform != "UN")
        return {"prototypes": heads.prototypes(x, y, ways)}

    def head(self, s: State, a: Adapted) -> nn.Module:
        """The transform and the linear layer that equals the distances."""
        unit = self.p.transform != "UN"
        return NearestCentroid(self._mean(s.memory), a.tensors["prototypes"], self._scale, unit=unit)

    def classifier(self, s: State, features: Tensor) -> influence.Centroids:
        """What its heads for these features ``[S, D]`` are, for closed forms."""
        x = transformed(features, self._mean(s.memory), unit=self.p.transform != "UN")
        return influence.Centroids(x, self._scale)

    @property
    def _scale(self) -> float:
        """From squared distances to logits."""
        return self.p.scale if self.p.transform != "UN" else heads.START / self.features

    def _mean(self, memory: Tensors) -> Tensor:
        """What features are centred by ``[D]``."""
        return memory[MEAN] if self.p.transform == "CL2N" else torch.zeros_like(memory[MEAN])


def transformed(features: Tensor, mean: Tensor, *, unit: bool) -> Tensor:
    """``[B, D]``: features minus ``mean [D]``, of length 1 where ``unit``."""
    centred = features - mean
    return F.normalize(centred, dim=1) if unit else centred


class NearestCentroid(nn.Module):
    """``[B, D] -> [B, N]``: minus the squared distances of transformed features to the centroids, times a scale."""

    mean: Tensor

    def __init__(self, mean: Tensor, centroids: Tensor, scale: float, *, unit: bool) -> None:
        super().__init__()
        self.unit = unit
        self.register_buffer("mean", mean.detach().clone())
        self.linear = heads.LinearHead(*heads.prototype_linear(centroids, scale))

    def forward(self, features: Tensor) -> Tensor:
        """Logits of ``features [B, D]``."""
        out: Tensor = self.linear(transformed(features, self.mean, unit=self.unit))
        return out
