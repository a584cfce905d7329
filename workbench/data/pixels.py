"""Encoded picture -> upright 8-bit grey or RGB -> square uint8 array. The same on every road a picture takes.

This file stands alone: it needs numpy and Pillow (and pillow-heif for HEIC), imports nothing of the package, and is
copied into exported bundles, so that a picture becomes the same pixels outside as it did inside.

Colour profiles are not applied. What is transparent is laid on white. Of an animation the first frame counts.
"""

from __future__ import annotations

import importlib
import io
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

# numpy is loaded where it is needed: most pictures are looked at without it, and loading it takes longer than they do.
if TYPE_CHECKING:
    import numpy as np

MAX_PIXELS = 50_000_000

_ORIENTATION = 0x0112
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")
_OTHERS = (
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop document"),
    (b"%!PS", "a PostScript document"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document"),
    (b"<svg", "an SVG drawing"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x00\x00\x01\x00", "an icon file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x1f\x8b", "a gzip archive"),
)
_PLUGINS = {
    "JPEG": ("PIL.JpegImagePlugin", "jpeg_factory"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIF": ("pillow_heif", "HeifImageFile"),
    "JPEG2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
}
_factories: dict[str, object] = {}


def sniff(head: bytes) -> str:
    """The format that the first bytes (32 are enough) belong to, or "" if it is none that is read here."""
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM":
        return "BMP"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[:12] == b"\0\0\0\x0cjP  \r\n\x87\n" or head[:4] == b"\xff\x4f\xff\x51":
        return "JPEG2000"
    if head[:1] == b"P" and head[1:2] in b"123456fF" and head[2:3] in b" \t\r\n#" and len(head) > 2:
        return "PPM"
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[i : i + 4] for i in range(16, min(len(head), 32), 4))]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if any(brand in _HEIF_BRANDS for brand in brands):
            return "HEIF"
    return ""


def open_header(data: bytes) -> Image.Image:
    """The picture with size and mode known and nothing decoded yet.

    Args:
        data: the encoded file.

    Raises:
        ValueError: not a picture of a listed format, damaged, or larger than ``MAX_PIXELS``; the text is one clause.
    """
    name = sniff(data[:32])
    if not name:
        raise ValueError(_not_a_picture(data))
    try:
        image: Image.Image = _factory(name)(io.BytesIO(data))  # type: ignore[operator]
    except ImportError:
        raise ValueError(f"is a {name} picture, and what reads those is not installed") from None
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error
        raise ValueError(_damaged(error, data, name)) from error
    width, height = image.size
    if width < 1 or height < 1:
        raise ValueError(f"is a {name} picture without pixels")
    _refuse_giant(width, height)
    return image


def load(image: Image.Image, data: bytes = b"") -> None:
    """Decode what ``open_header`` opened, and change nothing else about it.

    Args:
        image: as ``open_header`` gave it.
        data: the encoded file, for the wording of a refusal.

    Raises:
        ValueError: it cannot be decoded; the text is one clause.
    """
    try:
        image.load()
        _refuse_giant(*image.size)
    except Exception as error:
        raise ValueError(_damaged(error, data, image.format or "")) from error


def finish(image: Image.Image, data: bytes = b"") -> Image.Image:
    """Decode what ``open_header`` opened: upright, 8 bit, mode ``L`` or ``RGB``.

    Raises:
        ValueError: as ``load``.
    """
    load(image, data)
    name = image.format or ""
    try:
        if _orientation(image) != 1:
            image = ImageOps.exif_transpose(image)
        return _eight_bit(image)
    except Exception as error:
        raise ValueError(_damaged(error, data, name)) from error


def final_mode(image: Image.Image) -> str:
    """The mode that ``finish`` gives: ``L`` for whatever is grey, else ``RGB``."""
    return "L" if image.mode in ("1", "L", "LA", "La", *_DEEP) else "RGB"


def open_image(data: bytes) -> Image.Image:
    """Decode a picture.

    16-bit values are divided by 257; floats within 0..1 stay so, others are spread from their least to their greatest.

    Args:
        data: the encoded file: JPEG PNG WebP BMP GIF TIFF AVIF HEIC JPEG2000 or PPM.

    Returns:
        Upright, of mode ``L`` or ``RGB``, 8 bit.

    Raises:
        ValueError: with the reason as one clause that fits after the file's name ("ends early: 11 of 84 KB").
    """
    return finish(open_header(data), data)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after turning it upright; call it before ``draft`` and before ``finish``."""
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 and image.format != "TIFF" else (width, height)


def to_square(image: Image.Image, *, size: int, channels: str, fit: str, resample: str) -> Image.Image:
    """What ``to_pixels`` gives, as a picture of mode ``L`` (grey) or ``RGB``."""
    if channels not in ("grey", "rgb"):
        raise ValueError(f"channels {channels!r} are neither grey nor rgb")
    if channels == "grey" and image.mode != "L":
        image = image.convert("L")
    kernel = Image.Resampling[resample.upper()]
    width, height = image.size
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        square = image.resize((size, size), kernel, box=(left, top, left + side, top + side))
    elif fit == "stretch":
        square = image.resize((size, size), kernel)
    elif fit == "pad":
        square = _padded(image, size, kernel)
    else:
        raise ValueError(f"fit {fit!r} is none of crop, stretch and pad")
    return square.convert("RGB") if channels == "rgb" and square.mode != "RGB" else square


def to_pixels(image: Image.Image, *, size: int, channels: str, fit: str, resample: str) -> np.ndarray:
    """A square of 8-bit pixels.

    Args:
        image: mode ``L`` or ``RGB``.
        size: side of the square.
        channels: ``grey`` (ITU-R 601 weights) or ``rgb``.
        fit: ``crop`` scales the short side and cuts the centre, ``stretch`` scales both sides, ``pad`` scales the
            long side and fills with the border's median colour.
        resample: ``box``, ``bilinear``, ``bicubic`` or ``lanczos``.

    Returns:
        uint8 ``[size, size, C]``.
    """
    import numpy as np

    square = to_square(image, size=size, channels=channels, fit=fit, resample=resample)
    return np.array(square, dtype=np.uint8).reshape(size, size, 1 if channels == "grey" else 3)


def _factory(name: str) -> object:
    """The one plugin that opens ``name``; going past ``Image.open`` keeps every other format out of reach."""
    factory = _factories.get(name)
    if factory is None:
        module, attribute = _PLUGINS[name]
        plugin: Any = importlib.import_module(module)
        # One thread each: the limits of a guarded process count every thread's stack and arena.
        if name == "AVIF":
            plugin.DEFAULT_MAX_THREADS = 1
        elif name == "HEIF":
            plugin.options.DECODE_THREADS = 1
        factory = _factories[name] = getattr(plugin, attribute)
    return factory


def _refuse_giant(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"is {width} x {height} pixels, {width * height / 1e6:.0f} million, "
            f"and more than {MAX_PIXELS // 1_000_000} million are not decoded"
        )


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - a damaged EXIF block says nothing of the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _eight_bit(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode in _DEEP:
        return _from_deep(image)
    if mode == "LAB":
        return _from_lab(image)
    if image.has_transparency_data:
        grey = mode in ("1", "L", "LA", "La")
        if mode in ("La", "RGBa"):
            image = image.convert("LA" if grey else "RGBA")
        flat = image.convert("LA" if grey else "RGBA")
        paper = Image.new("L" if grey else "RGB", flat.size, 255 if grey else (255, 255, 255))
        paper.paste(flat.convert(paper.mode), mask=flat.getchannel("A"))
        return paper
    if mode in ("L", "RGB"):
        return image
    return image.convert("L" if mode == "1" else "RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    import numpy as np

    values = np.asarray(image)
    if values.dtype.kind == "f":
        grey = _spread(values.astype(np.float32), unit=True)
    elif values.dtype.itemsize == 2 or (values.min() >= 0 and values.max() <= 65535):
        # Rounded v / 257, so that 65535 is white; Pillow's own conversion would clip at 255.
        grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    else:
        grey = _spread(values.astype(np.float64), unit=False)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey = np.where(values == key, np.uint8(255), grey)
    return Image.fromarray(np.ascontiguousarray(grey))


def _spread(values: np.ndarray, *, unit: bool) -> np.ndarray:
    """Finite values from least to greatest become 0..255, in place; with ``unit``, values within 0..1 stay there."""
    import numpy as np

    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("has no finite value in it")
    low = values.min(where=finite, initial=np.inf)
    high = values.max(where=finite, initial=-np.inf)
    np.nan_to_num(values, copy=False, nan=low, posinf=high, neginf=low)
    if not unit or low < 0 or high > 1:
        # Halves, since the range itself may be more than the type holds.
        values /= 2
        values -= low / 2
        values /= (high / 2 - low / 2) or 1
    values *= 255
    values += 0.5
    return values.astype(np.uint8)


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    done = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    if done is None:
        raise ValueError("is in the LAB colour space, which cannot be converted here")
    return done


def _padded(image: Image.Image, size: int, kernel: Image.Resampling) -> Image.Image:
    width, height = image.size
    long = max(width, height)
    w, h = max(1, (width * size + long // 2) // long), max(1, (height * size + long // 2) // long)
    small = image.resize((w, h), kernel)
    if (w, h) == (size, size):
        return small
    rim = [(0, 0, w, 1), (0, h - 1, w, h), (0, 0, 1, h), (w - 1, 0, w, h)]
    bands = small.getbands()
    ends = [bytearray() for _ in bands]
    for box in rim:
        for end, band in zip(ends, small.crop(box).split(), strict=True):
            end += band.tobytes()
    middle = [sorted(end)[len(end) // 2] for end in ends]
    square = Image.new(small.mode, (size, size), middle[0] if len(middle) == 1 else tuple(middle))
    square.paste(small, ((size - w) // 2, (size - h) // 2))
    return square


def _not_a_picture(data: bytes) -> str:
    if not data:
        return "is empty"
    if not data.strip(b"\0"):
        return "holds nothing but zeros"
    head = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, what in _OTHERS:
        if head.startswith(magic) or (magic == b"<svg" and head.startswith(b"<?xml") and magic in data[:4096]):
            return f"is {what}, not a picture that can be read"
    return "is not a picture of a format that can be read"


def _damaged(error: Exception, data: bytes, name: str) -> str:
    if isinstance(error, MemoryError):
        return "needs more memory than a picture is given"
    text = " ".join(str(error).split())[:120].rstrip(".")
    if isinstance(error, ValueError) and text.startswith(("is ", "has ", "ends ", "needs ")):
        return text
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"has more pixels than the {MAX_PIXELS // 1_000_000} million that are decoded"
    needed, exact = _declared_length(data, name)
    if needed > len(data) > 0:
        unit, word = (1000, " KB") if needed >= 10_000 else (1, " bytes")
        least = "" if exact else "at least "
        return f"ends early: {len(data) // unit} of {least}{-(-needed // unit)}{word}"
    lowered = text.lower()
    if any(word in lowered for word in ("truncated", "not enough", "eof", "end of", "unexpected end", "insufficient")):
        return "ends early"
    if "unknown pixel mode" in lowered or "unsupported" in lowered:
        return f"is a {name} picture of a kind that is not read here ({text})"
    # Words of a decoder help an engineer; the messages of Python's own slips help nobody.
    said = text if isinstance(error, OSError | SyntaxError | RuntimeError) and "\\x" not in text else ""
    return f"is a damaged {name} picture" + (f" ({said})" if said else "")


def _declared_length(data: bytes, name: str) -> tuple[int, bool]:
    """How long the file says it is, and whether that is all of it; (0, False) where it does not say."""
    n = len(data)
    if name == "WEBP" and n >= 8:
        return int.from_bytes(data[4:8], "little") + 8, True
    if name == "BMP" and n >= 6:
        return int.from_bytes(data[2:6], "little"), True
    if name == "PNG":
        at = 8
        while at + 8 <= n:
            kind, at = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
            if not kind.isalpha():
                return 0, False
            if kind == b"IEND":
                return at, True
        return at, False
    if name in ("AVIF", "HEIF") or (name == "JPEG2000" and data[:4] == b"\0\0\0\x0c"):
        at = 0
        while at + 16 <= n:
            length = int.from_bytes(data[at : at + 4], "big")
            if length == 1:
                length = int.from_bytes(data[at + 8 : at + 16], "big")
            if length < 8:
                break
            at += length
        return at, False
    return 0, False
