"""Mutated inputs for everything that reads what comes from outside: used, or refused by a named error, within bounds.

    python -m tests.faults.fuzzing                            # 100,000 inputs for each reader
    python -m tests.faults.fuzzing decoder --inputs 5000 --seed 7

An input that escapes (another exception, more than ten seconds) is written to a file, named, and ends the command with 1.
"""

from __future__ import annotations

import argparse
import io
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from faceid_core import photos
from faceid_core.config.parse import load_config
from faceid_core.errors import ConfigurationError, PhotoRejected
from faceid_core.evaluate.grid import parse_grid
from faceid_core.identity import parse_manifest

MOST_SECONDS = 10.0
MOST_PIXELS = 1_000_000

MANIFEST = (
    "identity_id,photo,class_word,sha256,consent_until,face_box\n"
    f'ann,ann.png,person,{"ab" * 32},2999-01-01,"1,2,30,40"\n'
    'bob,"b, o.png",woman,,,\n'
    "cy-3,s3://bucket/c.jpg,man,,2030-12-31,\n"
)
CONFIGURATION = """\
name: nightly
identities: people/identities.csv
faces: {backend: deepface, detector: dlib, min_face_pixels: 60.5, mask_region: face_hair}
base_model: {source: miniature, precision: bfloat16}
personalize: {preset: semantic-fidelity, slots: 4, method: {steps: 30, learning_rate: 2.0e-2}}
generate: {seeds: 2, use_stages: [1, 2], guidance_scale: 7.5}
run: {finish_by: '05:30', timezone: Europe/Berlin, only: [ann, bob]}
s3: {endpoint_url: "http://localhost:9000", path_style: true}
"""
GRID = """\
name: g
prompts:
  - {id: a, text: "a photo of V* on the beach", category: scene, expected: {scene: beach}}
  - {id: b, text: "a photo of V* holding a book", category: action, expected: {action: [book, guitar]}}
"""
# What breaks readers of text more often than chance finds it.
TEXT_PIECES = (
    b"{", b"[", b": ", b"- ", b"&a ", b"*a", b"!!python/object:os.system ", b"!!binary ", b"? ", b"|", b">-\n", b"\t",
    b"2024-13-45", b"0x", b"1" * 5000, b"1e999", b".nan", b"-.inf", b"null", b"~", b"<<: *a", b'"', b"'", b"\0", b"\xff",
    b"\xef\xbb\xbf", "\u2028".encode(), b"[" * 400, b"\r", b",,,,,,", b"../../etc/passwd", b"s3://", b"1,2,3,4",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Args:
        seeds: sound inputs, which are mutated.
        read: reads one input and says what came of it; any exception is an escape.
        pieces: what is also spliced in.
    """

    seeds: Sequence[bytes]
    read: Callable[[bytes], str]
    pieces: Sequence[bytes] = ()


@dataclass
class Tally:
    """What became of a target's inputs."""

    seen: Counter[str] = field(default_factory=Counter)
    escaped: list[tuple[bytes, str]] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0


class TooSlow(BaseException):
    """An input took longer than `MOST_SECONDS`; no reader's `except Exception` may swallow it."""


def mutated(data: bytes, random: np.random.Generator, pieces: Sequence[bytes] = ()) -> bytes:
    """`data` with bytes changed, cut out, doubled, swapped or spliced in, one to eight times."""
    broken = bytearray(data)
    for _ in range(int(random.integers(1, 9))):
        if not broken:
            return b""
        at = int(random.integers(len(broken)))
        length = int(random.integers(1, 33))
        match int(random.integers(6 if pieces else 5)):
            case 0:
                broken[at] ^= 1 << int(random.integers(8))
            case 1:
                broken[at : at + length] = random.integers(0, 256, length, dtype=np.uint8).tobytes()
            case 2:
                del broken[at : at + length]
            case 3:
                broken[at:at] = broken[at : at + length]
            case 4:
                # Cutting off is one way in five of eight: most inputs should keep their end.
                if random.integers(4) == 0:
                    del broken[at:]
            case 5:
                broken[at:at] = pieces[int(random.integers(len(pieces)))]
    return bytes(broken)


def run(target: Target, inputs: int, *, seed: int = 0) -> Tally:
    """Feed a reader so many mutated inputs; the same seed gives the same inputs."""
    random, tally = np.random.default_rng(seed), Tally()
    before = signal.signal(signal.SIGALRM, _too_slow)
    began = time.perf_counter()
    try:
        for number in range(inputs):
            data = mutated(target.seeds[number % len(target.seeds)], random, target.pieces)
            started = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
            try:
                tally.seen[target.read(data)] += 1
            except (Exception, TooSlow) as error:
                tally.escaped.append((data, f"{type(error).__name__}: {error}"))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            tally.slowest = max(tally.slowest, time.perf_counter() - started)
    finally:
        signal.signal(signal.SIGALRM, before)
    tally.seconds = time.perf_counter() - began
    return tally


def targets() -> dict[str, Target]:
    """Every reader by name."""
    return {
        "decoder": Target(_pictures(), _decode),
        "manifest": Target([MANIFEST.encode(), _parquet()], _manifest, TEXT_PIECES),
        "configuration": Target([CONFIGURATION.encode()], _configuration, TEXT_PIECES),
        "tokens": Target([_tokens()], _read_tokens, TEXT_PIECES),
        "grid": Target([GRID.encode()], _grid, TEXT_PIECES),
    }


def _decode(data: bytes) -> str:
    try:
        image = photos.decode(data, max_pixels=MOST_PIXELS)
    except PhotoRejected as rejection:
        assert rejection.sentence and "\0" not in rejection.sentence
        return rejection.reason
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert image.shape[0] * image.shape[1] <= MOST_PIXELS
    return "used"


def _manifest(data: bytes) -> str:
    try:
        people = parse_manifest(data, source="identities", base="/people")
    except ConfigurationError as error:
        assert "identities has " in str(error)
        return "refused"
    ids = [person.identity_id for person in people]
    assert len(ids) == len(set(ids)) and all(person.photo and person.class_word for person in people)
    return "read"


def _configuration(data: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "night.yaml"
        path.write_bytes(data)
        try:
            config = load_config(path)
        except ConfigurationError as error:
            assert "night.yaml" in str(error)
            return "refused"
    assert len(config.digest()) == 64
    return "read"


def _read_tokens(data: bytes) -> str:
    from faceid_core.personalize.tokens import IdentityTokens, UnreadableTokens

    try:
        tokens = IdentityTokens.from_bytes(data)
    except UnreadableTokens:
        return "refused"
    assert tokens.stages >= 1 and all(str(t.dtype) == "torch.float32" for t in tokens.tensors.values())
    return "read"


def _grid(data: bytes) -> str:
    try:
        grid = parse_grid(data.decode("utf-8", "replace"), source="grid.yaml")
    except ConfigurationError as error:
        assert "grid.yaml" in str(error)
        return "refused"
    assert all(prompt.text.count("V*") == 1 for prompt in grid.prompts)
    return "read"


def _pictures() -> list[bytes]:
    """A face in every kind of file that is let in, small so that many can be tried."""
    from PIL import Image, ImageCms
    from skimage.data import astronaut

    face = Image.fromarray(astronaut()[60:156, 170:266])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.asarray(face.convert("L")).astype(np.uint16) * 257)
    clear = face.convert("RGBA")
    clear.putalpha(128)
    kinds = [
        (face, "JPEG", {"exif": exif, "icc_profile": profile}),
        (face, "JPEG", {"progressive": True}),
        (face.convert("CMYK"), "JPEG", {}),
        (face, "PNG", {"exif": exif, "icc_profile": profile}),
        (deep, "PNG", {}),
        (face.quantize(32), "PNG", {"transparency": 3}),
        (clear, "PNG", {}),
        (face, "WEBP", {"quality": 80, "exif": exif}),
        (clear, "WEBP", {"lossless": True, "icc_profile": profile}),
    ]
    if photos.heic_is_read():
        import pillow_heif

        pillow_heif.register_heif_opener()
        kinds.append((face, "HEIF", {"exif": exif.tobytes()}))
    files = []
    for image, image_format, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, image_format, **options)
        files.append(buffer.getvalue())
    return files


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {
        "identity_id": ["ann", "bob"],
        "photo": ["a.png", "b.png"],
        "class_word": ["man", "woman"],
        "face_box": [[1.0, 2.0, 30.0, 40.0], None],
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(rows), buffer)
    return buffer.getvalue()


