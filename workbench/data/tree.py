"""Folders and archives as one kind of tree, with every entry that is not taken listed with its reason."""

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
import zipfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from workbench.core.paths import display
from workbench.core.values import Problem, Role, Severity
from workbench.data.archives import members
from workbench.data.encoded import read_encoded

MAX_DEPTH = 32
# fmt: off
_PICTURES = frozenset([
    "jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "bmp", "dib", "gif", "tif", "tiff", "avif", "heic",
    "heif", "hif", "jp2", "j2k", "jpf", "jpx", "j2c", "jpc", "ppm", "pgm", "pbm", "pnm", "pfm",
])
_ARCHIVES = frozenset(["zip", "tar", "gz", "tgz", "bz2", "xz", "7z", "rar", "zst"])
# fmt: on
_HIDDEN = frozenset(["thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r", "$recycle.bin", "@eadir"])
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_ROLE = "role.txt"
IS_ARCHIVE = "is an archive inside a folder or archive; open it by itself"
_IS_OTHER_ARCHIVE = "is an archive, and not a zip; unpack it first"


@dataclass(frozen=True, slots=True)
class File:
    """A file that may be a picture: ``path`` and ``member`` as in ``ImageRef``; ``likely`` by its name."""

    path: str
    member: str
    likely: bool

    @property
    def name(self) -> str:
        """The file's own name."""
        return (self.member or self.path).rpartition("/")[2]

    @property
    def where(self) -> str:
        """For eyes."""
        return shown(self.path, self.member)


@dataclass(slots=True, eq=False)
class Folder:
    """A folder, or one inside an archive.

    Attributes:
        path: the folder, or the archive.
        inside: the folder's name in the archive, or "".
        name: as on disk, may hold surrogates.
        role: what its ``role.txt`` says.
        own: number of likely pictures directly in it.
        total: the same with all folders below.
    """

    path: str
    inside: str
    name: str
    files: list[File] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)
    role: Role | None = None
    own: int = 0
    total: int = 0

    @property
    def where(self) -> str:
        """For eyes."""
        return shown(self.path, self.inside)


@dataclass(slots=True)
class Walk:
    """What one scan has met so far; the same file and the same folder count once in all of it."""

    check: Callable[[], None]
    found: Callable[[int], None]
    problems: list[Problem] = field(default_factory=list)
    files: int = 0
    _seen_files: dict[tuple[int, int], str] = field(default_factory=dict)
    _seen_folders: set[tuple[int, int]] = field(default_factory=set)
    _links: deque[tuple[Folder, str, str, int]] = field(default_factory=deque)

    def note(self, where: str, reason: str, severity: Severity) -> None:
        """List something that is not taken."""
        self.problems.append(Problem(where, reason, severity))

    def folder(self, path: str) -> Folder | None:
        """The tree under a folder, links followed, or ``None`` where it was met before."""
        about = Path(path).stat()
        if (about.st_dev, about.st_ino) in self._seen_folders:
            self.note(shown(path), "is a part of a folder that was given as well", "ignored")
            return None
        root = Folder(path, "", os.path.basename(path) or path)  # noqa: PTH119 - Path drops undecodable oddities
        self._fill(root, 0, about)
        # Links last, so that a file counts where it really lies and not where a link to it happens to sort.
        while self._links:
            self._follow(*self._links.popleft())
        return settle(root)

    def archive(self, path: str) -> Folder | None:
        """The tree inside a zip archive, or ``None`` where it is refused or was met before."""
        about = Path(path).stat()
        if self._again((about.st_dev, about.st_ino), path):
            return None
        try:
            listed = members(path, self.check)
        except (ValueError, OSError) as error:
            reason = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
            self.note(shown(path), reason, "error")
            return None
        root = Folder(path, "", Path(path).stem)
        folders = {"": root}
        skipped: dict[str, int] = {}
        for info, name in listed:
            self.check()
            self._member(info, name, folders, skipped)
        for name, count in skipped.items():
            self.note(shown(path, name), f"is a hidden folder with {counted(count, 'file')}", "ignored")
        settle(root)
        return _unwrapped(root)

    def _fill(self, folder: Folder, depth: int, about: os.stat_result) -> None:
        self.check()
        self._seen_folders.add((about.st_dev, about.st_ino))
        try:
            with os.scandir(folder.path) as entries:
                listed = list(entries)
        except OSError as error:
            self.note(folder.where, f"cannot be opened ({(error.strerror or str(error)).lower()})", "error")
            return
        for entry in listed:
            try:
                self._entry(folder, entry, depth, about.st_dev)
            except OSError as error:
                reason = f"cannot be looked at ({(error.strerror or str(error)).lower()})"
                self.note(shown(entry.path), reason, "error")

    def _entry(self, folder: Folder, entry: os.DirEntry[str], depth: int, device: int) -> None:
        if hidden(entry.name):
            kind = "is a hidden folder" if entry.is_dir(follow_symlinks=False) else "is a hidden file"
            self.note(shown(entry.path), kind, "ignored")
        elif entry.is_symlink():
            self._links.append((folder, entry.path, entry.name, depth))
        elif entry.is_dir(follow_symlinks=False):
            self._descend(folder, entry.path, entry.name, depth, entry.stat())
        elif entry.is_file(follow_symlinks=False):
            self._file(folder, entry.path, entry.name, (device, entry.inode()))
        else:
            self.note(shown(entry.path), "is not a plain file", "ignored")

    def _follow(self, folder: Folder, path: str, name: str, depth: int) -> None:
        try:
            about = Path(path).stat()
        except OSError as error:
            loop = "is a link that leads round to itself"
            self.note(
                shown(path), loop if error.errno == errno.ELOOP else "is a link to something that is not there", "error"
            )
            return
        if stat.S_ISDIR(about.st_mode):
            self._descend(folder, path, name, depth, about)
        elif stat.S_ISREG(about.st_mode):
            self._file(folder, path, name, (about.st_dev, about.st_ino))
        else:
            self.note(shown(path), "is not a plain file", "ignored")

    def _descend(self, parent: Folder, path: str, name: str, depth: int, about: os.stat_result) -> None:
        if (about.st_dev, about.st_ino) in self._seen_folders:
            self.note(shown(path), "is a link to a folder that is here already", "ignored")
        elif depth + 1 > MAX_DEPTH:
            self.note(shown(path), f"lies more than {MAX_DEPTH} folders deep", "warning")
        else:
            child = Folder(path, "", name)
            parent.folders.append(child)
            self._fill(child, depth + 1, about)

    def _file(self, folder: Folder, path: str, name: str, identity: tuple[int, int]) -> None:
        if not self._again(identity, path):
            self._take(folder, path, "", name)

    def _member(self, info: zipfile.ZipInfo, name: str, folders: dict[str, Folder], skipped: dict[str, int]) -> None:
        *parts, last = name.split("/")
        for i, part in enumerate(parts):
            if hidden(part):
                key = "/".join(parts[: i + 1])
                skipped[key] = skipped.get(key, 0) + 1
                return
        root = folders[""]
        if len(parts) > MAX_DEPTH:
            self.note(shown(root.path, name), f"lies more than {MAX_DEPTH} folders deep", "warning")
            return
        if hidden(last):
            self.note(shown(root.path, name), "is a hidden file", "ignored")
            return
        folder = root
        for i, part in enumerate(parts):
            key = "/".join(parts[: i + 1])
            if key not in folders:
                folders[key] = Folder(root.path, key, part)
                folder.folders.append(folders[key])
            folder = folders[key]
        self._take(folder, root.path, info.filename, last)

    def _take(self, folder: Folder, path: str, member: str, name: str) -> None:
        suffix = name.rpartition(".")[2].lower() if "." in name else ""
        if name.lower() == _ROLE:
            folder.role = self._role(path, member)
        elif suffix in _ARCHIVES:
            self.note(shown(path, member), IS_ARCHIVE if suffix == "zip" else _IS_OTHER_ARCHIVE, "ignored")
        else:
            folder.files.append(File(path, member, suffix in _PICTURES))
            self.files += 1
            if self.files % 500 == 0:
                self.check()
                self.found(self.files)

    def _again(self, identity: tuple[int, int], path: str) -> bool:
        first = self._seen_files.setdefault(identity, path)
        if first is path or identity[1] == 0:  # some file systems number nothing
            return False
        self.note(shown(path), f"is the same file as {shown(first)}", "ignored")
        return True

    def _role(self, path: str, member: str) -> Role | None:
        try:
            text = read_encoded(path, member)[:200].decode("utf-8", "replace").strip().lower()
            return Role(text)
        except ValueError:
            self.note(shown(path, member), f"names none of the roles {', '.join(Role)}", "warning")
            return None


