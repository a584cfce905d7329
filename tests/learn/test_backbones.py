"""Every backbone: its shapes; and ResNet-18 against torchvision's."""

import pytest
import torch

from workbench.learn import functional, registry
from workbench.learn.norm import Norm2d
from workbench.learn.protocol import generator

SHIPPED = [k for k in registry.backbones() if not k.startswith("tiny")]


@pytest.mark.parametrize("key", SHIPPED)
def test_shapes_and_names(key):
    info = registry.backbone(key)
    for channels, size in ((1, info.min_size), (3, info.min_size + 13)):
        skeleton = info.skeleton(channels, size)
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in skeleton.modules()), "statistics need Norm2d"
        assert any(isinstance(m, Norm2d) for m in skeleton.modules())
        network = info.build(channels, size, generator(0))
        x = torch.randn(2, channels, size, size, generator=generator(1))
        out = network(x)
        assert out.shape == (2, info.embedding_size(channels, size))
        assert bool(out.isfinite().all())
        assert float(out.std()) > 1e-3
        params, buffers = functional.initial(skeleton, generator(0))
        torch.testing.assert_close(functional.call(skeleton, params, buffers, x), out, rtol=1e-4, atol=1e-5)
        assert info.parameters(channels, size) == sum(p.numel() for p in params.values())


@pytest.mark.parametrize("key", SHIPPED)
def test_a_smaller_picture_than_the_smallest_leaves_nothing(key):
    info = registry.backbone(key)
    if key.startswith("conv4"):
        assert info.embedding_size(1, info.min_size - 1) == 0


def test_known_sizes():
    conv4 = registry.backbone("conv4")
    assert conv4.embedding_size(1, 28) == 64
    assert conv4.embedding_size(3, 84) == 1600
    assert conv4.parameters(1, 28) == 9 * 64 + 3 * 9 * 64 * 64 + 4 * 2 * 64
    assert registry.backbone("conv4-32").embedding_size(3, 84) == 800
    assert 7_900_000 < registry.backbone("resnet12").parameters(3, 84) < 8_100_000


def test_resnet18_is_torchvisions():
    from torchvision.models import resnet18

    info = registry.backbone("resnet18")
    skeleton = info.skeleton(3, 64)
    params, buffers = functional.initial(skeleton, generator(0))
    buffers = {n: t + 0.1 for n, t in buffers.items()}
    theirs = resnet18(weights=None)
    theirs.fc = torch.nn.Identity()
    theirs.load_state_dict({**params, **buffers}, strict=False)
    x = torch.randn(2, 3, 64, 64, generator=generator(1))
    torch.testing.assert_close(functional.call(skeleton, params, buffers, x), theirs.eval()(x), rtol=1e-4, atol=1e-4)
    # A file of theirs fits, with the classifier and the counters that it holds besides.
    whole = resnet18(weights=None).state_dict()
    taken, held = functional.loaded(skeleton, whole)
    assert all(torch.equal(t, whole[n]) for n, t in {**taken, **held}.items())


def test_what_is_said_of_the_pretrained_weights_is_what_torchvision_says():
    from torchvision.models import ResNet18_Weights

    weights, said = ResNet18_Weights.IMAGENET1K_V1, registry.backbone("resnet18").pretrained
    assert said.size_bytes / 2**20 == pytest.approx(weights.meta["_file_size"], abs=0.001)
    assert said.url() == weights.url
    assert f"-{said.sha256_prefix}." in weights.url
