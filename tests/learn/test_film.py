"""Modulation: what it does to a layer, that it starts as nothing, that it costs no layer."""

import pytest
import torch
import torch.nn.functional as F

from tests.learn import tasks
from workbench.learn import film, functional, norm
from workbench.learn.protocol import generator
from workbench.learn.registry import backbone

CODE = 5


def tiny():
    tasks.tiny_backbone()
    return backbone("tiny").skeleton(1, tasks.SIZE)


def drawn(network, gate=0.3):
    """Float64 tensors of the network and of its modulation, with open gates."""
    params, buffers = functional.initial(network, generator(0))
    learned = film.initial(film.layers(network), CODE, generator(1))
    learned = {n: t + gate if n.endswith("gate") else t for n, t in learned.items()}
    params = {n: t + 0.1 * torch.rand(t.shape, generator=generator(2)) for n, t in params.items()}
    return tuple({n: t.double() for n, t in part.items()} for part in (params, buffers, learned))


@pytest.mark.parametrize(("key", "size", "count"), [("conv4", 28, 4), ("resnet12", 32, 16)])
def test_every_normalisation_is_modulated(key, size, count):
    network = backbone(key).skeleton(1, size)
    found = film.layers(network)
    assert len(found) == count
    assert all(network.get_submodule(path).weight.numel() == c for path, c in found.items())


def test_it_comes_behind_the_batch_norm():
    network = tiny()
    params, buffers, learned = drawn(network)
    layers = film.layers(network)
    code = torch.randn(CODE, generator=generator(3), dtype=torch.float64)
    (gamma, beta) = film.generate(learned, layers, code)["norm"]
    x = torch.randn(4, 1, 8, 8, generator=generator(4), dtype=torch.float64)
    conv = F.conv2d(x, params["conv.weight"], padding=1)
    normalised = F.batch_norm(conv, None, None, params["norm.weight"], params["norm.bias"], True)
    shape = (1, -1, 1, 1)
    expected = F.max_pool2d(F.relu(gamma.view(shape) * normalised + beta.view(shape)), 2).flatten(1)
    with norm.batch_statistics():
        found = functional.call(network, film.modulated(params, {"norm": film.Film(gamma, beta)}), buffers, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    wrong = {**params, "norm.weight": gamma * params["norm.weight"], "norm.bias": params["norm.bias"] + beta}
    with norm.batch_statistics():
        assert float((functional.call(network, wrong, buffers, x) - expected).abs().max()) > 1e-3


def test_the_small_networks_are_what_they_say():
    network = tiny()
    _, _, w = drawn(network)
    code = torch.randn(CODE, generator=generator(3), dtype=torch.float64)

    def by_hand(kind):
        name = f"film.norm.{kind}."
        first = w[name + "first"] @ code + w[name + "first_bias"]
        return w[name + "gate"] * (first + w[name + "second"] @ first.clamp_min(0) + w[name + "second_bias"])

    (gamma, beta) = film.generate(w, film.layers(network), code)["norm"]
    torch.testing.assert_close(gamma, 1 + by_hand("gamma"), rtol=0, atol=1e-14)
    torch.testing.assert_close(beta, by_hand("beta"), rtol=0, atol=1e-14)


def test_it_starts_as_nothing_to_the_last_bit_and_can_grow():
    network = tiny()
    params, _, _ = drawn(network)
    learned = film.initial(film.layers(network), CODE, generator(1))
    code = torch.randn(CODE, generator=generator(3))
    plain = film.modulated(params, film.generate(learned, film.layers(network), code))
    assert plain.keys() == params.keys()
    assert all(torch.equal(plain[n], params[n]) for n in params)
    assert float(film.penalty(learned)) == 0
    leaves = {n: t.requires_grad_() for n, t in learned.items()}
    out = film.modulated(params, film.generate(leaves, film.layers(network), code))
    (out["norm.weight"].sum() + out["norm.bias"].sum()).backward()
    assert all(float(t.grad.abs()) > 0 for n, t in leaves.items() if n.endswith("gate"))


def test_the_penalty_is_the_gates_squares():
    _, _, learned = drawn(tiny(), gate=0.5)
    assert float(film.penalty(learned)) == pytest.approx(2 * 0.25)
