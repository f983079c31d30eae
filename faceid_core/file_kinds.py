"""What a file is by its first bytes, whatever it is called."""

from __future__ import annotations

_PICTURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    # Cameras' raw formats that are no TIFF: Fujifilm, Olympus, Panasonic.
    b"FUJIFILMCCD-RAW": "raw",
    b"IIRO": "raw",
    b"IIU\0": "raw",
}
# Major brands of ISO/IEC 14496-12 files: pictures and sequences of pictures of ISO/IEC 23008-12, and Canon's raw format.
_BRANDS = {
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"), "HEIC"
    ),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "raw",
}
_OTHERS = {
    b"PK\x03\x04": "a zip archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "an SQLite database",
    b"{\\rtf": "a text document",
}
_VIDEO = b"\x1a\x45\xdf\xa3"


def picture_format(data: bytes) -> str | None:
    """The format of a picture (or PDF), or None."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12])
    return next((name for magic, name in _PICTURES.items() if data.startswith(magic)), None)


def other_than_text(data: bytes) -> str | None:
    """What a file that should be text is instead, as messages say it ("a JPEG picture"); None if it may be text."""
    name = picture_format(data)
    # "BM" may begin a text.
    if name and not (name == "BMP" and b"\0" not in data[:64]):
        return "a PDF document" if name == "PDF" else f"a {name} picture"
    if data[:4] == b"PK\x03\x04" and (b"xl/" in data or b"[Content_Types].xml" in data[:2000]):
        return "an Excel workbook"
    return next((name for magic, name in _OTHERS.items() if data.startswith(magic)), None)


def kind_of(data: bytes) -> str:
    """What a file is, in words, by its beginning."""
    if not data:
        return "empty"
    known = other_than_text(data)
    if known:
        return known
    if data[4:8] == b"ftyp" or data[:4] == _VIDEO or (data[:4] == b"RIFF" and data[8:12] == b"AVI "):
        return "a video"
    return "of an unknown kind" if b"\0" in data else "a text"
