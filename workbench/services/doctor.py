"""Is everything there that the workbench needs? Each check with what was found and what to do."""

from __future__ import annotations

import ctypes.util
import os
import platform
import shutil
import sqlite3
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from workbench.core import paths, storage
from workbench.core.errors import StorageError

_PACKAGES = (
    "torch",
    "torchvision",
    "PySide6",
    "pyqtgraph",
    "numpy",
    "pillow",
    "pillow-heif",
    "safetensors",
    "msgspec",
    "onnx",
    "onnxruntime",
)
_LIBRARIES = (
    ("EGL", "libegl1"),
    ("GL", "libgl1"),
    ("xkbcommon", "libxkbcommon0"),
    ("xcb-cursor", "libxcb-cursor0"),
    ("dbus-1", "libdbus-1-3"),
)
_ROOM = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was looked at, whether it is fine, what was found, what to do."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def checks(project: Path) -> tuple[Check, ...]:
    """All checks; nothing is changed but that the project's folder is made, where a probe is written and removed."""
    out = [
        Check(
            "Python",
            sys.version_info >= (3, 11),
            platform.python_version(),
            "" if sys.version_info >= (3, 11) else "Use 3.11 or newer",
        )
    ]
    out += [_package(name) for name in _PACKAGES]
    out.append(_pair())
    if sys.platform.startswith("linux"):
        out += [_library(name, package) for name, package in _LIBRARIES]
        screen = any(os.environ.get(k) for k in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))
        out.append(
            Check("Screen", True, "found" if screen else "none: the window cannot open, every command works", "")
        )
    recent = sqlite3.sqlite_version_info >= (3, 35)
    out.append(
        Check("SQLite", recent, sqlite3.sqlite_version, "" if recent else "Use a Python with SQLite 3.35 or newer")
    )
    out += [_folder("Samples", paths.samples(), "alphabets"), _folder("Resources", paths.resources(), "icons")]
    out.append(_writable(project))
    return tuple(out)


def _package(name: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, False, "missing", "Install the workbench again")


def _pair() -> Check:
    try:
        bad = version("PySide6").startswith("6.12.") and sys.version_info < (3, 12)
    except PackageNotFoundError:
        bad = False
    return Check(
        "Python with PySide6",
        not bad,
        "a safe pair" if not bad else "drops references to None",
        "Use PySide6 6.11" if bad else "",
    )


def _library(name: str, package: str) -> Check:
    found = ctypes.util.find_library(name)
    return Check(
        f"lib{name}", found is not None, found or "missing", "" if found else f"Install the system package {package}"
    )


def _folder(name: str, path: Path, inside: str) -> Check:
    ok = (path / inside).is_dir()
    return Check(name, ok, str(path) if ok else "missing", "" if ok else "Install the workbench again")


def _writable(project: Path) -> Check:
    probe = project / ".doctor"
    try:
        storage.save(probe, b"probe", keep_previous=False)
        probe.unlink()
    except (StorageError, OSError) as error:
        return Check("Project folder", False, str(error), "Choose another with --project")
    free = shutil.disk_usage(project).free
    enough = free >= _ROOM
    return Check(
        "Project folder", enough, f"{project}, {storage.len_text(free)} free", "" if enough else "Free some space"
    )
