"""Stage detect: untrusted bytes to a safe picture, one face, landmarks and an aligned crop; or a subject as given."""

from __future__ import annotations

from faceid_core.errors import ConfigurationError, PhotoRejected
from faceid_core.stages.files import json_output, png_output, rejection_output
from faceid_core.stages.work import Subject, Work


class Detect:
    """See the module's sentence. Outputs: crop.png, valid.png, detection.json (and subject.png), or rejection.json."""

    name, version, batch = "detect", 1, 64

    def execute(self, works, inputs, models, tick):
        """Decode, detect and align each photo; a rejection is a result like any other."""
        from faceid_core import photos
        from faceid_core.faces.detect import detect_face
        from faceid_core.faces.quality import Limits
        from faceid_core.geometry.align import FRAMINGS

        for index, (work, blobs) in enumerate(zip(works, inputs, strict=True)):
            p = work.call.parameters
            limits = Limits.of(p)
            try:
                image = photos.decode(
                    blobs["photo"], max_bytes=limits.max_bytes, max_pixels=limits.max_pixels
                )
                if _is_given(p, blobs):
                    yield index, _given(image, p, blobs), {}
                    continue
                found = detect_face(
                    image,
                    models.detector,
                    face_box=tuple(p["face_box"]) if p["face_box"] else None,
                    crop_pixels=p["crop_pixels"],
                    eye_targets=FRAMINGS[p.get("framing", "close_up")],
                    limits=limits,
                )
            except PhotoRejected as rejection:
                if rejection.reason == photos.HEIC_UNAVAILABLE:
                    # The driver has the plugin: this is the worker's fault, not the photo's, and must not be kept.
                    yield (
                        index,
                        ConfigurationError(
                            "the package pillow-heif is missing on a worker; install it there as well"
                        ),
                        {},
                    )
                    continue
                yield index, rejection_output(rejection), {}
                continue
            yield (
                index,
                {
                    "crop.png": png_output(found.crop),
                    "valid.png": png_output(found.valid.astype("uint8") * 255),
                    "detection.json": json_output(found.facts()),
                },
                {},
            )
            tick(work.subject, 1, 1)


def _is_given(parameters, blobs) -> bool:
    return "subject_box" in parameters or "subject_mask" in blobs


def _given(image, parameters, blobs):
    """The outputs for a subject that the user pointed at; raises PhotoRejected."""
    from faceid_core.faces.subject import cut_subject, read_subject_mask

    mask, box = None, parameters.get("subject_box")
    if "subject_mask" in blobs:
        limits = {name: parameters[name] for name in ("max_bytes", "max_pixels")}
        mask = read_subject_mask(blobs["subject_mask"], **limits)
    cut = cut_subject(
        image,
        box=tuple(box) if box else None,
        mask=mask,
        crop_pixels=parameters["crop_pixels"],
        least_pixels=parameters["min_face_pixels"],
    )
    return {
        "crop.png": png_output(cut.crop),
        "valid.png": png_output(cut.valid.astype("uint8") * 255),
        "subject.png": png_output(cut.inside.astype("uint8") * 255),
        "detection.json": json_output(cut.facts()),
    }


STAGE = Detect()


def plan_works(plan, subject: Subject) -> list[Work]:
    """The photo's detection; people and named people have one, the class word has none."""
    if subject.photo_digest is None:
        return []
    faces = plan.config.faces
    parameters = {
        "backend": faces.backend,
        "crop_pixels": plan.crop_pixels,
        "face_box": list(subject.face_box) if subject.face_box else None,
        **faces.limits(),
    }
    sources, roles = {"photo": subject.photo()}, ("face_detector",)
    if subject.is_given:
        roles = ()
        if subject.subject_box:
            parameters["subject_box"] = list(subject.subject_box)
        if subject.subject_mask_digest:
            sources["subject_mask"] = subject.subject_mask()
            parameters["mask"] = "opaque"  # since version 1 once took transparent ones
    elif faces.crop_framing != "close_up":
        parameters["framing"] = faces.crop_framing
    return [plan.work(subject, "detect", STAGE.version, parameters, sources, roles)]
