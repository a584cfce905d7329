"""Load an exported file in a clean process and hold its answers against the application's."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import ImageRef
from workbench.export import clean, weights
from workbench.export.compare import Answers, Check, Comparison, Expected, NearTie, answers, compare, judge
from workbench.export.weights import Array

if TYPE_CHECKING:
    from torch import nn

Format = Literal["onnx", "safetensors", "pt2", "bundle"]
Picture = ImageRef | Path
_TOO_LONG = 1800.0


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked of an exported file, and how far it is from the application.

    Attributes:
        images_checked: pictures it answered.
        top1_agreement: share with the same best class among those without a near-tie, 0..1 (1 where all are near-ties).
        near_ties: pictures whose two best probabilities differ by at most 1e-3.
        max_relative_logit_difference: relative to the largest logit.
        max_probability_difference: of any class and of "none of these".
        preprocessing_equal: pictures whose pixels are the same bit for bit.
        rejection_equal: pictures with the same "none of these".
        agreement: per picture, best class here, its probability here, its probability in the file.
        seconds: of the whole verification.
        load_seconds: of loading the file in the clean process.
        runtime: what ran it there, with its version.
        passed: whether every check did.
        checks: for people, in order.
    """

    images_checked: int
    top1_agreement: float
    near_ties: tuple[NearTie, ...]
    max_relative_logit_difference: float
    max_probability_difference: float
    preprocessing_equal: int
    rejection_equal: int
    agreement: tuple[tuple[int, float, float], ...]
    seconds: float
    load_seconds: float
    runtime: str
    passed: bool
    checks: tuple[Check, ...]

    def refusal(self) -> str:
        """The checks that did not pass, as one clause."""
        return "; ".join(f"{c.name.lower()}: {c.figure}" for c in self.checks if not c.ok)


def verify(
    exported: Path,
    file: str,
    format_: Format,
    pictures: Sequence[Picture],
    expected: Expected,
    ctx: Context,
    *,
    network: nn.Module | None = None,
    pixels: Array | None = None,
) -> Verification:
    """Ask an exported file what the application was asked.

    Args:
        exported: folder that holds the file and what was written beside it.
        file: its name in there.
        format_: which kind of file.
        pictures: encoded pictures, by path or reference.
        expected: the application's answers to the same pictures, in the same order.
        ctx: cancel, progress in pictures; every :class:`Check` is handed out as an event when it is known.
        network: only for ``safetensors``, which holds no structure: the network whose weights it has (on the CPU).
        pixels: only for ``safetensors``: the preprocessed pictures, ``uint8 [n, S, S, C]``.

    Raises:
        WorkbenchError: there are no pictures, or the clean process could not do its work.
        JobCancelledError: asked to stop; the process is ended.
    """
    if not pictures or len(pictures) != len(expected.logits):
        raise WorkbenchError(
            "The export was not verified", "there are no pictures to compare it on", "Add examples, then export again"
        )
    begun = time.monotonic()
    checks: list[Check] = []

    def note(check: Check) -> None:
        checks.append(check)
        ctx.event(check)

    with tempfile.TemporaryDirectory(prefix="workbench-check-", ignore_cleanup_errors=True) as temporary:
        work = Path(temporary)
        report = _ask(work, exported, file, format_, pictures, ctx)
        words = "this application is not in it" if format_ in ("pt2", "safetensors") else "no PyTorch in it"
        note(Check("Loaded in a clean process", f"{report.runtime}, {words}", f"{report.load_seconds:.1f} s", ok=True))
        if format_ == "safetensors":
            found = _check_tensors(exported / file, report, expected, network, pixels, note, ctx)
            equal = 0
        else:
            equal = sum(a == b for a, b in zip(report.result["hashes"], expected.pixels_sha256, strict=True))
            n = len(pictures)
            note(Check("Same preprocessing", f"{equal} tensors equal bit for bit", f"{equal} / {n}", equal == n))
            found = compare(expected, _load_answers(work))
    for check in judge(found):
        note(check)
    inner = report.result.get("self_check")
    if inner is not None:
        detail = "run.py --check, on the thumbnails inside"
        note(Check("Checks itself", detail, f"{inner['same_pixels']} / {inner['pictures']}", bool(inner["ok"])))
    return Verification(
        images_checked=found.images,
        top1_agreement=found.same_top / found.clear if found.clear else 1.0,
        near_ties=found.near_ties,
        max_relative_logit_difference=found.logit_difference,
        max_probability_difference=found.probability_difference,
        preprocessing_equal=equal,
        rejection_equal=found.same_rejection,
        agreement=found.agreement,
        seconds=time.monotonic() - begun,
        load_seconds=report.load_seconds,
        runtime=report.runtime,
        passed=all(c.ok for c in checks),
        checks=tuple(checks),
    )


@dataclass(frozen=True, slots=True)
class _Report:
    runtime: str
    load_seconds: float
    result: dict[str, Any]


