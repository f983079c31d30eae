"""Stage score: one stage per metric and version, over the pictures of one subject.

A floor that needs a photo belongs to each person: the class word's pictures are compared with that person's photo,
and the result is kept under the person's prefix as `floor_score-identity`, `floor_score-leakage`.
"""

from __future__ import annotations

from dataclasses import replace

from faceid_core.stages.files import read_png
from faceid_core.stages.generate import SHARD
from faceid_core.stages.work import COMMON, Source, Subject, Work
from faceid_core.store.cache import Output
from faceid_core.weights.roles import ROLES, photograph_roles

SCORES = "scores.parquet"
FLOOR = "floor_score-"  # what the result of a person's floor is called, before the metric's name
_KEPT_PICTURES = 2  # metrics of one subject follow one another and share decoding, detection and embedding


class Score:
    """One metric. Output: scores.parquet."""

    batch = 1

    def __init__(self, metric: str):
        from faceid_core.evaluate.metrics import METRICS

        self.metric, self.name, self.version = metric, f"score-{metric}", METRICS[metric].version

    def execute(self, works, inputs, models, tick):
        """Score each subject's shard."""
        from faceid_core.evaluate.grid import Prompt
        from faceid_core.evaluate.metrics import score, write_scores

        scorers = _scorers(models, self.metric)
        for index, (work, blobs) in enumerate(zip(works, inputs, strict=True)):
            p = work.call.parameters
            prompts = [
                Prompt(i, text, category, {kind: tuple(names) for kind, names in expected.items()})
                for i, text, category, expected in p["prompts"]
            ]
            rows = score(
                self.metric,
                _pictures(models, scorers, work.call.inputs["pictures"], blobs["pictures"]),
                prompts=prompts,
                reference=read_png(blobs["reference"]) if "reference" in blobs else None,
                class_word=p["class_word"],
                scorers=scorers,
            )
            parquet = Output(write_scores(rows), "application/vnd.apache.parquet", inline=True)
            where = {"device": models.device} if _on_accelerator(models, self.metric) else {}
            yield index, {SCORES: parquet}, where
            tick(work.subject, 1, 1)


def _on_accelerator(models, metric: str) -> bool:
    """Whether CLIP computed, where the base model does; everything else that scores computes on the CPU."""
    asks_clip = {"image_text", "second_image_text", "embedder"} & set(photograph_roles(metric))
    return models.settings.scores_photographs and bool(asks_clip)


def _scorers(models, metric: str):
    """The scorers, with the photos' detector in its place where the metric asks for that one."""
    own = not models.settings.scores_photographs
    if own and _asks_detector_of_photos(metric, models.settings.faces_backend):
        return replace(models.scorers, detector=models.detector)
    return models.scorers


def _asks_detector_of_photos(metric: str, faces_backend: str) -> bool:
    """Whether a metric finds faces with the detector that found them in people's photos.

    The miniature's scorers know drawn faces, so the pictures of photographs' models need the photos' own
    detector. In the miniature world each set has a detector of its own, whose faces all metrics share: the
    photos' one made the training masks, and what trains does not report.
    """
    from faceid_core.evaluate.metrics import METRICS

    return METRICS[metric].detector_of_photos and faces_backend != "miniature"


def _pictures(models, scorers, digest: str, shard: bytes):
    """The shard's pictures, kept from metric to metric; each detector has its own, since they keep its faces."""
    from faceid_core.evaluate.pictures import Pictures
    from faceid_core.evaluate.shards import read_shard

    kept = models.kept_pictures
    name = digest, scorers.detector.name
    if name in kept:
        kept.move_to_end(name)  # the class word's pictures are asked for by every person
    else:
        kept[name] = Pictures(read_shard(shard), scorers)
        while len(kept) > _KEPT_PICTURES:
            kept.popitem(last=False)
    return kept[name]


def stage_for(metric: str) -> Score:
    """The stage of a metric."""
    return Score(metric)


def plan_works(plan, subject: Subject) -> list[Work]:
    """Every configured metric over the subject's own pictures, and a person's floors."""
    from faceid_core.evaluate.metrics import METRICS

    works = []
    for metric in plan.config.score.metrics:
        if METRICS[metric].needs_reference and "detect" not in subject.manifests:
            continue  # the class word has no photo of its own
        works.append(_work(plan, subject, metric, subject.source("generate", SHARD)))
    floor = plan.floors.get(subject.class_word)
    if subject.kind == "person" and floor is not None:
        pictures = Source(COMMON, "generate", floor.stage_key, floor.outputs[SHARD].digest)
        works += [
            _work(plan, subject, metric, pictures, result=FLOOR + metric)
            for metric in plan.config.score.metrics
            if METRICS[metric].needs_reference
        ]
    return works


def _work(plan, subject: Subject, metric: str, pictures: Source, result: str | None = None) -> Work:
    from faceid_core.evaluate.metrics import METRICS

    about = METRICS[metric]
    sources = {"pictures": pictures}
    if about.needs_reference:
        sources["reference"] = subject.source("detect", "crop.png")
    parameters = {
        "prompts": [
            [p.id, p.text, p.category, {k: list(v) for k, v in p.expected.items()}] for p in plan.grid.prompts
        ],
        "class_word": subject.class_word,
        "scorers": plan.config.score.scorers,
    }
    if plan.config.score.of_photographs:
        roles = photograph_roles(metric)
    else:
        roles = {role: role for role in ROLES[metric]}
        if _asks_detector_of_photos(metric, plan.config.faces.backend):
            roles["detector"] = "face_detector"
    name = f"score-{metric}"
    return plan.work(subject, name, about.version, parameters, sources, roles, result=result or name)
