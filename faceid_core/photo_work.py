"""How much work a picture's file asks of its decoder, told by the file's structure before any decoder sees it.

A decoder's time is bounded by the picture's pixels only if the file is made as cameras and editors make it. A file of
some kilobytes can ask for hundreds of passes over all pixels, or for millions of empty segments.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from .errors import PhotoRejected

# Segments of a JPEG, chunks of a PNG: a color profile or depth map of 32 MiB has 512 of the first, a PNG of 32 MiB in
# the usual blocks of 8 KiB 4,096 of the second.
MOST_SEGMENTS = 10_000
MOST_CHUNKS = 100_000
# The EXIF block of a JPEG; Pillow joins its segments one by one.
MOST_EXIF_SEGMENTS = 64
# Bytes of no segment before a JPEG's first scan.
MOST_PADDING = 64 * 1024
# Encoders make 10 scans, optimizing ones up to 20; a small picture may have more.
MOST_SCANS, SCANS_OF_ANY_SIZE = 100, 20
# The longest side that a JPEG can have. A decoder's work for a row counts, too, where a row has one pixel.
MOST_SIDE = 65_535
# Pixels decoded for the tiles of a HEIC or AVIF, in pictures of the largest size that is accepted.
MOST_TILED = 4
MOST_HEIC_BOXES = 10_000
# Steps of one calculation in a color profile; where they are used at all there are some three.
MOST_PROFILE_STEPS = 32
MOST_CURVE_SEGMENTS = 100

# All that ends entropy-coded data or begins a segment: not a stuffed byte, padding or a restart marker.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_START, _END, _SCAN, _APP1, _APP13 = 0xD8, 0xD9, 0xDA, 0xE1, 0xED
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def refuse_too_much_work(data: bytes, image_format: str, max_pixels: int) -> None:
    """Refuse a picture whose decoding would take much longer than its pixels need.

    Args:
        data: the file's content.
        image_format: as Pillow names it.
        max_pixels: largest width x height that is decoded.

    Raises:
        PhotoRejected: too_much_work, or too_many_pixels for a side that is too long.
    """
    if image_format == "JPEG":
        _check_jpeg(data, max_pixels)
    elif image_format == "PNG":
        _check_png(data)
    elif image_format in ("HEIF", "AVIF"):
        _check_heic(data, max_pixels)


def is_too_much_profile(profile: bytes) -> bool:
    """Whether a color profile chains more calculations than any profile of a camera or printer does."""
    # Source: ICC.1:2010, sections 7.3 (tag table) and 10.14 (multiProcessElementsType).
    if len(profile) < 132:
        return False
    if profile.count(b"parf") + profile.count(b"samf") > MOST_CURVE_SEGMENTS:
        return True
    for place in range(min(struct.unpack_from(">I", profile, 128)[0], (len(profile) - 132) // 12)):
        at = struct.unpack_from(">I", profile, 132 + 12 * place + 4)[0]
        is_chain = profile[at : at + 4] == b"mpet" and at + 16 <= len(profile)
        if is_chain and struct.unpack_from(">I", profile, at + 12)[0] > MOST_PROFILE_STEPS:
            return True
    return False


def _too_much(what: str, count: float, limit: float) -> PhotoRejected:
    sentence = (
        f"The file asks for {what}, which no camera or editor needs. Open it in a picture editor, "
        "save it as a plain JPEG or PNG and send it again."
    )
    return PhotoRejected("too_much_work", sentence, value=count, threshold=limit)


def _check_jpeg(data: bytes, max_pixels: int) -> None:
    """Count segments and scans as the decoder meets them. Source: ITU-T T.81, annex B."""
    at, segments, exif, padding, scans, pixels = 2, 0, 0, 0, 0, 1
    while found := _MARKER.search(data, at, len(data) if scans else at + MOST_PADDING + 2):
        marker = found[1][0]
        segments += 1
        padding += 0 if scans else found.start() - at
        at = found.end()
        if segments > MOST_SEGMENTS:
            raise _too_much("more segments than can be looked at", segments, MOST_SEGMENTS)
        if padding > MOST_PADDING:
            raise _too_much_padding(padding)
        if marker < 0xC0 or marker == _START or (marker == _END and not scans):
            continue  # no length follows
        if marker == _END:
            return
        if marker == _SCAN:
            scans += 1
            _check_scans(scans, pixels, max_pixels)
        elif marker in _FRAMES:
            pixels = max(
                pixels,
                int.from_bytes(data[at + 3 : at + 5], "big") * int.from_bytes(data[at + 5 : at + 7], "big"),
            )
        elif marker == _APP1 and data[at + 2 : at + 6] == b"Exif":
            exif += 1
            if exif > MOST_EXIF_SEGMENTS:
                raise _too_much("many blocks of camera data to be joined", exif, MOST_EXIF_SEGMENTS)
        length = max(2, int.from_bytes(data[at : at + 2], "big"))
        if marker == _APP13:
            segments += data.count(b"8BIM", at, at + length)
        at += length
    if not scans and len(data) - at > MOST_PADDING:
        raise _too_much_padding(len(data) - at)


def _check_scans(scans: int, pixels: int, max_pixels: int) -> None:
    """Bound the passes over a picture's pixels; smaller pictures may have more."""
    limit = max(SCANS_OF_ANY_SIZE, min(MOST_SCANS, SCANS_OF_ANY_SIZE * max_pixels // pixels))
    if scans > limit:
        raise _too_much(f"more than {limit} passes over its pixels", scans, limit)


def _too_much_padding(count: int) -> PhotoRejected:
    return _too_much("stuffing to be skipped", count, MOST_PADDING)


def _check_png(data: bytes) -> None:
    """Count the chunks, and measure the longer side. Source: PNG (third edition), section 5."""
    side = max(struct.unpack_from(">II", data, 16)) if len(data) >= 24 else 0
    if side > MOST_SIDE:
        sentence = (
            f"The picture is {side} pixels long; at most {MOST_SIDE} are accepted. Crop it to the person."
        )
        raise PhotoRejected("too_many_pixels", sentence, value=side, threshold=MOST_SIDE)
    at, chunks = 8, 0
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IEND":
        chunks += 1
        if chunks > MOST_CHUNKS:
            raise _too_much("more chunks than can be looked at", chunks, MOST_CHUNKS)
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _check_heic(data: bytes, max_pixels: int) -> None:
    """Add up the pixels of the tiles that the picture is put together from. Source: ISO/IEC 23008-12, section 6.6."""
    try:
        meta = next((body[4:] for kind, body in _boxes(data) if kind == b"meta"), b"")
        inside = {kind: body for kind, body in _boxes(meta)}
        primary = inside[b"pitm"]
        first = int.from_bytes(primary[4:6] if primary[0] == 0 else primary[4:8], "big")
        areas, parts = _areas(dict(_boxes(inside[b"iprp"]))), _parts(inside.get(b"iref", b"\0" * 4))
        # What is one piece, or larger as a whole than is accepted, is judged by its pixels.
        judged_by_pixels = first not in parts or areas.get(first, 0) > max_pixels
        decoded = 0 if judged_by_pixels else _decoded(first, areas, parts, {}, max_pixels)
    except RecursionError:
        decoded = float("inf")
    except (KeyError, IndexError, struct.error):
        return  # so damaged that the decoder will say so
    if decoded > MOST_TILED * max_pixels:
        limit = MOST_TILED * max_pixels
        raise _too_much(f"more than {limit / 1e6:.0f} million pixels in parts", decoded, limit)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at, count = 0, 0
    while at + 8 <= len(data):
        count += 1
        if count > MOST_HEIC_BOXES:
            raise _too_much("more boxes than can be looked at", count, MOST_HEIC_BOXES)
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            size, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        if size == 0:
            size = len(data) - at
        if size < head:
            return
        yield kind, data[at + head : at + size]
        at += size


def _areas(properties: dict[bytes, bytes]) -> dict[int, int]:
    """Width x height of each item that has a size."""
    sizes = [
        (struct.unpack_from(">II", body, 4) if kind == b"ispe" else None)
        for kind, body in _boxes(properties[b"ipco"])
    ]
    body = properties[b"ipma"]
    wide_ids, wide_places = body[0] >= 1, body[3] & 1
    at, areas = 8, {}
    for _ in range(min(struct.unpack_from(">I", body, 4)[0], MOST_HEIC_BOXES)):
        item = int.from_bytes(body[at : at + (4 if wide_ids else 2)], "big")
        at += 4 if wide_ids else 2
        count = body[at]
        at += 1
        for _ in range(count):
            place = int.from_bytes(body[at : at + (2 if wide_places else 1)], "big")
            place &= 0x7FFF if wide_places else 0x7F
            at += 2 if wide_places else 1
            size = sizes[place - 1] if 0 < place <= len(sizes) else None
            if size:
                areas[item] = max(areas.get(item, 0), size[0] * size[1])
    return areas


def _parts(references: bytes) -> dict[int, list[int]]:
    """Which items each item is derived from, as often as it uses them."""
    width = 4 if references[0] else 2
    parts: dict[int, list[int]] = {}
    for kind, body in _boxes(references[4:]):
        if kind == b"dimg":
            item = int.from_bytes(body[:width], "big")
            ends = range(width + 2, len(body) - width + 1, width)
            parts.setdefault(item, []).extend(int.from_bytes(body[at : at + width], "big") for at in ends)
    return parts


def _decoded(item: int, areas: dict, parts: dict, known: dict[int, int], most: int) -> int:
    """Pixels that are decoded for an item: its own or, where it is put together, those of all parts."""
    if item not in known:
        known[item] = 0  # a circle adds nothing, and the decoder refuses it
        below = sum(_decoded(part, areas, parts, known, most) for part in parts.get(item, ()))
        # An item without a size may have any.
        known[item] = below + areas.get(item, most)
    return known[item]