def settle(root: Folder) -> Folder:
    """Sort a tree as people count and add up the likely pictures of each folder."""
    _count(root, bare=False)
    if not root.total:  # perhaps pictures whose names say nothing
        _count(root, bare=True)
    return root


def _unwrapped(root: Folder) -> Folder:
    """Without the one folder that archives wrap around everything; a single class folder below that stays a class."""
    first = True
    while not root.files and root.role is None and len(root.folders) == 1:
        (inner,) = root.folders
        if not first and not inner.folders:
            break
        inner.name, root, first = root.name, inner, False
    return root


def _count(folder: Folder, *, bare: bool) -> int:
    folder.files.sort(key=lambda f: natural(f.member or f.path))
    folder.folders.sort(key=lambda f: natural(f.name))
    folder.own = sum(f.likely or (bare and "." not in f.name) for f in folder.files)
    folder.total = folder.own + sum(_count(f, bare=bare) for f in folder.folders)
    return folder.total


def natural(name: str) -> tuple[tuple[tuple[str, int, str], ...], str]:
    """Sort key that puts ``character2`` before ``character10``."""
    parts = re.split(r"([0-9]+)", unicodedata.normalize("NFC", name).casefold())
    # Digits compare by their length without leading zeros and then as text: no number is too long for that.
    key = tuple(
        (parts[i], len(d := (parts[i + 1] if i + 1 < len(parts) else "").lstrip("0")), d)
        for i in range(0, len(parts), 2)
    )
    return key, name


def hidden(name: str) -> bool:
    """Whether systems hide such a file or folder from people."""
    return name.startswith(".") or name.lower() in _HIDDEN


def shown(path: str, member: str = "") -> str:
    """A file for eyes; one in an archive as if the archive were a folder."""
    return display(f"{path}/{member}" if member else path)


def readable(name: str) -> str:
    r"""A folder's name as text that any file or screen can hold: undecodable bytes, control characters and marks that
    turn the writing direction become ``\xNN``; all else stays as it is.
    """
    if name.isascii() and name.isprintable():
        return name
    out = []
    for ch in name:
        if "\udc80" <= ch <= "\udcff":
            out.append(f"\\x{ord(ch) - 0xDC00:02x}")
        elif ch in _BIDI or unicodedata.category(ch) in ("Cc", "Cs", "Zl", "Zp"):
            out.extend(f"\\x{b:02x}" for b in ch.encode("utf-8", "surrogatepass"))
        else:
            out.append(ch)
    return "".join(out)


def counted(n: int, what: str) -> str:
    """``1 picture``, ``2 pictures``."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
