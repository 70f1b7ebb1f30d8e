"""Pictures that tests draw: sound ones, near ones, and files that are broken or hostile."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image as Pillow

from augmill.tasks.rows.kinds.image.decode import Pixels
from augmill.tasks.rows.kinds.media import media


def drawn(seed: int, width: int = 40, height: int = 32, coarse: int = 6) -> Pixels:
    """A picture of smooth patches of colour."""
    patches = np.random.default_rng(seed).integers(0, 256, (coarse, coarse, 3)).astype(np.uint8)
    return np.asarray(Pillow.fromarray(patches).resize((width, height), Pillow.Resampling.BICUBIC))


def saved(picture: Any, format: str, **options: Any) -> bytes:
    """``picture``: pixels, or an image of Pillow in any mode."""
    stream = io.BytesIO()
    image = picture if isinstance(picture, Pillow.Image) else Pillow.fromarray(np.ascontiguousarray(picture))
    image.save(stream, format, **options)
    return stream.getvalue()


def photos(*columns: Sequence[bytes | None]) -> pa.Table:
    """A table of picture fields, named ``image:photo``, ``image:photo 1``, ..."""
    return pa.table({f"image:photo{f' {at}' if at else ''}": media(files) for at, files in enumerate(columns)})


def zoomed(picture: Pixels, share: float, top: float, left: float) -> Pixels:
    """A window that leaves out this share of each side, at its own size again."""
    height, width = picture.shape[:2]
    tall, wide = round(height * (1 - share)), round(width * (1 - share))
    down, right = round((height - tall) * top), round((width - wide) * left)
    window = Pillow.fromarray(np.ascontiguousarray(picture[down : down + tall, right : right + wide]))
    return np.asarray(window.resize((width, height), Pillow.Resampling.BICUBIC))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG of that many white pixels, whose packed rows end after a few."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG that says it is that large."""
    data = saved(drawn(0), "JPEG")
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def webp_header(width: int, height: int) -> bytes:
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def animated(format: str) -> bytes:
    frames = [Pillow.fromarray(drawn(seed)) for seed in range(3)]
    return saved(frames[0], format, save_all=True, append_images=frames[1:], duration=50)


def looping_exif(picture: Pixels) -> bytes:
    """A JPEG whose EXIF directory names itself as the next one, and as its own sub-directory."""
    entry = struct.pack("<HHII", 0x8769, 4, 1, 8)
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + struct.pack("<H", 1) + entry + struct.pack("<I", 8)
    return saved(picture, "JPEG", exif=exif)


def scans(count: int) -> bytes:
    """A progressive JPEG with a scan over and over."""
    data = saved(drawn(0), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * count + data[-2:]


def hostile(count: int = 200) -> list[tuple[bytes | None, set[str | None]]]:
    """(a file, what may be said of it: reasons, None where it may be taken)."""
    rng, damaged = np.random.default_rng(0), {"damaged", "not_a_picture", "too_small", "too_many_pixels"}
    whole = [saved(drawn(1), format) for format in ("PNG", "JPEG", "WEBP")]
    bomb = {"too_many_pixels"}
    fixed: list[tuple[bytes | None, set[str | None]]] = [
        (None, {"no_picture"}),
        (b"", {"no_picture"}),
        *((header(10_000, 10_000), bomb) for header in (png_header, jpeg_header, webp_header)),
        *((header(16_000, 16_000), bomb) for header in (png_header, jpeg_header, webp_header)),
        (png_header(20_000, 20), bomb),
        (png_header(2**31 - 1, 2**31 - 1), bomb),
        (png_header(5_000, 5_000), {"damaged"}),
        (png_header(0, 9), {"damaged", "too_small"}),
        *((saved(drawn(1)[:1, :1], format), {"too_small"}) for format in ("PNG", "JPEG", "WEBP")),
        *((animated(format), {"animated"}) for format in ("PNG", "WEBP")),
        (animated("GIF"), {"not_a_picture"}),
        (saved(drawn(1), "BMP"), {"not_a_picture"}),
        (saved(drawn(1), "TIFF"), {"not_a_picture"}),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {"not_a_picture"}),
        (b"%PDF-1.7", {"not_a_picture"}),
        (scans(300), {"too_many_scans"}),
        (looping_exif(drawn(1)), {None}),
        (saved(drawn(1), "JPEG", icc_profile=b"no profile" * 5_000), {None}),
        (saved(Pillow.fromarray(drawn(1)).convert("CMYK"), "JPEG"), {None}),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"iCCP", b"x\x00\x00" + zlib.compress(bytes(1 << 26))) + whole[0][8:], damaged),
    ]
    found = list(fixed)
    while len(found) < count:
        file = bytearray(whole[len(found) % 3])
        at = int(rng.integers(1, len(file)))
        if len(found) % 4 == 0:
            found.append((bytes(file[:at]), {*damaged, None}))
        elif len(found) % 4 == 1:
            found.append((rng.bytes(at), {"not_a_picture"}))
        elif len(found) % 4 == 2:
            file[at : at + 8] = rng.bytes(8)
            found.append((bytes(file), {*damaged, "animated", None}))
        else:
            found.append((whole[0][:33] + rng.bytes(at), damaged))
    return found
