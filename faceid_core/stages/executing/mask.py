"""Stage mask: the region that stands for the person, and the verdict on its quality."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from faceid_core.errors import PhotoRejected
from faceid_core.faces.mask import make_mask
from faceid_core.geometry.align import FRAMINGS
from faceid_core.progress import ProgressCallback
from faceid_core.stages.executing.stage import Inputs, StageResult
from faceid_core.stages.files import json_output, png_output, read_png, rejection_output
from faceid_core.stages.models import Models
from faceid_core.stages.work import Work


def execute(
    works: Sequence[Work], inputs: Sequence[Inputs], models: Models, on_progress: ProgressCallback
) -> Iterator[StageResult]:
    """Make each mask from its labels, without a model.

    Outputs: mask.png (255 = inside), verdict.json, or rejection.json.
    """
    for index, (work, blobs) in enumerate(zip(works, inputs, strict=True)):
        parameters = work.call.parameters
        try:
            mask, verdict = make_mask(
                read_png(blobs["labels"]),
                region=parameters["region"],
                valid=read_png(blobs["valid"]) > 0,
                eye_targets=FRAMINGS[parameters.get("framing", "close_up")],
                max_covered_share=parameters.get("max_covered_share"),
                min_filled_share=parameters.get("min_filled_share"),
            )
        except PhotoRejected as rejection:
            outputs = rejection_output(rejection)
        else:
            picture = np.rint(np.asarray(mask) * 255).astype("uint8")
            outputs = {"mask.png": png_output(picture), "verdict.json": json_output(verdict)}
        on_progress(work.subject, 1, 1)
        yield index, outputs, {}
