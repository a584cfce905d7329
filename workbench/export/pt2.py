"""The adapted network as a PyTorch program (``.pt2``): written for others, never read from others.

Loading one can run code, so the only ``.pt2`` that is ever opened is the one just written, in a process of its own.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from workbench.core.values import Preprocess
from workbench.export.onnx import LARGEST_BATCH, describe, prepared, quiet, untranslatable

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


def to_pt2(
    network: nn.Module, preprocess: Preprocess, classes: Sequence[str], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The network as a PyTorch program (``.pt2``): written for others, never read from others.

    Args:
        network: as for ``to_onnx``.
        preprocess: decides ``C`` and ``S``.
        classes: in the order of the logits.
        metadata: more text to keep in the file (``extra_files``: ``about.json``).

    Raises:
        WorkbenchError: the network depends on what shares its batch, or cannot be traced.
    """
    import torch

    ready, example = prepared(network, preprocess)
    buffer = io.BytesIO()
    with quiet():
        try:
            program = torch.export.export(
                ready, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)},)
            )
        except Exception as error:
            raise untranslatable(".pt2", error) from error
        _forget_sources(program)
        about = json.dumps(describe(preprocess, classes, metadata or {}), sort_keys=True, ensure_ascii=False)
        torch.export.save(program, buffer, extra_files={"about.json": about})
    return buffer.getvalue()


def _forget_sources(program: ExportedProgram) -> None:
    """Remove stack traces, module names and the example pictures (which would be stored as a pickle)."""
    import torch

    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
                    node.meta.pop(key, None)
    program.example_inputs = None
