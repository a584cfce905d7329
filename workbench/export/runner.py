"""Predict with this model: needs onnxruntime, numpy and Pillow, nothing else.

    python run.py photo.jpg folder/     one line of JSON per picture
    python run.py --check               ask the model what it must answer on its own pictures (in an unpacked bundle)

In a program of your own:

    import onnxruntime as ort
    from run import load, labels
    net = ort.InferenceSession("model.onnx")
    p = net.run(["probabilities"], load("photo.jpg"))[0][0]
    print(labels[p.argmax()], p.max())

Class names, picture size and threshold are read from the .onnx file. The last label is "none of these".
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Python's safe-path mode leaves it out
from pixels import open_image, to_pixels  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"),
    *(".jp2", ".j2k", ".ppm", ".pgm", ".pbm"),
)
NONE_OF_THESE = "none of these"


class Model:
    """An exported .onnx file: its session, its labels and how it wants its pictures."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
        self.about: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        self.labels: list[str] = [*json.loads(self.about["classes"]), NONE_OF_THESE]
        self.preprocess: dict[str, Any] = json.loads(self.about["preprocess"])

    def pixels(self, data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The 8-bit pixels of an encoded picture, ``[S, S, C]``."""
        p = self.preprocess
        image = open_image(data)
        pixels: np.ndarray[Any, np.dtype[np.uint8]] = to_pixels(
            image, size=p["size"], channels=p["channels"], fit=p["fit"], resample=p["resample"]
        )
        return pixels

    def run(self, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """All outputs by name for 8-bit pixels ``[B, S, S, C]``."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, to_input(pixels)), strict=True))

    def predict(self, data: bytes) -> dict[str, Any]:
        """Ranked classes of one encoded picture, and whether "none of these" is the answer."""
        p = self.run(self.pixels(data)[None])["probabilities"][0]
        order = np.argsort(-p[:-1], kind="stable")
        ranked = [{"class": self.labels[i], "probability": round(float(p[i]), 6)} for i in order]
        return {"ranked": ranked, "none": round(float(p[-1]), 6), "rejected": bool(p.argmax() == len(p) - 1)}


def to_input(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Pixels ``[B, S, S, C]`` as the model's input, ``[B, C, S, S]`` in 0..1; mean and std are inside the model."""
    x = pixels.astype(np.float32) / np.float32(255)
    return {"image": np.ascontiguousarray(x.transpose(0, 3, 1, 2))}


@functools.cache
def model() -> Model:
    """The model beside this file: the one that preprocess.json names, or the only .onnx file there is."""
    named = HERE / "preprocess.json"
    if named.is_file():
        name = json.loads(named.read_text(encoding="utf-8")).get("model", "")
        if name.endswith(".onnx") and (HERE / name).is_file():
            return Model(HERE / name)
    found = sorted(HERE.glob("*.onnx"))
    if len(found) != 1:
        raise SystemExit(f"{len(found)} .onnx files lie beside run.py; name one with --model FILE")
    return Model(found[0])


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """A picture as the input of ``InferenceSession.run``: ``{"image": float32 [1, C, S, S]}``."""
    return to_input(model().pixels(Path(path).read_bytes())[None])


def __getattr__(name: str) -> Any:
    if name == "labels":
        return model().labels
    raise AttributeError(name)


def self_check(net: Model) -> dict[str, Any]:
    """Ask the model what it must answer on its own pictures.

    Returns:
        ``pictures``, ``same_pixels`` (how many were preprocessed bit for bit alike),
        ``max_probability_difference`` and ``ok``.
    """
    answers = HERE / "check.json"
    if not answers.is_file():
        raise SystemExit("check.json does not lie beside run.py: unpack the whole bundle, then check it")
    given = json.loads(answers.read_text(encoding="utf-8"))
    same, largest = 0, 0.0
    for row in given["pictures"]:
        pixels = net.pixels((HERE / row["image"]).read_bytes())
        same += hashlib.sha256(pixels.tobytes()).hexdigest() == row["pixels_sha256"]
        p = net.run(pixels[None])["probabilities"][0]
        difference = float(np.abs(p - np.asarray(row["probabilities"], np.float32)).max())
        largest = max(largest, difference) if difference == difference else float("inf")
    count = len(given["pictures"])
    ok = count > 0 and same == count and largest <= given["tolerance"]
    return {"pictures": count, "same_pixels": same, "max_probability_difference": largest, "ok": ok}


def pictures(paths: list[str]) -> list[Path]:
    """The pictures named, folders replaced by what they hold, in order."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            for folder, inner, names in os.walk(path):
                inner[:] = sorted(n for n in inner if not n.startswith("."))
                keep = sorted(n for n in names if n.lower().endswith(SUFFIXES) and not n.startswith("."))
                found.extend(Path(folder) / n for n in keep)
        else:
            found.append(path)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print one line of JSON per picture; 1 if a picture could not be read or the check failed."""
    parser = argparse.ArgumentParser(description="Predict pictures with the model beside this file.")
    parser.add_argument("paths", nargs="*", metavar="IMAGE|FOLDER")
    parser.add_argument("--model", help="another .onnx file")
    parser.add_argument("--check", action="store_true", help="ask the model what it must answer on its own pictures")
    asked = parser.parse_args(arguments)
    if not asked.paths and not asked.check:
        parser.error("name a picture or a folder")
    if asked.model and not Path(asked.model).is_file():
        raise SystemExit(f"{asked.model} is not there; name an .onnx file with --model FILE")
    net = Model(asked.model) if asked.model else model()
    failed = False
    if asked.check:
        result = self_check(net)
        sys.stdout.write(json.dumps(result) + "\n")
        failed = not result["ok"]
    for path in pictures(asked.paths):
        try:
            row = net.predict(path.read_bytes())
        except FileNotFoundError:
            row = {"error": "it is not there"}
        except OSError as error:
            row = {"error": f"it cannot be read ({error.strerror or error})"}
        except ValueError as error:
            row = {"error": f"it {error}"}
        failed = failed or "error" in row
        sys.stdout.write(json.dumps({"image": str(path), **row}) + "\n")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
