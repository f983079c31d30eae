"""Plan stage score: one stage per metric and version, over the pictures of one subject.

A floor that needs a photo belongs to each person: the class word's pictures are compared with that person's photo,
and the result is kept under the person's prefix as `floor_score-identity`, `floor_score-leakage`.
"""

from __future__ import annotations

from faceid_core.evaluate.metrics import METRICS
from faceid_core.stages.plan import Plan
from faceid_core.stages.planning.generate import SHARD
from faceid_core.stages.work import COMMON, Source, StageSpec, Subject, Work, metric_result
from faceid_core.weights.roles import ROLES, photograph_roles

SCORES = "scores.parquet"
OTHER_PICTURES = 8  # of a person, for metrics that need some


def spec_of_metric(metric: str) -> StageSpec:
    """Return the spec of a metric's stage; its version is the metric's."""
    return StageSpec(metric_result(metric), version=METRICS[metric].version, batch=1)


def uses_photo_detector(metric: str, faces_backend: str) -> bool:
    """Whether a metric finds faces with the detector that found them in people's photos.

    The miniature's scorers know drawn faces, so the pictures of photographs' models need the photos' own
    detector. In the miniature world each set has a detector of its own, whose faces all metrics share: the
    photos' one made the training masks, and what trains does not report.
    """
    return METRICS[metric].detector_of_photos and faces_backend != "miniature"


def plan_works(plan: Plan, subject: Subject) -> list[Work]:
    """Plan every configured metric over the subject's own pictures, and a person's floors."""
    works = []
    for metric in plan.config.score.metrics:
        if METRICS[metric].needs_reference and "detect" not in subject.manifests:
            continue  # the class word has no photo of its own
        works.append(_work(plan, subject, metric, subject.source("generate", SHARD)))
    floor = plan.floors.get(subject.class_word)
    if subject.kind == "person" and floor is not None:
        pictures = Source(COMMON, "generate", floor.stage_key, floor.outputs[SHARD].digest)
        works += [
            _work(plan, subject, metric, pictures, result=metric_result(metric, floor=True))
            for metric in plan.config.score.metrics
            if METRICS[metric].needs_reference
        ]
    return works


def _other_pictures(subject: Subject) -> dict[str, int] | None:
    """What the renderer draws as other pictures of the person on a photo; None for a photo that it did not draw."""
    # The renderer: only runs that ask for such a metric need it.
    from faceid_core.miniature.samples import seed_of_name, seed_of_photo

    if subject.kind == "named":
        seed = seed_of_name(subject.text or "")
    else:
        seed = seed_of_photo(subject.photo_digest or "")
    return None if seed is None else {"renderer_seed": seed, "count": OTHER_PICTURES}


def _work(plan: Plan, subject: Subject, metric: str, pictures: Source, result: str | None = None) -> Work:
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
    if about.needs_other_pictures:
        parameters["other_pictures"] = _other_pictures(subject)
    if plan.config.score.of_photographs:
        roles = photograph_roles(metric)
    else:
        roles = {role: role for role in ROLES[metric]}
        if uses_photo_detector(metric, plan.config.faces.backend):
            roles["detector"] = "face_detector"
    return plan.work(subject, spec_of_metric(metric), parameters, sources, roles, result=result)
