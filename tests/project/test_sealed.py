from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from workbench.core.errors import StorageError
from workbench.project import sealed


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    figures: list[float]


ROW = _Row("a project", [0.5, 1e-9, 3.0])


def test_round_trip(tmp_path: Path) -> None:
    sealed.save(tmp_path / "a", "row", 1, ROW)
    assert sealed.load(tmp_path / "a", "row", 1, _Row) == ROW


def test_every_single_flipped_bit_and_every_cut_is_noticed() -> None:
    data = sealed.seal("row", 1, ROW)
    noticed = 0
    for i in range(len(data)):
        for bit in range(8):
            bad = bytearray(data)
            bad[i] ^= 1 << bit
            with pytest.raises(StorageError):
                sealed.unseal(bytes(bad), "row", 1, _Row, "it")
            noticed += 1
        with pytest.raises(StorageError):
            sealed.unseal(data[:i], "row", 1, _Row, "it")
    assert noticed == 8 * len(data)


def test_the_message_names_the_file_and_the_copy_before_it(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    sealed.save(file, "row", 1, ROW)
    sealed.save(file, "row", 1, ROW)
    file.write_bytes(file.read_bytes().replace(b"0.5", b"0.6"))
    with pytest.raises(StorageError) as raised:
        sealed.load(file, "row", 1, _Row)
    assert str(file) in raised.value.what_happened
    assert "a.json.prev" in raised.value.what_to_do


def test_what_is_not_ours_is_refused() -> None:
    data = sealed.seal("row", 2, ROW)
    with pytest.raises(StorageError, match="newer version"):
        sealed.unseal(data, "row", 1, _Row, "it")
    with pytest.raises(StorageError, match="it is a row, not a card"):
        sealed.unseal(data, "card", 2, _Row, "it")
    more = sealed.seal("row", 2, {"name": "x", "figures": [], "extra": 1})
    with pytest.raises(StorageError, match="extra"):
        sealed.unseal(more, "row", 2, _Row, "it")
    with pytest.raises(StorageError, match="check sum"):
        sealed.unseal(b'{"kind": "row", "version": 1, "value": {"name": "x", "figures": []}}', "row", 1, _Row, "it")
    with pytest.raises(ValueError, match="figures"):
        sealed.seal("row", 1, _Row("x", [float("nan")]))
