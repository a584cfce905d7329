"""What each example does to the others: leave-one-out influence, in closed form for centroids and ridge.

The leave-one-out log-loss of a support set ``S`` is ``L(S) = sum_j l_j(S - j)``, with ``l_j(R)`` the log-loss, nats, of
example ``j`` under the classifier fitted to ``R``. The influence of an example is how far it falls when the example is
left out; a deletion diagnostic in the manner of Cook (1977), with the loss that is cross-validated in place of the fit:

``I_i = L(S) - L(S - i) = l_i(S - i) + sum_{j != i} [l_j(S - j) - l_j(S - i - j)]``

The first term says how odd the example is to the others, the sum what it does to them, which is below 0 for examples
that help. Only those ``j`` are summed whose class has an example besides ``i`` and ``j``, since a class does not
disappear. An example that is alone in its class cannot be left out and has 0.

Everything here refits: it is the very classifier without the two examples, not a linearisation at the full one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.learn import calibrate, heads
from workbench.learn.leaving_out import HeldOut
from workbench.learn.protocol import Algorithm, State, Support

_AT_ONCE = 4_000_000
"""Numbers of the largest tensor."""
_MOST, _MOST_RIDGE = 1000, 2e9
"""Examples, and multiplications of all inverses, beyond which what one example does to the others is left out."""


class Influence(NamedTuple):
    """Of each example, in order.

    Attributes:
        own: log-loss when it is left out ``[S]``, nats; 0 where it is alone in its class.
        others: how far the others' left-out log-losses fall without it, summed ``[S]``, nats.
    """

    own: Tensor
    others: Tensor


@dataclass(frozen=True, slots=True)
class Centroids:
    """Logits ``-scale |x - c_k|^2`` with ``c_k`` the mean of a class.

    Attributes:
        x: the examples as they are compared ``[S, D]``.
        scale: factor before the squared distance.
    """

    x: Tensor
    scale: float

    def left_out(self, y: Tensor, ways: int) -> Tensor:
        """Logits of each example ``[S, N]`` where it is left out of its class, float64."""
        x, count = self.x.double(), torch.bincount(y, minlength=ways)
        centres = calibrate.prototypes(x, y, ways)
        squared = (x[:, None] - centres[None]).square().sum(2)
        # x_j - c without x_j = n / (n - 1) (x_j - c)
        n, rows = count[y].to(x), torch.arange(len(x), device=x.device)
        squared[rows, y] *= (n / (n - 1).clamp_min(1)).square()
        return -self.scale * squared

    def influence(self, y: Tensor, ways: int, temperature: float = 1.0) -> Influence:
        """Of examples with classes ``y [S]``; exact.

        Without ``i`` and ``j`` two centres move: that of ``j``'s class, as in ``left_out``, and that of ``i``'s.
        """
        x, count = self.x.double(), torch.bincount(y, minlength=ways)
        s, sums = len(x), F.one_hot(y, ways).to(x).T @ x
        logits = self.left_out(y, ways) / temperature
        before = F.cross_entropy(logits, y, reduction="none")
        others = torch.zeros_like(before)
        for some in torch.split(torch.arange(s, device=x.device), max(1, _AT_ONCE // (s * max(ways, x.shape[1])))):
            of = y[some]
            same = (of[:, None] == y[None, :]).to(x)
            rest = (sums[of] - x[some])[:, None] - same[..., None] * x[None]
            left = (count[of][:, None] - 1 - same).clamp_min(1)
            moved = (x[None] - rest / left[..., None]).square().sum(2)
            changed = logits.expand(len(some), -1, -1).clone()
            column = of[:, None, None].expand(-1, s, 1)
            changed.scatter_(2, column, (-self.scale / temperature * moved)[..., None])
            after = F.cross_entropy(changed.flatten(0, 1), y.repeat(len(some)), reduction="none")
            others[some] = _summed(before, after.view(len(some), s), some, y, count)
        return _of_those_that_can_go(before, others, y, count)


@dataclass(frozen=True, slots=True)
class UnitRidge:
    """Logits ``scale x W`` with ``W`` the ridge on examples of length 1, every class counting alike (``heads.ridge``).

    Attributes:
        x: the examples' features ``[S, D]``; divided by their length here.
        strength: of the ridge.
        scale: factor from the fit to logits.
    """

    x: Tensor
    strength: float
    scale: float

    def influence(self, y: Tensor, ways: int, temperature: float = 1.0) -> Influence:
        """Of examples with classes ``y [S]``; exact.

        In its dual form a ridge predicts ``k(x) (K + s A^-1)^-1 T`` with ``A`` the weights, and with ``G`` that inverse
        the examples of a set ``U`` that are left out are predicted as ``T_U - (G_UU)^-1 (G T)_U``. The weights depend
        on how many of each class are left, thus on the classes of what is left out alone: one inverse ``[S, S]`` for
        each pair of classes, and a 2 x 2 system for each pair of examples.
        """
        x = F.normalize(self.x.double(), dim=1)
        s, count = len(x), torch.bincount(y, minlength=ways)
        kernel, targets = x @ x.T, F.one_hot(y, ways).to(x)

        def solved(gone: Tensor) -> tuple[Tensor, Tensor]:
            """``G`` and ``G T`` where so many examples of each class ``[N]`` are left out."""
            left = (count - gone).clamp_min(1).to(x)
            inverse_weights = ways * left / (s - int(gone.sum()))
            g = torch.linalg.inv(kernel + self.strength * torch.diag(inverse_weights[y]))
            return g, g @ targets

        factor = self.scale / temperature
        before = x.new_zeros(s)
        others = x.new_zeros(s)
        after = x.new_zeros(s, s)
        one = torch.eye(ways, dtype=torch.long, device=x.device)
        members = [torch.nonzero(y == c).flatten() for c in range(ways)]
        for a in range(ways):
            g, gt = solved(one[a])
            j = members[a]
            predicted = targets[j] - gt[j] / g[j, j][:, None]
            before[j] = F.cross_entropy(factor * predicted, y[j], reduction="none")
        for a in range(ways):
            for b in range(a, ways):
                g, gt = solved(one[a] + one[b])
                for left, right in ((a, b), (b, a)) if a != b else ((a, a),):
                    i, j = members[left], members[right]
                    g_ii, g_jj, g_ij = g[i, i][:, None], g[j, j][None, :], g[i[:, None], j]
                    # the row of j of (G_UU)^-1 (G T)_U
                    determinant = g_ii * g_jj - g_ij.square()
                    if left == right:
                        determinant = determinant.fill_diagonal_(1.0)
                    residual = g_ii[..., None] * gt[j][None] - g_ij[..., None] * gt[i][:, None]
                    predicted = targets[j][None] - residual / determinant[..., None]
                    flat = (factor * predicted).flatten(0, 1)
                    losses = F.cross_entropy(flat, y[j].repeat(len(i)), reduction="none")
                    after[i[:, None], j] = losses.view(len(i), len(j))
        others = _summed(before, after, torch.arange(s, device=x.device), y, count)
        return _of_those_that_can_go(before, others, y, count)


def _summed(before: Tensor, after: Tensor, some: Tensor, y: Tensor, count: Tensor) -> Tensor:
    """Falls of the others' losses ``[I]``: ``before [S]`` minus ``after [I, S]`` over those that can go too."""
    same = y[some][:, None] == y[None, :]
    counted = count[y][None, :] - same.long() >= 2
    counted[torch.arange(len(some), device=y.device), some] = False
    fall: Tensor = torch.where(counted, before[None, :] - after, torch.zeros_like(after)).sum(1)
    return fall


