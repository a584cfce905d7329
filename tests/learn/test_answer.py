"""The answering network: probabilities that add up, "none of these" by distance, and one code path for all callers."""

import math

import pytest
import torch
from torch import nn

from workbench.learn.answer import Answering
from workbench.learn.protocol import Deployed


def answering(temperature=2.0, threshold=1.0, width=0.1, ways=3, features=4):
    gen = torch.Generator().manual_seed(0)
    trunk = nn.Sequential(nn.Flatten(), nn.Linear(12, features))
    head = nn.Linear(features, ways)
    for p in (*trunk.parameters(), *head.parameters()):
        p.data = torch.randn(p.shape, generator=gen)
    prototypes = torch.randn(ways, features, generator=gen)
    net = Answering(Deployed(trunk, head), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), temperature, prototypes, threshold, width)
    return net, prototypes


def test_it_normalises_scales_and_adds_up_to_one():
    net, _ = answering()
    x = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, probabilities, distance, embedding = net(x)
        mean, std = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1)
        z, e = net.deployed((x - mean) / std)
    assert torch.allclose(embedding, e)
    assert torch.allclose(logits, z / 2.0)
    assert torch.allclose(probabilities.sum(1), torch.ones(5))
    assert probabilities.shape == (5, 4)
    shares = probabilities[:, :3] / probabilities[:, :3].sum(1, keepdim=True)
    assert torch.allclose(shares, torch.softmax(logits, 1), atol=1e-5)
    assert distance.shape == (5,)


def test_none_of_these_is_even_at_the_threshold_and_grows_with_the_distance():
    net, prototypes = answering(threshold=2.0, width=0.5)
    direction = torch.zeros(4)
    direction[0] = 1.0
    alone = prototypes[:1]
    net.prototypes = alone.clone()
    at = torch.stack([alone[0] + d * direction for d in (0.0, 1.5, 2.0, 2.5)])
    _, probabilities, distance = net.from_embedding(at)
    assert distance.tolist() == pytest.approx([0.0, 1.5, 2.0, 2.5], abs=1e-5)
    expected = [1 / (1 + math.exp(-(d - 2.0) / 0.5)) for d in (0.0, 1.5, 2.0, 2.5)]
    assert probabilities[:, -1].tolist() == pytest.approx(expected, abs=1e-5)


def test_classes_of_a_picture_that_is_far_off_are_still_ranked():
    net, _ = answering()
    far = torch.tensor([[400.0, -300.0, 200.0, 100.0], [-9.0, 4.0, 7.0, 3.0]])
    logits, probabilities, _ = net.from_embedding(far)
    assert (probabilities[:, -1] > 0.999).all()
    assert torch.equal(probabilities[:, :-1].argmax(1), logits.argmax(1))
    assert (probabilities[:, :-1].amax(1) > 0).all()


def test_the_distance_is_to_the_nearest_prototype():
    net, prototypes = answering()
    gap = (prototypes[2] - prototypes).norm(dim=1)
    assert float(gap[gap > 0].min()) > 0.2
    _, _, distance = net.from_embedding(prototypes[2:3] + 0.01)
    assert float(distance) == pytest.approx(0.02, abs=1e-4)


def test_a_cached_embedding_gives_the_same_answer_as_the_picture():
    net, _ = answering()
    x = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits, probabilities, distance, embedding = net(x)
        again = net.from_embedding(embedding)
    assert all(torch.equal(a, b) for a, b in zip((logits, probabilities, distance), again, strict=True))


def test_it_keeps_no_reference_to_the_prototypes_it_was_given():
    net, prototypes = answering()
    before = net.prototypes.clone()
    prototypes.zero_()
    assert torch.equal(net.prototypes, before)
    assert not net.training
