from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.core import paths

NAMES = [
    b"/plain/path.png",
    "/nfc/caf\u00e9.png".encode(),
    "/nfd/cafe\u0301.png".encode(),
    "/emoji/\U0001f600.png".encode(),
    "/rtl/\u05d0\u05d1\u202e.png".encode(),
    b"/invalid/\xff\xfe\x80.png",
    b"/half/\xe5\xad.png",
    b"/newline/a\nb\tc\r.png",
    b"/trailing/space ",
    b"/trailing/dot.",
    rb"/backslash/a\x41\\b",
    b"/quote/'\"`$",
    b"/long/" + b"n" * 255,
]


@pytest.mark.parametrize("raw", NAMES)
def test_any_bytes_survive(raw: bytes) -> None:
    path = os.fsdecode(raw)
    text = paths.escape(path)
    assert text.isprintable()
    assert text.encode("utf-8")
    assert os.fsencode(paths.unescape(text)) == raw


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_at_all_survive(raw: bytes) -> None:
    text = paths.escape(os.fsdecode(raw))
    assert text.isprintable()
    assert os.fsencode(paths.unescape(text)) == raw


def test_escaping_is_readable_and_one_to_one() -> None:
    assert paths.escape("/a/caf\u00e9.png") == "/a/caf\u00e9.png"
    assert paths.escape(os.fsdecode(b"/a/\xff\n")) == r"/a/\xff\x0a"
    assert paths.escape("a\\xff") != paths.escape(os.fsdecode(b"a\xff"))
    texts = [paths.escape(os.fsdecode(raw)) for raw in NAMES]
    assert len(set(texts)) == len(NAMES)


@pytest.mark.parametrize("bad", ["a\\", "a\\x", "a\\x4", "a\\xzz", "a\\n", "\\y41"])
def test_text_that_was_not_escaped_is_refused(bad: str) -> None:
    with pytest.raises(ValueError):
        paths.unescape(bad)


def test_display_has_no_character_that_could_mislead() -> None:
    shown = paths.display(os.fsdecode(b"/a/\xff\x1b[31m\xe2\x80\xae"))
    assert shown.isprintable()
    assert shown.startswith("/a/\ufffd\ufffd[31m")
    assert unicodedata.lookup("RIGHT-TO-LEFT OVERRIDE") not in shown


def test_one_variable_moves_everything(home: Path) -> None:
    assert paths.data_home() == home / "data"
    assert paths.cache_home() == home / "cache"
    assert paths.config_home() == home / "config"
    assert paths.scratch_project().parent == paths.data_home()


def test_without_it_the_platform_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKBENCH_HOME")
    folders = {paths.data_home(), paths.cache_home(), paths.config_home()}
    assert len(folders) == 3
    assert all("meta-transfer-workbench" in str(f) for f in folders)


def test_shipped_folders_are_there() -> None:
    assert paths.resources().is_dir()
    assert paths.samples().is_dir()
