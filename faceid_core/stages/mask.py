"""Stage mask: the region that stands for the person, and the verdict on its quality."""

from __future__ import annotations

import numpy as np

from faceid_core.errors import PhotoRejected
from faceid_core.stages.files import json_output, png_output, read_png, rejection_output
from faceid_core.stages.work import Subject, Work


class Mask:
    """See the module's sentence. Outputs: mask.png (255 = inside), verdict.json, or rejection.json."""

    name, version, batch = "mask", 1, 256

    def execute(self, works, inputs, models, tick):
        """Make each mask from its labels; no model is used."""
        from faceid_core.faces.mask import make_mask
        from faceid_core.geometry.align import FRAMINGS

        for index, (work, blobs) in enumerate(zip(works, inputs, strict=True)):
            valid = read_png(blobs["valid"]) > 0
            p = work.call.parameters
            try:
                mask, verdict = make_mask(
                    read_png(blobs["labels"]),
                    region=p["region"],
                    valid=valid,
                    eye_targets=FRAMINGS[p.get("framing", "close_up")],
                    max_covered_share=p.get("max_covered_share"),
                )
            except PhotoRejected as rejection:
                yield index, rejection_output(rejection), {}
                continue
            picture = np.rint(np.asarray(mask) * 255).astype("uint8")
            yield index, {"mask.png": png_output(picture), "verdict.json": json_output(verdict)}, {}
            tick(work.subject, 1, 1)


STAGE = Mask()


def plan_works(plan, subject: Subject) -> list[Work]:
    """People only."""
    if subject.kind != "person":
        return []
    sources = {
        "labels": subject.source("parse", "labels.png"),
        "valid": subject.source("detect", "valid.png"),
    }
    faces = plan.config.faces
    parameters = {"region": "subject" if subject.is_given else faces.mask_region}
    covered = None if subject.is_given else faces.covered_limit()
    if covered is not None:
        parameters |= {"max_covered_share": covered, "framing": faces.crop_framing}
    return [plan.work(subject, "mask", STAGE.version, parameters, sources, ())]
