"""Norm2d against torch's own batch norm, and its policies."""

import threading

import pytest
import torch
from torch import nn

from workbench.learn import functional, norm
from workbench.learn.norm import Moments, Norm2d
from workbench.learn.protocol import generator


def layer(channels=3):
    module = Norm2d(channels).double()
    module.path = "n"
    with torch.no_grad():
        module.weight.copy_(torch.tensor([0.5, -1.0, 2.0])[:channels])
        module.bias.copy_(torch.tensor([0.1, 0.2, -0.3])[:channels])
    return module


def torchs(module):
    other = nn.BatchNorm2d(len(module.weight)).double()
    other.load_state_dict({**module.state_dict(), "num_batches_tracked": torch.tensor(0)})
    return other


def pictures(n=4, channels=3, side=5, seed=0):
    return 2 + 3 * torch.randn(n, channels, side, side, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("differentiable", [False, True])
def test_batch_statistics_are_those_of_torch(differentiable):
    module, x = layer(), pictures()
    other = torchs(module).train()
    expected = other(x)
    with norm.batch_statistics(differentiable=differentiable) as seen:
        torch.testing.assert_close(module(x), expected)
    moved = norm.running_average({f"n.{k}": v for k, v in module.named_buffers()}, seen)
    torch.testing.assert_close(moved["n.running_mean"], other.running_mean)
    torch.testing.assert_close(moved["n.running_var"], other.running_var)
    assert seen["n"].values == 100
    torch.testing.assert_close(seen["n"].var, x.var((0, 2, 3), correction=0))
    assert float(module.running_mean.abs().max()) == 0, "the module itself is not written to"


def test_running_statistics_are_the_default_and_those_of_torch():
    module, x = layer(), pictures()
    module.running_mean += 0.3
    module.running_var *= 2
    torch.testing.assert_close(module(x), torchs(module).eval()(x))


def test_given_statistics_are_used_as_they_are():
    module, x = layer(), pictures()
    with norm.batch_statistics() as seen:
        expected = module(x)
    with norm.given_statistics(seen):
        torch.testing.assert_close(module(x), expected)
        torch.testing.assert_close(module(x[:1]), expected[:1])


@pytest.mark.parametrize("differentiable", [False, True])
def test_gradients_of_any_order_are_right(differentiable):
    module = layer(2)

    def out(x, weight, bias):
        with norm.batch_statistics(differentiable=differentiable):
            return torch.func.functional_call(module, {"weight": weight, "bias": bias}, (x,))

    args = [t.clone().requires_grad_() for t in (pictures(2, 2, 2), module.weight.detach(), module.bias.detach())]
    assert torch.autograd.gradcheck(out, args)
    assert torch.autograd.gradgradcheck(out, args)


def test_recorded_statistics_carry_gradients_where_asked():
    module, x = layer(), pictures().requires_grad_()
    with norm.batch_statistics(differentiable=True) as seen:
        module(x)
    (g,) = torch.autograd.grad(seen["n"].mean.sum(), x)
    torch.testing.assert_close(g, torch.full_like(x, 1 / 100))
    with norm.batch_statistics() as plain:
        module(x)
    assert not plain["n"].mean.requires_grad


def test_policies_nest_and_end():
    module, x = layer(), pictures()
    outside = module(x)
    with norm.batch_statistics() as a:
        inside = module(x)
        with norm.given_statistics({"n": Moments(torch.zeros(3).double(), torch.ones(3).double(), 1)}):
            torch.testing.assert_close(module(x), outside, rtol=1e-4, atol=1e-4)
        assert torch.equal(module(x), inside)
    assert torch.equal(module(x), outside)
    assert not torch.equal(inside, outside)
    assert list(a) == ["n"]


def test_a_policy_ends_when_the_block_raises():
    module, x = layer(), pictures()
    outside = module(x)
    with pytest.raises(RuntimeError), norm.batch_statistics():
        raise RuntimeError
    assert torch.equal(module(x), outside)


def test_a_policy_is_of_its_own_thread():
    module, x = layer(), pictures()
    outside, seen = module(x), []
    with norm.batch_statistics():
        other = threading.Thread(target=lambda: seen.append(module(x)))
        other.start()
        other.join()
    assert torch.equal(seen[0], outside)


def test_one_value_per_channel_gives_the_bias():
    module, x = layer(), pictures(1, 3, 1)
    with norm.batch_statistics() as seen:
        torch.testing.assert_close(module(x)[0, :, 0, 0], module.bias.detach())
    moved = norm.running_average({f"n.{k}": v for k, v in module.named_buffers()}, seen)
    assert all(t.isfinite().all() for t in moved.values())


def test_statistics_become_the_buffers_of_a_frozen_network():
    network = functional.skeleton(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), Norm2d(2)))
    params, _ = functional.initial(network, generator(0))
    x = pictures(3, 1).float()
    with norm.batch_statistics() as seen:
        expected = functional.call(network, params, {}, x)
    frozen = functional.frozen(network, {**params, **norm.as_buffers(seen)})
    torch.testing.assert_close(frozen(x), expected)


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("side", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_are_those_of_the_pictures_together(count, side, dtype):
    x = pictures(side=side)[:count] + torch.tensor([0.0, 50.0, -7.0])[:, None, None].double()
    for laid in (x, x.contiguous(memory_format=torch.channels_last)):
        found = norm.moments(laid.to(dtype))
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        assert found.values == x.numel() // 3
        assert found.mean.dtype == found.var.dtype == dtype
        exact = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(found.mean.double(), mean, rtol=exact, atol=exact)
        torch.testing.assert_close(found.var.double(), var, rtol=exact, atol=10 * exact)
