"""SimpleShot: CL2N by hand, its relation to cosine, the mean of the source features; mistakes are noticed."""

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, conformance, tasks
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.learn import functional, norm, supervised
from workbench.learn.algorithms.simpleshot import COUNT, MEAN, NearestCentroid, SimpleShot, transformed
from workbench.learn.protocol import Adapted, At, Phase, Setting, State, Support, generator

AT = At("classes", 0, 0.0)
SHOTS = (1, 3, 2, 1, 4)


def built(cls=SimpleShot, **params):
    tasks.tiny_backbone()
    return cls(build_params(cls.Params, params), Setting("tiny", 1, tasks.SIZE, classes_per_source=(40,)))


def trained(algorithm, steps=3):
    return cases.double(cases.train(algorithm, algorithm.init(generator(0)), steps))


def task(seed=0):
    return tasks.episode(generator(seed), shots=SHOTS, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def by_hand(algorithm, s, e):
    """Class by class and picture by picture, with the distance written out."""

    def embed(x):
        f = algorithm.embed(s, Adapted({}, e.ways), x) - s.memory[MEAN]
        return torch.stack([row / row.norm() for row in f])

    support, queries = embed(e.support_x), embed(e.query_x)
    centroids = [support[e.support_y == k].mean(0) for k in range(e.ways)]
    return torch.stack([-algorithm.p.scale * (queries - c).square().sum(1) for c in centroids], 1)


def equals_the_formula(cls):
    algorithm = built(cls)
    s, e = trained(algorithm), task()
    assert float(s.memory[MEAN].norm()) > 0.1
    found, expected = cases.predict(algorithm, s, e), by_hand(algorithm, s, e)
    gap = (found.softmax(1) - expected.softmax(1)).abs().max()
    assert float(gap) < 1e-12, f"{float(gap):.2e}"


def test_it_is_the_nearest_centroid_of_centred_unit_features():
    equals_the_formula(SimpleShot)


class CentredByTheExamples(SimpleShot):
    def adapt(self, s, support, ctx, **kwargs):
        mean = self._features(s, support.x).mean(0)
        return super().adapt(State(s.learned, {**s.memory, MEAN: mean}), support, ctx, **kwargs)


class QueriesAsTheyAre(SimpleShot):
    def logits(self, s, a, x):
        return self.head(s, a).linear(self._features(s, x))


class NotCentred(SimpleShot):
    def _mean(self, memory):
        return torch.zeros_like(memory[MEAN])


class CentroidsOfLengthOne(SimpleShot):
    def adapt(self, s, support, ctx, **kwargs):
        a = super().adapt(s, support, ctx, **kwargs)
        return Adapted({"prototypes": F.normalize(a.tensors["prototypes"], dim=1)}, a.ways)


@pytest.mark.parametrize("cls", [CentredByTheExamples, QueriesAsTheyAre, NotCentred, CentroidsOfLengthOne])
def test_the_formula_notices(cls):
    with pytest.raises(AssertionError):
        equals_the_formula(cls)


def test_centring_by_the_queries_is_noticed_as_a_leak():
    class CentredByTheQueries(SimpleShot):
        def logits(self, s, a, x):
            mean = self._features(s, x).mean(0)
            return super().logits(State(s.learned, {**s.memory, MEAN: mean}), a, x)

    with pytest.raises(AssertionError):
        conformance.a_query_alone_and_among_75_is_the_same(cases.Case("leak", lambda _: built(CentredByTheQueries)))


def test_without_a_mean_it_is_cosine_up_to_the_centroids_lengths():
    f, c = normal(9, 6), normal(4, 6, seed=1)
    found = NearestCentroid(torch.zeros(6, dtype=torch.float64), c, 3.0, unit=True)(f)
    cosine = F.cosine_similarity(f[:, None], c, dim=-1)
    length = c.norm(dim=1)
    torch.testing.assert_close(found, 6 * cosine * length - 3 * length**2, rtol=0, atol=1e-12)
    # with centroids of one length it is cosine alone
    c = F.normalize(c, dim=1)
    found = NearestCentroid(torch.zeros(6, dtype=torch.float64), c, 3.0, unit=True)(f)
    torch.testing.assert_close(found.softmax(1), (6 * cosine).softmax(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [0.01, 7.0])
def test_the_scale_of_features_does_not_matter(factor):
    s, f, m = normal(10, 6), normal(9, 6, seed=1), normal(6, seed=2)
    here = transformed(s, m, unit=True), transformed(f, m, unit=True)
    there = transformed(factor * s, factor * m, unit=True), transformed(factor * f, factor * m, unit=True)
    torch.testing.assert_close(here, there, rtol=0, atol=1e-13)
    assert not torch.allclose(transformed(f, m, unit=False), transformed(factor * f, factor * m, unit=False))


def test_un_is_plain_nearest_centroid():
    algorithm = built(transform="UN")
    s, e = trained(algorithm), task()
    a = algorithm.adapt(s, cases.support_of(e), Context())
    f = algorithm.embed(s, a, e.query_x)
    distance = (f[:, None] - a.tensors["prototypes"]).square().sum(-1)
    assert torch.equal(algorithm.logits(s, a, e.query_x).argmax(1), distance.argmin(1))


def test_the_mean_is_that_of_the_source_features():
    """A plain mean of the first batches, whatever it started at; then the newest weigh one hundredth."""
    algorithm = built()
    s = algorithm.init(generator(0))
    batches = [tasks.labelled(generator(i), 16) for i in range(3)]
    memory, means = s.memory, []
    for b in batches:
        with norm.batch_statistics():
            means.append(functional.call(algorithm.network, functional.under(s.learned), {}, b.x).mean(0))
        memory = algorithm.step(State(s.learned, memory), b, AT, Context()).memory
    torch.testing.assert_close(memory[MEAN], torch.stack(means).mean(0))
    late = {**memory, COUNT: torch.tensor(500.0), MEAN: torch.zeros(algorithm.features)}
    moved = algorithm.step(State(s.learned, late), batches[0], AT, Context()).memory[MEAN]
    torch.testing.assert_close(moved, 0.01 * means[0])


def test_classes_of_all_sources_are_told_apart_at_once():
    gen = generator(0)
    learned = supervised.classifier((3, 2, 4), 5, gen)
    assert learned["classifier.weight"].shape == (9, 5)
    assert float(learned["classifier.weight"].abs().max()) <= 5**-0.5
    b = tasks.Labelled(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 3, 2]), torch.tensor([0, 1, 2, 0]))
    assert supervised.rows_of(b, (3, 2, 4)).tolist() == [0, 4, 8, 2]
    f = torch.randn(4, 5, generator=gen)
    loss, accuracy = supervised.classified(learned, f, b, (3, 2, 4))
    z = f @ learned["classifier.weight"].T
    assert float(loss) == pytest.approx(float(-z.log_softmax(1)[range(4), [0, 4, 8, 2]].mean()))
    assert accuracy == pytest.approx(float((z.argmax(1) == torch.tensor([0, 4, 8, 2])).float().mean()))
    with pytest.raises(ValueError, match="number of classes"):
        supervised.classified({}, f, b, ())


def test_the_classifier_is_dropped_and_not_needed():
    algorithm = built()
    s = trained(algorithm)
    assert not any(n.startswith("classifier.") for n in s.learned)
    again = SimpleShot(algorithm.p, Setting("tiny", 1, tasks.SIZE))
    assert again.init(generator(0)).learned.keys() == s.learned.keys()
    e = task()
    assert torch.equal(cases.predict(again, s, e), cases.predict(algorithm, s, e))
    kept = State({"trunk.w": torch.zeros(1), "classifier.bias": torch.zeros(1)}, {})
    assert set(algorithm.finish(kept, Phase("classes"), Context()).learned) == {"trunk.w"}


def test_a_support_set_of_one_class_and_one_picture():
    algorithm = built()
    s = trained(algorithm)
    x = normal(1, 1, 8, 8)
    a = algorithm.adapt(s, Support(x, torch.zeros(1, dtype=torch.int64), 1), Context())
    assert algorithm.logits(s, a, x).shape == (1, 1)
