"""Untrusted bytes to a safe RGB image, or a named reason; and the fixed encodings of what we write ourselves.

Nothing about a photo is believed before it is checked: its size in bytes, its format (by content, against a
short list), its dimensions and the work that it asks for (before a pixel is decoded). What comes out is an array
and no metadata.
"""

from __future__ import annotations

import importlib.util
import io
import struct
import warnings
from typing import cast

import numpy as np
from PIL import Image, ImageCms, ImageFile, JpegImagePlugin, features

from .errors import PhotoRejected
from .file_kinds import picture_format
from .photo_work import is_too_much_profile, refuse_too_much_work

MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 50_000_000

# These cover cameras, telephones and web pages; every further decoder is more surface to attack.
ALLOWED_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF")
_ADVICE = "Save it as JPEG, PNG or WebP and send it again."
# Telephones' own format, read where Pillow's plugin for it is installed.
_HEIC_PLUGIN = "pillow_heif"
HEIC_UNAVAILABLE = "heic_unavailable"
TRANSPARENT = "transparent"

# A JPEG of up to this many times the accepted pixels, as telephones make them, is decoded at half its size; decoders of
# other formats have no such way.
_MOST_REDUCTION = 4
# Of a progressive one the coefficients of all pixels lie in memory, 6 bytes a pixel at most, whatever it is reduced to:
# 110 million pixels, as the largest sensors of telephones have, take 660 MB.
_MOST_PROGRESSIVE_REDUCTION = 2.2
# Below this quality (of the Independent JPEG Group's scale) a face is made of blocks of eight pixels in one color. The
# least in 276 public photographs was 50.
MIN_JPEG_QUALITY = 10

# The finest step of the brightness table of ITU-T T.81, annex K, which stands for quality 50.
_FINEST_STEP = 10

# A larger color profile than this is not a camera's.
_MAX_PROFILE_BYTES = 4 * 1024 * 1024

_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    data: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS, opaque: bool = False
) -> np.ndarray:
    """Decode one photo from an untrusted source.

    The first frame only, turned as its EXIF orientation says, colors brought to sRGB where its profile can
    be read, transparency laid on white, 16 bits reduced to 8.

    Args:
        data: the file's content.
        max_bytes: largest file that is looked at.
        max_pixels: largest width x height that is decoded.
        opaque: refuse a picture with transparent parts.

    Returns:
        uint8 [h, w, 3], RGB.

    Raises:
        PhotoRejected: too_many_bytes, not_an_image, format_not_allowed, heic_unavailable, too_many_pixels, too_much_work,
            too_compressed, truncated or transparent.
    """
    if len(data) > max_bytes:
        raise too_many_bytes(len(data), max_bytes)
    image_format = _allowed_format(data)
    if image_format == "WEBP":
        # Pillow's WebP reader allocates the canvas when it opens the file, so the header is read here first.
        _check_pixels(_webp_dimensions(data), max_pixels)
    if image_format == "PNG":
        _check_pixels(_png_dimensions(data), max_pixels)
    refuse_too_much_work(data, image_format, max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=[image_format])
            _reduce(image, max_pixels)
            _check_pixels(image.size, max_pixels)
            if image_format == "JPEG":
                _refuse_coarse_jpeg(image)
                _refuse_damaged_jpeg(data)
            _load(image)
            # A HEIC file's true size may turn out other than its header says.
            _check_pixels(image.size, max_pixels)
            if opaque and _is_seen_through(image):
                raise PhotoRejected(TRANSPARENT, "The picture has transparent parts. Send it opaque.")
            return _to_srgb(_upright(image))
    except PhotoRejected:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(None, max_pixels) from error
    except MemoryError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        RuntimeError,
        struct.error,
    ) as error:
        # Pillow's readers answer damage with any of these.
        raise _damaged() from error


def reduction(data: bytes, max_pixels: int = MAX_PIXELS) -> float:
    """By what factor `decode` shrinks a photo: 1, or more for a JPEG of more pixels than are accepted.

    Points that a user gave in the photo's own pixels are divided by it.
    """
    if picture_format(data) != "JPEG":
        return 1.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=["JPEG"])
            full = image.size[0]
            _reduce(image, max_pixels)
            return full / image.size[0]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 1.0  # `decode` says what is wrong


