"""By how many steps a network is fine-tuned on the examples, asked of the head that answers and of no other.

After each number of steps, none included, the examples are asked about under networks that were tuned without the part
they lie in, by the very head that is used in the end. A number is taken in place of none if what it gains in paired
log-losses is one that the best of these numbers would seldom gain by luck, and if it is worth something. A head that is
tuned with the network says too little of another: where it gains, the other may lose.

What is said of the network that was taken is the best of several, and those who estimate its accuracy take that off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.learn.protocol import Support
from workbench.services.knowledge import Knowledge
from workbench.services.made import PARTS, Found, Made, See, answered, once
from workbench.transfer import fine_tuning, mixing
from workbench.transfer.mixing import Trunk
from workbench.transfer.rank import LEAST_GAIN, MARGIN, luck, paired_gain
from workbench.transfer.recipes import Head


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A network and the examples that it may be tuned on.

    Attributes:
        network: the backbone's skeleton.
        trunk: where it starts, and what it is held near.
        x: the examples ``[S, C, H, W]``, normalised.
        more: other pictures whose features are wanted ``[n, C, H, W]``; nothing is learnt from them.
        y: ``[S]``.
        ways: ``N``.
        recipe: how it is tuned, and the numbers of steps to choose from.
    """

    network: nn.Module
    trunk: Trunk
    x: Tensor
    more: Tensor
    y: Tensor
    ways: int
    recipe: fine_tuning.Recipe

    def along(self, kept: Tensor, steps: Sequence[int], ctx: Context) -> list[Tensor]:
        """Features ``[S + n, D]`` after each number of steps on those of the examples that are kept ``[S]`` bool.

        Raises:
            JobCancelledError: asked to stop.
        """
        ctx.status("Fine-tuning the mixture without a part of the examples")
        support, everything = Support(self.x[kept], self.y[kept], self.ways), torch.cat([self.x, self.more])
        along = fine_tuning.along(self.network, self.trunk, support, self.recipe, steps, ctx)
        return [mixing.features(self.network, trunk, everything, ctx) for trunk in along]

    def ended(self, steps: int, ctx: Context) -> Trunk:
        """The trunk after so many steps on all examples.

        Raises:
            JobCancelledError: asked to stop.
        """
        ctx.status("Fine-tuning the mixture")
        support = Support(self.x, self.y, self.ways)
        (trunk,) = fine_tuning.along(self.network, self.trunk, support, self.recipe, (steps,), ctx)
        return trunk


def search(
    start: Start, head: Head | None, views: int, knowledge: Knowledge, pictures: Sequence[str], ctx: Context
) -> tuple[int, Found]:
    """The number of steps that helps the head that answers, and the features that were found on the way.

    Args:
        start: what is tuned.
        head: that answers: a closed form, or ``None`` for the knowledge's own.
        views: in how many each example is seen, itself included.
        knowledge: without a step.
        pictures: per example, which one it shows.
        ctx: of the job.

    Returns:
        Steps, and by what was kept the features ``[S + n, D]`` after so many.

    Raises:
        JobCancelledError: asked to stop.
    """
    numbers, y, ways = start.recipe.steps, start.y, start.ways
    walked: Found = {}
    # one for each part, and that of all examples, which takes about as long
    total = min(PARTS, int(torch.bincount(y).max())) + 1
    begun, held = time.monotonic(), ctx.held_seconds

    def tell(done: int) -> None:
        spent = time.monotonic() - begun - (ctx.held_seconds - held)
        ctx.progress(done, total, "trainings", spent / done * (total - done) if done else None)

    def walk(kept: Tensor, ctx: Context) -> Tensor:
        tell(len(walked))
        return torch.stack(start.along(kept, numbers, ctx))

    walk_once = once(walk, walked)
    losses: dict[int, list[float]] = {}
    for j, n in enumerate(numbers):
        made = Made(lambda _: knowledge, _place(walk_once, j), head, views)
        losses[n] = answered(made, knowledge, knowledge.figures["temperature"], y, ways, pictures, ctx).losses.tolist()
    steps = helping(losses)
    tell(total - 1 if steps else total)
    return steps, {kept: f[numbers.index(steps)].clone() for kept, f in walked.items()}


def _place(see: See, j: int) -> See:
    return lambda kept, ctx: see(kept, ctx)[j]


def helping(losses: Mapping[int, Sequence[float]]) -> int:
    """The number of steps whose left-out losses are least, if they are surely less than those of none, and else 0.

    Args:
        losses: by the number of steps, 0 among them: log-loss of each left-out example, nats, in one order.
    """
    best = min(losses, key=lambda n: (sum(losses[n]), n))
    if not best or paired_gain(losses[0], losses[best])[0] < LEAST_GAIN:
        return 0
    by_luck = luck(losses[0], losses[best], [own for n, own in losses.items() if n])
    return best if by_luck <= 0.5 * math.erfc(MARGIN / math.sqrt(2)) else 0
