"""Conv-4: four blocks of 3x3 convolution, batch norm, ReLU and 2x2 max-pooling; the network of most few-shot papers.

``[B, C, H, W] -> [B, filters * (H // 16) * (W // 16)]``: 28 pixels give 64 features, 84 pixels give 1600 (64
filters). The convolutions have no bias, since the batch norm behind them would cancel it. Vinyals et al. 2016 (arXiv
1606.04080).

``conv4-block3`` and ``conv4-32-block3`` are their first three blocks, averaged to the grid of the fourth: knowledge of
Conv-4 is knowledge of them too, with the more general features of an earlier layer.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from workbench.learn.norm import Norm2d
from workbench.learn.registry import register_backbone


class Block(nn.Module):
    """``[B, in, H, W] -> [B, out, H // 2, W // 2]``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = Norm2d(outputs)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, rectify, pool.

        Rectifying after pooling gives the same numbers as before it, since the largest of some rectified values is the
        rectified largest; it touches a quarter of them.
        """
        out: Tensor = self.act(self.pool(self.norm(self.conv(x))))
        return out


def network(channels: int, filters: int, blocks: int = 4) -> nn.Module:
    """So many blocks, the averaging that stands for those that are missing, and the flattening."""
    widths = (channels, *(filters for _ in range(blocks)))
    left = [nn.AvgPool2d(2 ** (4 - blocks))] if blocks < 4 else []
    return nn.Sequential(*(Block(a, b) for a, b in pairwise(widths)), *left, nn.Flatten())


@register_backbone(
    "conv4",
    title="Conv-4, 64 filters",
    input="small pictures: characters, symbols, textures",
    min_size=16,
    recommended_size=84,
    embedding_size=lambda _channels, size: 64 * (size // 16) ** 2,
)
def conv4(channels: int, size: int) -> nn.Module:  # noqa: ARG001 - the same network for every size
    """Conv-4 with 64 filters."""
    return network(channels, 64)


@register_backbone(
    "conv4-32",
    title="Conv-4, 32 filters",
    input="small pictures where adapting by gradients must be quick",
    min_size=16,
    recommended_size=84,
    embedding_size=lambda _channels, size: 32 * (size // 16) ** 2,
)
def conv4_32(channels: int, size: int) -> nn.Module:  # noqa: ARG001 - the same network for every size
    """Conv-4 with 32 filters, as MAML used on miniImageNet."""
    return network(channels, 32)


@register_backbone(
    "conv4-block3",
    title="Conv-4, 64 filters, three blocks",
    input="small pictures unlike those that Conv-4 was trained on",
    min_size=16,
    recommended_size=84,
    embedding_size=lambda _channels, size: 64 * (size // 16) ** 2,
    part_of="conv4",
)
def conv4_block3(channels: int, size: int) -> nn.Module:  # noqa: ARG001 - the same network for every size
    """The first three blocks of Conv-4 with 64 filters."""
    return network(channels, 64, 3)


@register_backbone(
    "conv4-32-block3",
    title="Conv-4, 32 filters, three blocks",
    input="small pictures unlike those that Conv-4 was trained on",
    min_size=16,
    recommended_size=84,
    embedding_size=lambda _channels, size: 32 * (size // 16) ** 2,
    part_of="conv4-32",
)
def conv4_32_block3(channels: int, size: int) -> nn.Module:  # noqa: ARG001 - the same network for every size
    """The first three blocks of Conv-4 with 32 filters."""
    return network(channels, 32, 3)
