"""The guarded decoder: right answers in order, and a child that dies takes one picture with it and no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.pictures import blocks, encode, png, write
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.values import ImageRef, Preprocess
from workbench.data import pixels
from workbench.data.decoder import Decoder, Inspected

GREY = Preprocess(8, "grey", mean=(0.5,), std=(0.5,))

# A child that behaves as the real one, except on files whose names ask for something worse.
TROUBLED = """
import os, sys, time
from workbench.data import guarded
real = guarded.answer
def answer(job, item):
    if b"crash" in item.path:
        os.kill(os.getpid(), 9)
    if b"exit" in item.path:
        os._exit(3)
    if b"hang" in item.path:
        time.sleep(60)
    if b"starved" in item.path:
        seen = os.fsdecode(item.path) + ".seen"
        if not os.path.exists(seen):
            open(seen, "w").close()
            time.sleep(60)
    if b"late" in item.path:
        open(os.fsdecode(item.path) + ".seen", "w").close()
        time.sleep(0.5)
    if b"spin" in item.path:
        while True:
            pass
    if b"chatter" in item.path:
        print("a library that prints to standard output", flush=True)
        os.write(1, b"x" * 1000)
    return real(job, item)
guarded.answer = answer
if len(sys.argv) > 1:
    guarded._MEMORY = int(sys.argv[1])
