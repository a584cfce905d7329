import pytest
import torch
from torch import nn

from workbench.core.errors import WorkbenchError
from workbench.learn import functional, norm
from workbench.learn.norm import Norm2d
from workbench.learn.protocol import generator


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Norm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))


def test_a_skeleton_has_shapes_names_and_no_values():
    before = torch.random.get_rng_state()
    module = functional.skeleton(network)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(t.is_meta for t in (*module.parameters(), *module.buffers()))
    assert module[1].path == "1"


def test_values_come_from_the_generator_alone():
    module = functional.skeleton(network)
    before = torch.random.get_rng_state()
    a, b, c = (functional.initial(module, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a[0][n], b[0][n]) for n in a[0])
    assert not torch.equal(a[0]["0.weight"], c[0]["0.weight"])
    assert a[0].keys() == dict(module.named_parameters()).keys()
    assert a[1].keys() == dict(module.named_buffers()).keys()
    assert all(t.shape == a[0][n].shape for n, t in module.named_parameters())


def test_values_have_the_spread_they_should():
    params, buffers = functional.initial(functional.skeleton(lambda: nn.Conv2d(64, 64, 3)), generator(0))
    assert float(params["weight"].std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert float(params["bias"].abs().max()) == 0
    assert buffers == {}
    linear, _ = functional.initial(functional.skeleton(lambda: nn.Linear(400, 100)), generator(0))
    assert 0.049 < float(linear["weight"].abs().max()) <= 0.05
    norm_params, norm_buffers = functional.initial(functional.skeleton(lambda: Norm2d(3)), generator(0))
    assert norm_params["weight"].tolist() == [1, 1, 1]
    assert norm_buffers["running_var"].tolist() == [1, 1, 1]
    assert norm_buffers["running_mean"].tolist() == [0, 0, 0]


def test_a_layer_without_a_rule_is_refused():
    with pytest.raises(TypeError, match="Bilinear"):
        functional.initial(functional.skeleton(lambda: nn.Bilinear(2, 2, 2)), generator(0))


def test_calling_equals_the_module_and_leaves_it_empty():
    module = functional.skeleton(network)
    params, buffers = functional.initial(module, generator(0))
    x = torch.randn(3, 1, 6, 6, generator=generator(1))
    plain = network()
    plain.load_state_dict({**params, **buffers})
    torch.testing.assert_close(functional.call(module, params, buffers, x), plain(x))
    assert all(t.is_meta for t in (*module.parameters(), *module.buffers()))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_layout_is_channels_last_and_the_values_are_the_same(channels):
    x = torch.randn(2, channels, 4, 5, generator=generator(0), requires_grad=True)
    laid = functional.channels_last(x)
    assert torch.equal(laid, x)
    assert laid.stride() == (20 * channels, 1, 5 * channels, channels)
    (g,) = torch.autograd.grad(laid.square().sum(), x)
    assert torch.equal(g, 2 * x.detach())


def test_a_missing_tensor_is_noticed():
    module = functional.skeleton(network)
    params, buffers = functional.initial(module, generator(0))
    x = torch.zeros(1, 1, 6, 6)
    for name in ("0.weight", "4.weight"):
        with pytest.raises(KeyError, match=name):
            functional.call(module, {n: t for n, t in params.items() if n != name}, buffers, x)
    with pytest.raises(KeyError, match=r"1\.running_mean"):
        functional.call(module, params, {}, x)
    with norm.batch_statistics():
        assert functional.call(module, params, {}, x).shape == (1, 2)


def test_a_frozen_network_is_plain_independent_and_checked():
    module = functional.skeleton(network)
    params, buffers = functional.initial(module, generator(0))
    params = {n: t.requires_grad_() for n, t in params.items()}
    x = torch.randn(3, 1, 6, 6, generator=generator(1))
    frozen = functional.frozen(module, {**params, **buffers})
    expected = functional.call(module, params, buffers, x)
    torch.testing.assert_close(frozen(x), expected)
    assert not any(isinstance(m, Norm2d) for m in frozen.modules())
    assert not any(t.requires_grad for t in frozen.parameters())
    assert not any(m.training for m in frozen.modules())
    with torch.no_grad():
        params["0.weight"].zero_()
    torch.testing.assert_close(frozen(x), expected)
    whole = {**params, **buffers}
    for wrong in (params, {**whole, "1.running_var": torch.zeros(7)}, {**whole, "1.x": torch.zeros(4)}):
        with pytest.raises(ValueError, match=r"1\.running_var|1\.x"):
            functional.frozen(module, wrong)


@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_behind_a_convolution_is_folded_into_it(bias):
    module = functional.skeleton(lambda: nn.Sequential(nn.Conv2d(1, 4, 3, bias=bias), Norm2d(4), nn.ReLU(), Norm2d(4)))
    params, buffers = functional.initial(module, generator(0))
    gen = generator(1)
    values = {n: t.double() + torch.rand(t.shape, generator=gen).double() for n, t in {**params, **buffers}.items()}
    x = torch.randn(3, 1, 6, 6, generator=gen).double()
    frozen = functional.frozen(module, values)
    torch.testing.assert_close(frozen(x), functional.call(module, values, {}, x), rtol=0, atol=1e-12)
    assert isinstance(frozen[1], nn.Identity)
    assert isinstance(frozen[3], nn.BatchNorm2d)


def test_a_network_for_grey_takes_the_sum_over_colours():
    colour = functional.skeleton(lambda: nn.Conv2d(3, 4, 3))
    weights = {**functional.initial(colour, generator(0))[0], "fc.weight": torch.zeros(2)}
    grey = functional.skeleton(lambda: nn.Conv2d(1, 4, 3))
    params, _ = functional.loaded(grey, weights)
    x = torch.randn(2, 1, 6, 6, generator=generator(1))
    expected = functional.call(colour, {n: weights[n] for n in ("weight", "bias")}, {}, x.expand(2, 3, 6, 6))
    torch.testing.assert_close(functional.call(grey, params, {}, x), expected)


def test_other_weights_are_refused_by_name():
    module = functional.skeleton(lambda: nn.Conv2d(3, 4, 3))
    weights, _ = functional.initial(module, generator(0))
    with pytest.raises(WorkbenchError, match="lack bias"):
        functional.loaded(module, {"weight": weights["weight"]})
    with pytest.raises(WorkbenchError, match=r"bias is \[5\] there and \[4\] here"):
        functional.loaded(module, {**weights, "bias": torch.zeros(5)})


def test_names_under_a_prefix():
    tensors = {"trunk.a": torch.zeros(1), "head.a": torch.ones(1)}
    assert list(functional.under(tensors)) == ["a"]
    assert list(functional.named({"a": torch.zeros(1)})) == ["trunk.a"]
