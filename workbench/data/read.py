"""One picture at a time: its reference, its bytes, its pixels.

A file is met for the first time in the guarded decoder (``image_ref``); afterwards its hash vouches for it, and reading
it here refuses what is no longer the file that was looked at.
"""

from __future__ import annotations

import hashlib
import os
import threading

import numpy as np

from workbench.core.errors import WorkbenchError
from workbench.core.paths import display
from workbench.core.values import ImageRef, Preprocess
from workbench.data.decoder import Decoder, Inspected
from workbench.data.encoded import read_encoded
from workbench.data.pixels import open_image, to_pixels

_lock = threading.Lock()
_decoder = Decoder()


def read_bytes(image: ImageRef) -> bytes:
    """The encoded bytes of a picture.

    Raises:
        WorkbenchError: it cannot be read, or it is no longer the file that was loaded.
    """
    try:
        data = read_encoded(image.path, image.member)
    except ValueError as error:
        raise _refusal(image.path, image.member, str(error)) from error
    if image.sha256 and hashlib.sha256(data).hexdigest() != image.sha256:
        raise _refusal(image.path, image.member, "was changed since it was loaded")
    return data


def pixels(image: ImageRef, p: Preprocess) -> np.ndarray:
    """The picture as the network's 8-bit input.

    Returns:
        uint8 ``[size, size, C]``.

    Raises:
        WorkbenchError: it cannot be read or decoded.
    """
    try:
        picture = open_image(read_bytes(image))
    except ValueError as error:
        raise _refusal(image.path, image.member, str(error)) from error
    return to_pixels(picture, size=p.size, channels=p.channels, fit=p.fit, resample=p.resample)


def image_ref(path: str, member: str = "") -> ImageRef:
    """Look at one file, fully decoded in the guarded process.

    Args:
        path: a picture, or the archive that holds it.
        member: name inside the archive, or "".

    Raises:
        WorkbenchError: it is no picture that can be read.
    """
    path = os.path.abspath(path)  # noqa: PTH100 - resolving would follow links and lose the person's own path
    with _lock:
        (found,) = _decoder.inspect([(path, member)])
    return _ref(found, path, member)


def image_ref_from_bytes(data: bytes, path: str) -> ImageRef:
    """The same for a picture in memory.

    Args:
        data: the encoded picture.
        path: where these bytes are kept, or will be.

    Raises:
        WorkbenchError: it is no picture that can be read.
    """
    with _lock:
        found = _decoder.inspect_bytes(data)
    return _ref(found, os.path.abspath(path), "")  # noqa: PTH100 - as above


def release() -> None:
    """End the decoder process that ``image_ref`` keeps; the next call starts another."""
    with _lock:
        _decoder.close()


def _ref(found: Inspected, path: str, member: str) -> ImageRef:
    if found.error:
        raise _refusal(path, member, found.error)
    return ImageRef(path, member, found.sha256, found.size, found.width, found.height)


def _refusal(path: str, member: str, reason: str) -> WorkbenchError:
    name = display(path) + (f" ({display(member)})" if member else "")
    return WorkbenchError(f"{name} was not read", f"it {reason}", "Choose another picture or mend this one")
