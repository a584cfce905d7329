"""ResNet-18 of torchvision without its classifier: ``[B, C, H, W] -> [B, 512]``; the trunk for photographs.

He et al. 2016 (arXiv 1512.03385). torchvision is loaded when the network is built, not before: it takes seconds.
"""

from __future__ import annotations

from torch import nn

from workbench.learn.norm import Norm2d
from workbench.learn.registry import Pretrained, register_backbone


def _url() -> str:
    from torchvision.models import ResNet18_Weights

    return str(ResNet18_Weights.IMAGENET1K_V1.url)


@register_backbone(
    "resnet18",
    title="ResNet-18",
    input="photographs, with pretrained weights",
    min_size=32,
    recommended_size=224,
    embedding_size=lambda _channels, _size: 512,
    pretrained=Pretrained(
        size_bytes=46_830_571,
        licence="BSD-3-Clause; trained on ImageNet, whose pictures are for non-commercial research",
        title="ImageNet-1k, version 1",
        sha256_prefix="f37072fd",
        url=_url,
    ),
)
def resnet18(channels: int, size: int) -> nn.Module:  # noqa: ARG001 - the same network for every size
    """ResNet-18 as torchvision builds it; the names of its tensors are torchvision's, so its weight files fit."""
    from torchvision.models import resnet18 as build

    network: nn.Module = build(weights=None, norm_layer=Norm2d)
    network.fc = nn.Identity()
    if channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return network


@register_backbone(
    "resnet18-layer3",
    title="ResNet-18, three stages",
    input="photographs unlike those that ResNet-18 was trained on",
    min_size=32,
    recommended_size=224,
    embedding_size=lambda _channels, _size: 256,
    part_of="resnet18",
)
def resnet18_layer3(channels: int, size: int) -> nn.Module:
    """ResNet-18 without its last stage; the mean over positions stands at the end of it all the same."""
    network = resnet18(channels, size)
    network.layer4 = nn.Identity()
    return network
