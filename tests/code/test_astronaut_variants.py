"""One photograph in every shape in which people send photographs: each is used alike, or turned away for its reason."""

import io
from functools import cache

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from faceid_core import photos
from faceid_core.config import NightlyConfig
from faceid_core.errors import PhotoRejected
from faceid_core.faces.backends import load_faces
from faceid_core.faces.prepare import prepare_photo
from faceid_core.faces.quality import Limits
from faceid_core.geometry.align import FRAMINGS

# Pupil centers of astronaut(), read off an eightfold enlargement.
TRUE_EYES = np.array([(203.5, 101.0), (246.9, 103.4)])
PHOTO = Image.fromarray(data.astronaut())


@cache
def faces():
    return load_faces("deepface")


def prepared(file, **options):
    """A photo as a run with `backend: deepface` would take it."""
    config = NightlyConfig(faces={"backend": "deepface"}).faces
    detector, parser = faces()
    return prepare_photo(
        file,
        detector=detector,
        parser=parser,
        size=256,
        limits=Limits.of(config.limits()),
        framing=config.crop_framing,
        **options,
    )


def encoded(image, image_format="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def resized(scale):
    return cv2.resize(data.astronaut(), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def lying_with_tag():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(PHOTO.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)


def sixteen_bits():
    return encoded(Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257))


def with_alpha():
    clear = PHOTO.convert("RGBA")
    # The person stays, the corners are clear.
    clear.putalpha(Image.radial_gradient("L").resize(PHOTO.size).point(lambda v: 255 if v < 200 else 0))
    return encoded(clear)


def in_a_large_frame():
    """40 megapixels with the photo somewhere in it."""
    frame = np.full((5480, 7300, 3), 200, np.uint8)
    frame[3000:3512, 4100:4612] = data.astronaut()
    return encoded(frame, "PNG", compress_level=1)


USED = {
    "as it is": (lambda: encoded(PHOTO), (0, 0)),
    "orientation tag": (lying_with_tag, (0, 0)),
    "16 bits": (sixteen_bits, (0, 0)),
    "CMYK": (lambda: encoded(PHOTO.convert("CMYK"), "JPEG", quality=95), (0, 0)),
    "grayscale": (lambda: encoded(PHOTO.convert("L")), (0, 0)),
    "palette": (lambda: encoded(PHOTO.quantize(128)), (0, 0)),
    "alpha": (with_alpha, (0, 0)),
    "40 megapixels": (in_a_large_frame, (4100, 3000)),
}


@pytest.mark.parametrize("variant", USED)
def test_the_same_eyes_come_to_the_same_places(variant):
    make, offset = USED[variant]
    found = prepared(make()).detection
    placed = ((TRUE_EYES + offset) @ found.transform[:, :2].T + found.transform[:, 2]) / 256
    assert np.abs(placed - FRAMINGS["portrait"]).max() < 0.02


def test_crops_of_color_variants_show_the_same():
    usual = prepared(encoded(PHOTO)).detection.crop.astype(int)
    for variant, most in (("orientation tag", 5), ("CMYK", 4), ("palette", 12)):
        crop = prepared(USED[variant][0]()).detection.crop
        assert np.abs(crop - usual).mean() < most, variant
    gray = prepared(USED["grayscale"][0]()).detection.crop
    assert np.abs(prepared(sixteen_bits()).detection.crop.astype(int) - gray).mean() < 2
    assert (gray.max(axis=2) == gray.min(axis=2)).all()


REJECTED = {
    "tiny": (lambda: encoded(resized(0.3)), ("face_too_small", "no_face")),
    "very tiny": (lambda: encoded(resized(0.05)), ("no_face",)),
    "blurred": (lambda: encoded(cv2.GaussianBlur(data.astronaut(), (0, 0), 3.0)), ("too_blurred",)),
    # Too blurred for the eyes to be found: blur is the reason, not the eyes.
    "much blurred": (lambda: encoded(cv2.GaussianBlur(data.astronaut(), (0, 0), 4.0)), ("too_blurred",)),
    "two faces": (
        lambda: encoded(np.concatenate([data.astronaut(), data.astronaut()], axis=1)),
        ("several_faces",),
    ),
    # The half of the face below the eyes, and the half above.
    "cropped at the eyes, lower": (lambda: encoded(data.astronaut()[102:]), ("no_face", "eyes_not_found")),
    "cropped at the eyes, upper": (lambda: encoded(data.astronaut()[:102]), ("no_face", "eyes_not_found")),
    "90 degrees turned": (lambda: encoded(PHOTO.transpose(Image.Transpose.ROTATE_90)), ("no_face",)),
    "burnt out": (
        lambda: encoded(np.clip(data.astronaut().astype(int) * 17 // 10, 0, 255).astype(np.uint8)),
        ("badly_exposed",),
    ),
    "frame beyond the limit": (
        lambda: encoded(np.zeros((7200, 7000), np.uint8), compress_level=1),
        ("too_many_pixels",),
    ),
}


@pytest.mark.parametrize("variant", REJECTED)
def test_what_cannot_be_used_says_why_and_what_to_do(variant):
    make, reasons = REJECTED[variant]
    with pytest.raises(PhotoRejected) as caught:
        prepared(make())
    assert caught.value.reason in reasons, caught.value
    assert any(word in caught.value.sentence for word in ("Send", "Scale"))


def test_of_two_faces_the_box_of_the_manifest_chooses():
    two = encoded(np.concatenate([data.astronaut(), data.astronaut()], axis=1))
    for shift in (0, 512):
        found = prepared(two, face_box=(177.0 + shift, 66.0, 272.0 + shift, 161.0)).detection
        assert np.abs(np.array(found.eyes) - TRUE_EYES - (shift, 0)).max() < 3 and found.others == 1


def test_padding_beyond_the_photo_is_neither_valid_nor_masked():
    cut = encoded(data.astronaut()[:, 150:])
    made = prepared(cut, region="head")
    assert 0.6 < made.detection.valid.mean() < 0.95
    assert made.mask[~made.detection.valid].sum() == 0 and made.mask.sum() > 0


def test_the_portrait_keeps_hair_and_shoulders():
    found = prepared(encoded(PHOTO)).detection
    # Top of the hair and the ring of the suit's collar, read off the photo.
    for x, y in ((225, 20), (165, 175), (290, 180)):
        px, py = found.transform @ (x, y, 1)
        assert 0 < px < 256 and 0 < py < 256, (x, y)


def test_metadata_does_not_come_along():
    exif = Image.Exif()
    exif[0x010F] = "a camera that must stay unknown"
    made = prepared(encoded(PHOTO, "JPEG", quality=95, exif=exif, comment=b"and a comment"))
    for picture in (made.picture(), photos.encode_png(made.detection.crop)):
        assert b"camera" not in picture and b"comment" not in picture
