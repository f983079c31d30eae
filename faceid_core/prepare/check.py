"""Checks photos before a run: decode, detect, parse and mask, for each identity of a manifest, in several processes."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from faceid_core import photos
from faceid_core.config import NightlyConfig
from faceid_core.cpus import available_cpus
from faceid_core.errors import PhotoRejected, StoreError
from faceid_core.faces.backends import load_face_models
from faceid_core.faces.detect import Detection
from faceid_core.faces.picture import overlay_mask
from faceid_core.faces.prepare import Prepared, prepare_photo
from faceid_core.faces.quality import Limits
from faceid_core.faces.subject import cut_subject, read_subject_mask, reduced
from faceid_core.geometry.protocols import Point
from faceid_core.identity import Identity
from faceid_core.photo_folder import printable
from faceid_core.private import write_private
from faceid_core.run.photo_source import PhotoSource, mask_of
from faceid_core.stages.planning import detect, mask, parse
from faceid_core.store import S3Settings
from faceid_core.store.keys import canonical_json, sha256_hex
from faceid_core.weights.required import DETECTOR, PARSER, ModelRef, required
from faceid_core.weights.resolve import resolve

THUMBNAIL_PIXELS = 192
# A crop of which less than this is photo says so.
_LITTLE_PHOTO = 0.5
# What a worker answers for a photo that is as it was.
_SAME = "same"
# Fewer photos than this are done before a second process has started.
_WORTH_A_POOL = 8


@dataclass(frozen=True)
class CheckSettings:
    """How photos are checked; plain values, so that it travels to other processes.

    Args:
        detector, parser: the models that find and label faces.
        limits: as `quality.Limits.of` takes them.
        covered, filled: see `mask.make_mask`.
        size, framing, region: of crop and mask.
        s3: how photos in S3 are reached.
        pictures: folder for one picture per person, or None for none.
    """

    detector: ModelRef
    parser: ModelRef
    limits: Mapping[str, Any]
    covered: float | None
    filled: float | None
    size: int
    framing: str
    region: str
    s3: S3Settings
    pictures: str | None

    @classmethod
    def of(cls, config: NightlyConfig, *, size: int, pictures: Path | None) -> CheckSettings:
        """The settings that a run's configuration asks for."""
        faces = config.faces
        models = {ref.role: ref for ref in required(config)}
        return cls(
            detector=models[DETECTOR],
            parser=models[PARSER],
            limits=faces.limits(),
            covered=faces.covered_limit(),
            filled=faces.filled_limit(),
            size=size,
            framing=faces.crop_framing,
            region=faces.mask_region,
            s3=config.s3.settings(),
            pictures=None if pictures is None else str(pictures),
        )

    def digest(self) -> str:
        """SHA-256 of all that decides what becomes of a photo, with the code's versions and the models' files.

        Raises:
            MissingWeights, ConfigurationError: the detector or the parser is not here.
        """
        parts = {
            "versions": [stage.SPEC.version for stage in (detect, parse, mask)],
            "models": [resolve(self.detector).digest, resolve(self.parser).digest],
            "limits": dict(self.limits),
            "mask": [self.covered, self.filled, self.region],
            "crop": [self.size, self.framing],
            "pictures": self.pictures,
        }
        return sha256_hex(canonical_json(parts))


@dataclass(frozen=True)
class CheckedPhoto:
    """What became of one photo.

    Args:
        outcome: usable, rejected (the photo's fault), or failed (ours: `reason` names the exception).
        figures: of quality and mask, by column of the table.
        digest: SHA-256 of what was checked: the photo, and what the manifest says of it; empty if it was not read.
        photo_digest: SHA-256 of the photo.
        eyes: of a usable photo's face, (left, right) in pixels of the upright photo.
        thumbnail: uint8 [h, w, 3], at most `THUMBNAIL_PIXELS` a side: the masked crop, the photo, or None.
    """

    identity_id: str
    outcome: str
    reason: str = ""
    sentence: str = ""
    value: float | None = None
    threshold: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    photo_digest: str = ""
    seconds: float = 0.0
    eyes: tuple[Point, Point] | None = None
    thumbnail: np.ndarray | None = None


