import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from workbench.core.errors import WorkbenchError
from workbench.core.values import ClassId, ImageRef, Role, Task, TaskClass, TaskId
from workbench.data.episodes import (
    Episode,
    Labelled,
    Sampler,
    Sequences,
    Source,
    episodes_hash,
    mean_std,
    normalise,
    source_from,
    split_validation,
)
from workbench.learn.protocol import generator


def numbered(name, classes, images, size=6, channels=1, start=0):
    """Pictures whose first pixel is their class and whose second is their number, so that a test can read them back."""
    arrays = []
    for c in range(classes):
        a = np.zeros((images, size, size, channels), dtype=np.uint8)
        a[:, 0, 0], a[:, 0, 1] = start + c, np.arange(images)[:, None]
        arrays.append(a)
    return Source(name, tuple(f"{name}{c}" for c in range(classes)), tuple(arrays))


def sampler(sources, **changes):
    options = {"ways": (3, 3), "shots": (2, 2), "queries": 4, "mean": (0.0,), "std": (1.0,)} | changes
    return Sampler(sources, **options)


def read(x):
    """Class and number of each picture."""
    return (x[:, 0, 0, 0] * 255).round().int().tolist(), (x[:, 0, 0, 1] * 255).round().int().tolist()


class TestDraw:
    def test_labels_pictures_and_ids_belong_together(self):
        s = sampler([numbered("a", 5, 9), numbered("b", 4, 9, start=50)])
        gen = generator(1)
        seen = set()
        for _ in range(40):
            e = s.draw(gen)
            assert e.support_x.shape == (6, 1, 6, 6)
            assert e.query_x.shape == (12, 1, 6, 6)
            classes, numbers = read(torch.cat([e.support_x, e.query_x]))
            labels = torch.cat([e.support_y, e.query_y]).tolist()
            by_label = {label: {c for c, k in zip(classes, labels, strict=True) if k == label} for label in range(3)}
            assert all(len(c) == 1 for c in by_label.values())
            start, first = (50, 45) if e.task == "b" else (0, 0)
            for label, name in enumerate(e.class_names):
                assert name == f"{e.task}{by_label[label].pop() - start}"
            ids = torch.cat([e.support_ids, e.query_ids]).tolist()
            assert ids == [4 * (first + 9 * (c - start) + n) for c, n in zip(classes, numbers, strict=True)]
            assert len(set(ids)) == len(ids)
            seen.add((e.task, e.class_names))
        assert {task for task, _ in seen} == {"a", "b"}

    def test_labels_are_freshly_permuted(self):
        s = sampler([numbered("a", 3, 8)])
        gen = generator(0)
        orders = {s.pick(gen).classes.tobytes() for _ in range(200)}
        assert len(orders) == 6

    def test_pictures_are_drawn_evenly(self):
        s = sampler([numbered("a", 3, 8)], shots=(1, 1), queries=1)
        gen = generator(3)
        counts = np.zeros(96, dtype=int)
        for _ in range(800):
            counts[s.pick(gen).support_ids] += 1
        counts = counts[::4]
        assert counts.sum() == 2400
        assert 70 < counts.min() <= counts.max() < 130  # 100 expected, standard deviation about 9.4

    def test_the_generator_alone_decides(self):
        s = sampler([numbered("a", 9, 9)])
        before = torch.get_rng_state()
        first, again, other = (episodes_hash([s.pick(generator(seed)) for _ in range(3)]) for seed in (7, 7, 8))
        assert first == again != other
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_small_class_gives_fewer_queries_and_never_overlaps(self):
        small = numbered("a", 3, 3)
        e = sampler([small]).draw(generator(0))
        assert len(e.support_y) == 6
        assert e.query_y.tolist() == [0, 1, 2]

    def test_a_class_with_too_few_pictures_is_left_alone(self):
        arrays = numbered("a", 4, 9)
        tiny = replace(arrays, arrays=(*arrays.arrays[:3], arrays.arrays[3][:2]))
        s = sampler([tiny])
        gen = generator(0)
        assert all(3 not in s.pick(gen).classes // 4 for _ in range(30))

    def test_ranges_of_ways_and_shots(self):
        s = sampler([numbered("a", 6, 5), numbered("b", 3, 9)], ways=(2, 5), shots=(1, 6), queries=2)
        gen = generator(0)
        drawn = [s.pick(gen) for _ in range(200)]
        assert {d.ways for d in drawn if d.task == "a"} == {2, 3, 4, 5}
        assert {d.ways for d in drawn if d.task == "b"} == {2, 3}
        assert max(len(d.support_y) / d.ways for d in drawn if d.task == "a") == 4  # one of five is left to be asked
        assert s.largest_ways == 5

    def test_turned_pictures_are_classes_of_their_own(self):
        source = numbered("a", 2, 9)
        s = sampler([source], ways=(8, 8), shots=(1, 1), queries=1, rotations=True)
        e = s.draw(generator(0))
        assert sorted(e.class_names) == sorted(
            name + turn for name in ("a0", "a1") for turn in ("", ", turned 90°", ", turned 180°", ", turned 270°")
        )
        for i, y in enumerate(e.support_y.tolist()):
            c, turn = divmod(int(s.pick(generator(0)).classes[y]), 4)
            row = int(e.support_ids[i]) // 4 - 9 * c
            expected = np.rot90(source.arrays[c][row], turn)
            assert np.array_equal((e.support_x[i, 0] * 255).round().numpy().astype(np.uint8), expected[..., 0])

    def test_examples_of_one_kind_and_queries_of_the_other(self):
        source = replace(numbered("a", 3, 9), support_only=(7, 6, 5))
        s = sampler([source], queries=9)
        gen = generator(0)
        for _ in range(50):
            e = s.draw(gen)
            for x, keep in ((e.support_x, lambda c, n: n < 7 - c), (e.query_x, lambda c, n: n >= 7 - c)):
                assert all(keep(c, n) for c, n in zip(*read(x), strict=True))
            assert sorted(np.bincount(e.query_y).tolist()) == [2, 3, 4]


class TestRefusal:
    def test_names_the_option_that_helps(self):
        with pytest.raises(WorkbenchError) as error:
            sampler([numbered("a", 3, 9), numbered("b", 4, 9)], ways=(5, 5))
        assert "no task has 5 classes" in str(error.value)
        assert "the largest, b, has 4, all tasks together 7" in str(error.value)
        assert "--across-tasks" in error.value.what_to_do
        assert sampler([numbered("a", 3, 9), numbered("b", 4, 9)], ways=(5, 5), across_tasks=True)

    def test_does_not_name_it_where_it_would_not_help(self):
        with pytest.raises(WorkbenchError) as error:
            sampler([numbered("a", 3, 9), numbered("b", 4, 9)], ways=(8, 8))
        assert "--across-tasks" not in str(error.value)

    def test_says_how_many_images_are_needed(self):
        with pytest.raises(WorkbenchError, match="there are 0 classes with at least 6 images"):
            sampler([numbered("a", 5, 5)], shots=(5, 5))

    def test_no_sources(self):
        with pytest.raises(WorkbenchError, match="there are 0 classes"):
            sampler([])


class TestEpisodeChecks:
    def good(self):
        return sampler([numbered("a", 3, 9)]).draw(generator(0))

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("support_x", lambda e: e.support_x[:-1]),
            ("support_x", lambda e: e.support_x[..., :-1]),
            ("support_y", lambda e: e.support_y.clamp(max=1)),
            ("query_y", lambda e: e.query_y + 1),
            ("query_ids", lambda e: e.support_ids.repeat(2)),
            ("class_names", lambda e: e.class_names[:2]),
            ("classes", lambda e: e.classes[:2]),
        ],
    )
    def test_refuses_what_does_not_fit(self, name, change):
        e = self.good()
        with pytest.raises(ValueError):
            replace(e, **{name: change(e)})

    def test_batches_of_other_kinds(self):
        x = torch.zeros(2, 1, 4, 4)
        with pytest.raises(ValueError):
            Labelled(x, torch.zeros(3), torch.zeros(2))
        with pytest.raises(ValueError):
            Sequences(x[None], torch.zeros(2, 1))
        assert isinstance(self.good(), Episode)


