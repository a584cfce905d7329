"""Tensors as safetensors bytes: deterministic to write, and checked before a parser sees them.

A safetensors file cannot run code, but its header is JSON of any length: one of 300,000 entries takes seconds to read.
So the header is measured first.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core.errors import StorageError

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = np.ndarray[Any, np.dtype[Any]]

HEADER_LIMIT = 1 << 20
TENSOR_LIMIT = 4096


def check_header(data: bytes | memoryview, where: str) -> dict[str, Any]:
    """The header of safetensors bytes, measured before it is parsed.

    Args:
        data: the file, or at least its first ``8 + HEADER_LIMIT`` bytes.
        where: the file's name, for the message.

    Returns:
        Name -> ``{"dtype", "shape", "data_offsets"}``, ``__metadata__`` left out.

    Raises:
        StorageError: too short, too long, too many tensors, or no JSON.
    """
    if len(data) < 8:
        raise _refused(where, "it is too short to be a safetensors file")
    (length,) = struct.unpack("<Q", bytes(data[:8]))
    if length > HEADER_LIMIT:
        raise _refused(where, f"its header claims {length} bytes; at most {HEADER_LIMIT} are read")
    if len(data) < 8 + length:
        raise _refused(where, "its header is cut off")
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
    except (ValueError, RecursionError) as error:
        raise _refused(where, "its header is not JSON, so this is not a safetensors file") from error
    if not isinstance(header, dict) or not all(isinstance(item, dict) for item in header.values()):
        raise _refused(where, "its header is not a table of tensors")
    header.pop("__metadata__", None)
    if len(header) > TENSOR_LIMIT:
        raise _refused(where, f"it holds {len(header)} tensors; at most {TENSOR_LIMIT} are read")
    return header


def encode(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors as safetensors bytes; the same bytes for the same input.

    Raises:
        ValueError: more tensors than are ever read back.
    """
    from safetensors.numpy import save

    if len(tensors) > TENSOR_LIMIT:
        raise ValueError(f"{len(tensors)} tensors; at most {TENSOR_LIMIT} can be read back")
    ready = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    # With two or more keys the library writes the metadata in an order that changes from process to process.
    packed = {"about": json.dumps(dict(metadata), sort_keys=True)} if metadata else None
    return bytes(save(ready, metadata=packed))


def decode(data: bytes, where: str) -> dict[str, Array]:
    """The tensors of safetensors bytes.

    Raises:
        StorageError: the header is refused, or the content does not fit it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    check_header(data, where)
    try:
        return dict(load(data))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _refused(where, f"its tensors cannot be read ({error})") from error


def state_of(network: nn.Module) -> dict[str, Array]:
    """Every parameter and buffer of a network by name, the ones that ``state_dict`` leaves out included."""
    found: dict[str, Tensor] = dict(network.named_parameters(remove_duplicate=False))
    found |= dict(network.named_buffers(remove_duplicate=False))
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in found.items()}


def to_safetensors(network: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    """The weights of a network as safetensors bytes, with text beside them.

    Args:
        network: any module.
        metadata: stored as one JSON object under the key ``about``.
    """
    return encode(state_of(network), metadata)


def _refused(where: str, why: str) -> StorageError:
    return StorageError(f"{where} was not opened", why, "Choose another file, or get it again from where it came from")
