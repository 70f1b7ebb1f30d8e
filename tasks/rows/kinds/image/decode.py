"""Pictures as files and as pixels: what is refused, and what of a file counts as the picture.

JPEG, PNG and WebP, told by their first bytes and never by their name. Nothing of a file is decoded before its header has
said how much that will be.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from augmill.tasks.errors import RefusedFile, UserError

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

# About 400 MB are in use while a picture of that many pixels with transparency is decoded.
MOST_PIXELS = 1 << 25
MOST_BYTES = 1 << 26
LEAST_SIDE, MOST_SIDE = 4, 1 << 14
MOST_SCANS = 100  # of a progressive JPEG, which has about ten: each goes over all pixels, and costs a file ten bytes

REMEDIES: Mapping[str, str] = {
    "no_picture": "check columns.inputs, and give those rows a picture",
    "not_a_picture": "save those files as JPEG, PNG or WebP",
    "damaged": "copy those files again: they end too early, or are broken inside",
    "animated": "save one frame of each as a picture of its own",
    "too_many_pixels": f"make those pictures smaller: up to {MOST_PIXELS >> 20} megapixels, {MOST_SIDE:,} pixels a side",
    "too_many_bytes": f"save those files smaller: up to {MOST_BYTES >> 20} MiB each",
    "too_many_scans": "save those JPEG files again without progressive scans",
    "too_small": f"leave out pictures with a side below {LEAST_SIDE} pixels",
}

_ORIENTATION = 0x0112
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def pillow() -> Any:
    """The library. Raises UserError where it is not installed."""
    try:
        import PIL.Image
    except ImportError:
        raise UserError(
            "rows hold pictures, and pillow, the library that reads them, is not installed",
            where="columns.inputs",
            fix="pip install 'augmill[images]'",
        ) from None
    return PIL


def format_of(data: bytes) -> str:
    """The format that a file's first bytes say: a key of FORMATS. Raises RefusedFile."""
    if data.startswith(_PNG):
        return "PNG"
    if data.startswith(_JPEG):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    raise RefusedFile("not_a_picture" if data else "no_picture")


def size_of(data: bytes) -> tuple[int, int]:
    """(width, height) of the picture as it is seen, which its orientation may have turned, by its header. Raises RefusedFile."""
    opened = _open(data)
    width, height = opened.size
    return (height, width) if _orientation(opened, data) >= 5 else (width, height)


def pixels(data: bytes) -> Pixels:
    """The picture of a file, (height, width, 3). Raises RefusedFile.

    EXIF's orientation is applied. Transparent parts stand on white; of 16 bits the higher 8 count; colour profiles do not.
    """
    opened = _open(data)
    try:
        opened.load()
        return _turned(_rgb(opened), _orientation(opened, data))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - OSError, SyntaxError, ValueError, struct.error, ... by format
        raise RefusedFile("damaged") from None


def encode(picture: Pixels, format: str = "PNG") -> bytes:
    """A file of these pixels, (height, width, 3) or (height, width) where they are grey; ``format``: a key of FORMATS.

    PNG holds them as they are; JPEG and WebP at quality 90.
    """
    stream = io.BytesIO()
    options: dict[str, Any] = {"compress_level": 6} if format == "PNG" else {"quality": 90}
    pillow().Image.fromarray(np.ascontiguousarray(picture)).save(stream, format, **options)
    return stream.getvalue()


def is_grey(picture: Pixels) -> bool:
    """Whether no pixel has a colour."""
    return bool((picture[..., 0] == picture[..., 1]).all() and (picture[..., 1] == picture[..., 2]).all())


def pixel_digest(picture: Pixels) -> bytes:
    """What pictures share whose pixels are the same."""
    digest = hashlib.sha256(b"%d %d\n" % picture.shape[:2])
    digest.update(np.ascontiguousarray(picture).data)
    return digest.digest()


def resized(picture: Pixels, width: int, height: int) -> Pixels:
    """Linearly; a pixel of a smaller picture is of all those that it covers."""
    image = pillow().Image
    return np.asarray(image.fromarray(picture).resize((width, height), image.Resampling.BILINEAR))


def _open(data: bytes) -> Image.Image:
    """The file with its header read and held against the bounds, and no pixel decoded.

    By the classes of the formats: ``Image.open`` warns of large pictures before anyone can refuse them, and takes a
    photograph with a preview behind it (MPO) for an animation.
    """
    format = format_of(data)
    if len(data) > MOST_BYTES:
        raise RefusedFile("too_many_bytes")
    if format == "WEBP":  # whose decoder takes room for all pixels before it says how many there are
        _hold_size(*_webp_size(data))
    elif format == "JPEG" and data.count(b"\xff\xda") > MOST_SCANS:
        raise RefusedFile("too_many_scans")
    pillow()
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    of: Any = {"PNG": PngImageFile, "JPEG": JpegImageFile, "WEBP": WebPImageFile}[format]
    try:
        opened: Image.Image = of(io.BytesIO(data))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - as in ``pixels``
        raise RefusedFile("damaged") from None
    _hold_size(*opened.size)
    if getattr(opened, "n_frames", 1) > 1:
        raise RefusedFile("animated")
    return opened


def _hold_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS or max(width, height) > MOST_SIDE:
        raise RefusedFile("too_many_pixels")
    if min(width, height) < LEAST_SIDE:
        raise RefusedFile("too_small")


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) by the first chunk: extended, lossless or lossy (RFC 9649)."""
    kind = data[12:16]
    if len(data) < 30 or kind not in (b"VP8X", b"VP8L", b"VP8 "):
        raise RefusedFile("damaged")
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    bits = int.from_bytes(data[21:25] if kind == b"VP8L" else data[26:30], "little")
    if kind == b"VP8L":
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return bits & 0x3FFF, bits >> 16 & 0x3FFF


def _orientation(opened: Image.Image, data: bytes) -> int:
    """1 to 8, as EXIF has it; 1 where the file says nothing that can be read. A thumbnail or a loop in it is never read."""
    if format_of(data) == "PNG" and b"eXIf" not in data:  # Pillow would decode all of it to look behind the pixels
        return 1
    try:
        found = opened.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - EXIF is written by thousands of programs, and is not the picture
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turned(picture: Pixels, orientation: int) -> Pixels:
    """As it is seen: 2 and 4 are mirrored, 3 stands on its head, 5 to 8 lie on a side."""
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):  # 16 bits of grey
        grey = np.asarray(image)
        high = (np.clip(grey, 0, 0xFFFF) >> 8).astype(np.uint8)
        return np.repeat(high[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = pillow().Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return np.asarray(white)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
