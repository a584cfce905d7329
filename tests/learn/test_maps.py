"""Backbones that end in maps: their sides, the tensors they share, what they compute."""

import pytest
import torch

from tests.learn import tasks
from workbench.learn import functional
from workbench.learn.maps import mapped
from workbench.learn.protocol import generator
from workbench.learn.registry import backbone, backbones


@pytest.mark.parametrize(
    ("key", "size", "least", "side"),
    [
        ("conv4", 28, 5, 7),
        ("conv4", 28, 1, 1),
        ("conv4", 28, 28, 28),
        ("conv4", 84, 5, 5),
        ("conv4", 84, 19, 21),
        ("conv4-32", 28, 3, 3),
        ("resnet12", 84, 5, 5),
        ("resnet12", 28, 5, 7),
        ("tiny", 8, 5, 4),
    ],
)
def test_maps_are_as_large_as_asked_for_or_as_there_are(key, size, least, side):
    tasks.tiny_backbone()
    network, channels, found = mapped(backbone(key), 1, size, least)
    assert found == side
    whole = backbone(key).skeleton(1, size)
    assert {n: p.shape for n, p in network.named_parameters()} == {n: p.shape for n, p in whole.named_parameters()}
    assert {n: b.shape for n, b in network.named_buffers()} == {n: b.shape for n, b in whole.named_buffers()}
    built = functional.frozen(
        network, {k: v for part in functional.initial(network, generator(0)) for k, v in part.items()}
    )
    with torch.no_grad():
        assert built(torch.zeros(2, 1, size, size)).shape == (2, channels * side * side)


@pytest.mark.parametrize("key", ["conv4", "resnet12"])
def test_pooled_maps_are_the_backbones_features(key):
    size = 32
    maps = mapped(backbone(key), 1, size, 2 if key == "resnet12" else 4)
    params, buffers = functional.initial(maps.network, generator(0))
    x = torch.randn(2, 1, size, size, generator=generator(1))
    with torch.no_grad():
        found = functional.call(maps.network, params, buffers, x).reshape(2, maps.channels, maps.side, maps.side)
        expected = functional.call(backbone(key).skeleton(1, size), params, buffers, x)
    pooled = found.mean((2, 3)) if key == "resnet12" else torch.nn.functional.max_pool2d(found, 2).flatten(1)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)


def test_a_network_without_maps_is_refused():
    class Odd(tasks.Tiny):
        def forward(self, x):
            return super().forward(x)[:, :100]

    class Info:
        def skeleton(self, channels, size):
            return functional.skeleton(lambda: Odd(channels))

    with pytest.raises(ValueError, match="no square map"):
        mapped(Info(), 1, tasks.SIZE, 5)
    assert "conv4" in backbones()
