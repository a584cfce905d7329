"""A hostile archive is refused whole, with the reason."""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.data import archives
from workbench.data.archives import members


def nothing() -> None:
    """A check that lets everything go on."""


def make(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        for name in names:
            z.writestr(zipfile.ZipInfo(name), b"x")
    return path


def rename(path: Path, old: bytes, new: bytes) -> None:
    """Names that the library would not write, put in by hand."""
    assert len(old) == len(new)
    path.write_bytes(path.read_bytes().replace(old, new))


def test_plain_files_come_in_order_and_folders_are_left_out(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", "b/", "b/2.png", "a/1.png", "./c/3.png", "a//4.png")
    assert [name for _, name in members(str(path), nothing)] == ["b/2.png", "a/1.png", "c/3.png", "a/4.png"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../x.png", "leads out of the archive"),
        ("a/../../x.png", "leads out of the archive"),
        ("/etc/x.png", "is an absolute path"),
        ("C:/x.png", "is an absolute path"),
        ("c:x.png", "is an absolute path"),
        ("a/CON", "is the name of a device"),
        ("nul.png", "is the name of a device"),
        ("a/com1 .txt/x.png", "is the name of a device"),
    ],
)
def test_names(tmp_path: Path, name: str, why: str) -> None:
    path = make(tmp_path / "a.zip", "good.png", name)
    with pytest.raises(ValueError, match=why):
        members(str(path), nothing)


@pytest.mark.parametrize(("new", "why"), [(b"a\\..\\x.p", "backslash"), (b"abcd\0.pn", "zero byte")])
def test_bytes_in_names(tmp_path: Path, new: bytes, why: str) -> None:
    path = make(tmp_path / "a.zip", "good.png", "abcd.png")
    rename(path, b"abcd.png", new)
    with pytest.raises(ValueError, match=why):
        members(str(path), nothing)


@pytest.mark.parametrize(
    ("one", "two"),
    [("a/x.png", "a/x.png"), ("a/x.png", "A/X.PNG"), ("caf\u00e9.png", "cafe\u0301.png"), ("a/x.png", "a/./x.png")],
)
def test_a_name_twice(tmp_path: Path, one: str, two: str) -> None:
    path = tmp_path / "a.zip"
    with pytest.warns(UserWarning, match="Duplicate") if one == two else _no_warning(), zipfile.ZipFile(path, "w") as z:
        z.writestr(one, b"1")
        z.writestr(two, b"2")
    with pytest.raises(ValueError, match="twice"):
        members(str(path), nothing)


class _no_warning:  # noqa: N801 - used like a function
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def _linked(z: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("link.png")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    z.writestr(info, b"/etc/passwd")


def _pipe(z: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("pipe.png")
    info.create_system = 3
    info.external_attr = (stat.S_IFIFO | 0o777) << 16
    z.writestr(info, b"")


def _bomb(z: zipfile.ZipFile) -> None:
    z.writestr("zeros.bmp", bytes(20_000_000), zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(("add", "why"), [(_linked, "is a link"), (_pipe, "plain file"), (_bomb, "100 times its size")])
def test_entries(tmp_path: Path, add: Callable[[zipfile.ZipFile], None], why: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("good.png", b"x")
        add(z)
    with pytest.raises(ValueError, match=why):
        members(str(path), nothing)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "a.zip", "1", "2", "3")
    monkeypatch.setattr(archives, "MAX_ENTRIES", 2)
    with pytest.raises(ValueError, match="more than 2 entries"):
        members(str(path), nothing)
    # also where the end of the archive lies about the number
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x05\x06")
    data[at + 8 : at + 12] = struct.pack("<HH", 1, 1)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="more than 2"):
        members(str(path), nothing)
    monkeypatch.setattr(archives, "MAX_ENTRIES", 3)
    assert len(members(str(path), nothing)) == 3
    monkeypatch.setattr(archives, "MAX_TOTAL", 2)
    with pytest.raises(ValueError, match="unpacked"):
        members(str(path), nothing)


def test_the_list_is_refused_by_its_stated_size_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "a.zip", "1")
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x05\x06")
    data[at + 12 : at + 16] = struct.pack("<I", 1_000_000_000)
    path.write_bytes(data)
    monkeypatch.setattr("zipfile.ZipFile", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match="more than 200000 entries"):
        members(str(path), nothing)


def test_overlapping_entries(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", "one.png", "two.png")
    data = bytearray(path.read_bytes())
    second = data.rfind(b"PK\x01\x02")
    data[second + 42 : second + 46] = struct.pack("<I", 0)  # both entries now share the first one's data
    path.write_bytes(data)
    with pytest.raises(ValueError, match="overlaps"):
        members(str(path), nothing)


@pytest.mark.parametrize("cut", [0, 10, 60, -1, -30])
def test_damaged_archives(tmp_path: Path, cut: int) -> None:
    path = make(tmp_path / "a.zip", "one.png", "two.png")
    data = path.read_bytes()
    path.write_bytes(data[:cut] if cut else b"")
    with pytest.raises(ValueError, match=r"is empty|is cut short|is a damaged archive"):
        members(str(path), nothing)


def test_what_is_no_archive_at_all_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"hello, world")
    with pytest.raises(ValueError, match="is not a zip archive"):
        members(str(path), nothing)


def test_names_written_as_utf8_without_saying_so(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", "XXXXXX/1.png", "YY/2.png")
    rename(path, b"XXXXXX", "\u732b\u72ac".encode())
    rename(path, b"YY", b"\x82\x83")  # code page 437 and no UTF-8
    assert [name for _, name in members(str(path), nothing)] == ["\u732b\u72ac/1.png", "\u00e9\u00e2/2.png"]


def test_an_archive_of_the_newer_kind_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as z, z.open("a.png", "w", force_zip64=True) as file:
        file.write(b"x")
    assert [name for _, name in members(str(path), nothing)] == ["a.png"]
