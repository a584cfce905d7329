from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import pickle  # noqa: TID251 - hostile files are made with it
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, StorageError, WorkbenchError
from workbench.export import convert
from workbench.services.download import download, load_weights_file, weights_path


def weights() -> dict[str, torch.Tensor]:
    gen = torch.Generator().manual_seed(0)
    return {"conv1.weight": torch.randn(64, 3, 7, 7, generator=gen), "bn1.num_batches_tracked": torch.tensor(3)}


class Server(ThreadingHTTPServer):
    """Serves one file; ``mode`` says how badly."""

    daemon_threads = True
    block_on_close = False
    data = b""
    mode = "good"
    cut = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str | None] = []
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.safetensors"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        s, data = self.server, self.server.data
        asked = self.headers.get("Range")
        s.requests.append(asked)
        if s.mode == "missing":
            self.send_error(404)
            return
        if s.mode == "elsewhere":
            self.send_response(302)
            self.send_header("Location", "http://192.0.2.1/weights")
            self.end_headers()
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and s.mode != "whole" else 0
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            shown = start + 1 if s.mode == "shifted" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")
        if s.mode != "silent about length":
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = s.cut or len(data)
        with contextlib.suppress(OSError):
            self.wfile.write(data[start:end])
            self.wfile.flush()
            if s.mode == "stalled":
                s.release.wait(60)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    save_file(weights(), tmp_path / "source.safetensors")
    with Server() as running:
        running.data = (tmp_path / "source.safetensors").read_bytes() + b" " * 300_000
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.release.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "weights.safetensors"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("mode", ["good", "silent about length"])
def test_a_file_arrives_whole_and_is_not_fetched_again(server, target, mode) -> None:
    server.mode = mode
    seen = []
    ctx = Context(on_change=lambda c: seen.append(c.progress_now))
    assert download(server.url, target, sha256=sha(server.data), size=None, ctx=ctx) == target
    assert target.read_bytes() == server.data
    assert names(target.parent) == ["weights.safetensors"]
    last = [p for p in seen if p is not None][-1]
    assert (last.done, last.total, last.unit) == (len(server.data), len(server.data), "bytes")
    download(server.url, target, sha256=sha(server.data)[:8], size=len(server.data), ctx=Context())
    assert len(server.requests) == 1


def test_a_cut_download_goes_on_where_it_stopped(server, target) -> None:
    server.cut = 200_000
    with pytest.raises(WorkbenchError, match=r"broke at 200\.0 KB of 337\.\d KB.*goes on from there"):
        download(server.url, target, sha256=sha(server.data), size=None, ctx=Context())
    assert not target.exists()
    server.cut = 0
    download(server.url, target, sha256=sha(server.data), size=len(server.data), ctx=Context())
    assert target.read_bytes() == server.data
    assert server.requests == [None, "bytes=200000-"]
    assert names(target.parent) == ["weights.safetensors"]


def test_a_server_that_cannot_do_parts_starts_from_the_beginning(server, target) -> None:
    server.cut = 200_000
    with pytest.raises(WorkbenchError):
        download(server.url, target, sha256=sha(server.data), size=None, ctx=Context())
    server.cut, server.mode = 0, "whole"
    download(server.url, target, sha256=sha(server.data), size=None, ctx=Context())
    assert target.read_bytes() == server.data


def test_another_part_than_was_asked_for_is_refused(server, target) -> None:
    server.cut = 200_000
    with pytest.raises(WorkbenchError):
        download(server.url, target, sha256=sha(server.data), size=None, ctx=Context())
    server.cut, server.mode = 0, "shifted"
    with pytest.raises(WorkbenchError, match="another part of the file"):
        download(server.url, target, sha256=sha(server.data), size=None, ctx=Context())
    assert not target.exists()


def test_a_partial_file_longer_than_the_server_knows_is_fetched_anew(server, target) -> None:
    target.parent.mkdir()
    (target.parent / f".{target.name}.{sha(server.data)[:16]}.part").write_bytes(b"x" * (len(server.data) + 5))
    download(server.url, target, sha256=sha(server.data), size=None, ctx=Context())
    assert target.read_bytes() == server.data
    assert len(server.requests) == 2