guarded.main()
"""


def troubled(*options: str) -> list[str]:
    return [sys.executable, "-c", TROUBLED, *options]


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that some other parent has not reaped yet has ended too)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while not gone(pid):
        assert time.monotonic() < deadline, "the decoder process is still there"
        time.sleep(0.02)


def pids(decoder: Decoder) -> list[int]:
    return [child.process.pid for child in decoder._children]


def ref(path: Path) -> ImageRef:
    import hashlib

    data = path.read_bytes()
    return ImageRef(str(path), "", hashlib.sha256(data).hexdigest(), len(data), 5, 6)


@pytest.mark.parametrize("workers", [1, 2])
def test_answers_come_in_order_and_equal_decoding_here(tmp_path: Path, workers: int) -> None:
    paths = [write(tmp_path, f"{i}.png", seed=i) for i in range(300)]
    refs = [ref(p) for p in paths]
    with Decoder(workers) as decoder:
        found = list(decoder.inspect([(str(p), "") for p in paths]))
        rows = list(decoder.pixels(refs, GREY))
    assert [f.sha256 for f in found] == [r.sha256 for r in refs]
    assert {(f.width, f.height, f.mode, f.error) for f in found} == {(5, 6, "L", "")}
    for path, (row, reason) in zip(paths, rows, strict=True):
        here = pixels.to_pixels(
            pixels.open_image(path.read_bytes()), size=8, channels="grey", fit="crop", resample="bilinear"
        )
        assert reason == ""
        assert row is not None
        assert np.array_equal(row, here)


def test_what_is_wrong_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = write(tmp_path, "good.png")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(encode(blocks().repeat(20, 0), "JPEG")[:-400])
    note = tmp_path / "note.txt"
    note.write_text("hello")
    fifo = tmp_path / "pipe.png"
    os.mkfifo(fifo)
    absent = tmp_path / "absent.png"
    with Decoder() as decoder:
        found = [f.error for f in decoder.inspect([(str(p), "") for p in (good, cut, note, fifo, absent, good)])]
    assert found[0] == found[5] == ""
    assert found[1] == "ends early"
    assert "not a picture" in found[2]
    assert found[3] == "is not a plain file"
    assert found[4] == "is not there any more"


def test_a_picture_that_changed_since_it_was_hashed_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", seed=1)
    known = ref(path)
    write(tmp_path, "a.png", seed=2)
    with Decoder() as decoder:
        assert list(decoder.pixels([known], GREY)) == [(None, "was changed since it was loaded")]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("bad", "word"), [("crash", "signal 9"), ("exit", "exit code 3")])
def test_a_picture_that_ends_the_child_is_left_alone(tmp_path: Path, workers: int, bad: str, word: str) -> None:
    names = [f"{i}{bad if i in (3, 40, 41) else ''}.png" for i in range(80)]
    paths = [write(tmp_path, n, seed=i) for i, n in enumerate(names)]
    with Decoder(workers, command=troubled()) as decoder:
        found = list(decoder.inspect([(str(p), "") for p in paths]))
        assert all((word in f.error) == (i in (3, 40, 41)) for i, f in enumerate(found))
        assert [f.sha256 for f in found if not f.error] == [
            ref(p).sha256 for i, p in enumerate(paths) if i not in (3, 40, 41)
        ]
        # and the decoder is as good as new
        assert next(decoder.inspect([(str(paths[0]), "")])).error == ""


def test_a_picture_that_never_ends_is_left_alone(tmp_path: Path) -> None:
    paths = [write(tmp_path, n) for n in ("a.png", "hang.png", "b.png", "spin.png", "c.png")]
    with Decoder(seconds=0.3, command=troubled()) as decoder:
        found = [f.error for f in decoder.inspect([(str(p), "") for p in paths])]
    hangs, spins = "was not decoded within 3.6 seconds, twice", "takes longer than 0.3 seconds to decode"
    assert found == ["", hangs, "", spins, ""]


class Clock:
    """Goes on only where a test says so: by so much, each time that the child has a new picture underway."""

    def __init__(self, folder: Path, leap: float, times: int) -> None:
        self.now, self.folder, self.leap, self.times = 0.0, folder, leap, times

    def check(self) -> None:
        if self.times and any(self.folder.glob("*.seen")):
            self.now += self.leap
            self.times -= 1

    def __call__(self) -> float:
        return self.now


def test_a_machine_that_is_busy_condemns_no_picture(tmp_path: Path) -> None:
    """100 seconds go by while the child gets half a second of the processor: it was not the picture."""
    clock = Clock(tmp_path, 100.0, 1)
    with Decoder(command=troubled(), check=clock.check, clock=clock) as decoder:
        (found,) = decoder.inspect([(str(write(tmp_path, "late.png")), "")])
    assert clock.now == 100.0, "the time went by while the picture was underway"
    assert found.error == ""


def test_a_picture_that_only_took_too_long_by_the_clock_is_tried_again(tmp_path: Path) -> None:
    clock = Clock(tmp_path, 1000.0, 1)
    with Decoder(command=troubled(), check=clock.check, clock=clock) as decoder:
        (found,) = decoder.inspect([(str(write(tmp_path, "starved.png")), "")])
    assert clock.now == 1000.0
    assert found.error == ""
    assert found.width == 5


def test_what_a_library_prints_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    paths = [write(tmp_path, n) for n in ("a.png", "chatter.png", "b.png")]
    with Decoder(command=troubled()) as decoder:
        assert [f.error for f in decoder.inspect([(str(p), "") for p in paths])] == ["", "", ""]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_picture_that_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    rows = (b"\0" + bytes(2 * 5200)) * 5200
    large.write_bytes(png(5200, 5200, 8, 4, rows))
    small = write(tmp_path, "small.png")
    with Decoder(command=troubled("200000000")) as decoder:
        found = [f.error for f in decoder.inspect([(str(large), ""), (str(small), "")])]
    assert found == ["needs more memory than a picture is given", ""]


def test_a_decoder_that_does_not_start_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png")
    with Decoder(command=[sys.executable, "-c", "raise SystemExit(7)"]) as decoder, pytest.raises(WorkbenchError) as e:
        list(decoder.inspect([(str(path), "")]))
    assert "exit code 7" in e.value.why


def test_stopping_half_way_ends_the_children_and_leaves_nothing_for_the_next_question(tmp_path: Path) -> None:
    paths = [write(tmp_path, f"{i}.png", seed=i) for i in range(200)]
    items = [(str(p), "") for p in paths]
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise JobCancelledError

    with Decoder(2, check=check) as decoder:
        asked = decoder.inspect(items)
        with pytest.raises(JobCancelledError):
            list(asked)
        assert not decoder._children
        assert [f.sha256 for f in decoder.inspect(items[150:])] == [ref(p).sha256 for p in paths[150:]]
        half = decoder.inspect(items)
        next(half)
        half.close()
        assert [f.sha256 for f in decoder.inspect(items[:50])] == [ref(p).sha256 for p in paths[:50]]


def test_closing_leaves_no_process(tmp_path: Path) -> None:
    paths = [write(tmp_path, f"{i}.png") for i in range(40)]
    with Decoder(2) as decoder:
        list(decoder.inspect([(str(p), "") for p in paths]))
        children = pids(decoder)
        assert len(children) == 2
    for pid in children:
        with pytest.raises(ProcessLookupError):  # reaped, so not even a zombie
            os.kill(pid, 0)
    forgotten = Decoder()
    list(forgotten.inspect([(str(paths[0]), "")]))
    (pid,) = pids(forgotten)
    del forgotten
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png")
    code = (
        "import sys, time; from workbench.data.decoder import Decoder; d = Decoder();"
        "list(d.inspect([(sys.argv[1], '')])); print(d._children[0].process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.send_signal(signal.SIGKILL)
    wait_until_gone(child)


def test_the_child_is_light_and_safe(tmp_path: Path) -> None:
    """No torch, no Qt, no numpy for common pictures; nothing is imported from the working folder."""
    (tmp_path / "msgspec.py").write_text("raise SystemExit('imported from the working folder')")
    path = write(tmp_path, "a.png")
    (tmp_path / "probe.py").write_text("")
    code = TROUBLED.replace(
        "return real(job, item)",
        "r = real(job, item); r.reason = ' '.join(m for m in ('torch', 'PySide6', 'numpy') if m in sys.modules);"
        "r.mode = os.environ['PYTHONSAFEPATH'] + ' ' + sys.modules['msgspec'].__file__; return r",
    )
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        with Decoder(command=[sys.executable, "-c", code]) as decoder:
            (found,) = decoder.inspect([(str(path), "")])
    finally:
        os.chdir(here)
    assert found.error == ""
    assert found.mode.startswith("1 ")
    assert str(tmp_path) not in found.mode


def test_pictures_in_memory(tmp_path: Path) -> None:
    data = encode(blocks(), "WEBP", lossless=True)
    with Decoder() as decoder:
        found = decoder.inspect_bytes(data)
        assert decoder.inspect_bytes(data[:50]).error == f"ends early: 50 of {len(data)} bytes"
        assert decoder.inspect_bytes(b"").error == "is empty"
    import hashlib

    assert found == Inspected(hashlib.sha256(data).hexdigest(), len(data), 24, 16, "RGB", "")


def test_mutants_end_nothing(tmp_path: Path) -> None:
    """Bytes of every format, cut, flipped, repeated: each gives a picture or a reason, and the child lives."""
    rng = np.random.default_rng(5)
    seeds = [encode(blocks(), f) for f in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM")]
    seeds += [encode(blocks()[..., 0], "GIF"), encode(blocks(), "TIFF", compression="tiff_lzw")]
    paths = []
    for i in range(1500):
        data = bytearray(seeds[i % len(seeds)])
        kind = i // len(seeds) % 3
        if kind == 0:
            for at in rng.integers(0, len(data), rng.integers(1, 9)):
                data[at] = rng.integers(256)
        elif kind == 1:
            del data[int(rng.integers(len(data))) :]
        else:
            a, b = sorted(rng.integers(0, len(data), 2).tolist())
            data[a:b] = data[a:b] * 2 if b - a < 500 else b""
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(data)
    with Decoder(2) as decoder:
        found = list(decoder.inspect([(str(p), "") for p in paths]))
    assert len(found) == 1500
    assert not [f for f in found if "makes the decoder stop" in f.error or "takes longer" in f.error]
    assert all(bool(f.error) != bool(f.width) for f in found)
    assert 300 < sum(bool(f.error) for f in found) < 1500
