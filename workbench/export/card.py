"""The model card: Markdown with YAML front matter, for people and for the places that host models."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from workbench.export.model import Manifest

LICENCE_PLACEHOLDER = "[choose a licence before you share this file]"


def five_lines(file: str) -> str:
    """The five lines that use an exported ``.onnx`` file beside its ``run.py``."""
    return (
        "import onnxruntime as ort\n"
        "from run import load, labels\n"
        f"net = ort.InferenceSession({json.dumps(file)})\n"
        'p = net.run(["probabilities"], load("photo.jpg"))[0][0]\n'
        "print(labels[p.argmax()], p.max())\n"
    )


def model_card(manifest: Manifest, file: str = "model.onnx") -> str:
    """The card of a model.

    Args:
        manifest: what is known of it.
        file: name of the ``.onnx`` file that the five lines open.
    """
    counts = Counter(image.class_index for image in manifest.support)
    p = manifest.preprocess
    licence = str(manifest.provenance.get("licence", "")) or "other"
    rows = "\n".join(f"| {_line(name)} | {counts.get(i, 0)} |" for i, name in enumerate(manifest.classes))
    return "\n".join(
        [
            "---",
            f"license: {json.dumps(licence, ensure_ascii=False)}",
            "library_name: onnx",
            "pipeline_tag: image-classification",
            f"tags: {json.dumps(['few-shot', 'meta-learning', manifest.algorithm, manifest.backbone])}",
            f"model_name: {json.dumps(manifest.name, ensure_ascii=False)}",
            "---",
            "",
            f"# {_line(manifest.name)}",
            "",
            f"Tells {len(manifest.classes)} classes of pictures apart, and says when a picture is none of them.",
            "",
            "## Use",
            "",
            "```python",
            five_lines(file).rstrip(),
            "```",
            "",
            "Or `python run.py photo.jpg folder/`: one line of JSON per picture.",
            "Both need onnxruntime, numpy and Pillow.",
            "`python run.py --check` asks the model what it must answer on its own pictures.",
            "",
            (
                f"Input `image` [batch, {p.depth}, {p.size}, {p.size}] float32 in 0..1 (mean and std are inside). "
                'Outputs `logits`, `probabilities` (the last is "none of these"), `distance`, `embedding`.'
            ),
            "",
            "## Data",
            "",
            "| class | examples |",
            "|---|---|",
            rows,
            "",
            *_sources(manifest.provenance.get("sources")),
            "",
            "## Figures",
            "",
            _figures(manifest),
            "",
            "## How it was made",
            "",
            (
                f"Method `{manifest.algorithm}` on backbone `{manifest.backbone}`, "
                f"pictures of {p.size} x {p.size} pixels ({p.channels}, {p.fit}, {p.resample})."
            ),
            *([f"Knowledge chosen: {_line(manifest.reason)}"] if manifest.reason else []),
            *([f"Made on {manifest.created}."] if manifest.created else []),
            "",
            *_hyperparameters(manifest.params),
            "## Licence and limits",
            "",
            f"Licence: {_line(licence) if licence != 'other' else LICENCE_PLACEHOLDER}",
            "",
            (
                "It chooses between the classes above and knows no others. "
                "The thumbnails inside show the pictures it was taught with: see that you may pass them on."
            ),
            "",
        ]
    )


def _figures(manifest: Manifest) -> str:
    estimate = manifest.estimate
    if estimate is None:
        return "The accuracy cannot be estimated from the examples alone (one example per class)."
    return (
        f"Accuracy {estimate.accuracy:.1%} (95 % interval {estimate.low:.1%} to {estimate.high:.1%}), "
        f"{_line(estimate.how)}. Pictures unlike the examples may do worse."
    )


def _hyperparameters(params: dict[str, Any]) -> list[str]:
    if not params:
        return []
    text = json.dumps(params, indent=1, sort_keys=True, ensure_ascii=False, default=str)
    return ["Hyperparameters:", "", "```json", text, "```", ""]


def _sources(sources: Any) -> list[str]:
    if not isinstance(sources, list | tuple) or not sources:
        return []
    return ["What it knew before came from: " + ", ".join(_line(str(source)) for source in sources) + "."]


def _line(text: str) -> str:
    """Text of others as one line that Markdown does not take for markup."""
    flat = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>#|" else c for c in flat)
