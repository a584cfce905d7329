"""Meta-features: right numbers where they can be worked out by hand, no trace of order, nothing guessed."""

import dataclasses
import math

import pytest
import torch

from tests.transfer.tasks import GREY, files, normal, retold, task
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError
from workbench.core.values import Preprocess
from workbench.transfer.kinds import Gaussian, TaskData, cosine, packed, packed_mean, unpacked
from workbench.transfer.metafeatures import META_FEATURES, MetaFeatures, geometry, layout, looks
from workbench.transfer.represent import represent, similarity

CTX = Context()


def values(t, kind=None):
    return {m.feature.key: m.value for m in (kind or MetaFeatures()).table(t)}


def full():
    return dataclasses.replace(task(), images=files(12))


def test_every_meta_feature_has_a_name_and_a_unit():
    assert len({f.key for f in META_FEATURES}) == len(META_FEATURES)
    for f in META_FEATURES:
        assert f.title
        assert f.unit
        assert f.least > 0


@pytest.mark.parametrize("seed", range(3))
def test_neither_the_order_of_the_pictures_nor_the_names_of_the_classes_matter(seed):
    kind = MetaFeatures([("other", represent(task(domain=1).features))])
    a, b = kind.embed(full(), CTX), kind.embed(retold(full(), seed), CTX)
    assert torch.allclose(a, b, atol=1e-10)
    assert a.dtype == torch.float64


@pytest.mark.parametrize("each", [1, 2])
def test_all_is_finite_and_nothing_guessed_with_one_example_per_class(each):
    t = task(each=each)
    kind = MetaFeatures([("other", represent(task(domain=1).features))])
    assert torch.isfinite(kind.embed(t, CTX)).all()
    needs_two = {"within", "rank", "fisher", "silhouette", "neighbour_error"}
    missing = {k for k, v in values(t, kind).items() if v is None}
    assert missing == {"side", "aspect", "jpeg"} | (needs_two if each == 1 else set())


def test_the_layout_is_counted():
    y = torch.tensor([0, 0, 0, 0, 0, 0, 1, 2, 2])
    found = layout(TaskData(y, 3))
    assert found == {"classes": 3.0, "shots_fewest": 1.0, "shots_mean": 3.0, "imbalance": 6.0}


def test_files_tell_size_shape_and_format():
    images = files(1, 40, 10, "JPG") + files(1, 10, 40)
    found = looks(TaskData(torch.tensor([0, 1]), 2, images=images))
    assert found == {"side": pytest.approx(20), "aspect": pytest.approx(1), "jpeg": 0.5}


def test_pixels_tell_colour_light_and_sharpness():
    p = Preprocess(size=8, mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 0.5))
    flat = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)[:, None, None].expand(3, 8, 8)
    half = torch.zeros(3, 8, 8, dtype=torch.float64)
    half[:, :, 4:] = 1
    pixels = torch.stack([flat, half])
    shape = (1, 3, 1, 1)
    x = (pixels - torch.tensor(p.mean).double().view(shape)) / torch.tensor(p.std).double().view(shape)
    found = looks(TaskData(torch.tensor([0, 1]), 2, x, preprocess=p))
    assert found["colour"] == 0.5
    assert found["red_mean"] == pytest.approx(0.75)
    assert found["blue_mean"] == pytest.approx(0.25)
    assert found["green_spread"] == pytest.approx(0.25)  # 0 in one picture, 1/2 in the other
    assert found["edges"] == pytest.approx(2 / 6 / 2)  # two of six inner columns in one of two pictures
    assert found["entropy"] == pytest.approx(0.5)  # one bit and none
    assert found["sharpness"] == pytest.approx(math.sqrt(1 / 3) / 2)  # Laplacian 1, -1 in two of six columns


def test_without_the_preprocessing_pixels_are_not_judged():
    assert looks(dataclasses.replace(task(), preprocess=None)) == {}


def test_the_geometry_of_two_classes_on_a_line():
    f = torch.tensor([[0.0], [2.0], [10.0], [12.0]], dtype=torch.float64)
    found = geometry(TaskData(torch.tensor([0, 0, 1, 1]), 2, features=f))
    assert found["within"] == pytest.approx(2.0)  # each class: (1 + 1) / (2 - 1)
    assert found["fisher"] == pytest.approx(25 / 2)
    assert found["rank"] == pytest.approx(1.0)
    assert found["neighbour_error"] == 0.0
    outer, inner = (11 - 2) / 11, (9 - 2) / 9
    assert found["silhouette"] == pytest.approx((outer + inner) / 2)
    mixed = geometry(TaskData(torch.tensor([0, 1, 0, 1]), 2, features=f))
    assert mixed["neighbour_error"] == 1.0
    assert mixed["silhouette"] < 0


def test_the_effective_rank_counts_directions():
    f = torch.cat([torch.eye(5), -torch.eye(5)]).double()
    assert geometry(TaskData(torch.zeros(10, dtype=torch.int64), 1, features=f))["rank"] == pytest.approx(5.0)


