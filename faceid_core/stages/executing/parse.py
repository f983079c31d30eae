"""Stage parse: classes per pixel of the aligned crop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from faceid_core.faces.detect import face_from_facts
from faceid_core.faces.mask import GIVEN_CLASS
from faceid_core.faces.parse import parse_face
from faceid_core.geometry.classes import INDEX
from faceid_core.progress import ProgressCallback
from faceid_core.stages.executing.stage import Inputs, Outputs, StageResult
from faceid_core.stages.files import json_output, png_output, read_json, read_png
from faceid_core.stages.models import Models
from faceid_core.stages.work import Work


def execute(
    works: Sequence[Work], inputs: Sequence[Inputs], models: Models, on_progress: ProgressCallback
) -> Iterator[StageResult]:
    """Parse each crop. Outputs: labels.png (index = class), parser.json."""
    for index, (work, blobs) in enumerate(zip(works, inputs, strict=True)):
        if "subject" in blobs:
            outputs, where = _given(blobs["subject"]), {}
        else:
            parser = models.parser
            face = face_from_facts(read_json(blobs["detection"]))
            labels = parse_face(read_png(blobs["crop"]), parser, face=face)
            about = {"parser": parser.name, "approximate": bool(parser.approximate)}
            outputs = {"labels.png": png_output(labels), "parser.json": json_output(about)}
            where = {"device": parser.device} if hasattr(parser, "device") else {}
        on_progress(work.subject, 1, 1)
        yield index, outputs, where


def _given(subject: bytes) -> Outputs:
    """The outputs for a subject that the user pointed at: its pixels are one class."""
    labels = (read_png(subject) > 127).astype("uint8") * INDEX[GIVEN_CLASS]
    about = {"parser": "given", "approximate": False}
    return {"labels.png": png_output(labels), "parser.json": json_output(about)}
