"""The adapted network as one ONNX file that describes itself: classes, preprocessing and thresholds are inside.

Input ``image`` ``[batch, C, S, S]`` float32 in 0..1, with mean and std in the graph; outputs ``logits [batch, N]``,
``probabilities [batch, N+1]`` (the last one is "none of these"), ``distance [batch]`` and ``embedding [batch, D]``.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from workbench.core.errors import WorkbenchError
from workbench.core.values import Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 20
SCHEMA_VERSION = 1
OUTPUTS = ("logits", "probabilities", "distance", "embedding")
NONE_OF_THESE = "none of these"
LARGEST_BATCH = 1024


def describe(preprocess: Preprocess, classes: Sequence[str], metadata: Mapping[str, str]) -> dict[str, str]:
    """The text that travels inside an exported file.

    Args:
        preprocess: how pictures become inputs.
        classes: in the order of the logits.
        metadata: more, by name: thresholds, algorithm, name, licence ...
    """
    return {
        **metadata,
        "schema_version": str(SCHEMA_VERSION),
        "classes": json.dumps(list(classes), ensure_ascii=False),
        "preprocess": json.dumps(asdict(preprocess), sort_keys=True),
    }


def to_onnx(
    network: nn.Module, preprocess: Preprocess, classes: Sequence[str], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Translate a network.

    Args:
        network: ``image [B, C, S, S]`` in 0..1 -> the four outputs above; left untouched.
        preprocess: decides ``C`` and ``S``.
        classes: in the order of the logits.
        metadata: more text to keep in the file, by name.

    Returns:
        One ONNX graph of opset ``OPSET`` without any external data, local path or source line.

    Raises:
        WorkbenchError: the network depends on what shares its batch, or has an operation ONNX lacks.
    """
    import onnx
    import torch

    ready, example = prepared(network, preprocess)
    with quiet():
        try:
            program = torch.onnx.export(
                ready,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
                input_names=["image"],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)},),
            )
        except Exception as error:  # the exporter raises a dozen kinds of its own
            raise untranslatable("ONNX", error) from error
        if program is None:
            raise untranslatable("ONNX", RuntimeError("the exporter gave nothing back"))
        model = program.model_proto
    written = {item.domain: item.version for item in model.opset_import}.get("")
    if written != OPSET:
        # Asked for an opset it cannot do, the exporter writes another one without failing.
        raise untranslatable("ONNX", RuntimeError(f"opset {OPSET} was asked for and {written} was written"))
    _strip(model)
    onnx.helper.set_model_props(model, describe(preprocess, classes, metadata or {}))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise untranslatable("ONNX", error) from error
    return bytes(model.SerializeToString(deterministic=True))


def prepared(network: nn.Module, preprocess: Preprocess) -> tuple[nn.Module, Tensor]:
    """A copy on the CPU in eval mode, and two pictures to trace it with.

    Raises:
        WorkbenchError: a layer takes its statistics from the batch, so an answer would depend on its neighbours.
    """
    import torch

    ready = copy.deepcopy(network).cpu().float().eval()
    for parameter in ready.parameters():
        parameter.requires_grad_(False)
    for module in ready.modules():
        # There is no public base class of the batch norms.
        if type(module).__name__.startswith("BatchNorm") and getattr(module, "running_mean", None) is None:
            raise WorkbenchError(
                "The model was not exported",
                "a layer of it takes its statistics from whatever pictures are predicted together",
                "Teach it with another method, or let its statistics be frozen first",
            )
    # Two, since a batch of one may be taken for a constant.
    return ready, torch.zeros(2, preprocess.depth, preprocess.size, preprocess.size)


def untranslatable(format_: str, error: BaseException) -> WorkbenchError:
    """The refusal for a network that an exporter cannot translate."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1][:200].rstrip(".") if lines else type(error).__name__
    return WorkbenchError(
        f"The model was not exported as {format_}", f"it could not be translated ({reason})", "Choose another format"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back the exporters' warnings and log lines: what matters of them ends in an error or in the verification."""
    loggers = [
        logging.getLogger(name)
        for name in ("torch", "torch.__trace", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _strip(message: Any) -> None:
    """Remove doc strings and metadata (Python stack traces with local paths) from a protobuf, all the way down."""
    names = message.DESCRIPTOR.fields_by_name
    for name in ("doc_string", "metadata_props"):
        if name in names:
            message.ClearField(name)
    if message.DESCRIPTOR.name == "TensorProto":
        return  # nothing below but numbers, and many of them
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for item in value if _is_many(value) else [value]:
                _strip(item)


def _is_many(value: Any) -> bool:
    return hasattr(value, "__len__") and not hasattr(value, "ListFields")