@pytest.mark.parametrize("sent", [100_000, 0])
def test_a_cancel_is_honoured_while_the_server_is_silent(server, target, sent) -> None:
    server.mode, server.cut = "stalled", sent or 1
    ctx = Context()
    watch = threading.Timer(0.5, ctx.cancel)
    watch.start()
    begun = time.monotonic()
    with pytest.raises(JobCancelledError):
        download(server.url, target, sha256=sha(server.data), size=None, ctx=ctx)
    watch.join()
    assert time.monotonic() - begun < 15, "it waited for the silent server"
    assert not target.exists()
    server.release.set()
    server.mode, server.cut = "good", 0
    download(server.url, target, sha256=sha(server.data), size=None, ctx=Context())
    assert target.read_bytes() == server.data
    assert server.requests[1] == f"bytes={sent or 1}-"


def test_another_content_is_thrown_away(server, target) -> None:
    with pytest.raises(WorkbenchError, match="its hash differs"):
        download(server.url, target, sha256="ab" * 32, size=None, ctx=Context())
    assert names(target.parent) == []


def test_a_server_with_another_size_is_refused_before_anything_is_kept(server, target) -> None:
    with pytest.raises(WorkbenchError, match="and the published file has 7"):
        download(server.url, target, sha256=sha(server.data), size=7, ctx=Context())
    assert not target.exists()


def test_refusals_are_one_clear_sentence(server, target, tmp_path) -> None:
    def why(url: str) -> str:
        with pytest.raises(WorkbenchError) as caught:
            download(url, target, sha256="ab" * 32, size=None, ctx=Context())
        assert "\n" not in str(caught.value)
        return caught.value.why

    server.mode = "missing"
    assert why(server.url) == "127.0.0.1 has no such file (404)"
    server.mode = "elsewhere"
    assert why(server.url) == "http addresses are not fetched, only https"
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as gone:
        port = gone.server_port
    assert why(f"http://127.0.0.1:{port}/x") == "127.0.0.1 was not reached (connection refused)"
    for url in ("http://192.0.2.1/x", f"file://{tmp_path}/source.safetensors", "ftp://127.0.0.1/x", "x"):
        assert "addresses are not fetched, only https" in why(url)


def test_a_host_that_is_not_there_is_named(target, monkeypatch) -> None:
    import socket

    def nowhere(*arguments: object, **more: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(WorkbenchError, match=r"the host weights\.invalid was not found"):
        download("https://weights.invalid/x", target, sha256="ab" * 32, size=None, ctx=Context())


def test_the_proxy_of_the_environment_is_used(server, target, monkeypatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "")
    download("http://localhost:1/weights", target, sha256=sha(server.data), size=None, ctx=Context())
    assert target.read_bytes() == server.data


def test_a_full_disk_is_said_before_and_during(server, target, monkeypatch) -> None:
    with pytest.raises(WorkbenchError, match="the disk has"):
        download(server.url, target, sha256=sha(server.data), size=1 << 60, ctx=Context())
    assert server.requests == []

    class Full(storage.Ops):
        def replace(self, src: Path, dst: Path) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "ops", Full())
    with pytest.raises(StorageError, match="No space left"):
        download(server.url, target, sha256=sha(server.data), size=None, ctx=Context())
    assert not target.exists()


def test_only_this_file_can_open_a_connection() -> None:
    package = Path(__file__).resolve().parents[2] / "workbench"
    banned = ("urllib.request", "urllib.error", "http", "ssl", "requests", "ftplib", "asyncio", "PySide6.QtNetwork")
    found = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
            # All that others want of sockets: the name of this machine, and a pair within the process to wake a loop.
            used = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "socket"
            opens = used and node.attr not in {"gethostname", "socketpair"}
            if opens or any(m == b or m.startswith((f"{b}.", "socket.")) for m in modules for b in banned):
                found.append(path.relative_to(package).as_posix())
    assert set(found) == {"services/download.py"}


# ---- local files -----------------------------------------------------------------------------------------------------
def same(found: dict[str, torch.Tensor]) -> bool:
    given = weights()
    return found.keys() == given.keys() and all(
        torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in given.items()
    )


def test_a_safetensors_file_is_read(tmp_path, home) -> None:
    save_file(weights(), tmp_path / "w.safetensors")
    assert same(load_weights_file(tmp_path / "w.safetensors", Context()))
    assert weights_path("resnet18") == home / "data" / "weights" / "resnet18.safetensors"