def _ask(work: Path, exported: Path, file: str, format_: str, pictures: Sequence[Picture], ctx: Context) -> _Report:
    """Run the clean process to its end and read its lines."""
    request = {
        "format": format_,
        "folder": str(exported.resolve()),
        "file": file,
        "pictures": [] if format_ == "safetensors" else [_place(p) for p in pictures],
        # Isolated mode leaves out a per-user site folder; where the libraries lie in one, it is needed.
        "site": [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))],
    }
    storage.save(work / "request.json", json.dumps(request).encode(), keep_previous=False)
    ctx.status("Loading the file in a clean process")
    command = [sys.executable, "-I", "-B", str(Path(clean.__file__).resolve()), str(work)]
    flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    with (work / "out").open("wb") as out, (work / "err").open("wb") as err:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=work, env=_environment(), creationflags=flags
        )
        try:
            _wait(child, work / "out", len(pictures), ctx)
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
    said: dict[str, Any] = {}
    for line in (work / "out").read_text(encoding="utf-8").splitlines():
        said |= json.loads(line)
    if child.returncode != 0 or "result" not in said:
        lines = (work / "err").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = lines[-1][:300] if lines else f"it ended with code {child.returncode}"
        raise _unverified(f"the clean process failed ({reason})")
    result = said["result"]
    if "unread" in result:
        picture = pictures[result["unread"]]
        name = picture.name
        raise _unverified(f"{name} could not be read there ({result['why']})")
    if result.get("foreign"):
        raise _unverified(f"the clean process was not clean: it loaded {', '.join(result['foreign'])}")
    return _Report(said["runtime"], said["loaded"], result)


def _wait(child: subprocess.Popen[bytes], out: Path, total: int, ctx: Context) -> None:
    limit = time.monotonic() + _TOO_LONG
    shown = -1
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=0.05)
            return
        ctx.check()
        for line in reversed(out.read_text(encoding="utf-8").splitlines()):
            if line.startswith('{"done": ') and line.endswith("}"):
                done = json.loads(line)["done"]
                if done != shown:
                    shown = done
                    ctx.progress(done, total, "pictures")
                break
        if time.monotonic() > limit:
            raise _unverified("the clean process did not come to an end")


def _environment() -> dict[str, str]:
    """The environment without what would add modules or open the network for a library."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return kept | {"HF_HUB_OFFLINE": "1"}


def _place(picture: Picture) -> dict[str, str]:
    if isinstance(picture, Path):
        return {"path": str(picture.resolve()), "member": ""}
    return {"path": str(Path(picture.path).resolve()), "member": picture.member}


def _load_answers(work: Path) -> Answers:
    with np.load(work / "answers.npz", allow_pickle=False) as found:
        return Answers(
            found["logits_together"],
            found["probabilities_together"],
            found["logits_alone"],
            found["probabilities_alone"],
        )


def _check_tensors(
    path: Path,
    report: _Report,
    expected: Expected,
    network: nn.Module | None,
    pixels: Array | None,
    note: Callable[[Check], None],
    ctx: Context,
) -> Comparison:
    """A weights file has no structure to run: compare its tensors bit for bit, then refill a network from it alone."""
    if network is None or pixels is None:
        raise ValueError("a safetensors file is verified with its network and its pictures")
    read, wanted = report.result["tensors"], expected.tensors_sha256
    same = sum(read.get(name) == digest for name, digest in wanted.items())
    equal = same == len(wanted) == len(read)
    note(Check("Same weights", "tensors read there, equal bit for bit", f"{same} / {len(wanted)}", equal))
    emptied = refilled(network, weights.decode(storage.load(path), path.name))
    together = answers(emptied, pixels, ctx)
    alone = [answers(emptied, pixels[i : i + 1], ctx) for i in range(len(pixels))]
    singly = (np.concatenate([a[0] for a in alone]), np.concatenate([a[1] for a in alone]))
    found = compare(expected, Answers(*together, *singly))
    # Wiped numbers are not finite, and neither is an answer that rests on one.
    complete = bool(np.isfinite(found.probability_difference))
    detail = "a copy of the network here, emptied and filled from the file, answers"
    note(Check("Weights are complete", detail, f"{len(pixels)} pictures", complete))
    return found


def refilled(network: nn.Module, tensors: dict[str, Array]) -> nn.Module:
    """A copy of a network whose every number was wiped and then taken from ``tensors``; what is missing stays wiped."""
    import torch

    copied = copy.deepcopy(network)
    slots = dict(copied.named_parameters(remove_duplicate=False)) | dict(copied.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for slot in slots.values():
            slot.fill_(float("nan") if slot.is_floating_point() else 0)
        for name, value in tensors.items():
            if name in slots and tuple(slots[name].shape) == value.shape:
                slots[name].copy_(torch.from_numpy(value.copy()))
    return copied


def _unverified(why: str) -> WorkbenchError:
    return WorkbenchError(
        "The export was not verified",
        why,
        "Nothing was written; see that the pictures are still in place and try again",
    )
