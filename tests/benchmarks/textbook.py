"""Meta-learning steps as a textbook writes them: a loop over tasks, torch's layers, ordinary autograd, torch's Adam.

What :mod:`tests.benchmarks.meta_step` measures the workbench against, in time and in gradients. Nothing here is shared
with the workbench, and nothing is arranged to be fast or slow: tensors lie as torch lays them.

``theta`` holds the tensors of four blocks, ``{i}.conv.weight, {i}.norm.weight, {i}.norm.bias``, and of the classifier,
``head.weight [N, D], head.bias [N]``, and what a method has besides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.data.episodes import Episode

Theta = dict[str, Tensor]
BLOCKS, EPS = 4, 1e-5


def features(theta: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """``[B, D]``: every block normalises with the statistics of ``x``."""
    for i in range(BLOCKS):
        y = F.conv2d(x, theta[f"{i}.conv.weight"], padding=1)
        y = F.batch_norm(y, None, None, theta[f"{i}.norm.weight"], theta[f"{i}.norm.bias"], training=True, eps=EPS)
        x = F.max_pool2d(F.relu(y), 2)
    return x.flatten(1)


def under_examples(theta: Mapping[str, Tensor], x: Tensor, queries: Tensor) -> Tensor:
    """``[Q, D]`` of ``queries``: every block normalises with the statistics of the examples ``x`` (MetaBN)."""
    for i in range(BLOCKS):
        kernel, column = theta[f"{i}.conv.weight"], (1, -1, 1, 1)
        y, q = F.conv2d(x, kernel, padding=1), F.conv2d(queries, kernel, padding=1)
        var, mean = torch.var_mean(y, (0, 2, 3), correction=0)
        scale = theta[f"{i}.norm.weight"] / torch.sqrt(var + EPS)
        shift = theta[f"{i}.norm.bias"] - mean * scale
        x, queries = (F.max_pool2d(F.relu(v * scale.view(column) + shift.view(column)), 2) for v in (y, q))
    return queries.flatten(1)


def classified(theta: Mapping[str, Tensor], f: Tensor) -> Tensor:
    """``[B, N]``."""
    return F.linear(f, theta["head.weight"], theta["head.bias"])


def maml(theta: Theta, episode: Episode, *, steps: int, alpha: float, second: bool, own: bool = False) -> Tensor:
    """Loss of one task after ``steps`` of the whole network.

    Args:
        theta: the start.
        episode: the task.
        steps: inner steps.
        alpha: inner learning rate.
        second: differentiate through the steps.
        own: queries are normalised with one another's statistics, as the published code does; else with the examples'.
    """
    there = dict(theta)
    for _ in range(steps):
        loss = F.cross_entropy(classified(there, features(there, episode.support_x)), episode.support_y)
        grads = torch.autograd.grad(loss, list(there.values()), create_graph=second)
        there = {n: t - alpha * g for (n, t), g in zip(there.items(), grads, strict=True)}
    f = features(there, episode.query_x) if own else under_examples(there, episode.support_x, episode.query_x)
    return F.cross_entropy(classified(there, f), episode.query_y)


def anil(theta: Theta, episode: Episode, *, steps: int, alpha: float) -> Tensor:
    """Loss of one task after ``steps`` of the classifier; the episode is one batch."""
    f = features(theta, torch.cat([episode.support_x, episode.query_x]))
    shown, asked = f.split([len(episode.support_y), len(episode.query_y)])
    head = {n: theta[n] for n in ("head.weight", "head.bias")}
    for _ in range(steps):
        loss = F.cross_entropy(classified(head, shown), episode.support_y)
        grads = torch.autograd.grad(loss, list(head.values()), create_graph=True)
        head = {n: t - alpha * g for (n, t), g in zip(head.items(), grads, strict=True)}
    return F.cross_entropy(classified(head, asked), episode.query_y)


def protonet(theta: Theta, episode: Episode) -> Tensor:
    """Loss of one task: softmax over squared distances to the class means, times ``exp(scale)``."""
    f = features(theta, torch.cat([episode.support_x, episode.query_x]))
    shown, asked = f.split([len(episode.support_y), len(episode.query_y)])
    centres = torch.stack([shown[episode.support_y == k].mean(0) for k in range(episode.ways)])
    distances = (asked[:, None] - centres[None]).square().sum(2)
    return F.cross_entropy(-theta["scale"].exp() * distances, episode.query_y)


def mean_gradient(theta: Theta, episodes: Sequence[Episode], loss: Callable[[Theta, Episode], Tensor]) -> Theta:
    """Of the mean loss over tasks, one task after the other; tensors that the loss does not reach are left out."""
    total: Theta = {}
    for episode in episodes:
        grads = torch.autograd.grad(loss(theta, episode) / len(episodes), list(theta.values()), allow_unused=True)
        for name, g in zip(theta, grads, strict=True):
            if g is not None:
                total[name] = g if name not in total else total[name] + g
    return total


def reptile(
    theta: Theta, episodes: Sequence[Episode], minibatches: Sequence[Sequence[Tensor]], *, alpha: float, beta2: float
) -> Theta:
    """Minus the mean way of the trunk over tasks, each trained with torch's Adam without momentum on its minibatches.

    Args:
        theta: the start; the classifier begins at zero on every task.
        episodes: tasks; examples and queries are trained on alike.
        minibatches: row numbers, per task and inner step.
        alpha: inner learning rate.
        beta2: of Adam.
    """
    total = {n: torch.zeros_like(t) for n, t in theta.items()}
    for episode, rows in zip(episodes, minibatches, strict=True):
        x, y = torch.cat([episode.support_x, episode.query_x]), torch.cat([episode.support_y, episode.query_y])
        there = {n: t.detach().clone().requires_grad_() for n, t in theta.items()}
        width = features(theta, x[:1]).shape[1]
        head = {"head.weight": x.new_zeros(episode.ways, width), "head.bias": x.new_zeros(episode.ways)}
        there |= {n: t.requires_grad_() for n, t in head.items()}
        adam = torch.optim.Adam(list(there.values()), lr=alpha, betas=(0.0, beta2), eps=1e-8)
        for row in rows:
            adam.zero_grad()
            F.cross_entropy(classified(there, features(there, x[row])), y[row]).backward()  # type: ignore[no-untyped-call]
            adam.step()
        total = {n: t - (there[n].detach() - theta[n].detach()) / len(episodes) for n, t in total.items()}
    return total