def _reduce(image: Image.Image, max_pixels: int) -> None:
    """Have a large JPEG decoded at a half, a quarter or an eighth of its size, if that many pixels are accepted."""
    pixels = image.size[0] * image.size[1]
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return
    most = _MOST_PROGRESSIVE_REDUCTION if image.info.get("progressive") else _MOST_REDUCTION
    if max_pixels < pixels <= most * max_pixels:
        image.draft(None, (image.size[0] // 2, image.size[1] // 2))


def _refuse_damaged_jpeg(data: bytes) -> None:
    """Refuse a JPEG at which libjpeg warns of damage: Pillow passes over it, and the picture's rest is shifted.

    Raises:
        PhotoRejected: truncated.
    """
    import simplejpeg  # JPEGs alone need it

    try:
        simplejpeg.decode_jpeg(data, "Gray", fastdct=True, min_factor=8, strict=True)
    except ValueError as error:
        # What it does not know, such as arithmetic coding, is left to Pillow.
        if "orrupt" in str(error) or "remature" in str(error):
            raise _damaged() from error


def _refuse_coarse_jpeg(image: Image.Image) -> None:
    """Refuse a JPEG of lower quality than `MIN_JPEG_QUALITY`.

    Raises:
        PhotoRejected: too_compressed.
    """
    quality = _jpeg_quality(image) if isinstance(image, JpegImagePlugin.JpegImageFile) else None
    if quality is not None and quality < MIN_JPEG_QUALITY:
        sentence = (
            f"The photo was saved with a JPEG quality of about {quality:.0f} of 100, which leaves blocks of a face. Send "
            "the original."
        )
        raise PhotoRejected("too_compressed", sentence, value=round(quality, 1), threshold=MIN_JPEG_QUALITY)


def _jpeg_quality(image: JpegImagePlugin.JpegImageFile) -> float | None:
    """The quality at which the Independent JPEG Group's encoder takes the same finest step of brightness, or None.

    Source: `jpeg_quality_scaling` of libjpeg: the table of ITU-T T.81, annex K, times 50 / quality below 50, and times
    2 - quality / 50 above. The table's other steps end at 255, below quality 30.
    """
    table = image.quantization.get(0)
    if not table:
        return None
    scale = min(table) / _FINEST_STEP
    return 50 / scale if scale > 1 else 50 * (2 - scale)


def check_readable(data: bytes) -> None:
    """Whether this machine can read the photo's format at all; what is wrong with the photo itself is not looked at.

    Raises:
        PhotoRejected: heic_unavailable, which another machine, or this one after an installation, may not say.
    """
    if picture_format(data) == "HEIC" and not heic_is_read():
        raise PhotoRejected(
            HEIC_UNAVAILABLE,
            "Pictures in HEIC format are not read here, because the package pillow-heif is not installed. "
            f"{_ADVICE}",
        )


def heic_is_read() -> bool:
    """Whether the plugin for HEIC is installed."""
    return importlib.util.find_spec(_HEIC_PLUGIN) is not None


def too_many_bytes(count: int, limit: int) -> PhotoRejected:
    """The rejection of a file that is too large; `count` is what is known to be there, at least."""
    sentence = f"The file is larger than {limit / 2**20:.0f} MiB. Send a smaller version of the photo."
    return PhotoRejected("too_many_bytes", sentence, value=count, threshold=limit)


def encode_png(image: np.ndarray) -> bytes:
    """A PNG with fixed settings: the same array gives the same bytes (with one version of Pillow).

    Args:
        image: uint8 [h, w, 3] RGB, or uint8 [h, w].

    Raises:
        ValueError: if the array has another type or shape.
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"PNG needs uint8 [h, w] or [h, w, 3], got {image.dtype} {list(image.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG", compress_level=6, optimize=False)
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """Read back what `encode_png` wrote: uint8 [h, w, 3] or [h, w].

    Raises:
        ValueError: if the bytes are not such a PNG.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        image.load()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"not a PNG that encode_png wrote: {error}") from error
    if image.mode not in ("L", "RGB"):
        raise ValueError(f"not a PNG that encode_png wrote: its mode is {image.mode}")
    return np.array(image)


def _allowed_format(data: bytes) -> str:
    """The format by the first bytes, whatever the file is called."""
    found = picture_format(data)
    if found is None:
        raise PhotoRejected("not_an_image", f"The file is not a picture. {_ADVICE}")
    if found == "HEIC":
        check_readable(data)
        import pillow_heif

        # Threads beside the workers' own would fight for the cores; what is not the picture is not decoded.
        pillow_heif.register_heif_opener(
            decode_threads=1, thumbnails=False, depth_images=False, aux_images=False
        )
        return "HEIF"
    if found == "AVIF" and features.check("avif"):
        from PIL import AvifImagePlugin

        # Threads beside the workers' own would fight for the cores.
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # ty: ignore[invalid-assignment]  # its type is Literal[0]
    elif found not in ALLOWED_FORMATS or found == "AVIF":
        raise PhotoRejected("format_not_allowed", f"Pictures in {found} format are not accepted. {_ADVICE}")
    return found


def _png_dimensions(data: bytes) -> tuple[int, int]:
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise _damaged()
    return struct.unpack(">II", data[16:24])


def _webp_dimensions(data: bytes) -> tuple[int, int]:
    """Canvas size by the first chunk. Source: RFC 9649, sections 2.5 to 2.7."""
    if len(data) < 30:
        raise _damaged()
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    raise _damaged()


def _check_pixels(dimensions: tuple[int, int], max_pixels: int) -> None:
    count = dimensions[0] * dimensions[1]
    if count > max_pixels:
        raise _too_many_pixels(count, max_pixels)


def _too_many_pixels(count: int | None, limit: int) -> PhotoRejected:
    found = "far too many" if count is None else f"{count / 1e6:.1f} million"
    sentence = (
        f"The picture has {found} pixels; at most {limit / 1e6:.1f} million are accepted. Scale it down."
    )
    return PhotoRejected("too_many_pixels", sentence, value=count, threshold=limit)


def _damaged() -> PhotoRejected:
    return PhotoRejected("truncated", "The file is damaged or incomplete. Copy or export it again.")


def _load(image: Image.Image) -> None:
    """Decode the first frame, strictly even where other code has told Pillow to be lenient."""
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image.load()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _upright(image: Image.Image) -> Image.Image:
    """Turn the picture as its EXIF orientation says; an unreadable tag leaves it as it is."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # EXIF blocks in the wild are broken in every way; the picture itself has been read by now.
        return image
    turn = _ORIENTATIONS.get(orientation) if isinstance(orientation, int) else None
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = dict(image.info)
    return turned


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _is_seen_through(image: Image.Image) -> bool:
    # 16-bit grayscale loses its transparent gray level below.
    is_deep = image.mode.startswith("I")
    if is_deep or not _has_alpha(image):
        return False
    extrema = cast(tuple[tuple[int, int], ...], image.convert("RGBA").getextrema())  # of each channel
    return extrema[3][0] < 255


def _to_srgb(image: Image.Image) -> np.ndarray:
    """uint8 [h, w, 3] of any mode that the allowed formats can have."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit grayscale: Pillow would clip instead of scaling.
        gray = np.clip(np.asarray(image, dtype=np.float32) / 257, 0, 255)
        image = Image.fromarray(np.rint(gray).astype(np.uint8))
    alpha = None
    if _has_alpha(image):
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode in ("P", "1"):
        image = image.convert("RGB")
    image = _apply_profile(image, profile).convert("RGB")
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return np.array(image)


def _apply_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Colors by the embedded profile to sRGB; a profile that cannot be used is left out."""
    if not profile or len(profile) > _MAX_PROFILE_BYTES or image.mode not in ("RGB", "CMYK", "L"):
        return image
    if is_too_much_profile(profile):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        return cast(Image.Image, converted)  # None only where it works in place
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return image
