"""Zip archives: written with the same bytes for the same content, read only after the whole list of names was checked.

Nothing is ever unpacked to a name that came from an archive, and a list that holds one bad name is refused as a whole:
repairing names (as the standard library's ``extractall`` does) hides an attack and can let one file replace another.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping

from workbench.core.errors import StorageError

ENTRY_LIMIT = 10_000
TOTAL_LIMIT = 2_000_000_000
RATIO_LIMIT = 100
_DIRECTORY_LIMIT = 4 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_SEAL = b"sha256:"
_DEVICES = re.compile(r"(con|prn|aux|nul|clock\$|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
_NESTED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".whl", ".jar", ".pt2", ".pth", ".pt")
_MAGIC = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
    b"\x28\xb5\x2f\xfd",
)


def pack(files: Mapping[str, bytes]) -> bytes:
    """One zip of these files, in this order; no clock, owner or platform in it.

    The archive's comment is the hash of all bytes before it, so that damage anywhere is noticed.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            # Weights, graphs and PNGs hardly shrink, and stored bytes do not depend on the version of zlib.
            info.compress_type = zipfile.ZIP_STORED
            archive.writestr(info, data)
        archive.comment = _SEAL + b"0" * 64
    raw = buffer.getvalue()[:-64]
    return raw + hashlib.sha256(raw).hexdigest().encode()


def unpack(data: bytes, where: str) -> dict[str, bytes]:
    """Every file of a zip that others may have made, held in memory.

    Args:
        data: the archive.
        where: its name, for messages.

    Returns:
        Name -> content, in the archive's order; folders are left out.

    Raises:
        StorageError: damaged, too large, or with a name that could land anywhere but inside its own folder.
    """
    _measure(data, where)
    if data[-71:-64] == _SEAL and hashlib.sha256(data[:-64]).hexdigest().encode() != data[-64:]:
        raise _damaged(where, "its content is not what was saved")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            check_list(infos, where)
            files = {}
            for info in infos:
                if info.is_dir():
                    continue
                content = archive.read(info)
                if content.startswith(_MAGIC):
                    raise _refused(where, f"{_shown(info.filename)} is an archive inside the archive")
                files[info.filename] = content
            return files
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(where, f"it is not a whole zip archive ({error})") from error


def check_list(infos: list[zipfile.ZipInfo], where: str) -> None:
    """Refuse a list of entries that no honest writer makes.

    Raises:
        StorageError: names the entry and what is wrong with it.
    """
    if len(infos) > ENTRY_LIMIT:
        raise _refused(where, f"it has {len(infos)} entries; at most {ENTRY_LIMIT} are read")
    total = 0
    seen: set[str] = set()
    for info in infos:
        name = info.orig_filename
        wrong = wrong_name(name) or _wrong_entry(info)
        if wrong:
            raise _refused(where, f"{_shown(name)} {wrong}")
        key = unicodedata.normalize("NFC", name.rstrip("/")).casefold()
        if key in seen:
            raise _refused(where, f"{_shown(name)} is there twice")
        seen.add(key)
        total += info.file_size
    if total > TOTAL_LIMIT:
        raise _refused(where, f"it would unpack to {total / 1e9:.1f} GB; at most {TOTAL_LIMIT / 1e9:.0f} GB are read")


def wrong_name(name: str) -> str:
    """What is wrong with a relative file name, or ""."""
    if not name or "\0" in name or any(ord(c) < 32 for c in name):
        return "is empty or has control characters in its name"
    if "\\" in name:
        return "has a backslash in its name"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "names a place outside the archive"
    parts = name.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "names a place outside the archive"
    if any(_DEVICES.fullmatch(part.split(".")[0].rstrip(" ")) for part in parts):
        return "has the name of a device"
    if any(part.endswith((".", " ")) or ":" in part for part in parts):
        return "has a name that some systems change"
    return ""


def _wrong_entry(info: zipfile.ZipInfo) -> str:
    """What is wrong with an entry besides its name, or ""."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or another special file"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.is_dir() and info.file_size:
        return "is a folder with content"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in an unusual way"
    if info.file_size > RATIO_LIMIT * max(info.compress_size, 1):
        return f"would grow more than {RATIO_LIMIT} times"
    if info.filename.lower().endswith(_NESTED):
        return "is an archive inside the archive"
    return ""


def _measure(data: bytes, where: str) -> None:
    """Read the size of the archive's list from its last bytes, before a parser walks it."""
    if len(data) > TOTAL_LIMIT:
        raise _refused(where, f"it has {len(data) / 1e9:.1f} GB; at most {TOTAL_LIMIT / 1e9:.0f} GB are read")
    at = data.rfind(b"PK\x05\x06", max(0, len(data) - 65_557))
    if at < 0 or len(data) < at + 22 or len(data) != at + 22 + int.from_bytes(data[at + 20 : at + 22], "little"):
        raise _damaged(where, "it is not a zip archive, or its end is missing")
    entries = int.from_bytes(data[at + 10 : at + 12], "little")
    listed = int.from_bytes(data[at + 12 : at + 16], "little")
    if entries > ENTRY_LIMIT or listed > _DIRECTORY_LIMIT:
        raise _refused(where, f"its list has {entries} entries in {listed} bytes; at most {ENTRY_LIMIT} are read")


def _shown(name: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in name[:100])


def _refused(where: str, why: str) -> StorageError:
    return StorageError(
        f"{where} was not opened", why, "Nothing was unpacked; ask its author for a bundle made by the workbench"
    )


def _damaged(where: str, why: str) -> StorageError:
    return StorageError(f"{where} was not opened", why, "Copy it again from where it came from")
