from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workbench.core import storage
from workbench.core.errors import StorageError, WorkbenchError
from workbench.export import archive, weights
from workbench.export.model import (
    MODEL_FILE,
    Manifest,
    decode_manifest,
    encode_manifest,
    read_model,
    with_files,
    write_model,
)


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def reseal(data: bytes, change: object) -> bytes:
    """A manifest changed by someone who also corrects its hash."""
    raw = json.loads(data)
    change(raw["value"])  # type: ignore[operator]
    raw["value"]["digest"] = "0" * 64
    blank = json.dumps(raw).encode()
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


def test_a_model_reads_back_as_written(tmp_path: Path, manifest: Manifest, tensors, thumbnails) -> None:
    folder = write_model(tmp_path / "m", manifest, tensors, thumbnails)
    read, values, pictures = read_model(folder)
    plain = tuple(replace_thumbnail(s) for s in read.support)
    assert replace(read, digest="", weights="", files=(), support=plain) == manifest
    assert pictures == thumbnails
    assert values.keys() == tensors.keys()
    for name, value in tensors.items():
        assert values[name].dtype == value.dtype
        assert values[name].shape == value.shape
        assert np.array_equal(values[name], value)
    assert read_model(folder / MODEL_FILE)[0] == read


def replace_thumbnail(image):
    import msgspec

    assert image.thumbnail.startswith("thumbnails/")
    return msgspec.structs.replace(image, thumbnail="")


def test_writing_again_replaces_the_model_and_leaves_nothing_of_it(tmp_path, manifest, tensors, thumbnails) -> None:
    folder = write_model(tmp_path / "m", manifest, tensors, thumbnails)
    first = content(folder)
    write_model(
        folder, replace(manifest, name="other", support=manifest.support[:2]), {"a": np.zeros(3)}, thumbnails[:2]
    )
    second = content(folder)
    assert read_model(folder)[0].name == "other"
    assert len(first) == 1 + 1 + 6
    assert len(second) == 1 + 1 + 2
    write_model(
        tmp_path / "again",
        replace(manifest, name="other", support=manifest.support[:2]),
        {"a": np.zeros(3)},
        thumbnails[:2],
    )
    assert content(tmp_path / "again") == second


@pytest.mark.parametrize("name", ["notes.txt", "model.json"])
def test_a_folder_that_is_not_a_model_is_left_alone(tmp_path, manifest, tensors, name) -> None:
    (tmp_path / name).write_text('{"kind": "something else"}')
    with pytest.raises(WorkbenchError, match="not a model"):
        write_model(tmp_path, manifest, tensors, [])
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_every_file_operation_that_fails_leaves_the_old_model(
    tmp_path, manifest, tensors, thumbnails, monkeypatch
) -> None:
    manifest, thumbnails = replace(manifest, support=manifest.support[:1]), thumbnails[:1]
    folder = write_model(tmp_path / "m", manifest, tensors, thumbnails)
    newer = replace(manifest, name="newer")

    class Failing(storage.Ops):
        left = 0

    for name in ("open", "write", "fsync", "replace", "read", "fsync_dir"):

        def operation(self, *args, name=name):
            Failing.left -= 1
            if Failing.left == 0:
                raise OSError(28, "No space left on device")
            return getattr(storage.Ops, name)(self, *args)

        setattr(Failing, name, operation)
    failures = []
    for k in range(1, 200):
        Failing.left = k
        monkeypatch.setattr(storage, "ops", Failing())
        try:
            write_model(folder, newer, {"a": np.full(3, k)}, thumbnails)
        except StorageError as error:
            failures.append(str(error))
            monkeypatch.setattr(storage, "ops", storage.Ops())
            assert read_model(folder)[0].name in (manifest.name, newer.name)
        if Failing.left > 0:
            break
        monkeypatch.setattr(storage, "ops", storage.Ops())
        write_model(folder, manifest, tensors, thumbnails)
    assert len(failures) >= 18
    assert all("No space left" in text for text in failures)
    monkeypatch.setattr(storage, "ops", storage.Ops())
    assert read_model(folder)[0].name == "newer"


