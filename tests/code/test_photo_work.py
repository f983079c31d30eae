"""Small files that ask a decoder for hours: each is refused by its structure, before a decoder sees it."""

from __future__ import annotations

import struct
import time
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage.data import astronaut

from faceid_core import photo_work, photos
from faceid_core.errors import PhotoRejected
from tests.code.test_photos import encoded

FACE = Image.fromarray(astronaut()[60:124, 170:234])
ROWS = b"".join(b"\0" + row.tobytes() for row in np.asarray(FACE))


def jpeg(**options) -> bytes:
    return encoded(FACE, "JPEG", **options)


def with_header(*pieces: bytes) -> bytes:
    """A JPEG with pieces right after its beginning."""
    data = jpeg()
    return data[:2] + b"".join(pieces) + data[2:]


def with_scans(count: int, image=FACE) -> bytes:
    """A progressive JPEG of so many scans; the last one, which changes nothing, is repeated."""
    data = encoded(image, "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (count - data.count(b"\xff\xda")) + b"\xff\xd9"


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*before: bytes, idat: bytes = chunk(b"IDAT", zlib.compress(ROWS)), after=b"", size=(64, 64)) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + idat + after + chunk(b"IEND")


def box(kind: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def full_box(kind: bytes, *bodies: bytes, version: int = 0) -> bytes:
    return box(kind, bytes([version, 0, 0, 0]), *bodies)


def heic_of_tiles(tile: int, grid: int, canvas: int) -> bytes:
    """A HEIC whose picture is put together from grid x grid uses of one gray tile."""
    pytest.importorskip("pillow_heif").register_heif_opener()
    made = encoded(Image.new("RGB", (tile, tile), "gray"), "HEIF", quality=10)
    boxes = dict(photo_work._boxes(made))
    inside = dict(photo_work._boxes(boxes[b"meta"][4:]))
    decoder = dict(photo_work._boxes(dict(photo_work._boxes(inside[b"iprp"]))[b"ipco"]))[b"hvcC"]
    pixels = boxes[b"mdat"]
    layout = bytes([0, 1, grid - 1, grid - 1]) + struct.pack(">II", canvas, canvas)
    entry = lambda item, kind: full_box(b"infe", struct.pack(">HH", item, 0), kind, b"\0", version=2)  # noqa: E731
    size = lambda side: full_box(b"ispe", struct.pack(">II", side, side))  # noqa: E731
    uses = struct.pack(f">HH{grid * grid}H", 2, grid * grid, *[1] * grid * grid)
    owns = struct.pack(">IHBBBHBB", 2, 1, 2, 0x81, 2, 2, 1, 3)

    def meta(begin: int) -> bytes:
        places = struct.pack(
            ">HHHIIHHHII", 1, 0, 1, begin, len(pixels), 2, 0, 1, begin + len(pixels), len(layout)
        )
        return full_box(
            b"meta",
            full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
            full_box(b"pitm", struct.pack(">H", 2)),
            full_box(b"iinf", struct.pack(">H", 2), entry(1, b"hvc1"), entry(2, b"grid")),
            full_box(b"iref", box(b"dimg", uses)),
            box(
                b"iprp",
                box(b"ipco", box(b"hvcC", decoder), size(tile), size(canvas)),
                full_box(b"ipma", owns),
            ),
            full_box(b"iloc", b"\x44\0", struct.pack(">H", 2), places),
        )

    start = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    return start + meta(len(start) + len(meta(0)) + 8) + box(b"mdat", pixels, layout)


def heic_of_depth(depth: int) -> bytes:
    """What is before the pixels of a HEIC whose picture is made of one that is made of one, and so on."""
    chain = b"".join(box(b"dimg", struct.pack(">HHH", item, 1, item + 1)) for item in range(1, depth))
    properties = box(b"iprp", box(b"ipco"), full_box(b"ipma", struct.pack(">I", 0)))
    meta = full_box(b"meta", full_box(b"pitm", struct.pack(">H", 1)), full_box(b"iref", chain), properties)
    return box(b"ftyp", b"heic", bytes(4), b"mif1heic") + meta


def profile_of_steps(count: int) -> bytes:
    """sRGB's profile with one more tag: a chain of so many uses of one matrix."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = struct.unpack_from(">I", plain, 128)[0]
    rows = [struct.unpack_from(">4sII", plain, 132 + 12 * place) for place in range(tags)]
    content = plain[132 + 12 * tags :]
    content += bytes(-len(content) % 4)
    at = 132 + 12 * (tags + 1) + len(content)
    matrix = b"matf" + struct.pack(">IHH12f", 0, 3, 3, *np.eye(3).ravel(), 0, 0, 0)
    chain = b"mpet" + struct.pack(">IHHI", 0, 3, 3, count)
    chain += struct.pack(">II", 16 + 8 * count, len(matrix)) * count + matrix
    table = b"".join(struct.pack(">4sII", name, where + 12, size) for name, where, size in rows)
    table += struct.pack(">4sII", b"D2B0", at, len(chain))
    made = bytearray(plain[:128] + struct.pack(">I", tags + 1) + table + content + chain)
    made[:4], made[8:10] = struct.pack(">I", len(made)), b"\x04\x30"
    return bytes(made)


BOMBS = {
    "scans": lambda: with_scans(101),
    "scans of a large picture": lambda: with_scans(41, Image.new("L", (5000, 5000))),
    "segments": lambda: with_header(segment(0xE5, b"") * 20_000),
    "segments between scans": lambda: jpeg()[:-2] + segment(0xFE, b"") * 20_000 + b"\xff\xd9",
    "empty scans hidden in segments' ends": lambda: jpeg()[:-2] + b"\xff\xda\0\2" * 101,
    "camera data": lambda: with_header(segment(0xE1, b"Exif\0\0abcd") * 100),
    "editor's blocks": lambda: with_header(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4" + bytes(6)) * 6_000),
    "padding": lambda: with_header(b"\xff" * 100_000),
    "restarts before a scan": lambda: with_header(b"\xff\xd0" * 50_000),
    "stuffing": lambda: with_header(b"\xff\0" * 50_000),
    "nothing but padding": lambda: b"\xff\xd8" + b"\xff" * 100_000,
    "chunks": lambda: png(chunk(b"abCd") * 120_000),
    "chunks after": lambda: png(after=chunk(b"abCd") * 120_000),
    "empty data": lambda: png(chunk(b"IDAT") * 120_000),
    "tiles beyond the picture": lambda: heic_of_tiles(1024, 16, 100),
    "parts of parts": lambda: heic_of_depth(5_000),
    "boxes": lambda: b"\0\0\0\x18ftypheic" + bytes(12) + box(b"free") * 20_000,
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_work_without_end_is_refused_before_a_decoder_sees_it(name, monkeypatch):
    data = BOMBS[name]()
    assert len(data) < 1_500_000

    def decoded(*_, **__):
        raise AssertionError("a decoder has it")

    monkeypatch.setattr(Image, "open", decoded)
    with pytest.raises(PhotoRejected) as caught:
        photos.decode(data)
    rejection = caught.value
    assert rejection.reason == "too_much_work" and "save it as a plain JPEG" in rejection.sentence
    assert rejection.value > rejection.threshold > 0


def riff(*chunks: bytes) -> bytes:
    body = b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def piece(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def crowded_exif() -> bytes:
    """An EXIF block in which very many tags name the same large value."""
    tags = b"".join(struct.pack("<HHII", tag, 7, 500_000, 8) for tag in range(20_000))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 20_000) + tags + bytes(500_000)


FRAME = piece(b"ANMF", bytes(6) + b"\x3f\0\0" * 2 + b"\x0a\0\0\0" + encoded(FACE, "WEBP")[12:])
CANVAS = piece(b"VP8X", b"\x02\0\0\0" + b"\x3f\0\0" * 2)
# What Pillow and libwebp bound by themselves, or never look at.
BOUNDED_BY_LIBRARIES = {
    "texts that unpack to much": lambda: png(
        chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000), 9)) * 1_000
    ),
    "a profile that unpacks to much": lambda: png(
        chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(50_000_000), 9))
    ),
    "pixels that unpack to much": lambda: png(
        idat=chunk(b"IDAT", zlib.compress(ROWS + bytes(100_000_000), 9))
    ),
    "camera data of a PNG": lambda: png(chunk(b"eXIf", crowded_exif())),
    "frames of a WebP": lambda: riff(CANVAS, piece(b"ANIM", bytes(6)), FRAME * 1_000),
    "chunks of a WebP": lambda: riff(CANVAS, piece(b"abcd") * 100_000, encoded(FACE, "WEBP")[12:]),
}


@pytest.mark.parametrize("name", BOUNDED_BY_LIBRARIES)
def test_what_libraries_bound_themselves_stays_bounded(name):
    data = BOUNDED_BY_LIBRARIES[name]()
    assert len(data) < 2_000_000
    begun = time.process_time()
    with suppress(PhotoRejected):
        assert photos.decode(data).shape == (64, 64, 3)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("size", [(1, 70_000), (70_000, 1)])
def test_a_line_is_no_picture(size):
    with pytest.raises(PhotoRejected, match=r"too_many_pixels: The picture is 70000 pixels long.*65535"):
        photos.decode(png(size=size))


@pytest.mark.parametrize(
    "make",
    [
        lambda: jpeg(progressive=True, icc_profile=b"x" * 400_000),
        lambda: with_scans(60),
        lambda: with_header(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"\xff\xda" * 30_000)),
        lambda: jpeg(restart_marker_blocks=1),
        lambda: jpeg(comment=b"c" * 1000) + b"\xff\xda" * 1000,
        lambda: encoded(FACE, "MPO", save_all=True, append_images=[FACE]),
        lambda: png(*[chunk(b"tEXt", b"k\0v")] * 1_000),
        lambda: heic_of_tiles(128, 4, 500),
        lambda: encoded(FACE, "PNG", icc_profile=profile_of_steps(3)),
    ],
)
def test_what_cameras_and_editors_make_is_read(make):
    assert photos.decode(make()).shape[2] == 3


def test_a_picture_of_the_largest_size_may_have_the_scans_of_ordinary_encoders():
    data = encoded(Image.new("L", (1000, 1000)), "JPEG", progressive=True)
    assert photos.decode(data, max_pixels=1_000_000).shape == (1000, 1000, 3)


def test_a_profile_of_endless_steps_is_left_out():
    data = encoded(FACE, "PNG", icc_profile=profile_of_steps(20_000))
    assert (photos.decode(data) == np.asarray(FACE)).all()
    assert not photo_work.is_too_much_profile(profile_of_steps(3))
    assert not photo_work.is_too_much_profile(b"short") and photo_work.is_too_much_profile(b"parf" * 200)
    assert len(data) < 20_000
