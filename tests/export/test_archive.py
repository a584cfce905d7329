from __future__ import annotations

import io
import stat
import struct
import warnings
import zipfile

import pytest

from workbench.core.errors import StorageError
from workbench.export.archive import pack, unpack


def made(*names: str, attr: int = 0o100644 << 16, data: bytes = b"x", **more: object) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a duplicate is what is wanted
        for name in names:
            info = zipfile.ZipInfo("placeholder")
            info.filename = info.orig_filename = name
            info.external_attr = attr
            for key, value in more.items():
                setattr(info, key, value)
            archive.writestr(info, data)
    return buffer.getvalue()


def test_what_is_packed_comes_back_in_order() -> None:
    files = {"b/ä.txt": b"1", "a": b"", "c": bytes(range(256))}
    assert list(unpack(pack(files), "x").items()) == list(files.items())
    assert pack(files) == pack(dict(files))


def test_an_archive_that_a_person_zipped_again_is_read() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("thumbnails")
        archive.writestr("thumbnails/a.png", b"1" * 50)
    assert unpack(buffer.getvalue(), "x") == {"thumbnails/a.png": b"1" * 50}


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["../x"], "outside the archive"),
        (["a/../../x"], "outside the archive"),
        (["/etc/x"], "outside the archive"),
        (["//host/x"], "outside the archive"),
        (["C:/x"], "outside the archive"),
        (["c:x"], "outside the archive"),
        (["a//b"], "outside the archive"),
        (["./x"], "outside the archive"),
        (["a\\b"], "backslash"),
        (["..\\x"], "backslash"),
        (["CON"], "device"),
        (["a/nul.txt"], "device"),
        (["Com1.tar"], "device"),
        (["lpt9 .x"], "device"),
        (["a."], "some systems change"),
        (["a /b"], "some systems change"),
        (["ab:stream"], "some systems change"),
        (["a\nb"], "control characters"),
        (["a\0b"], "control characters"),
        (["a", "a"], "there twice"),
        (["A.txt", "a.TXT"], "there twice"),
        (["e\u0301", "\u00e9"], "there twice"),
        (["inner.zip"], "an archive inside"),
        (["x/y.tar.gz"], "an archive inside"),
    ],
)
def test_one_bad_name_refuses_the_whole_list(names: list[str], why: str) -> None:
    with pytest.raises(StorageError, match=why):
        unpack(made("good.txt", *names), "x")


def test_links_devices_and_hidden_archives_are_refused() -> None:
    with pytest.raises(StorageError, match="is a link"):
        unpack(made("a", attr=(stat.S_IFLNK | 0o777) << 16, data=b"/etc/passwd"), "x")
    with pytest.raises(StorageError, match="is a link or another special file"):
        unpack(made("a", attr=(stat.S_IFIFO | 0o644) << 16), "x")
    with pytest.raises(StorageError, match="an archive inside"):
        unpack(made("photo.png", data=pack({"a": b"1"})), "x")


def test_bombs_are_refused_before_they_are_unpacked() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", b"\0" * 1_000_000)
    with pytest.raises(StorageError, match="more than 100 times"):
        unpack(buffer.getvalue(), "x")
    with pytest.raises(StorageError, match="entries"):
        unpack(made(*(str(i) for i in range(10_001))), "x")


def test_sizes_that_lie_are_noticed() -> None:
    data = bytearray(pack({"a": b"1" * 100}))
    at = data.rfind(b"PK\x01\x02")
    data[at + 20 : at + 28] = struct.pack("<II", 4_000_000_000, 4_000_000_000)
    with pytest.raises(StorageError):
        unpack(bytes(data), "x")
    plain = bytearray(made("a", "b", data=b"1" * 100))
    at = plain.rfind(b"PK\x01\x02")
    plain[at + 20 : at + 28] = struct.pack("<II", 4_000_000_000, 4_000_000_000)
    with pytest.raises(StorageError, match=r"unpack to 4\.0 GB"):
        unpack(bytes(plain), "x")


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06", b"hello" * 100, pack({"a": b"1"})[:-30]])
def test_what_is_no_zip_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(StorageError, match="not a"):
        unpack(data, "x")


def test_every_cut_and_flip_of_a_sealed_archive_is_noticed_or_harmless() -> None:
    files = {"a": b"123", "b": b"456"}
    data = pack(files)
    noticed = 0
    for at in range(len(data)):
        for bit in range(8):
            bad = bytearray(data)
            bad[at] ^= 1 << bit
            try:
                assert unpack(bytes(bad), "x") == files
            except StorageError:
                noticed += 1
    # What is left are flips in the word that marks the seal itself.
    assert noticed >= len(data) * 8 - 7 * 8 - 16
