from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, StorageError, WorkbenchError
from workbench.core.values import ImageRef
from workbench.export import write
from workbench.export.bundle import build_bundle
from workbench.export.card import five_lines
from workbench.export.check import Verification, verify
from workbench.export.compare import Expected, expected_of, self_check_difference
from workbench.export.model import Manifest, read_model
from workbench.export.onnx import describe, to_onnx
from workbench.export.weights import encode, state_of
from workbench.export.write import ExportResult, as_json, export, read_list

from .conftest import CLASSES, Tiny, png


@pytest.fixture
def pictures(tmp_path: Path, pixels: np.ndarray) -> list[tuple[ImageRef, np.ndarray]]:
    found = []
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for i, p in enumerate(pixels):
            data = png(p)
            path, member = str(tmp_path / f"picture-{i}.png"), ""
            if i % 3 == 0:
                path, member = str(tmp_path / "pictures.zip"), f"{i}.png"
                archive.writestr(member, data)
            else:
                Path(path).write_bytes(data)
            found.append((ImageRef(path, member, hashlib.sha256(data).hexdigest(), len(data), 16, 16), p))
    return found


@pytest.fixture(autouse=True)
def translated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Translating takes a second: equal networks share one real translation."""

    def remembered(network, preprocess, classes, metadata):
        key = encode(state_of(network), describe(preprocess, classes, metadata))
        if type(network) is not Tiny:
            return to_onnx(network, preprocess, classes, metadata)
        if key not in TRANSLATED:
            TRANSLATED[key] = to_onnx(network, preprocess, classes, metadata)
        return TRANSLATED[key]

    monkeypatch.setattr(write, "to_onnx", remembered)


TRANSLATED: dict[bytes, bytes] = {}


@pytest.fixture
def go(network: Tiny, manifest: Manifest, tensors, thumbnails, pictures) -> Callable[..., ExportResult]:
    def run(format_, out, ctx=None, net=None, changed=manifest, **more):
        return export(net or network, changed, tensors, thumbnails, pictures, format_, out, ctx or Context(), **more)

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def python(*arguments: str, cwd: Path, block: str = "workbench,torch,onnx,PySide6") -> subprocess.CompletedProcess[str]:
    """A fresh interpreter in which some packages cannot be imported."""
    code = (
        "import sys, runpy\n"
        "for name in sys.argv[1].split(','): sys.modules[name] = None\n"
        "sys.argv = sys.argv[2:]; sys.path.insert(0, '')\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, block, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_onnx_is_verified_written_and_used_by_five_lines(go, tmp_path, pictures, network, pixels, capfd) -> None:
    ctx = Context()
    result = go("onnx", tmp_path / "out", ctx)
    found = result.verification
    assert result.verified
    assert found.passed
    assert found.images_checked == found.preprocessing_equal == found.rejection_equal == 12
    assert found.top1_agreement == 1.0
    assert 0 <= found.max_relative_logit_difference <= 1e-5
    assert 0 <= found.max_probability_difference <= 5e-4
    assert found.runtime.startswith("onnxruntime ")
    assert [Path(f).name for f in result.files] == [
        "garments-more.onnx",
        "labels.txt",
        "preprocess.json",
        "run.py",
        "pixels.py",
    ]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {Path(f).name for f in result.files} | {"export.json"}
    events = ctx.take_events()
    assert [e.name for e in events][:3] == ["Written", "Loaded in a clean process", "Same preprocessing"]
    assert tuple(events[1:]) == found.checks
    keys = {"format", "files", "verified", "images_checked", "top1_agreement"}
    assert (
        keys | {"max_relative_logit_difference", "max_probability_difference"}
        <= json.loads(json.dumps(as_json(result))).keys()
    )
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")

    (tmp_path / "out" / "five.py").write_text(
        five_lines("garments-more.onnx").replace("photo.jpg", pictures[1][0].path)
    )
    done = python("five.py", cwd=tmp_path / "out")
    label, probability = done.stdout.rsplit(" ", 1)
    p = expected_of(network, pixels).probabilities[1]
    assert label == [*CLASSES, "none of these"][int(p.argmax())]
    assert float(probability) == pytest.approx(float(p.max()), abs=5e-4)


def test_the_bundle_predicts_checks_itself_and_opens_again(go, tmp_path, network, pixels, thumbnails, tensors) -> None:
    result = go("bundle", tmp_path / "out")
    assert result.verified
    assert "Checks itself" in [c.name for c in result.verification.checks]
    path = Path(result.files[0])
    assert path.name == "garments-more.zip"
    folder = tmp_path / "elsewhere"
    with zipfile.ZipFile(path) as archive:
        names = (
            "model.json weights.safetensors model.onnx labels.txt preprocess.json README.md check.json run.py pixels.py"
        )
        assert {*names.split(), "thumbnails/0000.png"} <= set(archive.namelist())
        archive.extractall(folder)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = python("run.py", "--check", "thumbnails", "broken.png", cwd=folder)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1, "a picture that cannot be read is not a success"
    assert lines[0]["ok"]
    assert lines[0]["pictures"] == lines[0]["same_pixels"] == 6
    assert "error" in lines[-1]
    p = expected_of(network, pixels).probabilities
    for i, line in enumerate(lines[1:-1]):
        assert line["ranked"][0]["class"] == CLASSES[int(p[i, :-1].argmax())]
        assert line["ranked"][0]["probability"] == pytest.approx(float(p[i, :-1].max()), abs=5e-4)
        assert line["rejected"] == bool(p[i].argmax() == 3)
    check = json.loads((folder / "check.json").read_text())
    check["pictures"][0]["probabilities"] = [0.0, 0.0, 0.0, 1.0]
    (folder / "check.json").write_text(json.dumps(check))
    assert python("run.py", "--check", cwd=folder).returncode == 1

    manifest, values, pictures = read_model(path)
    assert pictures == thumbnails
    assert values.keys() == tensors.keys()
    assert self_check_difference(network, manifest, pictures) <= 5e-4
    assert self_check_difference(Tiny(seed=1), manifest, pictures) > 5e-4


def test_the_same_bundle_has_the_same_bytes(network, manifest, tensors, thumbnails) -> None:
    def built() -> bytes:
        model = to_onnx(network, manifest.preprocess, manifest.classes, {"name": "x"})
        return build_bundle(network, manifest, tensors, thumbnails, model)

    assert built() == built()


@pytest.mark.parametrize("format_", ["safetensors", "pt2"])
def test_weights_and_programs_are_verified(go, tmp_path, format_) -> None:
    result = go(format_, tmp_path / "out")
    found = result.verification
    assert found.passed
    assert found.images_checked == 12
    assert found.max_probability_difference <= 5e-4
    names = [c.name for c in found.checks]
    if format_ == "safetensors":
        assert {"Same weights", "Weights are complete"} <= set(names)
        assert "Same preprocessing" not in names
    else:
        assert found.preprocessing_equal == 12
        assert found.runtime.startswith("torch ")


def test_no_local_path_is_in_any_export(go, tmp_path, monkeypatch) -> None:
    def passed(*arguments, **more) -> Verification:
        return Verification(1, 1.0, (), 0.0, 0.0, 1, 1, (), 0.0, 0.0, "x", True, ())

    monkeypatch.setattr(write, "verify", passed)
    here = str(Path(__file__).resolve().parents[2]).encode()
    for format_ in ("onnx", "bundle", "pt2", "safetensors"):
        out = tmp_path / format_
        go(format_, out)
        for name, data in content(out).items():
            if name.endswith((".zip", ".pt2")):
                with zipfile.ZipFile(out / name) as archive:
                    data += b"".join(archive.read(n) for n in archive.namelist())
            for trace in (here, b"/home/", b"site-packages", str(tmp_path).encode(), b"tests/export", b'File "'):
                assert trace not in data, (name, trace)


def test_onnx_describes_itself(go, tmp_path) -> None:
    import onnx

    model = onnx.load(go("onnx", tmp_path / "out").files[0])
    assert {o.domain: o.version for o in model.opset_import}[""] == 20
    assert [o.name for o in model.graph.output] == ["logits", "probabilities", "distance", "embedding"]
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param
    assert [d.dim_value for d in shape[1:]] == [3, 16, 16]
    about = {p.key: p.value for p in model.metadata_props}
    assert json.loads(about["classes"]) == list(CLASSES)
    assert json.loads(about["preprocess"])["size"] == 16
    assert about["schema_version"] == "1"
    assert float(about["reject_threshold"]) == 3.5


def test_the_runner_says_what_it_misses(go, tmp_path, pictures) -> None:
    go("onnx", tmp_path / "out")
    out = tmp_path / "out"
    there = pictures[1][0].path
    done = python("run.py", "none.png", there, cwd=out)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0] == {"image": "none.png", "error": "it is not there"}
    assert lines[1]["ranked"]
    assert done.returncode == 1
    (out / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (error,) = (json.loads(line)["error"] for line in python("run.py", "bad.png", cwd=out).stdout.splitlines())
    assert error.startswith("it ")
    for words, said in (
        (("--model", "gone.onnx", there), "gone.onnx is not there; name an .onnx file with --model FILE"),
        (("--check",), "check.json does not lie beside run.py: unpack the whole bundle, then check it"),
    ):
        done = python("run.py", *words, cwd=out)
        assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", said)


def test_a_file_that_answers_otherwise_is_refused_and_the_old_one_stays(go, tmp_path, network, pixels) -> None:
    out = tmp_path / "out"
    go("onnx", out)
    before = content(out)
    wrong = expected_of(Tiny(seed=5), pixels)
    with pytest.raises(WorkbenchError, match="does not answer as the application does"):
        go("onnx", out, expected=wrong)
    assert content(out) == before
    with pytest.raises(WorkbenchError, match="same probabilities"):
        go("onnx", tmp_path / "new", expected=wrong)
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("pict")) == ["out"]


def test_pixels_that_differ_by_one_are_refused(go, tmp_path, network, pixels) -> None:
    true = expected_of(network, pixels)
    other = replace(true, pixels_sha256=("0" * 64, *true.pixels_sha256[1:]))
    with pytest.raises(WorkbenchError, match="same preprocessing: 11 / 12"):
        go("onnx", tmp_path / "new", expected=other)


def test_a_picture_that_is_gone_is_named(go, tmp_path, pictures) -> None:
    Path(pictures[1][0].path).unlink()
    with pytest.raises(WorkbenchError, match=r"picture-1\.png could not be read"):
        go("onnx", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_files_that_no_export_wrote_are_never_overwritten(go, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.py").write_text("mine")
    with pytest.raises(WorkbenchError, match=r"run\.py that no export wrote"):
        go("onnx", out)
    assert content(out) == {"run.py": b"mine"}
    (out / "afile").write_text("x")
    with pytest.raises(WorkbenchError, match="is a file"):
        go("onnx", out / "afile")


def test_formats_share_a_folder_and_a_list(go, tmp_path, manifest, monkeypatch) -> None:
    out = tmp_path / "out"
    go("onnx", out)
    go("safetensors", out)
    listed = read_list(out)
    assert set(listed.exports) == {"garments-more.onnx", "garments-more.safetensors"}
    for name, file in listed.files.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == file.sha256
    # preprocess.json names the weights now; the runner still finds the graph.
    picture = tmp_path / "picture-1.png"
    assert json.loads(python("run.py", str(picture), cwd=out).stdout)["image"] == str(picture)


def test_every_move_that_fails_leaves_a_whole_export(go, tmp_path, monkeypatch) -> None:
    def passed(*arguments, **more) -> Verification:
        return Verification(1, 1.0, (), 0.0, 0.0, 1, 1, (), 0.0, 0.0, "x", True, ())

    monkeypatch.setattr(write, "verify", passed)
    out = tmp_path / "out"
    go("safetensors", out)
    old = content(out)["garments-more.safetensors"]
    new_net = Tiny(seed=9)
    failures = 0
    for k in range(1, 80):

        class Failing(storage.Ops):
            left = k

        for name in ("open", "write", "fsync", "read", "replace"):

            def operation(self, *args, name=name):
                Failing.left -= 1
                if Failing.left == 0:
                    raise OSError(28, "No space left on device")
                return getattr(storage.Ops, name)(self, *args)

            setattr(Failing, name, operation)
        monkeypatch.setattr(storage, "ops", Failing())
        try:
            go("safetensors", out, net=new_net)
        except StorageError as error:
            failures += 1
            said = str(error)
            monkeypatch.setattr(storage, "ops", storage.Ops())
            assert content(out)["garments-more.safetensors"] == old, said
            read_list(out)
            assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".export")] == []
        else:
            break
    assert failures > 10
    assert content(out)["garments-more.safetensors"] != old


def test_cancelling_ends_the_process_and_leaves_nothing(go, tmp_path) -> None:
    ctx = Context()

    def stop(c: Context) -> None:
        if "clean process" in c.status_text:
            c.cancel()

    ctx.on_change = stop
    with pytest.raises(JobCancelledError):
        go("safetensors", tmp_path / "new", ctx)
    assert not (tmp_path / "new").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".export")] == []


def test_what_a_killed_export_left_is_swept_once_it_is_old(go, tmp_path) -> None:
    old, new = tmp_path / ".out.1.export", tmp_path / ".out.2.export"
    for stray in (old, new):
        stray.mkdir()
        (stray / "x.onnx").write_bytes(b"half")
    os.utime(old, (1, 1))
    go("safetensors", tmp_path / "out")
    assert not old.exists()
    assert new.exists(), "it may belong to an export that is still at work"


def test_statistics_of_the_batch_are_refused(go, tmp_path) -> None:
    net = Tiny()
    net.norm = torch.nn.BatchNorm2d(4, track_running_stats=False).eval()
    with pytest.raises(WorkbenchError, match="takes its statistics from whatever pictures"):
        go("onnx", tmp_path / "new", net=net)


def test_an_operation_that_onnx_lacks_is_refused_in_one_sentence(go, tmp_path) -> None:
    class Far(Tiny):
        def forward(self, image):
            _, probabilities, distance, f = super().forward(image)
            return -torch.cdist(f, self.prototypes), probabilities, distance, f

    with pytest.raises(WorkbenchError, match="could not be translated") as caught:
        go("onnx", tmp_path / "new", net=Far())
    assert "\n" not in str(caught.value)


def test_exporting_leaves_the_network_as_it_was(go, tmp_path, network) -> None:
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    go("safetensors", tmp_path / "out")
    assert network.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())


def test_a_weights_file_with_a_tensor_missing_is_noticed(tmp_path, network, pixels, pictures) -> None:
    tensors = state_of(network)
    del tensors["std"]
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "w.safetensors").write_bytes(encode(tensors))
    expected = expected_of(network, pixels)
    references = [r for r, _ in pictures]
    found = verify(
        tmp_path / "w", "w.safetensors", "safetensors", references, expected, Context(), network=network, pixels=pixels
    )
    assert not found.passed
    assert [c.name for c in found.checks if not c.ok][:2] == ["Same weights", "Weights are complete"]


def test_no_pictures_no_export(network, manifest, tensors, thumbnails, tmp_path) -> None:
    with pytest.raises(WorkbenchError, match="no pictures to verify"):
        export(network, manifest, tensors, thumbnails, [], "onnx", tmp_path / "o", Context())
    with pytest.raises(WorkbenchError, match="no pictures to compare"):
        verify(tmp_path, "x", "onnx", [], Expected(np.zeros((0, 3)), np.zeros((0, 4)), ()), Context())


@pytest.mark.parametrize(
    ("name", "stem"),
    [("Garments & more", "garments-more"), ("Café 2", "cafe-2"), ("模型", "model"), ("con", "model-con")],
)
def test_names_become_file_names(name, stem) -> None:
    assert write.slug(name) == stem
