"""A backbone with a linear layer behind it: what it computes, how it is put there and taken away again."""

import pytest
import torch
import torch.nn.functional as F

from workbench.core.errors import WorkbenchError
from workbench.learn import functional, recoloured, registry
from workbench.learn.protocol import generator

KEY = "conv4-32" + recoloured.SUFFIX


def trunk():
    skeleton = registry.backbone("conv4-32").skeleton(1, 16)
    params, buffers = functional.initial(skeleton, generator(0))
    return skeleton, {**params, **buffers}


def layer(seed):
    gen = generator(seed)
    return torch.randn(32, 32, generator=gen) / 6, torch.randn(32, generator=gen)


def test_the_layer_comes_behind_the_network_and_two_layers_are_one():
    skeleton, tensors = trunk()
    x = torch.randn(3, 1, 16, 16, generator=generator(1))
    plain = functional.frozen(skeleton, tensors)(x)
    first, second = layer(2), layer(3)
    once = recoloured.with_layer(tensors, *first)
    twice = recoloured.with_layer(once, *second)
    network = registry.backbone(KEY).skeleton(1, 16)
    torch.testing.assert_close(functional.frozen(network, once)(x), F.linear(plain, *first))
    expected = F.linear(F.linear(plain, *first), *second)
    torch.testing.assert_close(functional.frozen(network, twice)(x), expected, rtol=1e-4, atol=1e-4)
    other_order = F.linear(F.linear(plain, *second), *first)
    assert not torch.allclose(expected, other_order, rtol=0.1), "the order matters, so it is tested"


def test_without_the_layer_it_is_the_network_it_was():
    _, tensors = trunk()
    back = recoloured.without_layer(recoloured.with_layer(tensors, *layer(2)))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[n], t) for n, t in tensors.items())
    assert recoloured.without_layer(tensors) == tensors


def test_it_is_known_by_name_and_in_no_list():
    found = registry.backbone(KEY)
    assert found.key == KEY
    assert found.pretrained is None
    assert found.embedding_size(1, 28) == registry.backbone("conv4-32").embedding_size(1, 28)
    assert KEY not in registry.backbones()
    with pytest.raises(WorkbenchError, match="magic"):
        registry.backbone("magic" + recoloured.SUFFIX)