def _of_those_that_can_go(own: Tensor, others: Tensor, y: Tensor, count: Tensor) -> Influence:
    there = count[y] >= 2
    return Influence(
        torch.where(there, own, torch.zeros_like(own)), torch.where(there, others, torch.zeros_like(others))
    )


def at_once(algorithm: Algorithm, state: State, support: Support) -> HeldOut | None:
    """``leaving_out.held_out`` of examples one by one, for methods that compare with class centres; else ``None``.

    Logits differ from those of the method by one number for each example.
    """
    form = getattr(algorithm, "classifier", None)
    if form is None or support.features is None:
        return None
    closed = form(state, support.features)
    if not isinstance(closed, Centroids):
        return None
    y, ways = support.y, support.ways
    rows = torch.nonzero(torch.bincount(y, minlength=ways)[y] >= 2).flatten()
    return HeldOut(rows, closed.left_out(y, ways)[rows].to(support.features), None)


def influence(
    algorithm: Algorithm, state: State, support: Support, embedding: Tensor, temperature: float
) -> tuple[Influence, bool]:
    """Influence of each example on the answers of one piece of knowledge.

    Exact where the algorithm has a closed form (a method ``classifier(state, features) -> Centroids | UnitRidge``).
    Others are looked at as if they compared the examples with class centres in their own features, at the temperature
    that suits these best: which examples spoil their class is seen there, how much it costs this method is not. The
    same where a ridge would take seconds; of a thousand examples nothing is said, since one of them changes nothing.

    Args:
        algorithm: any.
        state: of the algorithm.
        support: the examples.
        embedding: of the examples ``[S, D]``.
        temperature: that the algorithm's logits are divided by.

    Returns:
        It, float64, and whether it is exact.
    """
    y, ways = support.y, support.ways
    if len(y) > _MOST:
        return Influence(embedding.new_zeros(len(y)).double(), embedding.new_zeros(len(y)).double()), False
    form = getattr(algorithm, "classifier", None)
    if form is not None and support.features is not None:
        closed = form(state, support.features)
        if not isinstance(closed, UnitRidge) or ways**2 * len(y) ** 3 <= _MOST_RIDGE:
            return closed.influence(y, ways, temperature), True
    stand_in = Centroids(embedding.detach(), heads.START / embedding.shape[1])
    known = torch.bincount(y, minlength=ways)[y] >= 2
    fitted = calibrate.fit_temperature(stand_in.left_out(y, ways)[known], y[known])
    return stand_in.influence(y, ways, fitted), False
