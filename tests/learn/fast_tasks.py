"""Episodes and states that the fast path is measured with against the clear one."""

import torch

from workbench.data.episodes import Episode, Episodes
from workbench.learn.protocol import State, generator


def episode(gen, ways=3, shots=1, queries=2, channels=1, size=16, dtype=torch.float64):
    """Noisy copies of a random picture per class; ``shots`` may be one number per class."""
    per_class = torch.tensor([shots] * ways if isinstance(shots, int) else shots)
    support_y, query_y = torch.arange(ways).repeat_interleave(per_class), torch.arange(ways).repeat_interleave(queries)
    pattern = torch.randn(ways, channels, size, size, generator=gen, dtype=dtype)

    def copies(y):
        return pattern[y] + torch.randn(len(y), channels, size, size, generator=gen, dtype=dtype)

    ids = torch.arange(len(support_y) + len(query_y))
    names = tuple(str(i) for i in range(ways))
    first, others = ids[: len(support_y)], ids[len(support_y) :]
    return Episode(copies(support_y), support_y, copies(query_y), query_y, ways, names, "noise", first, others)


def batch(gen, tasks, **kwargs):
    """The episodes of one step."""
    return Episodes(tuple(episode(gen, **kwargs) for _ in range(tasks)))


def state(algorithm, dtype=torch.float64):
    """A start whose norms have weights of either sign, and whose learned tensors want gradients."""
    fresh, gen = algorithm.init(generator(0)), generator(1)

    def moved(name, t):
        t = t.to(dtype) if t.is_floating_point() else t
        return t + 0.5 * torch.randn(t.shape, generator=gen, dtype=dtype) if ".norm." in name else t

    learned = {n: moved(n, t).requires_grad_() for n, t in fresh.learned.items()}
    return State(learned, {n: t.to(dtype) if t.is_floating_point() else t for n, t in fresh.memory.items()})
