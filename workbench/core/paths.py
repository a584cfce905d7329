"""Where things lie (shipped files, the user's data, cache and preferences), and how paths become text."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).resolve().parent.parent
_APP = "meta-transfer-workbench"


def _shipped(name: str) -> Path:
    inside = _PACKAGE / f"_{name}"
    return inside if inside.is_dir() else _PACKAGE.parent / name


def resources() -> Path:
    """Folder of icons, translations, help pages and starter knowledge."""
    return _shipped("resources")


def samples() -> Path:
    """Folder of the generated sample images."""
    return _shipped("samples")


def _home(kind: str, default: str) -> Path:
    base = os.environ.get("WORKBENCH_HOME")
    return Path(base) / kind if base else Path(default)


def data_home() -> Path:
    """The user's data: scratch project and library. ``WORKBENCH_HOME`` moves it."""
    return _home("data", platformdirs.user_data_dir(_APP, appauthor=False))


def cache_home() -> Path:
    """Caches that may be deleted at any time: decoded images, features, thumbnails, downloads in progress."""
    return _home("cache", platformdirs.user_cache_dir(_APP, appauthor=False))


def config_home() -> Path:
    """Preferences."""
    return _home("config", platformdirs.user_config_dir(_APP, appauthor=False))


def scratch_project() -> Path:
    """The project used when none is named."""
    return data_home() / "scratch"


def escape(path: str | os.PathLike[str]) -> str:
    r"""A path as printable text that ``unescape`` turns back exactly, whatever bytes it holds.

    Printable UTF-8 stays as it is; a backslash and undecodable bytes become ``\xNN``.
    """
    raw = os.fsencode(path)
    text = raw.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:  # nearly every path: a project holds tens of thousands
        return text
    out = []
    for ch in text:
        if "\udc80" <= ch <= "\udcff":
            out.append(f"\\x{ord(ch) - 0xDC00:02x}")
        elif ch == "\\" or not ch.isprintable():
            out.extend(f"\\x{b:02x}" for b in ch.encode("utf-8"))
        else:
            out.append(ch)
    return "".join(out)


def unescape(text: str) -> str:
    """The path that ``escape`` wrote, as the file system's string.

    Raises:
        ValueError: a backslash is not followed by ``xNN``.
    """
    if "\\" not in text:
        return os.fsdecode(text.encode("utf-8"))
    raw = bytearray()
    i = 0
    while i < len(text):
        if text[i] == "\\":
            raw += _byte(text[i : i + 4])
            i += 4
        else:
            raw.extend(text[i].encode("utf-8"))
            i += 1
    return os.fsdecode(bytes(raw))


def _byte(escaped: str) -> bytes:
    if len(escaped) != 4 or escaped[1] != "x":
        raise ValueError(f"{escaped!r} is not an escaped byte")
    return bytes.fromhex(escaped[2:])


def display(path: str | os.PathLike[str]) -> str:
    """A path for eyes: undecodable bytes and control characters shown as a replacement mark."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(ch if ch.isprintable() else "\ufffd" for ch in text)
