import sqlite3
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.values import Preprocess
from workbench.data.read import image_ref
from workbench.learn.features import FeatureCache, batch_size, features, trunk_digest
from workbench.learn.protocol import State

P = Preprocess(size=8, channels="grey", mean=(0.4,), std=(0.3,))


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return x.flatten(1)[:, :5] * 2


@pytest.fixture
def images(tmp_path):
    out = []
    for i in range(30):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        out.append(image_ref(str(tmp_path / f"{i}.png")))
    return out


def expected(tmp_path, images):
    arrays = [np.asarray(Image.open(i.path), dtype=np.float32).reshape(-1)[:5] for i in images]
    return torch.from_numpy((np.stack(arrays) / 255 - 0.4) / 0.3 * 2)


class TestFeatures:
    def test_value_order_and_repeats(self, images, tmp_path):
        trunk = Trunk()
        some = [images[3], images[1], images[3]]
        f = features(some, trunk, "t" * 64, P, FeatureCache(tmp_path / "c"), Context())
        assert torch.allclose(f, expected(tmp_path, some), atol=1e-5)
        assert sum(trunk.seen) == 2

    def test_each_picture_once_also_after_a_restart(self, images, tmp_path):
        trunk = Trunk()
        first = features(images, trunk, "t" * 64, P, FeatureCache(tmp_path / "c"), Context())
        again = features(images[::-1], trunk, "t" * 64, P, FeatureCache(tmp_path / "c"), Context())
        assert sum(trunk.seen) == 30
        assert torch.equal(again, first.flip(0))

    def test_other_trunk_or_preprocessing_is_another_key(self, images, tmp_path):
        trunk, cache = Trunk(), FeatureCache(tmp_path / "c")
        for digest, p in (("t" * 64, P), ("u" * 64, P), ("t" * 64, Preprocess(8, "grey", mean=(0.5,), std=(0.3,)))):
            features(images[:2], trunk, digest, p, cache, Context())
        assert sum(trunk.seen) == 6

    def test_no_pictures(self, tmp_path):
        assert features([], Trunk(), "t" * 64, P, FeatureCache(tmp_path / "c"), Context()).shape == (0, 0)

    def test_memory_is_bounded_and_the_disk_answers(self, images, tmp_path):
        trunk, cache = Trunk(), FeatureCache(tmp_path / "c", memory=100)
        first = features(images, trunk, "t" * 64, P, cache, Context())
        assert cache._held <= 100
        assert len(cache._recent) == 5
        assert torch.equal(features(images, trunk, "t" * 64, P, cache, Context()), first)
        assert sum(trunk.seen) == 30

    def test_cancel(self, images, tmp_path):
        ctx = Context()
        ctx.cancel()
        with pytest.raises(JobCancelledError):
            features(images, Trunk(), "t" * 64, P, FeatureCache(tmp_path / "c"), ctx)

    def test_a_picture_that_is_gone(self, images, tmp_path):
        (tmp_path / "4.png").unlink()
        with pytest.raises(WorkbenchError):
            features(images, Trunk(), "t" * 64, P, FeatureCache(tmp_path / "c"), Context())


class TestCache:
    def rows(self, *names):
        return {n: np.arange(4, dtype=np.float32) + ord(n) for n in names}

    def file(self, root):
        return next(root.glob("*.sqlite"))

    def test_a_flipped_bit_is_computed_again(self, tmp_path):
        FeatureCache(tmp_path).put("s", self.rows("a", "b"))
        path = self.file(tmp_path)
        data = bytearray(path.read_bytes())
        at = data.index(self.rows("a")["a"].tobytes())
        data[at + 2] ^= 4
        path.write_bytes(data)
        assert list(FeatureCache(tmp_path).get("s", ["a", "b"])) == ["b"]

    @pytest.mark.parametrize("junk", [b"", b"no database at all" * 100])
    def test_a_ruined_file_is_begun_again(self, tmp_path, junk):
        FeatureCache(tmp_path).put("s", self.rows("a"))
        self.file(tmp_path).write_bytes(junk)
        cache = FeatureCache(tmp_path)
        assert cache.get("s", ["a"]) == {}
        cache.put("s", self.rows("b"))
        assert list(FeatureCache(tmp_path).get("s", ["a", "b"])) == ["b"]

    def test_a_folder_that_cannot_be_made_costs_speed_only(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        cache = FeatureCache(tmp_path / "file" / "deeper")
        cache.put("s", self.rows("a"))
        assert np.array_equal(cache.get("s", ["a"])["a"], self.rows("a")["a"])

    def test_old_spaces_make_room(self, tmp_path):
        cache = FeatureCache(tmp_path, disk=1)
        for space in "abc":
            cache.put(space, self.rows("x"))
        assert [p.stem for p in tmp_path.glob("*.sqlite")] == ["c"]

    def test_two_threads_and_two_caches(self, tmp_path):
        failed = []

        def work(cache, letters):
            try:
                for n in letters:
                    cache.put("s", self.rows(n))
                    assert n in cache.get("s", ["a", "z", n])
            except (OSError, sqlite3.Error, AssertionError) as error:
                failed.append(error)

        one, two = FeatureCache(tmp_path), FeatureCache(tmp_path)
        jobs = [
            threading.Thread(target=work, args=a) for a in ((one, "abcdefgh"), (one, "ijklmnop"), (two, "qrstuvwx"))
        ]
        for j in jobs:
            j.start()
        for j in jobs:
            j.join()
        assert failed == []
        assert len(FeatureCache(tmp_path).get("s", list("abcdefghijklmnopqrstuvwx"))) == 24
        with sqlite3.connect(self.file(tmp_path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()


def test_trunk_digest_sees_the_trunk_alone():
    weight, mean = torch.randn(3, 2), torch.zeros(2)
    state = State({"trunk.w": weight, "head.w": weight}, {"trunk.bn.mean": mean})
    known = trunk_digest(state)
    assert known == trunk_digest(
        State({"head.w": weight + 1, "trunk.w": weight.clone()}, {"trunk.bn.mean": mean, "n": mean})
    )
    assert known != trunk_digest(State({"trunk.w": weight + 1e-7}, {"trunk.bn.mean": mean}))
    assert known != trunk_digest(State({"trunk.w": weight}, {"trunk.bn.mean": mean + 1}))
    assert known != trunk_digest(State({"trunk.w": weight.reshape(2, 3)}, {"trunk.bn.mean": mean}))
    with pytest.raises(ValueError):
        trunk_digest(State({"head.w": weight}, {}))


def test_batches_depend_on_the_size_alone():
    assert [batch_size(s, s) for s in (28, 84, 224)] == [127, 14, 4]
