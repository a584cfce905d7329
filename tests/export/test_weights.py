from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from workbench.core.errors import StorageError
from workbench.export.weights import HEADER_LIMIT, decode, encode, state_of, to_safetensors

from .conftest import Tiny


def test_shapes_and_types_come_back() -> None:
    tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "a": np.asarray(3, np.int64),
        "c": np.zeros((0, 2), np.float16),
    }
    back = decode(encode(tensors), "w")
    assert back.keys() == tensors.keys()
    for name, value in tensors.items():
        assert back[name].shape == value.shape
        assert back[name].dtype == value.dtype
        assert np.array_equal(back[name], value)


def test_the_same_tensors_have_the_same_bytes_in_every_process() -> None:
    code = "import numpy as np, sys; from workbench.export.weights import encode\n"
    code += "sys.stdout.buffer.write(encode({'a': np.ones(3), 'b': np.zeros(2)}, {k: k for k in 'zyxwvu'}))"
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(3)}
    assert len(runs) == 1


def test_a_network_is_written_whole_with_its_description() -> None:
    data = to_safetensors(Tiny(), {"name": "x"})
    length = int.from_bytes(data[:8], "little")
    assert json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["about"]) == {"name": "x"}
    back = decode(data, "w")
    assert {"conv.weight", "prototypes", "norm.running_var", "std"} <= back.keys()
    for name, value in state_of(Tiny()).items():
        assert back[name].tobytes() == value.tobytes()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "too short"),
        ((HEADER_LIMIT + 1).to_bytes(8, "little") + b"{}", "header claims"),
        ((50).to_bytes(8, "little") + b"{}", "cut off"),
        ((2).to_bytes(8, "little") + b"[]", "not a table"),
        ((2).to_bytes(8, "little") + b"xx", "not JSON"),
        ((200).to_bytes(8, "little") + b"[" * 200, "not JSON"),
        (encode({"a": np.ones(4)})[:-1], "cannot be read"),
        (encode({"a": np.ones(4)}) + b"x", "cannot be read"),
    ],
)
def test_hostile_files_are_refused_before_they_are_parsed(data: bytes, why: str) -> None:
    with pytest.raises(StorageError, match=why):
        decode(data, "w")


def test_too_many_tensors_are_refused_both_ways() -> None:
    header = json.dumps({str(i): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(4097)}).encode()
    with pytest.raises(StorageError, match="4097 tensors"):
        decode(len(header).to_bytes(8, "little") + header, "w")
    with pytest.raises(ValueError, match="4097 tensors"):
        encode({str(i): np.zeros(0) for i in range(4097)})
