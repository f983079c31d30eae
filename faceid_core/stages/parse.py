"""Stage parse: classes per pixel of the aligned crop."""

from __future__ import annotations

from faceid_core.stages.files import json_output, png_output, read_json, read_png
from faceid_core.stages.work import Subject, Work


class Parse:
    """See the module's sentence. Outputs: labels.png (index = class), parser.json."""

    name, version, batch = "parse", 1, 64

    def execute(self, works, inputs, models, tick):
        """Parse all crops of the batch."""
        from faceid_core.faces.detect import face_from_facts
        from faceid_core.faces.parse import parse_face

        for index, (work, blobs) in enumerate(zip(works, inputs, strict=True)):
            if "subject" in blobs:
                yield index, _given(blobs["subject"]), {}
                continue
            face = face_from_facts(read_json(blobs["detection"]))
            labels = parse_face(read_png(blobs["crop"]), models.parser, face=face)
            about = {"parser": models.parser.name, "approximate": bool(models.parser.approximate)}
            where = {"device": models.parser.device} if hasattr(models.parser, "device") else {}
            yield index, {"labels.png": png_output(labels), "parser.json": json_output(about)}, where
            tick(work.subject, 1, 1)


def _given(subject: bytes):
    """The outputs for a subject that the user pointed at: its pixels are one class."""
    from faceid_core.faces.mask import GIVEN_CLASS
    from faceid_core.geometry.classes import INDEX

    labels = (read_png(subject) > 127).astype("uint8") * INDEX[GIVEN_CLASS]
    about = {"parser": "given", "approximate": False}
    return {"labels.png": png_output(labels), "parser.json": json_output(about)}


STAGE = Parse()


def plan_works(plan, subject: Subject) -> list[Work]:
    """People only: the parse serves the mask, which serves training."""
    if subject.kind != "person":
        return []
    sources = {
        "crop": subject.source("detect", "crop.png"),
        "detection": subject.source("detect", "detection.json"),
    }
    if subject.is_given:
        sources = {"subject": subject.source("detect", "subject.png")}
        return [plan.work(subject, "parse", STAGE.version, {"backend": "given"}, sources, ())]
    return [
        plan.work(
            subject, "parse", STAGE.version, {"backend": plan.config.faces.backend}, sources, ("face_parser",)
        )
    ]