def test_a_pth_file_is_converted_in_a_process_and_cached(tmp_path, home) -> None:
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights().items()}, "epoch": 3}, path)  # noqa: TID251 - what others publish
    assert same(load_weights_file(path, Context()))
    cached = list((home / "cache" / "weights").iterdir())
    assert [p.name for p in cached] == [f"{sha(path.read_bytes())}.safetensors"]
    stamp = cached[0].stat().st_mtime_ns
    assert same(load_weights_file(path, Context()))
    assert cached[0].stat().st_mtime_ns == stamp
    cached[0].write_bytes(b"damaged")
    assert same(load_weights_file(path, Context()))


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_file_that_would_run_code_is_refused_and_did_not_run(tmp_path, home) -> None:
    mark = tmp_path / "it ran"
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Evil(mark)))
    zipped = tmp_path / "zipped.pt"
    torch.save({"w": torch.zeros(2), "x": Evil(mark)}, zipped)  # noqa: TID251 - the attack
    for path in (plain, zipped):
        with pytest.raises(WorkbenchError) as caught:
            load_weights_file(path, Context())
        assert caught.value.why == "it holds more than tensors, and loading such a file could run code"
        assert not mark.exists()
    assert names(home / "cache" / "weights") == []
    pickle.loads(plain.read_bytes())
    assert mark.exists(), "the attack itself is real"


def test_files_that_are_no_weights_are_refused(tmp_path, home) -> None:
    def why(name: str, data: bytes) -> str:
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(WorkbenchError) as caught:
            load_weights_file(path, Context())
        assert "\n" not in str(caught.value)
        return caught.value.why

    assert "neither a .safetensors nor a .pth" in why("w.ckpt.txt", b"")
    assert "too short" in why("a.safetensors", b"")
    assert "its header claims" in why("b.safetensors", (1 << 40).to_bytes(8, "little") + b"{}")
    assert "not JSON" in why("c.safetensors", (4).to_bytes(8, "little") + b"abcd")
    many = b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(5000)) + b"}"
    assert "5000 tensors" in why("d.safetensors", len(many).to_bytes(8, "little") + many)
    assert why("e.pth", b"\x80\x02]q\x00.") in (
        "it cannot be read (Invalid magic number; corrupt file?)",
        "it holds more than tensors, and loading such a file could run code",
    )
    with zipfile.ZipFile(tmp_path / "f.pth", "w") as archive:
        archive.writestr("a.txt", "a")
    assert why("f.pth", (tmp_path / "f.pth").read_bytes()).startswith("it cannot be read")
    with pytest.raises(WorkbenchError, match="No such file"):
        load_weights_file(tmp_path / "absent.pth", Context())


def test_a_conversion_can_be_cancelled(tmp_path, home) -> None:
    path = tmp_path / "w.pth"
    torch.save(weights(), path)  # noqa: TID251 - what others publish
    ctx = Context()
    ctx.on_change = lambda c: c.cancel()
    with pytest.raises(JobCancelledError):
        load_weights_file(path, ctx)
    assert names(home / "cache" / "weights") == []


def test_the_converting_process_is_shut_in(tmp_path) -> None:
    code = f"""
import importlib.util, os, socket, subprocess
spec = importlib.util.spec_from_file_location("convert", {str(Path(convert.__file__))!r})
convert = importlib.util.module_from_spec(spec); spec.loader.exec_module(convert)
os.chdir({str(tmp_path)!r}); convert.limit(1000); convert.shut("allowed")
def tried(f):
    try: f()
    except PermissionError: return "refused"
    return "done"
print(tried(lambda: socket.socket()), tried(lambda: socket.getaddrinfo("localhost", 80)),
      tried(lambda: subprocess.run(["true"])), tried(lambda: os.system("true")), tried(lambda: open("other", "w")),
      tried(lambda: os.open("other", os.O_WRONLY | os.O_CREAT)), tried(lambda: open("allowed", "wb").close()))
try: bytearray(1 << 40); print("memory")
except MemoryError: print("limited")
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60)
    words = done.stdout.split()
    assert words[:7] == ["refused"] * 6 + ["done"], done.stderr
    if sys.platform == "linux":
        assert words[7] == "limited"
    assert names(tmp_path) == ["allowed"]
