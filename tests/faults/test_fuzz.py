"""Thousands of damaged files: whatever comes from outside is used, or refused with a reason, and never escapes."""

from __future__ import annotations

from collections import Counter
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from faceid_core import photos
from faceid_core.errors import ConfigurationError, PhotoRejected
from faceid_core.evaluate.grid import parse_grid
from faceid_core.identity import read_manifest
from faceid_core.personalize.tokens import IdentityTokens, UnreadableTokens

pytestmark = pytest.mark.exhaustive
ROUNDS = 3000
MANIFEST = (
    "identity_id,photo,class_word,sha256,consent_until,face_box\n"
    f'ann,ann.png,person,{"ab" * 32},2999-01-01,"1,2,30,40"\n'
    'bob,"b, o.png",woman,,,\n'
    "cy-3,c.jpg,man,,2030-12-31,\n"
)
GRID = """\
name: g
prompts:
  - {id: a, text: "a photo of V* on the beach", category: scene, expected: {scene: beach}}
  - {id: b, text: "a photo of V* holding a book", category: action, expected: {action: [book, guitar]}}
"""


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """`data` with bytes changed, cut out, doubled or swapped, one to eight times."""
    broken = bytearray(data)
    for _ in range(int(random.integers(1, 9))):
        if not broken:
            return b""
        at = int(random.integers(len(broken)))
        length = int(random.integers(1, 33))
        match int(random.integers(5)):
            case 0:
                broken[at] ^= 1 << int(random.integers(8))
            case 1:
                broken[at : at + length] = random.integers(0, 256, length, dtype=np.uint8).tobytes()
            case 2:
                del broken[at : at + length]
            case 3:
                broken[at:at] = broken[at : at + length]
            case 4:
                del broken[at:]
    return bytes(broken)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_damaged_photos(image_format):
    buffer = BytesIO()
    Image.fromarray(astronaut()[:160, 140:300]).save(
        buffer, image_format, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"
    )
    random, seen = np.random.default_rng(1), Counter()
    for _ in range(ROUNDS):
        try:
            image = photos.decode(damaged(buffer.getvalue(), random), max_pixels=1_000_000)
        except PhotoRejected as rejection:
            assert rejection.sentence
            seen[rejection.reason] += 1
        else:
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
            seen["used"] += 1
    assert sum(seen.values()) == ROUNDS and len(seen) > 1, seen


def test_damaged_tokens():
    tokens = IdentityTokens(
        tensors={"text_encoder": torch.arange(80.0).reshape(5, 2, 1, 8)},
        boundaries=(200, 400, 600, 800),
        base_digest="ab" * 32,
        class_word="person",
        template="a photo of the face of {}",
        training_timesteps=1000,
        prediction_type="v_prediction",
        photo_digest="cd" * 32,
        method={"steps": 3},
    )
    data, random, seen = tokens.to_bytes(), np.random.default_rng(2), Counter()
    for _ in range(ROUNDS):
        try:
            read = IdentityTokens.from_bytes(damaged(data, random))
        except UnreadableTokens:
            seen["refused"] += 1
        else:  # only the numbers or a text changed
            assert read.stages == 5 and all(t.dtype == torch.float32 for t in read.tensors.values())
            seen["read"] += 1
    assert seen["refused"] > ROUNDS / 10, seen


def test_damaged_manifests(tmp_path):
    path, random, seen = tmp_path / "identities.csv", np.random.default_rng(3), Counter()
    for _ in range(ROUNDS):
        path.write_bytes(damaged(MANIFEST.encode(), random))
        try:
            people = read_manifest(str(path))
        except ConfigurationError as error:
            assert str(path) in str(error)
            seen["refused"] += 1
        else:
            ids = [person.identity_id for person in people]
            assert len(ids) == len(set(ids))
            seen["read"] += 1
    assert seen["refused"] and seen["read"], seen


def test_damaged_grids():
    random, seen = np.random.default_rng(4), Counter()
    for _ in range(ROUNDS):
        text = damaged(GRID.encode(), random).decode("utf-8", "replace")
        try:
            grid = parse_grid(text, source="grid.yaml")
        except ConfigurationError as error:
            assert "grid.yaml" in str(error)
            seen["refused"] += 1
        else:
            assert all(prompt.text.count("V*") == 1 for prompt in grid.prompts)
            seen["read"] += 1
    assert seen["refused"] and seen["read"], seen
