"""ResNet-12: four residual blocks of three 3x3 convolutions, as few-shot papers use it (Oreshkin 2018; Lee 2019).

``[B, C, H, W] -> [B, 512]``: widths 64, 128, 256, 512, leaky ReLU 0.1, pooling by two after each block, then the mean
over positions. Oreshkin, Rodriguez, Lacoste 2018 (arXiv 1805.10123). No DropBlock.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from workbench.learn.norm import Norm2d
from workbench.learn.registry import register_backbone

WIDTHS = (64, 128, 256, 512)


class Residual(nn.Module):
    """``[B, in, H, W] -> [B, out, H // 2, W // 2]``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = Norm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = Norm2d(outputs)
        self.conv3 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm3 = Norm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.short_norm = Norm2d(outputs)
        self.act = nn.LeakyReLU(0.1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Three convolutions beside a 1x1 one, added, rectified and pooled."""
        y = self.act(self.norm1(self.conv1(x)))
        y = self.act(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        out: Tensor = self.pool(self.act(y + self.short_norm(self.short(x))))
        return out


@register_backbone(
    "resnet12",
    title="ResNet-12",
    input="photographs and characters from 32 pixels; slower and stronger than Conv-4",
    min_size=16,
    recommended_size=84,
    embedding_size=lambda _channels, _size: WIDTHS[-1],
)
def resnet12(channels: int, size: int) -> nn.Module:  # noqa: ARG001 - the same network for every size
    """ResNet-12 of width 512."""
    blocks = (Residual(a, b) for a, b in pairwise((channels, *WIDTHS)))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@register_backbone(
    "resnet12-block3",
    title="ResNet-12, three blocks",
    input="pictures unlike those that ResNet-12 was trained on",
    min_size=16,
    recommended_size=84,
    embedding_size=lambda _channels, _size: WIDTHS[-2],
    part_of="resnet12",
)
def resnet12_block3(channels: int, size: int) -> nn.Module:  # noqa: ARG001 - the same network for every size
    """The first three blocks of ResNet-12, of width 256."""
    blocks = (Residual(a, b) for a, b in pairwise((channels, *WIDTHS[:-1])))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
