"""The smallest algorithms that fit the protocol, so that the loop can be tested in milliseconds."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from workbench.core.values import AlgorithmInfo
from workbench.learn.protocol import Adapted, Deployed, Phase, Setting, State, StepResult


def info(*tags):
    return AlgorithmInfo("toy", "Toy", "metric", "none", "for tests", frozenset({"trains", "any-way", *tags}))


class ToyProto:
    """Class means of one linear layer; ``memory`` counts the steps."""

    info: ClassVar = info("cacheable")

    @dataclass(frozen=True)
    class Params:
        lr: float = 0.01
        tasks: int = 1
        schedule: str = "cosine"
        explode_at: int = -1
        phases: tuple = ()

    def __init__(self, p=None, setting=None):
        self.p = p or self.Params()
        self.setting = setting or Setting("toy", 1, 8)
        self.trunk_calls = 0

    def phases(self, sources):
        return self.p.phases or (
            Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}, schedule=self.p.schedule),
        )

    def init(self, gen):
        size = self.setting.channels * self.setting.size**2
        weight = torch.randn(8, size, generator=gen) / size**0.5
        return State({"trunk.weight": weight, "scale": torch.tensor(1.0)}, {"count": torch.zeros(1)})

    def step(self, s, batch, at, ctx):
        losses, corrects = [], []
        for e in batch.episodes:
            ctx.check()
            means = self.means(e.support_x.flatten(1) @ s.learned["trunk.weight"].T, e.support_y, e.ways)
            logits = self.distances(e.query_x.flatten(1) @ s.learned["trunk.weight"].T, means) * s.learned["scale"]
            losses.append(F.cross_entropy(logits, e.query_y))
            corrects.append(logits.argmax(1) == e.query_y)
        loss = torch.stack(losses).mean()
        if at.step == self.p.explode_at:
            loss = loss / 0.0
        metrics = {"loss": float(loss.detach()), "accuracy": float(torch.cat(corrects).float().mean())}
        return StepResult(loss, memory={"count": s.memory["count"] + 1}, metrics=metrics, correct=corrects[0])

    def finish(self, s, phase, ctx):
        return s

    def means(self, f, y, ways):
        return torch.stack([f[y == k].mean(0) for k in range(ways)])

    def distances(self, f, means):
        return -(f[:, None] - means).square().sum(-1)

    def adapt(self, s, support, ctx, *, unlabelled=None, on_step=None):
        f = support.features
        if f is None:
            f = support.x.flatten(1) @ s.learned["trunk.weight"].T
        return Adapted({"means": self.means(f, support.y, support.ways)}, support.ways)

    def logits(self, s, a, x):
        return self.distances(self.embed(s, a, x), a.tensors["means"]) * s.learned["scale"]

    def embed(self, s, a, x):
        return x.flatten(1) @ s.learned["trunk.weight"].T

    def trunk(self, s):
        outer = self

        class Trunk(nn.Module):
            def forward(self, x):
                outer.trunk_calls += len(x)
                return x.flatten(1) @ s.learned["trunk.weight"].T

        return Trunk()

    def head(self, s, a):
        outer = self

        class Head(nn.Module):
            def forward(self, f):
                return outer.distances(f, a.tensors["means"]) * s.learned["scale"]

        return Head()

    def deploy(self, s, a):
        return Deployed(self.trunk(s), self.head(s, a))


class ToySteps(ToyProto):
    """Three gradient steps towards the means, so that accuracy by step can be tested."""

    info: ClassVar = info("cacheable", "gradient-based")

    def adapt(self, s, support, ctx, *, unlabelled=None, on_step=None):
        f = support.features
        if f is None:
            f = support.x.flatten(1) @ s.learned["trunk.weight"].T
        means = torch.zeros(support.ways, f.shape[1])
        for j in range(4):
            a = Adapted({"means": means}, support.ways)
            if on_step is not None:
                on_step(j, a)
            means = means + 0.5 * (self.means(f, support.y, support.ways) - means)
        return a