def test_many_examples_are_judged_by_an_even_choice(monkeypatch):
    t = task(ways=4, each=30)
    whole = geometry(t)
    monkeypatch.setattr("workbench.transfer.metafeatures._MOST", 60)
    part = geometry(t)
    assert part["silhouette"] == pytest.approx(whole["silhouette"], abs=0.1)
    assert part["silhouette"] == pytest.approx(geometry(retold(t))["silhouette"], abs=1e-12)


def test_similar_tasks_are_similar():
    kind = MetaFeatures()

    def pale(t):
        return dataclasses.replace(t, x=0.3 * t.x + 0.4, features=0.3 * t.features)

    strong, faint = ([kind.embed(f(task(seed=s)), CTX) for s in range(4)] for f in (lambda t: t, pale))
    kind = kind.fitted(strong + faint)
    a, b = strong[0], faint[0]
    assert kind.similarity(a, a) == 1.0
    own = [kind.similarity(u, v) for kin in (strong, faint) for i, u in enumerate(kin) for v in kin[:i]]
    other = [kind.similarity(u, v) for u in strong for v in faint]
    assert min(own) > max(other)
    assert kind.similarity(a, b) == kind.similarity(b, a)


def test_the_library_decides_what_counts_as_a_difference():
    f = len(META_FEATURES)
    there = torch.ones(f, dtype=torch.float64)
    library = [torch.cat([torch.full((f,), v, dtype=torch.float64), there]) for v in (-30.0, 30.0)]
    wide = MetaFeatures().fitted(library)
    assert torch.allclose(wide.spread, torch.full_like(wide.spread, 30.0))
    assert wide.similarity(*library) == pytest.approx(math.exp(-2))
    assert torch.allclose(wide.standardised(library[1]), there)
    twins = MetaFeatures().fitted([library[0], library[0]])
    assert torch.equal(twins.spread, torch.tensor([m.least for m in META_FEATURES], dtype=torch.float64))
    assert MetaFeatures().fitted([]).similarity(library[0], library[0]) == 1.0


def test_what_was_not_measured_in_both_tasks_does_not_count():
    f = len(META_FEATURES)
    a, b = torch.zeros(2 * f, dtype=torch.float64), torch.zeros(2 * f, dtype=torch.float64)
    a[f] = b[f] = 1  # only the first in both
    a[1], a[f + 1] = 1e3, 1
    kind = MetaFeatures()
    assert kind.similarity(a, b) == 1.0
    assert kind.similarity(a, torch.zeros_like(b)) == 0.0
    library = kind.fitted([a, b])
    assert float(library.mean[1]) == 1e3  # the mean of what was measured, not half of it
    assert float(library.standardised(b)[1]) == 0.0


def test_the_gaussian_goes_through_a_vector_unharmed():
    kind = Gaussian()
    a, b = task(), task(domain=2, each=7)
    va, vb = kind.embed(a, CTX), kind.embed(b, CTX)
    assert kind.similarity(va, vb) == pytest.approx(similarity(represent(a.features), represent(b.features)), rel=1e-6)
    assert kind.similarity(va, va) == 1.0
    assert torch.allclose(va, kind.embed(retold(a), CTX), atol=1e-6)
    r = unpacked(va)
    assert (len(r.mean), r.n) == (6, 12)
    assert torch.equal(packed(r), va)
    assert torch.equal(packed_mean(va.tolist()), r.mean)
    for too_short in (lambda: unpacked(va[:-1]), lambda: packed_mean([1.0, *va.tolist()])):
        with pytest.raises(ValueError, match="no mean"):
            too_short()
    for of_none in ([], [*va.tolist()[:-1], 0.0]):
        with pytest.raises(ValueError, match="at least one picture"):
            packed_mean(of_none)


def test_tasks_that_make_no_sense_are_refused():
    y = torch.tensor([0, 1, 1])
    for bad in (
        lambda: TaskData(y, 3),
        lambda: TaskData(y, 2, x=normal(2, 1, 8, 8)),
        lambda: TaskData(y, 2, images=files(2)),
        lambda: TaskData(y, 2).needed_x(),
        lambda: TaskData(y, 2).needed_features(),
        lambda: geometry(TaskData(y, 2, features=normal(3, 4) * math.nan)),
        lambda: looks(TaskData(y, 2, x=normal(3, 1, 8, 8) * math.inf, preprocess=GREY)),
    ):
        with pytest.raises(ValueError):
            bad()
    stopped = Context()
    stopped.cancel()
    for kind in (MetaFeatures(), Gaussian()):
        with pytest.raises(JobCancelledError):
            kind.embed(task(), stopped)


def test_the_cosine_of_nothing_is_nothing():
    assert cosine(torch.zeros(3), torch.ones(3)) == 0.0
    assert cosine(torch.ones(3), torch.ones(3)) == pytest.approx(1.0)