def _tokens() -> bytes:
    import torch

    from faceid_core.personalize.tokens import IdentityTokens

    return IdentityTokens(
        tensors={"text_encoder": torch.arange(80.0).reshape(5, 2, 1, 8)},
        boundaries=(200, 400, 600, 800),
        base_digest="ab" * 32,
        class_word="person",
        template="a photo of the face of {}",
        training_timesteps=1000,
        prediction_type="v_prediction",
        photo_digest="cd" * 32,
        method={"steps": 3},
    ).to_bytes()


def _too_slow(*_) -> None:
    raise TooSlow(f"more than {MOST_SECONDS:.0f} seconds")


def main() -> int:
    """The command."""
    known = targets()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--inputs", type=int, default=100_000, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    unknown = set(given.targets) - set(known)
    if unknown:
        parser.error(f"unknown target {min(unknown)}; use {', '.join(known)}")
    escaped = 0
    for name in given.targets or known:
        tally = run(known[name], given.inputs, seed=given.seed)
        counts = ", ".join(f"{count:,} {what}" for what, count in tally.seen.most_common())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{name}: {given.inputs:,} inputs in {tally.seconds:.0f} s ({given.inputs / tally.seconds:,.0f} a second, "
            f"slowest {tally.slowest:.2f} s, peak memory {peak:,.0f} MB): {counts}; {len(tally.escaped)} escaped"
        )
        for data, what in tally.escaped[:10]:
            with tempfile.NamedTemporaryFile(prefix=f"faceid-{name}-", delete=False) as file:
                file.write(data)
            print(f"  {what[:300]}  (input: {Path(file.name)})")
        escaped += len(tally.escaped)
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
