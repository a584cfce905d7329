"""Every format gives the expected pixels, and every refusal says why."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.data.pictures import blocks, chunk, encode, png, ramp
from workbench.data import pixels

BLOCKS = blocks()
RAMP = ramp()
GREY_BLOCKS = np.asarray(Image.fromarray(BLOCKS).convert("L"))


def _palette(transparent: bool) -> bytes:
    image = Image.fromarray((np.arange(48) // 16).astype(np.uint8).reshape(6, 8), "L")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return encode(image, "PNG", **({"transparency": bytes([255, 0, 128])} if transparent else {}))


def _palette_expected(transparent: bool) -> np.ndarray:
    colours = (
        [(255, 0, 0), (255, 255, 255), (127, 127, 255)] if transparent else [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    )
    return np.array(colours, np.uint8)[(np.arange(48) // 16).reshape(6, 8)]


def _rgba(alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([BLOCKS, alpha]))


_HALF = np.where(np.arange(24) < 12, 255, 0).astype(np.uint8)[None].repeat(16, 0)
_ON_WHITE = np.where(_HALF[..., None] == 255, BLOCKS, np.uint8(255))
_DEEP = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
_FLOAT = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
struct_rows = b"".join(b"\0" + bytes([v, 7] * 9) for v in (0, 100, 255))


def _animation(fmt: str) -> bytes:
    first, second = Image.fromarray(BLOCKS), Image.new("RGB", (24, 16), (0, 0, 0))
    if fmt == "GIF":
        first = first.quantize(8)
    options = {"lossless": True} if fmt == "WEBP" else {}
    return encode(first, fmt, save_all=True, append_images=[second], **options)


def _lab() -> bytes:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = ImageCms.applyTransform(Image.fromarray(BLOCKS), to_lab)
    assert image is not None
    return encode(image, "TIFF")


def _png16(transparent: int | None = None) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in _DEEP)
    key = b"" if transparent is None else chunk(b"tRNS", transparent.to_bytes(2, "big"))
    return png(16, 16, 16, 0, rows, key)


# name: (file, expected pixels, how far each may be off: lossy codecs and colour conversions)
GOLDEN: dict[str, tuple[Callable[[], bytes], np.ndarray, int]] = {
    "png": (lambda: encode(BLOCKS, "PNG"), BLOCKS, 0),
    "png grey": (lambda: encode(RAMP, "PNG"), RAMP, 0),
    "png 1 bit": (lambda: encode(Image.fromarray(RAMP > 99), "PNG"), np.where(RAMP > 99, 255, 0).astype(np.uint8), 0),
    "png palette": (lambda: _palette(False), _palette_expected(False), 0),
    "png palette and alpha": (lambda: _palette(True), _palette_expected(True), 1),
    "png alpha": (lambda: encode(_rgba(_HALF), "PNG"), _ON_WHITE, 0),
    "png grey alpha": (
        lambda: encode(Image.merge("LA", (Image.fromarray(RAMP), Image.new("L", (16, 16), 0))), "PNG"),
        np.full((16, 16), 255, np.uint8),
        0,
    ),
    "png grey with a transparent value": (
        lambda: encode(RAMP, "PNG", transparency=10),
        np.where(RAMP == 10, np.uint8(255), RAMP),
        0,
    ),
    "png 16 bit": (_png16, RAMP, 0),
    "png 16 bit with a transparent value": (lambda: _png16(0), np.where(RAMP == 0, np.uint8(255), RAMP), 0),
    "png 16 bit rgb": (
        lambda: png(3, 3, 16, 2, struct_rows),
        np.repeat(np.array([0, 100, 255], np.uint8), 9).reshape(3, 3, 3),
        1,
    ),
    "png animation": (lambda: _animation("PNG"), BLOCKS, 0),
    "jpeg": (lambda: encode(BLOCKS, "JPEG", quality=95, subsampling=0), BLOCKS, 6),
    "jpeg progressive": (lambda: encode(BLOCKS, "JPEG", quality=95, subsampling=0, progressive=True), BLOCKS, 6),
    "jpeg grey": (lambda: encode(GREY_BLOCKS, "JPEG", quality=95), GREY_BLOCKS, 4),
    "jpeg cmyk": (lambda: encode(Image.fromarray(BLOCKS).convert("CMYK"), "JPEG", quality=95), BLOCKS, 8),
    "webp": (lambda: encode(BLOCKS, "WEBP", quality=95), BLOCKS, 8),
    "webp lossless": (lambda: encode(BLOCKS, "WEBP", lossless=True), BLOCKS, 0),
    "webp alpha": (lambda: encode(_rgba(_HALF), "WEBP", lossless=True, exact=True), _ON_WHITE, 0),
    "webp animation": (lambda: _animation("WEBP"), BLOCKS, 0),
    "bmp": (lambda: encode(BLOCKS, "BMP"), BLOCKS, 0),
    "bmp grey": (lambda: encode(RAMP, "BMP"), RAMP, 0),
    "gif": (lambda: encode(Image.fromarray(BLOCKS).quantize(8), "GIF"), BLOCKS, 2),
    "gif animation": (lambda: _animation("GIF"), BLOCKS, 2),
    "gif grey": (lambda: encode(RAMP, "GIF"), RAMP, 0),
    "tiff": (lambda: encode(BLOCKS, "TIFF"), BLOCKS, 0),
    "tiff lzw": (lambda: encode(BLOCKS, "TIFF", compression="tiff_lzw"), BLOCKS, 0),
    "tiff deflate": (lambda: encode(BLOCKS, "TIFF", compression="tiff_adobe_deflate"), BLOCKS, 0),
    "tiff of two pages": (
        lambda: encode(BLOCKS, "TIFF", save_all=True, append_images=[Image.new("RGB", (24, 16))]),
        BLOCKS,
        0,
    ),
    "tiff 16 bit": (lambda: encode(_DEEP, "TIFF"), RAMP, 0),
    "tiff 16 bit, big-endian": (lambda: encode(Image.fromarray(_DEEP.astype(">u2")), "TIFF"), RAMP, 0),
    "tiff float within 0..1": (lambda: encode(_FLOAT, "TIFF"), RAMP, 0),
    "tiff float half of 0..1": (lambda: encode(_FLOAT / 2, "TIFF"), ((RAMP.astype(int) + 1) // 2).astype(np.uint8), 1),
    "tiff float of another range": (lambda: encode(_FLOAT * 5000 - 1000, "TIFF"), RAMP, 1),
    "tiff 32 bit of another range": (lambda: encode((RAMP.astype(np.int32) - 128) * 70000, "TIFF"), RAMP, 1),
    "tiff cmyk": (lambda: encode(Image.fromarray(BLOCKS).convert("CMYK"), "TIFF"), BLOCKS, 2),
    "tiff lab": (_lab, BLOCKS, 8),
    "tiff alpha": (lambda: encode(_rgba(_HALF), "TIFF"), _ON_WHITE, 0),
    "avif": (lambda: encode(BLOCKS, "AVIF", quality=95, subsampling="4:4:4"), BLOCKS, 8),
    "heic": (lambda: encode(BLOCKS, "HEIF", quality=95, chroma=444), BLOCKS, 12),
    "jpeg 2000": (lambda: encode(BLOCKS, "JPEG2000"), BLOCKS, 0),
    "jpeg 2000 grey": (lambda: encode(RAMP, "JPEG2000"), RAMP, 0),
    "jpeg 2000 16 bit": (lambda: encode(_DEEP, "JPEG2000"), RAMP, 0),
    "ppm": (lambda: encode(BLOCKS, "PPM"), BLOCKS, 0),
    "pgm": (lambda: encode(RAMP, "PPM"), RAMP, 0),
    "pgm 16 bit": (lambda: b"P5\n16 16\n65535\n" + _DEEP.astype(">u2").tobytes(), RAMP, 0),
    "pgm in letters": (lambda: b"P2\n2 1\n255\n0 255\n", np.array([[0, 255]], np.uint8), 0),
    "pbm": (lambda: b"P4\n8 1\n" + b"\xf0", np.array([[0] * 4 + [255] * 4], np.uint8), 0),
    "pfm": (lambda: encode(_FLOAT, "PPM"), RAMP, 0),
    "one pixel": (lambda: encode(np.array([[77]], np.uint8), "PNG"), np.array([[77]], np.uint8), 0),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_format_gives_the_expected_pixels(name: str) -> None:
    make, expected, tolerance = GOLDEN[name]
    image = pixels.open_image(make())
    assert image.mode == ("L" if expected.ndim == 2 else "RGB")
    got = np.asarray(image)
    assert got.shape == expected.shape
    if tolerance and expected is BLOCKS:  # lossy codecs blur the edges of blocks
        got, expected = got[_CENTRES], expected[_CENTRES]
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= tolerance


_CENTRES = (slice(4, None, 8), slice(4, None, 8))
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", _TURNS)
@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_pictures_come_upright(fmt: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "PNG": {}, "TIFF": {}}.get(fmt, {"quality": 95})
    data = encode(BLOCKS, fmt, exif=exif.tobytes() if fmt == "HEIF" else exif, **options)
    expected = _TURNS[orientation](BLOCKS)
    header = pixels.open_header(data)
    assert pixels.upright_size(header) == expected.shape[1::-1]
    got = np.asarray(pixels.open_image(data))
    assert got.shape == expected.shape
    assert np.abs(got[_CENTRES].astype(int) - expected[_CENTRES].astype(int)).max() <= 12


def test_a_damaged_exif_block_does_not_hide_the_picture() -> None:
    data = encode(BLOCKS, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(np.asarray(pixels.open_image(data)), BLOCKS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (bytes(500), "zeros"),
        (b"hello", "is not a picture"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"<?xml version='1.0'?><svg xmlns='x'/>", "SVG"),
        (b"8BPS\0\1", "Photoshop"),
        (encode(BLOCKS, "PNG")[:60], "ends early: 60 of at least"),
        (
            encode(np.random.default_rng(0).integers(0, 255, (200, 150, 3), np.uint8), "BMP")[:11_000],
            "ends early: 11 of 91 KB",
        ),
        (encode(BLOCKS, "WEBP", lossless=True)[:70], "ends early: 70 of"),
        (encode(BLOCKS, "JPEG")[:-30], "ends early"),
        (encode(BLOCKS, "GIF")[:-40], "ends early"),
        (encode(BLOCKS, "TIFF")[:-200], "ends early"),
        (encode(BLOCKS, "AVIF")[:-20], "ends early"),
        (encode(BLOCKS, "HEIF")[:-20], "ends early"),
        (encode(BLOCKS, "JPEG2000")[:-20], "ends early"),
        (encode(BLOCKS, "PPM")[:-20], "ends early"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "is a damaged PNG picture"),
    ],
)
def test_a_refusal_says_why(data: bytes, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        pixels.open_image(data)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (1 << 30, 1 << 30)])
def test_a_bomb_is_refused_before_it_is_decoded(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="more than 50 million are not decoded"):
        pixels.open_image(png(width, height, 8, 0, bytes(1000)))


def test_crop_cuts_the_centre_of_the_long_side() -> None:
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    for turned in (wide, wide.T):
        out = pixels.to_pixels(
            Image.fromarray(turned.copy()), size=10, channels="grey", fit="crop", resample="bilinear"
        )
        assert out.shape == (10, 10, 1)
        assert (out == 200).all()


def test_stretch_keeps_all_of_it() -> None:
    wide = np.zeros((10, 20), np.uint8)
    wide[:, 10:] = 200
    out = pixels.to_pixels(Image.fromarray(wide), size=10, channels="grey", fit="stretch", resample="box")
    assert (out[:, :5, 0] == 0).all()
    assert (out[:, 5:, 0] == 200).all()


def test_pad_fills_with_the_median_of_the_border() -> None:
    wide = np.full((10, 20, 3), (9, 90, 180), np.uint8)
    wide[4:6, 8:12] = 255
    out = pixels.to_pixels(Image.fromarray(wide), size=20, channels="rgb", fit="pad", resample="box")
    assert (out[:5] == (9, 90, 180)).all()
    assert (out[15:] == (9, 90, 180)).all()
    assert (out[9:11, 8:12] == 255).all()


def test_long_thin_pictures_and_single_pixels_fit_every_square() -> None:
    for shape in ((20_000, 1), (1, 20_000), (1, 1)):
        for fit in ("crop", "stretch", "pad"):
            image = Image.fromarray(np.full(shape, 123, np.uint8))
            out = pixels.to_pixels(image, size=12, channels="rgb", fit=fit, resample="bicubic")
            assert out.shape == (12, 12, 3)
            assert (out == 123).all()


def test_grey_is_weighed_and_grey_becomes_three_equal_channels() -> None:
    one = Image.new("RGB", (8, 8), (200, 100, 50))
    grey = pixels.to_pixels(one, size=8, channels="grey", fit="crop", resample="box")
    assert (grey == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).all()
    three = pixels.to_pixels(Image.fromarray(RAMP), size=16, channels="rgb", fit="crop", resample="box")
    assert all(np.array_equal(three[..., c], RAMP) for c in range(3))


@pytest.mark.parametrize("wrong", [{"fit": "fill"}, {"channels": "bgr"}])
def test_an_unknown_choice_is_refused(wrong: dict[str, str]) -> None:
    choice = {"fit": "crop", "channels": "rgb"} | wrong
    with pytest.raises(ValueError):
        pixels.to_pixels(Image.fromarray(RAMP), size=8, resample="box", **choice)


def test_the_file_stands_alone(tmp_path: Path) -> None:
    source = Path(pixels.__file__)
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            assert all(n.split(".")[0] in {"__future__", "importlib", "io", "typing", "numpy", "PIL"} for n in names)
    (tmp_path / "pixels.py").write_bytes(source.read_bytes())
    (tmp_path / "a.jpg").write_bytes(encode(BLOCKS, "JPEG"))
    code = (
        "import sys; sys.modules['workbench'] = None; sys.path.insert(0, sys.argv[1]); import pixels, hashlib;"
        "i = pixels.open_image(open(sys.argv[1] + '/a.jpg', 'rb').read());"
        "a = pixels.to_pixels(i, size=12, channels='rgb', fit='crop', resample='lanczos');"
        "print(hashlib.sha256(a.tobytes()).hexdigest())"
    )
    alone = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    import hashlib

    image = pixels.open_image((tmp_path / "a.jpg").read_bytes())
    here = pixels.to_pixels(image, size=12, channels="rgb", fit="crop", resample="lanczos")
    assert alone.stdout.strip() == hashlib.sha256(here.tobytes()).hexdigest()
