"""JSON files that carry the hash of their own bytes, so that one flipped bit is noticed.

The seal is the sha256 of the whole file with the seal itself written as zeros.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from workbench.core import storage
from workbench.core.errors import StorageError

T = TypeVar("T")

_ADVICE = "Restore it from a backup or make it again"

_ZEROS = b"0" * 64
_SEAL = re.compile(rb'"seal": "([0-9a-f]{64})"')


def seal(kind: str, version: int, value: Any) -> bytes:
    """``value`` (a struct or a mapping) as sealed JSON.

    Raises:
        ValueError: it holds a number that is not finite.
    """
    data = storage.encode_json(kind, version, {"seal": _ZEROS.decode()} | msgspec.to_builtins(value))
    return data.replace(_ZEROS, hashlib.sha256(data).hexdigest().encode(), 1)


def unseal(data: bytes, kind: str, version: int, type_: type[T], where: str) -> T:
    """The value that ``seal`` wrote; fields that ``type_`` does not know are refused where it forbids them.

    Raises:
        StorageError: damaged, another kind, a newer version, or fields that do not fit.
    """
    found = _SEAL.search(data[:400])
    if found is not None and hashlib.sha256(data.replace(found[1], _ZEROS, 1)).hexdigest().encode() != found[1]:
        raise StorageError(f"{where} is damaged", "its content is not what was saved", _ADVICE)
    value = storage.decode_json(data, kind, version, dict[str, Any], where)
    if found is None or value.pop("seal", None) != found[1].decode():
        raise StorageError(f"{where} is damaged", "its check sum is missing", _ADVICE)
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise StorageError(f"{where} was not opened", str(error), _ADVICE) from error


def save(path: Path, kind: str, version: int, value: Any, *, keep_previous: bool = True) -> None:
    """Seal and write; see :func:`workbench.core.storage.save`."""
    storage.save(path, seal(kind, version, value), keep_previous=keep_previous)


def load(path: Path, kind: str, version: int, type_: type[T]) -> T:
    """Read and check; the message of a damaged file names the copy before it where there is one.

    Raises:
        StorageError: see :func:`unseal`.
    """
    data = storage.load(path)
    try:
        return unseal(data, kind, version, type_, str(path))
    except StorageError as error:
        previous = path.with_name(f"{path.name}.prev")
        if "newer version" in error.why or not previous.exists():
            raise
        raise StorageError(error.what_happened, error.why, f"The copy before it is {previous.name}") from error
