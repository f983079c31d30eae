"""Decoding what strangers send: every kind of picture comes out right, every bad file has its reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile
from skimage.data import astronaut

from faceid_core import photos
from faceid_core.errors import PhotoRejected


def encoded(image, image_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(astronaut()[:200, 100:300])


def difference(image, photo):
    return float(np.abs(image.astype(int) - np.asarray(photo.convert("RGB")).astype(int)).mean())


def reason(data, **limits):
    with pytest.raises(PhotoRejected) as caught:
        photos.decode(data, **limits)
    assert caught.value.sentence.endswith((".", "again."))
    return caught.value.reason


@pytest.mark.parametrize(
    ("image_format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("JPEG", {"quality": 95}, 3),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 3),
    ],
)
def test_plain_pictures(photo, image_format, options, tolerance):
    image = photos.decode(encoded(photo, image_format, **options))
    assert image.dtype == np.uint8 and image.flags.c_contiguous and image.shape == (200, 200, 3)
    assert difference(image, photo) <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(photo, orientation, image_format):
    upright = photo.crop((0, 0, 160, 200))
    # What a camera stores so that applying its tag gives the upright picture: the inverse turn.
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    names = {0: "FLIP_LEFT_RIGHT", 1: "FLIP_TOP_BOTTOM", 2: "ROTATE_90", 3: "ROTATE_180", 4: "ROTATE_270",
             5: "TRANSPOSE", 6: "TRANSVERSE"}  # fmt: skip
    stored = upright
    if orientation > 1:
        stored = upright.transpose(Image.Transpose[names[inverse[orientation]]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = photos.decode(encoded(stored, image_format, exif=exif, quality=95))
    assert image.shape == (200, 160, 3)
    assert difference(image, upright) < 4


def test_broken_exif_and_broken_profile_are_left_out(photo):
    data = encoded(photo, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", icc_profile=b"no profile")
    assert difference(photos.decode(data), photo) == 0


def test_transparency_is_laid_on_white(photo):
    clear = photo.convert("RGBA")
    clear.putalpha(Image.fromarray(np.repeat(np.array([[0] * 100 + [255] * 100], np.uint8), 200, axis=0)))
    for image_format in ("PNG", "WEBP"):
        image = photos.decode(encoded(clear, image_format, lossless=True))
        assert (image[:, :100] == 255).all()
        assert (image[:, 100:] == np.asarray(photo)[:, 100:]).all()
    palette = photo.quantize(16)
    transparent = palette.getpixel((0, 0))
    image = photos.decode(encoded(palette, "PNG", transparency=transparent))
    assert (image[0, 0] == 255).all() and (image != 255).any()
    keyed = photos.decode(
        encoded(photo.convert("L"), "PNG", transparency=photo.convert("L").getpixel((5, 5)))
    )
    assert (keyed[5, 5] == 255).all()


def test_grey_palette_bilevel_sixteen_bits_and_cmyk(photo):
    gray = photo.convert("L")
    assert difference(photos.decode(encoded(gray, "PNG")), gray) == 0
    assert difference(photos.decode(encoded(photo.quantize(64), "PNG")), photo.quantize(64)) == 0
    assert set(np.unique(photos.decode(encoded(photo.convert("1"), "PNG")))) == {0, 255}
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    assert difference(photos.decode(encoded(deep, "PNG")), gray) == 0
    assert difference(photos.decode(encoded(photo.convert("CMYK"), "JPEG", quality=95)), photo) < 4


def test_sixteen_bit_color_png():
    rows = b"".join(b"\0" + struct.pack(">HHH", 0xFF00, 0x8000, 0x0100) * 4 for _ in range(4))
    image = photos.decode(png(4, 4, rows, depth=16))
    assert np.abs(image[0, 0].astype(int) - (255, 128, 1)).max() <= 1


def test_embedded_profile_is_brought_to_srgb(photo):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert difference(photos.decode(encoded(photo, "PNG", icc_profile=lab)), photo) < 1
    # Red and green exchanged in the profile's primaries: the colors must follow it.
    swapped = lab.replace(b"rXYZ", b"tmpX").replace(b"gXYZ", b"rXYZ").replace(b"tmpX", b"gXYZ")
    image = photos.decode(encoded(photo, "PNG", icc_profile=swapped))
    assert difference(image[..., [1, 0, 2]], photo) < 4


def test_first_frame_of_an_animation(photo):
    other = Image.new("RGB", photo.size, "red")
    for image_format in ("WEBP", "PNG"):
        data = encoded(photo, image_format, save_all=True, append_images=[other], lossless=True)
        assert difference(photos.decode(data), photo) == 0


def png(width, height, rows, *, depth=8, color=2):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_decompression_bombs_are_refused_before_they_are_decoded(monkeypatch):
    bomb = png(14_000, 14_000, b"\0" * (14_000 * 14_001 // 8), depth=1, color=0)
    assert len(bomb) < 100_000
    webp = b"RIFF" + struct.pack("<I", 4096) + b"WEBPVP8X" + struct.pack("<I", 10)
    webp += bytes([2, 0, 0, 0]) + (16_382).to_bytes(3, "little") * 2 + bytes(4096)
    jpeg = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", 60_000, 60_000)

    def decoded(*_, **__):
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    assert reason(bytes(jpeg)) == "too_many_pixels"
    # For these two even opening is too much: Pillow's WebP reader allocates the canvas then.
    monkeypatch.setattr(Image, "open", decoded)
    for data in (bomb, webp, png(2**31 - 1, 2**31 - 1, b"")):
        assert reason(data) == "too_many_pixels"


def test_limits_are_reported_with_value_and_threshold(photo):
    data = encoded(photo, "PNG")
    with pytest.raises(PhotoRejected) as caught:
        photos.decode(data, max_pixels=39_999)
    assert (caught.value.reason, caught.value.value, caught.value.threshold) == (
        "too_many_pixels",
        40_000,
        39_999,
    )
    with pytest.raises(PhotoRejected) as caught:
        photos.decode(data, max_bytes=100)
    assert (caught.value.reason, caught.value.value) == ("too_many_bytes", len(data))
    assert photos.decode(data, max_bytes=len(data), max_pixels=40_000).shape == (200, 200, 3)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("lenient", [False, True])
def test_files_cut_off_anywhere(photo, image_format, lenient, monkeypatch):
    # Other libraries of a process may tell Pillow to paint the missing rest gray.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    data = encoded(photo, image_format)
    for share in (0.0, 0.3, 0.6, 0.95):
        assert reason(data[: 12 + int(share * len(data))]) == "truncated"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


def test_damage_inside_a_png(photo):
    data = bytearray(encoded(photo, "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert reason(bytes(data)) == "truncated"


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"<html>", b"RIFF\0\0\0\0WAVE" + bytes(40), b"\0\0\0\x18ftypmp42" + bytes(40)]
)
def test_what_is_no_picture(data):
    assert reason(data) == "not_an_image"


def test_formats_outside_the_list_whatever_their_name(photo):
    for image_format in ("GIF", "BMP", "TIFF"):
        assert reason(encoded(photo, image_format)) == "format_not_allowed"


def test_heic_says_what_is_missing_where_its_plugin_is_not_installed(monkeypatch):
    monkeypatch.setattr(photos, "heic_is_read", lambda: False)
    data = b"\0\0\0\x18ftypheic" + bytes(40)
    assert reason(data) == "heic_unavailable"
    for look in (photos.decode, photos.check_readable):
        with pytest.raises(PhotoRejected, match=r"pillow-heif is not installed.*JPEG"):
            look(data)


def test_heic_where_its_plugin_is_installed(photo):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = photo.crop((0, 0, 160, 200)).transpose(Image.Transpose.ROTATE_90)
    data = encoded(lying, "HEIF", quality=90, exif=exif.tobytes())
    # The orientation counts once, whether the file says it in its own way or in EXIF's.
    image = photos.decode(data)
    assert image.shape == (200, 160, 3) and difference(image, photo.crop((0, 0, 160, 200))) < 6
    assert reason(data, max_pixels=1000) == "too_many_pixels"
    assert reason(data[: len(data) // 2]) == "truncated"


def test_random_bytes_behind_a_true_beginning_never_escape():
    generator = np.random.default_rng(7)
    starts = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\0\0\0WEBPVP8 ", b"RIFF\xff\0\0\0WEBPVP8X"]
    for number in range(200):
        tail = generator.integers(0, 256, int(generator.integers(0, 400)), dtype=np.uint8).tobytes()
        assert reason(starts[number % 4] + tail) in ("truncated", "too_many_pixels", "not_an_image")


def test_own_encodings_are_stable_and_read_back():
    image = astronaut()[:64, :48]
    assert photos.encode_png(image) == photos.encode_png(np.asfortranarray(image))
    assert (photos.decode_png(photos.encode_png(image)) == image).all()
    labels = image[..., 0] % 11
    assert (photos.decode_png(photos.encode_png(labels)) == labels).all()
    with pytest.raises(ValueError, match="uint8"):
        photos.encode_png(labels > 5)
    with pytest.raises(ValueError, match="not a PNG"):
        photos.decode_png(b"x")


def test_damage_inside_a_jpeg(photo):
    data = bytearray(encoded(photo.resize((600, 600)), "JPEG", quality=90))
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    assert reason(bytes(data)) == "truncated"


def test_a_jpeg_of_blocks_and_one_of_low_quality(photo):
    assert reason(encoded(photo, "JPEG", quality=5)) == "too_compressed"
    assert photos.decode(encoded(photo, "JPEG", quality=12)).shape == (200, 200, 3)


def test_a_jpeg_of_too_many_pixels_is_decoded_smaller(photo):
    data = encoded(photo.resize((800, 600)), "JPEG")
    assert photos.decode(data, max_pixels=470_000).shape == (300, 400, 3)
    assert photos.reduction(data, 470_000) == 2 and photos.reduction(data, 480_000) == 1
    assert reason(encoded(photo.resize((800, 600)), "PNG"), max_pixels=470_000) == "too_many_pixels"
    assert reason(data, max_pixels=100_000) == "too_many_pixels"
    progressive = encoded(photo.resize((800, 600)), "JPEG", progressive=True)
    assert photos.decode(progressive, max_pixels=470_000).shape == (300, 400, 3)
    # All of its coefficients lie in memory, so that less is decoded than of a plain one.
    assert photos.decode(data, max_pixels=200_000).shape == (300, 400, 3)
    assert reason(progressive, max_pixels=200_000) == "too_many_pixels"


def test_avif(photo):
    assert difference(photos.decode(encoded(photo, "AVIF", quality=95)), photo) < 6