def test_every_flipped_bit_and_cut_is_noticed(tmp_path, manifest, tensors, thumbnails) -> None:
    folder = write_model(tmp_path / "m", manifest, tensors, thumbnails)
    rng = np.random.default_rng(0)
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        good = path.read_bytes()
        for _ in range(60):
            bad = bytearray(good)
            at = int(rng.integers(len(good)))
            bad[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(bad)
            with pytest.raises(StorageError):
                read_model(folder)
        for _ in range(5):
            path.write_bytes(good[: int(rng.integers(len(good)))])
            with pytest.raises(StorageError):
                read_model(folder)
        path.write_bytes(good)
    read_model(folder)


def test_a_flipped_bit_in_a_bundle_is_noticed_or_does_nothing(tmp_path, manifest, tensors, thumbnails) -> None:
    data = bundle(manifest, tensors, thumbnails)
    path = tmp_path / "m.zip"
    path.write_bytes(data)
    whole = read_model(path)
    rng = np.random.default_rng(0)
    noticed = 0
    for at in rng.integers(len(data), size=300):
        bad = bytearray(data)
        bad[int(at)] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        try:
            read = read_model(path)
        except StorageError:
            noticed += 1
        else:
            assert read[0] == whole[0]
    assert noticed >= 298


def bundle(manifest: Manifest, tensors, thumbnails, extra: dict[str, bytes] | None = None) -> bytes:
    names = [f"thumbnails/{i}.png" for i in range(len(thumbnails))]
    files = {"weights.safetensors": weights.encode(tensors), **dict(zip(names, thumbnails, strict=True))}
    full = with_files(manifest, "weights.safetensors", names, files)
    return archive.pack({MODEL_FILE: encode_manifest(full), **files, **(extra or {})})


def test_a_bundle_reads_as_the_folder_does(tmp_path, manifest, tensors, thumbnails) -> None:
    path = tmp_path / "m.zip"
    path.write_bytes(bundle(manifest, tensors, thumbnails))
    read, values, pictures = read_model(path)
    assert (read.name, read.classes, pictures) == (manifest.name, manifest.classes, thumbnails)
    assert np.array_equal(values["support.embedding"], tensors["support.embedding"])


def test_a_bundle_with_a_file_too_many_is_refused(tmp_path, manifest, tensors, thumbnails) -> None:
    path = tmp_path / "m.zip"
    path.write_bytes(bundle(manifest, tensors, thumbnails, {"extra.py": b"print(1)"}))
    with pytest.raises(StorageError, match=r"extra\.py, which its list does not name"):
        read_model(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda v: v.update(run="rm"), "unknown field"),
        (lambda v: v["preprocess"].update(code="x"), "unknown field"),
        (lambda v: v["preprocess"].update(size=100_000), "not between 8 and 1024"),
        (lambda v: v.update(classes=["a", "a", "b"]), "named once"),
        (lambda v: v.update(classes=["a", "b\u202e", "c"]), "invisible control"),
        (lambda v: v.update(classes=["a", "b" * 101, "c"]), "101 characters"),
        (lambda v: v["files"][0].update(name="../../x"), "outside the model"),
        (lambda v: v["files"][0].update(name="C:/x"), "outside the model"),
        (lambda v: v["support"][0].update(class_index=9), "not there"),
        (lambda v: v["self_check"][0].update(probabilities=[1.0]), "does not fit"),
        (lambda v: v.update(files=[]), "not complete"),
    ],
)
def test_a_manifest_of_others_is_refused_with_its_reason(tmp_path, manifest, tensors, thumbnails, change, why) -> None:
    folder = write_model(tmp_path / "m", manifest, tensors, thumbnails)
    path = folder / MODEL_FILE
    path.write_bytes(reseal(path.read_bytes(), lambda v: None))
    read_model(folder)
    path.write_bytes(reseal(path.read_bytes(), change))
    with pytest.raises(StorageError, match=why):
        read_model(folder)


def test_a_newer_model_is_refused_politely(tmp_path, manifest, tensors) -> None:
    folder = write_model(tmp_path / "m", manifest, tensors, [])
    path = folder / MODEL_FILE
    path.write_bytes(path.read_bytes().replace(b'"version": 1', b'"version": 2', 1))
    with pytest.raises(StorageError, match="newer version"):
        read_model(folder)


def test_a_manifest_cannot_be_edited_unnoticed(manifest) -> None:
    data = encode_manifest(manifest)
    assert decode_manifest(data, "m").name == manifest.name
    with pytest.raises(StorageError, match="not what was saved"):
        decode_manifest(data.replace(b"Garments", b"garments"), "m")


def test_what_is_no_model_is_said_to_be_none(tmp_path) -> None:
    with pytest.raises(StorageError, match=r"no model\.json"):
        read_model(tmp_path)
    with pytest.raises(StorageError, match="nothing of that name"):
        read_model(tmp_path / "absent")
    (tmp_path / "x.zip").write_bytes(b"hello")
    with pytest.raises(StorageError, match="not a zip archive"):
        read_model(tmp_path / "x.zip")
    (tmp_path / "y.zip").write_bytes(archive.pack({"a.txt": b"a"}))
    with pytest.raises(StorageError, match="not a bundle"):
        read_model(tmp_path / "y.zip")
