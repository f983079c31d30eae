"""Stage personalize: tokens per person, many people in one padded batch."""

from __future__ import annotations

from faceid_core.stages.files import json_output, read_json, read_png
from faceid_core.stages.work import JOURNAL, Entry, Subject, Work
from faceid_core.store.cache import Output


class SlotStopped(Exception):
    """Training of one person stopped; the text is the trainer's reason."""


class Personalize:
    """See the module's sentence. Outputs: tokens.safetensors, curve.json, attention.safetensors, training.json."""

    name, version, batch = "personalize", 3, None  # None: the configured number of slots
    keeps_journal = True

    def execute(self, works, inputs, models, tick):
        """Train everybody in `works`; they share method and seed because the plan gives all the same."""
        from safetensors.numpy import save

        from faceid_core.personalize.checkpoint import JournalEntry
        from faceid_core.personalize.method import Method
        from faceid_core.personalize.trainer import PersonalizeResult, TrainingPhoto, personalize

        photos = [
            _training_photo(TrainingPhoto, work, blobs) for work, blobs in zip(works, inputs, strict=True)
        ]
        index_of = {work.subject: index for index, work in enumerate(works)}
        shared = works[0].call.parameters
        assert all(work.call.parameters["method"] == shared["method"] for work in works)
        results = personalize(
            models.base,
            photos,
            Method.model_validate(shared["method"]),
            slots=models.settings.slots or models.measured_slots(Method.model_validate(shared["method"])),
            samples_at_once=models.settings.samples_at_once,
            seed=shared["seed"],
            progress=tick,
            journal={
                work.subject: blobs[JOURNAL]
                for work, blobs in zip(works, inputs, strict=True)
                if JOURNAL in blobs
            },
            journal_seconds=models.settings.journal_seconds,
        )
        for result in results:
            index = index_of[result.name]
            if isinstance(result, JournalEntry):
                yield index, Entry(result.data), {}
                continue
            if not isinstance(result, PersonalizeResult):
                yield index, SlotStopped(result.reason), {}
                continue
            maps = {"after": result.attention_after, "before": result.attention_before}
            curve = [{k: v for k, v in row.items() if k != "seconds"} for row in result.curve]
            training = {"outside_before": result.outside_before, "outside_after": result.outside_after}
            if result.restarted:
                training["restarted"] = result.restarted
            yield (
                index,
                {
                    "tokens.safetensors": Output(result.tokens.to_bytes(), "application/octet-stream"),
                    "curve.json": json_output(curve),
                    "attention.safetensors": Output(save(maps), "application/octet-stream"),
                    "training.json": json_output(training),
                },
                {
                    "training_seconds": result.seconds,
                    "slots": result.slots,
                    "share_seconds": result.seconds,
                },
            )


def _training_photo(kind, work: Work, blobs):
    return kind(
        name=work.subject,
        photo_digest=work.call.inputs["photo"],
        image=read_png(blobs["crop"]),
        mask=read_png(blobs["mask"]).astype("float32") / 255.0,
        valid=read_png(blobs["valid"]) > 0,
        class_word=work.call.parameters["class_word"],
        original_pixels=_original_pixels(blobs),
    )


def _original_pixels(blobs) -> int:
    """Side of the crop in pixels of the photo; 0 where the base model reads no sizes."""
    import math

    if "detection" not in blobs:
        return 0
    transform = read_json(blobs["detection"])["transform"]  # photo to crop, [2, 3]
    return round(len(read_png(blobs["crop"])) / math.hypot(transform[0][0], transform[1][0]))


STAGE = Personalize()


def plan_works(plan, subject: Subject) -> list[Work]:
    """People only. The photo's digest seeds the draws; the slot count is how, not what, and stays out of the key."""
    if subject.kind != "person":
        return []
    parameters = {
        "method": plan.method.model_dump(mode="json"),
        "seed": plan.config.personalize.seed,
        "class_word": subject.class_word,
    }
    sources = {
        "photo": subject.photo(),
        "crop": subject.source("detect", "crop.png"),
        "valid": subject.source("detect", "valid.png"),
        "mask": subject.source("mask", "mask.png"),
    }
    if plan.reads_sizes:
        sources["detection"] = subject.source("detect", "detection.json")
    precision = plan.config.base_model.precision
    return [
        plan.work(subject, "personalize", STAGE.version, parameters, sources, ("base",), precision=precision)
    ]
