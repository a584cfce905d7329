"""The same pictures as another camera would have shown them: brighter or paler, of other contrast, a little aside.

For normalised pictures ``[B, C, H, W]``. One draw is for all pictures of a batch, so what becomes of a picture does not
depend on which others come before it. After the light and translation policies of Zhao et al. 2020 (arXiv 2006.10738),
which Hu et al. 2022 use when they fine-tune.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

LIKELY = 0.9
"""How likely each kind of change is in a draw."""
LIGHT, CONTRAST, ASIDE = 0.5, 0.5, 1 / 8
"""Largest offset (in standard deviations of a pixel), change of contrast, and shift (of the side)."""


def augmented(x: Tensor, gen: Generator) -> Tensor:
    """``x`` under one random change of light and colour, and one random shift.

    Light: an offset for all pixels. Contrast: a factor about each picture's mean. Colour: a factor from 0 to 2 for what
    tells the channels apart, where there are several. A shift leaves its border showing the outermost pixels.
    """
    u, a, b, c, dx, dy, v = torch.rand(7, generator=gen, dtype=torch.float64).tolist()
    if u < LIKELY:
        if x.shape[1] > 1:
            grey = x.mean(1, keepdim=True)
            x = grey + 2 * c * (x - grey)
        mean = x.mean((1, 2, 3), keepdim=True)
        x = mean + (1 + CONTRAST * (2 * a - 1)) * (x - mean) + LIGHT * (2 * b - 1)
    if v < LIKELY:
        x = shifted(x, _pixels(dy, x.shape[2]), _pixels(dx, x.shape[3]))
    return x


def shifted(x: Tensor, down: int, right: int) -> Tensor:
    """``x`` moved by whole pixels."""
    _, _, height, width = x.shape
    rows = (torch.arange(height, device=x.device) - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) - right).clamp(0, width - 1)
    return x[:, :, rows][:, :, :, columns]


def _pixels(u: float, side: int) -> int:
    """``u`` in 0..1 as a shift of at most an eighth of the side, all as likely."""
    most = max(1, round(ASIDE * side))
    return min(int(u * (2 * most + 1)), 2 * most) - most