def test_normalise_is_the_plain_formula():
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    x = normalise(pixels, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    for c, (m, s) in enumerate(((0.1, 0.5), (0.2, 0.6), (0.3, 0.7))):
        assert np.allclose(x[:, c].numpy(), (pixels[..., c] / 255 - m) / s, atol=1e-6)


def test_hash_changes_with_every_id():
    s = sampler([numbered("a", 5, 9)])
    d = s.pick(generator(0))
    known = episodes_hash([d])
    for name in ("support_ids", "query_ids", "classes", "query_y"):
        assert episodes_hash([replace(d, **{name: getattr(d, name) + 4})]) != known
    assert episodes_hash([d, d]) != known


def test_hash_is_the_same_on_every_machine():
    s = sampler([numbered("a", 5, 9)])
    gen = generator(5)
    assert episodes_hash([s.pick(gen) for _ in range(4)])[:16] == "18c5e4403135f20f"


class TestLabelled:
    def test_label_and_source_belong_to_the_picture(self):
        s = sampler([numbered("a", 3, 9), numbered("b", 4, 2, start=50)], rotations=True)
        b = s.labelled(generator(0), 200)
        turned = torch.stack([torch.rot90(x, -(y % 4), (1, 2)) for x, y in zip(b.x, b.y.tolist(), strict=True)])
        classes, _ = read(turned)
        assert [c - 50 * k for c, k in zip(classes, b.source.tolist(), strict=True)] == (b.y // 4).tolist()
        assert s.classes_per_source == (12, 16)
        assert set((b.y % 4).tolist()) == {0, 1, 2, 3}

    @pytest.mark.parametrize("rotations", [False, True])
    def test_episodes_number_their_classes_as_it_does(self, rotations):
        """Counted one source after another, as a classifier over all sources has its rows."""
        sources = [numbered("a", 3, 5, start=1), numbered("b", 4, 5, start=50)]
        s = sampler(sources, rotations=rotations, across_tasks=True, shots=(1, 1), queries=1)
        gen = generator(0)
        b = s.labelled(gen, 3000)
        first = torch.tensor([0, s.classes_per_source[0]])
        rows = (first[b.source] + b.y).tolist()
        row_of = {x.numpy().tobytes(): row for x, row in zip(b.x, rows, strict=True)}
        assert len(row_of) == s.images * s.turns  # every picture, no two alike
        seen = set()
        for _ in range(60):
            e = s.draw(gen)
            for x, y in ((e.support_x, e.support_y), (e.query_x, e.query_y)):
                assert [row_of[p.numpy().tobytes()] for p in x] == e.classes[y].tolist()
            seen |= set(e.classes.tolist())
        assert seen == set(range(sum(s.classes_per_source)))

    def test_every_picture_is_as_likely_unless_balanced(self):
        s = sampler([numbered("a", 3, 30), numbered("b", 5, 2)])
        plain = s.labelled(generator(0), 2000).source.float().mean()
        balanced = s.labelled(generator(0), 2000, balanced=True).source.float().mean()
        assert abs(plain - 0.1) < 0.03
        assert abs(balanced - 0.5) < 0.05

    def test_one_source(self):
        s = sampler([numbered("a", 3, 9), numbered("b", 4, 9)])
        gen = generator(0)
        kinds = [set(s.labelled(gen, 8, one_source=True).source.tolist()) for _ in range(20)]
        assert all(len(k) == 1 for k in kinds)
        assert set.union(*kinds) == {0, 1}

    def test_sequences(self):
        b = sampler([numbered("a", 3, 9)]).sequences(generator(0), 2)
        assert b.x.shape == (18, 2, 1, 6, 6)
        classes, _ = read(b.x[:, 0])
        pairs = set(zip(classes, b.y[:, 0].tolist(), strict=True))
        assert len(pairs) == 3
        assert b.y[:, 0].tolist() != sorted(b.y[:, 0].tolist())


class TestSourceFrom:
    def task(self, *names):
        classes = tuple(
            TaskClass(
                f"c{k}",
                tuple(ImageRef(n, "", hashlib.sha256(n.encode()).hexdigest(), 1, 4, 4) for n in group),
                ClassId(""),
            )
            for k, group in enumerate(names)
        )
        return Task(TaskId("t"), "t", "/t", classes, role=Role.VALIDATION)

    def test_rows_unreadable_ones_and_copies(self):
        pixels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1).repeat(4, 1).repeat(4, 2)
        rows = {hashlib.sha256(n.encode()).hexdigest(): i for i, n in enumerate("abcdef")}
        source = source_from(self.task("bcd", "fax", "cc"), pixels, rows)
        assert [a[:, 0, 0, 0].tolist() for a in source.arrays] == [[1, 2, 3], [5, 0], [2]]
        assert np.shares_memory(source.arrays[0], pixels)
        assert source.role is Role.VALIDATION

    def test_mean_std(self):
        gen = np.random.default_rng(0)
        arrays = tuple(gen.integers(0, 255, (n, 5, 5, 3), dtype=np.uint8) for n in (3, 1, 7))
        source = Source("a", ("x", "y", "z"), arrays)
        whole = np.concatenate(arrays) / 255
        mean, std = mean_std([source])
        assert np.allclose(mean, whole.mean((0, 1, 2)), atol=1e-6)
        assert np.allclose(std, whole.std((0, 1, 2)), atol=1e-6)
        every_other = np.concatenate(arrays)[::2] / 255
        assert np.allclose(
            mean_std([source, replace(source, role=Role.HELD_OUT)], at_most=6)[0], every_other.mean((0, 1, 2))
        )

    def test_uniform_pictures_keep_a_positive_spread(self):
        assert mean_std([Source("a", ("x",), (np.zeros((2, 4, 4, 1), np.uint8),))])[1] == (0.01,)


def names(sources):
    return {(s.name, n) for s in sources for n in s.class_names}


class TestSplit:
    def split(self, sources, ways=(5, 5), shots=(1, 1), seed=0, **more):
        return split_validation(sources, ways, shots, 5, seed, **more)

    def test_across_tasks_a_fifth_of_the_classes(self):
        sources = [numbered(f"t{i}", 10, 6) for i in range(4)]
        train, held, kind = self.split(sources, across_tasks=True)
        assert kind == "classes"
        assert len(names(held)) == 8
        assert names(train) | names(held) == names(sources)
        assert not names(train) & names(held)
        assert names(self.split(sources, across_tasks=True, seed=1)[1]) != names(held)
        assert names(self.split(list(reversed(sources)), across_tasks=True)[1]) == names(held)

    def test_at_least_n(self):
        assert len(names(self.split([numbered("a", 12, 6)])[1])) == 5

    def test_ten_classes_suffice_and_nine_do_not(self):
        assert self.split([numbered("a", 10, 6)]).kind == "classes"
        assert self.split([numbered("a", 9, 6)]).kind == "images"

    def test_whole_tasks_where_there_are_many(self):
        sources = [numbered(f"t{i}", 10, 6) for i in range(12)]
        train, held, kind = self.split(sources)
        assert kind == "classes"
        assert len(held) == 2
        assert len(train) == 10
        assert all(len(s.class_names) == 10 for s in (*train, *held))

    def test_within_a_few_large_tasks(self):
        train, held, _ = self.split([numbered("a", 50, 6), numbered("b", 12, 6), numbered("c", 7, 6)])
        assert {s.name: len(s.class_names) for s in held} == {"a": 10, "b": 5}
        assert {s.name: len(s.class_names) for s in train} == {"a": 40, "b": 7, "c": 7}

    def test_one_whole_task_where_none_can_be_halved(self):
        train, held, kind = self.split([numbered(f"t{i}", 6, 6) for i in range(3)])
        assert (len(train), len(held), kind) == (2, 1, "classes")

    def test_rotations_count_but_stay_together(self):
        assert self.split([numbered("a", 4, 6)], rotations=True).kind == "classes"
        train, held, _ = self.split([numbered("a", 4, 6)], rotations=True)
        assert len(names(held)) == len(names(train)) == 2
        assert sampler(held, ways=(5, 5), rotations=True, shots=(1, 1))

    def test_images(self):
        source = numbered("a", 5, 10)
        train, held, kind = self.split([source], shots=(3, 3))
        assert kind == "images"
        assert [len(a) for a in train[0].arrays] == [8] * 5
        assert held[0].support_only == (8,) * 5
        for c in range(5):
            numbers = held[0].arrays[c][:, 0, 1, 0].tolist()
            assert sorted(numbers) == list(range(10))
            assert numbers[:8] == train[0].arrays[c][:, 0, 1, 0].tolist()
        assert sampler(held, ways=(5, 5), shots=(3, 3)).draw(generator(0)).query_y.numel() == 10

    def test_nothing_to_hold_out(self):
        source = numbered("a", 5, 2)
        train, held, kind = self.split([source])
        assert (held, kind) == ((), "images")
        assert train[0].images == source.images

    def test_what_the_person_gave_is_used(self):
        given = replace(numbered("v", 6, 6), role=Role.VALIDATION)
        dropped = replace(numbered("h", 6, 6), role=Role.HELD_OUT)
        source = numbered("a", 20, 6)
        assert self.split([source, given, dropped]) == ((source,), (given,), "classes")

    @pytest.mark.parametrize("shots", [(1, 1), (5, 5)])
    @pytest.mark.parametrize("across", [False, True])
    @pytest.mark.parametrize("rotations", [False, True])
    @pytest.mark.parametrize("shape", [(1, 5), (1, 11), (2, 6), (3, 12), (7, 5), (7, 20)])
    def test_both_sides_can_be_drawn_from(self, shape, across, rotations, shots):
        sources = [numbered(f"t{i}", shape[1], 8) for i in range(shape[0])]
        train, held, _ = self.split(sources, shots=shots, across_tasks=across, rotations=rotations)
        for side in (train, held):
            s = sampler(side, ways=(5, 5), shots=shots, across_tasks=across, rotations=rotations)
            assert s.draw(generator(0)).ways == 5
