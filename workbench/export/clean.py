"""What runs in the clean process: open an exported file as a stranger would, and answer the pictures with it.

Started by file name with ``python -I``, so that neither the current folder nor the environment adds modules; imports of
the application, and of PyTorch where the format promises to do without, are made to fail. Reads ``request.json`` in the
folder it is given, writes one line of JSON per step to standard output and its numbers to ``answers.npz``.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Array = Any
Run = Callable[[Array], tuple[Array, Array]]
Look = Callable[[bytes], Array]

TOGETHER = 16


class Forbidden:
    """A finder that comes first and refuses some packages."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:  # noqa: ARG002
        """Refuse, or leave it to the others."""
        if name.split(".")[0] in self.names:
            raise ImportError(f"{name} must not be needed here")


def say(**values: object) -> None:
    """One line to whoever started this process."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def picture_bytes(path: str, member: str) -> bytes:
    """An encoded picture, from a file or from a zip archive."""
    if not member:
        return Path(path).read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read(member)


def open_onnx(folder: Path, file: str) -> tuple[str, Look, Run]:
    """The exported graph through the ``run.py`` that was exported with it."""
    sys.path.insert(0, str(folder))
    runner = importlib.import_module("run")
    net = runner.Model(folder / file)

    def run(pixels: Array) -> tuple[Array, Array]:
        out = net.run(pixels)
        return out["logits"], out["probabilities"]

    return f"onnxruntime {runner.onnxruntime.__version__}", net.pixels, run


def open_pt2(folder: Path, file: str) -> tuple[str, Look, Run]:
    """The PyTorch program that this application has just written (one of others is never opened)."""
    import torch

    sys.path.insert(0, str(folder))
    pixels = importlib.import_module("pixels")
    p = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
    net = torch.export.load(folder / file).module()

    def look(data: bytes) -> Array:
        image = pixels.open_image(data)
        return pixels.to_pixels(image, size=p["size"], channels=p["channels"], fit=p["fit"], resample=p["resample"])

    def run(x: Array) -> tuple[Array, Array]:
        with torch.no_grad():
            out = net(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().float().div(255))
        return out[0].numpy(), out[1].numpy()

    return f"torch {torch.__version__}", look, run


def tensor_hashes(path: Path) -> tuple[str, dict[str, str]]:
    """Hash of type, shape and bytes of every tensor of a safetensors file."""
    import safetensors
    from safetensors.numpy import load_file

    found = {}
    for name, value in load_file(path).items():
        head = f"{value.dtype.str}{list(value.shape)}".encode()
        found[name] = hashlib.sha256(head + value.tobytes()).hexdigest()
    return f"safetensors {safetensors.__version__}", found


def answer(request: dict[str, Any], work: Path, look: Look, run: Run) -> dict[str, Any]:
    """Answer every picture together with others and alone."""
    import numpy as np

    ready: list[Array] = []
    for i, picture in enumerate(request["pictures"]):
        try:
            ready.append(look(picture_bytes(picture["path"], picture["member"])))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the one who asked is told
            return {"unread": i, "why": str(error) or type(error).__name__}
    together: list[tuple[Array, Array]] = []
    alone: list[tuple[Array, Array]] = []
    for start in range(0, len(ready), TOGETHER):
        chunk = ready[start : start + TOGETHER]
        together.append(run(np.stack(chunk)))
        alone.extend(run(pixels[None]) for pixels in chunk)
        say(done=start + len(chunk))
    names = ("logits", "probabilities")
    columns: dict[str, Any] = {
        f"{name}_together": np.concatenate([t[i] for t in together]) for i, name in enumerate(names)
    }
    columns |= {f"{name}_alone": np.concatenate([t[i] for t in alone]) for i, name in enumerate(names)}
    np.savez(work / "answers.npz", **columns)
    return {"hashes": [hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in ready]}


def main(work: Path) -> None:
    """Do what ``request.json`` asks for."""
    request = json.loads((work / "request.json").read_text(encoding="utf-8"))
    sys.path.extend(p for p in request["site"] if p not in sys.path)
    with_torch = request["format"] == "pt2"
    names = ("workbench", "PySide6", *(() if with_torch else ("torch", "torchvision", "onnx", "onnxscript")))
    sys.meta_path.insert(0, Forbidden(names))
    folder, file = Path(request["folder"]), request["file"]
    begun = time.monotonic()
    if request["format"] == "safetensors":
        runtime, hashes = tensor_hashes(folder / file)
        say(loaded=time.monotonic() - begun, runtime=runtime)
        say(result={"tensors": hashes})
        return
    if request["format"] == "bundle":
        folder = work / "unpacked"
        with zipfile.ZipFile(Path(request["folder"]) / file) as archive:
            archive.extractall(folder)  # written a moment ago by the process that started this one
        file = "model.onnx"
    runtime, look, run = (open_pt2 if with_torch else open_onnx)(folder, file)
    say(loaded=time.monotonic() - begun, runtime=runtime)
    result = answer(request, work, look, run)
    if request["format"] == "bundle" and json.loads((folder / "check.json").read_text(encoding="utf-8"))["pictures"]:
        runner = importlib.import_module("run")
        result["self_check"] = runner.self_check(runner.Model(folder / file))
    result["foreign"] = sorted(set(names) & set(sys.modules))
    say(result=result)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
