"""The list of a zip archive, checked whole before any member is read: a hostile archive is refused, not mended."""

from __future__ import annotations

import re
import stat
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

MAX_ENTRIES = 200_000
MAX_TOTAL = 16_000_000_000
MAX_RATIO = 100
_RATIO_FROM = 1_000_000  # a small drawing on white paper may shrink to a hundredth, and harms nobody
_MAX_DIRECTORY = 40_000_000
_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", *(f"COM{i}" for i in range(1, 10)), *(f"LPT{i}" for i in range(1, 10))]
)
_END = b"PK\x05\x06"
_MEMBER = b"PK\x03\x04"


def members(path: str, check: Callable[[], None]) -> list[tuple[zipfile.ZipInfo, str]]:
    """The plain files of an archive with the names to show, in the archive's order.

    Names that were written as UTF-8 without saying so (as macOS does) are read as UTF-8.

    Args:
        path: the archive.
        check: called now and then; may raise to stop.

    Raises:
        ValueError: the archive is damaged or not safe; the text is one clause that fits after its name.
        OSError: it cannot be read.
    """
    _refuse_long_list(path)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, EOFError) as error:
        raise ValueError("is a damaged archive") from error
    if len(infos) > MAX_ENTRIES:
        raise ValueError(f"is refused: it holds {len(infos)} entries, and more than {MAX_ENTRIES} are not read")
    total = 0
    seen: set[str] = set()
    out = []
    for i, info in enumerate(infos):
        if i % 1000 == 0:
            check()
        shown = _shown(info)
        reason = _unsafe_name(info.orig_filename, shown) or _unsafe_entry(info)
        if reason:
            raise ValueError(f"is refused: the entry {_quoted(shown)} {reason}")
        total += info.file_size
        if total > MAX_TOTAL:
            raise ValueError(f"is refused: unpacked it would be more than {MAX_TOTAL // 1_000_000_000} GB")
        if info.is_dir():
            continue
        parts = [p for p in shown.split("/") if p not in ("", ".")]
        same = unicodedata.normalize("NFC", unicodedata.normalize("NFC", "/".join(parts)).casefold())
        if same in seen:
            raise ValueError(f"is refused: the name {_quoted(shown)} stands in it twice")
        seen.add(same)
        out.append((info, "/".join(parts)))
    _refuse_overlap(infos)
    return out


def _refuse_long_list(path: str) -> None:
    """Refuse by the size that the archive states for its list, before the list is read into memory."""
    with Path(path).open("rb") as file:
        length = file.seek(0, 2)
        file.seek(max(0, length - 65_557))
        tail = file.read()
        file.seek(0)
        begun = file.read(4) == _MEMBER
        at = tail.rfind(_END)
        if at < 0 or len(tail) < at + 22:
            why = "is cut short: the list at its end is missing; copy or download it again"
            raise ValueError(why if begun else "is not a zip archive" if length else "is empty")
        entries = int.from_bytes(tail[at + 10 : at + 12], "little")
        directory = int.from_bytes(tail[at + 12 : at + 16], "little")
        if tail[at - 20 : at - 16] == b"PK\x06\x07":
            file.seek(min(int.from_bytes(tail[at - 12 : at - 4], "little"), length))
            record = file.read(56)
            entries = int.from_bytes(record[32:40], "little")
            directory = int.from_bytes(record[40:48], "little")
    if entries > MAX_ENTRIES or directory > _MAX_DIRECTORY:
        raise ValueError(f"is refused: it holds more than {MAX_ENTRIES} entries")


def _shown(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _unsafe_name(raw: str, name: str) -> str:
    if "\0" in raw:
        return "holds a zero byte"
    if "\\" in raw:
        return "holds a backslash"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "is an absolute path"
    for part in name.split("/"):
        if part == "..":
            return "leads out of the archive"
        if part.split(".", 1)[0].rstrip(" ").upper() in _DEVICES:
            return "is the name of a device"
    return ""


def _unsafe_entry(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) and info.create_system == 3:
        return "is not a plain file"
    if info.file_size > _RATIO_FROM and info.file_size > MAX_RATIO * max(1, info.compress_size):
        return f"would unpack to more than {MAX_RATIO} times its size"
    return ""


def _refuse_overlap(infos: list[zipfile.ZipInfo]) -> None:
    end = 0
    for info in sorted(infos, key=lambda i: i.header_offset):
        if info.header_offset < end:
            raise ValueError(f"is refused: the entry {_quoted(_shown(info))} overlaps another")
        end = info.header_offset + 30 + info.compress_size


def _quoted(name: str) -> str:
    text = "".join(ch if ch.isprintable() else "\ufffd" for ch in name)
    return f"\u201c{text if len(text) <= 80 else text[:77] + '...'}\u201d"
