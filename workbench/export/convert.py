"""A ``.pth`` file of tensors -> a safetensors file, in a process of its own.

Started by file name with ``python -I`` (source, target); imports nothing of the application. A ``.pth`` is a pickle,
and a pickle can run code. What keeps it from doing so is ``weights_only``, and there is no way around it. Should
that fail, this process has no network, may start no other, may write to its target alone, and is limited in memory
and time.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TENSOR_LIMIT = 4096
_MEMORY = 4 << 30
_SECONDS = 300
_SHUT = (
    *("socket.", "subprocess.", "ctypes.", "shutil.", "ftplib.", "urllib.", "http.", "smtplib.", "webbrowser."),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill", "pty."),
    *(
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.unlink",
        "os.mkdir",
        "os.link",
        "os.symlink",
        "os.chmod",
        "os.truncate",
    ),
)


def limit(source_size: int) -> None:
    """Bound memory, time and the size of what is written; call it once the libraries are loaded."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    wanted = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, _SECONDS)]
    wanted.append((resource.RLIMIT_FSIZE, 2 * source_size + (64 << 20)))
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The libraries alone reserve gigabytes, so the limit is what they have plus what the file may need.
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        wanted.append((resource.RLIMIT_AS, pages * resource.getpagesize() + _MEMORY + 4 * source_size))
    for kind, value in wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (value, value))


def shut(target: str) -> None:
    """From now on refuse the network, other processes, and writing anywhere but to ``target``; cannot be undone."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_SHUT):
            raise PermissionError(f"{event} is refused in this process")
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(mode, str) and any(c in mode for c in "wax+")
            writes = writes or bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if writes and os.fspath(path) != target:
                raise PermissionError("writing is refused in this process")

    sys.addaudithook(hook)


def tensors_of(loaded: Any) -> dict[str, Any]:
    """The named tensors in what a file held: a state dict, or one inside a checkpoint.

    Raises:
        ValueError: there are none, or too many; the text is one clause.
    """
    import torch

    for key in ("state_dict", "model_state_dict", "model", "params", "net"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping):
        raise ValueError("it holds no table of named tensors")
    found = {
        name.removeprefix("module."): value
        for name, value in loaded.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not found:
        raise ValueError("it holds no named tensors")
    if len(found) > TENSOR_LIMIT:
        raise ValueError(f"it holds {len(found)} tensors; at most {TENSOR_LIMIT} are read")
    if any(value.layout != torch.strided or value.is_quantized for value in found.values()):
        raise ValueError("it holds sparse or quantised tensors")
    # A copy each: tensors that share memory cannot be written, and a view may drag a huge storage along.
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def main(source: str, target: str) -> None:
    """Convert, and say in one line of JSON how it went."""
    # Whatever torch loads lazily must be there before the doors shut.
    import pickle  # noqa: TID251 - for the name of the exception alone

    import torch
    from safetensors.torch import save

    torch.set_num_threads(1)
    limit(Path(source).stat().st_size)
    shut(target)
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)  # noqa: TID251 - a process of its own, tensors only, no fallback
        data = save(tensors_of(loaded))
        with open(target, "wb") as file:  # noqa: PTH123 - the one path that may be written
            file.write(data)
        said: dict[str, Any] = {"done": len(data)}
    except pickle.UnpicklingError:
        said = {"refused": "it holds more than tensors, and loading such a file could run code"}
    except ValueError as error:
        said = {"refused": str(error)}
    except MemoryError:
        said = {"refused": "it needs more memory than such a file is given"}
    except Exception as error:  # noqa: BLE001 - a damaged file raises anything
        lines = str(error).strip().splitlines()
        said = {"refused": f"it cannot be read ({lines[0][:150] if lines else type(error).__name__})"}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