def check_photos(
    people: Sequence[Identity],
    settings: CheckSettings,
    *,
    jobs: int = 0,
    known: Mapping[str, CheckedPhoto] | None = None,
) -> Generator[CheckedPhoto, None, None]:
    """Check the photo of each identity; results come as they are ready.

    A photo that kills its process (a decoder's fault, memory) fails alone: photos that were under way then are checked
    again, each in a process of its own.

    Args:
        people: from the manifest.
        settings: thresholds and models.
        jobs: processes; 0 takes one for each CPU that this process may use.
        known: by identity id, what was found with these settings; taken as it is where the photo is still the same.

    Raises:
        MissingWeights, ConfigurationError: the detector or the parser cannot be loaded.
    """
    jobs = min(jobs or available_cpus(), max(1, len(people) // _WORTH_A_POOL))
    # Loaded here as well, so that the command reports missing weights once, and not each process.
    worker = _Worker(settings)
    known = known or {}
    asked = [(person, _digest_of(known.get(person.identity_id))) for person in people]
    if jobs == 1:
        found = (worker.check(*each) for each in asked)
        yield from (known[one.identity_id] if one.outcome == _SAME else one for one in found)
        return
    waiting = deque(asked)
    while waiting:
        for each in (yield from _check_in_pool(waiting, settings, jobs, known)):
            yield _check_alone(each, settings)


# An identity, and the digest of what is known of it.
_Asked = tuple[Identity, str]


def _digest_of(known: CheckedPhoto | None) -> str:
    return "" if known is None else known.digest


def _check_in_pool(
    waiting: deque[_Asked], settings: CheckSettings, jobs: int, known: Mapping[str, CheckedPhoto]
) -> Generator[CheckedPhoto, None, list[_Asked]]:
    """Work through `waiting`; return what was under way when a process died."""
    flying: dict[Future, _Asked] = {}
    pool = _pool(settings, jobs)
    try:
        while waiting or flying:
            while waiting and len(flying) < 2 * jobs:
                flying[pool.submit(_check, *waiting[0])] = waiting[0]
                waiting.popleft()
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                found = future.result()
                del flying[future]
                yield known[found.identity_id] if found.outcome == _SAME else found
    except BrokenProcessPool:
        return list(flying.values())
    finally:
        # After an interruption the photos that no process has begun are left.
        pool.shutdown(cancel_futures=True)
    return []


def _check_alone(asked: _Asked, settings: CheckSettings) -> CheckedPhoto:
    person = asked[0]
    with _pool(settings, 1) as pool:
        try:
            return pool.submit(_check, person, "").result()
        except BrokenProcessPool:
            sentence = "The process that read this photo died. Save the photo again, as JPEG or PNG."
            return CheckedPhoto(person.identity_id, "failed", "process_died", sentence)


def _pool(settings: CheckSettings, jobs: int) -> ProcessPoolExecutor:
    # Forking a process in which libraries have started threads may hang the copy.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_process, initargs=(settings,))


_worker: _Worker | None = None


def _start_process(settings: CheckSettings) -> None:
    global _worker
    # A terminal interrupts all processes at once; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One core per process: threads beside them would fight for the same cores.
    cv2.setNumThreads(1)
    if settings.parser.name == "segformer":
        import torch  # heavy, and only this parser needs it

        torch.set_num_threads(1)
    _worker = _Worker(settings)


def _check(person: Identity, known: str) -> CheckedPhoto:
    assert _worker is not None
    return _worker.check(person, known)


class _Worker:
    """Detector, parser and photo source of one process."""

    def __init__(self, settings: CheckSettings):
        self.settings = settings
        self.detector, self.parser = load_face_models(settings.detector, settings.parser)
        self.limits = Limits.of(settings.limits)
        self.source = PhotoSource(settings.s3, self.limits.max_bytes)

    def check(self, person: Identity, known: str = "") -> CheckedPhoto:
        """Check one photo; what goes wrong is in the answer.

        Args:
            known: the digest of what is known already; if it is still the same, so says the outcome.
        """
        begun, data, digest, photo_digest = time.perf_counter(), b"", "", ""

        def checked(outcome: str, **more) -> CheckedPhoto:
            return CheckedPhoto(
                person.identity_id,
                outcome,
                seconds=round(time.perf_counter() - begun, 3),
                digest=digest,
                photo_digest=photo_digest,
                **more,
            )

        try:
            data = self.source.read(person)
            drawn = self.source.read(mask_of(person)) if person.subject_mask else b""
            digest, photo_digest = _digests(person, data, drawn)
            if known == digest:
                return checked(_SAME)
            picture, figures, thumbnail, eyes = self._prepare(person, data, drawn)
            if self.settings.pictures is not None:
                write_private(Path(self.settings.pictures) / f"{person.identity_id}.png", picture())
        except PhotoRejected as rejection:
            return checked(
                "rejected",
                reason=rejection.reason,
                sentence=rejection.sentence
                if rejection.looked_for is None
                else f"{rejection.sentence} Looked for: {printable(rejection.looked_for)}",
                value=rejection.value,
                threshold=rejection.threshold,
                thumbnail=self._photo(data),
            )
        except StoreError as error:
            return checked("failed", reason=type(error).__name__, sentence=str(error))
        except Exception as error:  # an unexpected error fails one identity, not the others
            sentence = "This is a fault of faceid or of the machine, not of the photo."
            return checked("failed", reason=type(error).__name__, sentence=sentence)
        return checked("usable", figures=figures, eyes=eyes, thumbnail=_fitted(thumbnail))

    def _prepare(
        self, person: Identity, data: bytes, drawn: bytes
    ) -> tuple[Callable[[], bytes], dict, np.ndarray, tuple[Point, Point] | None]:
        """What makes the person's picture, the figures, the crop with its mask, and the eyes.

        Args:
            data: the photo's file.
            drawn: the subject mask's file; empty for none.
        """
        if person.subject_box or person.subject_mask:
            return *self._prepare_subject(person, data, drawn), None
        made = prepare_photo(
            data,
            detector=self.detector,
            parser=self.parser,
            size=self.settings.size,
            region=self.settings.region,
            limits=self.limits,
            framing=self.settings.framing,
            max_covered_share=self.settings.covered,
            min_filled_share=self.settings.filled,
            face_box=person.face_box,
        )
        shown = overlay_mask(made.detection.crop, made.mask)
        return made.picture, _figures(made), shown, made.detection.eyes

    def _prepare_subject(
        self, person: Identity, data: bytes, drawn: bytes
    ) -> tuple[Callable[[], bytes], dict, np.ndarray]:
        """A subject that the user pointed at: no face is looked for."""
        limits, mask = self.limits, None
        most_bytes, most_pixels = limits.max_bytes, limits.max_pixels
        if person.subject_mask:
            mask = read_subject_mask(drawn, max_bytes=most_bytes, max_pixels=most_pixels)
        cut = cut_subject(
            photos.decode(data, max_bytes=most_bytes, max_pixels=most_pixels),
            box=reduced(person.subject_box, photos.reduction(data, most_pixels)),
            mask=mask,
            crop_pixels=self.settings.size,
            least_pixels=limits.min_face_pixels,
        )
        shown = overlay_mask(cut.crop, cut.inside.astype(np.float32))
        share = {"photo_share": cut.valid.mean(), "mask_share": cut.inside.mean()}
        figures = {name: round(float(value), 4) for name, value in share.items()}
        return (lambda: photos.encode_png(shown)), figures, shown

    def _photo(self, data: bytes) -> np.ndarray | None:
        """A rejected photo, small, where it can be decoded at all."""
        with suppress(PhotoRejected):
            return _fitted(
                photos.decode(data, max_bytes=self.limits.max_bytes, max_pixels=self.limits.max_pixels)
            )
        return None


def _digests(person: Identity, data: bytes, drawn: bytes) -> tuple[str, str]:
    """SHA-256 of all that is checked, and of the photo."""
    photo = hashlib.sha256(data).hexdigest()
    asked = [photo, person.face_box, person.subject_box, hashlib.sha256(drawn).hexdigest()]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest(), photo


def _figures(made: Prepared) -> dict[str, Any]:
    found = made.detection
    return {
        **found.quality,
        "confidence": round(found.confidence, 4),
        "others": found.others,
        "photo_share": round(float(found.valid.mean()), 4),
        "mask_share": made.verdict["area_share"],
        "mask_ok": made.verdict["ok"],
        "warnings": " ".join((*found.warnings, *_little_photo(found))),
    }


def _little_photo(found: Detection) -> tuple[str, ...]:
    """What is said of a crop that lies mostly beyond the photo."""
    share = float(found.valid.mean())
    if share >= _LITTLE_PHOTO:
        return ()
    return (
        f"Only {share:.0%} of the crop is photo; the rest repeats its edge. Send a photo with more around the head.",
    )


def _fitted(image: np.ndarray) -> np.ndarray:
    scale = THUMBNAIL_PIXELS / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
