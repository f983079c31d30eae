"""The metrics: each measures one value per picture, None where the picture cannot be measured.

Each metric is a stage with its own version: adding one draws no picture and runs no other metric again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from . import attributes as facial
from . import null_reasons as why
from .copying import copying_of
from .face_masks import face_mask, outside_share
from .grid import Prompt
from .leakage import measure_leakage, read_reference
from .metric_rows import Context, MetricRow, read_scores, write_scores
from .metric_rows import row_of as _row
from .null_reasons import NoValue
from .pictures import Pictures, crop_face, embed_faces, embed_reference, has_eyes, largest_face
from .protocols import ImageTextScorer, NamedConcepts
from .scorers import Scorers
from .shards import ShardRow

__all__ = ["METRICS", "Context", "Metric", "MetricRow", "read_scores", "score", "write_scores"]


def identity(pictures: Pictures, context: Context) -> list[MetricRow]:
    """Cosine of the face in the picture and the face in the reference photo.

    Where the recognizer has an `acceptance`, rows `identity:accepted` hold 1 from that cosine on and 0 below.
    """
    return _identity(pictures, context, "identity")


def identity_second(pictures: Pictures, context: Context) -> list[MetricRow]:
    """The same by the second recognizer; rows `identity_second:accepted` as there."""
    if pictures.by_second_recognizer is None:
        return [_row(row, "identity_second", None, why.NO_SECOND_RECOGNIZER) for row in pictures.rows]
    return _identity(pictures.by_second_recognizer, context, "identity_second")


def _identity(pictures: Pictures, context: Context, name: str) -> list[MetricRow]:
    if context.reference is None:
        raise ValueError(f"the {name} metric compares with a reference photo; pass `reference`")
    target = embed_reference(pictures.scorers, context.reference)
    if target is None:
        return [_row(row, name, None, why.NO_REFERENCE_FACE) for row in pictures.rows]
    acceptance = getattr(pictures.scorers.recognizer, "acceptance", None)
    found = []
    for row, face, vector in zip(pictures.rows, pictures.faces, pictures.embeddings, strict=True):
        if np.isnan(vector).any():
            found.append(_row(row, name, None, why.NO_FACE if face is None else why.NO_EYES))
            continue
        cosine = float(np.clip(vector @ target, -1, 1))
        found.append(_row(row, name, cosine))
        if acceptance is not None:
            found.append(_row(row, f"{name}:accepted", float(cosine >= acceptance)))
    return found


def detection(pictures: Pictures, context: Context) -> list[MetricRow]:
    """1 if a face was found in the picture, else 0."""
    return [
        _row(row, "detection", float(face is not None))
        for row, face in zip(pictures.rows, pictures.faces, strict=True)
    ]


def concepts(pictures: Pictures, context: Context) -> list[MetricRow]:
    """Concept accuracy: 1 if the namer sees every concept that the prompt asks for, else 0.

    Rows `concepts` hold it for all kinds together, rows `concepts:scene` and so on for each kind that the prompt asks
    for, with the concepts that were seen as their detail.
    """
    if pictures.concepts is None:
        return [_row(row, "concepts", None, why.NO_CONCEPTS) for row in pictures.rows]
    found = []
    for row, seen in zip(pictures.rows, pictures.concepts, strict=True):
        expected = context.prompts[row.prompt_id].expected
        kinds = {
            kind: (set(names) <= _shown(seen, kind), ", ".join(sorted(_shown(seen, kind))))
            for kind, names in expected.items()
        }
        if not kinds:
            found.append(_row(row, "concepts", None, why.NOTHING_EXPECTED))
            continue
        missed = ", ".join(kind for kind, (shows_all, _) in kinds.items() if not shows_all)
        found.append(_row(row, "concepts", float(not missed), missed and f"missed {missed}"))
        found += [
            _row(row, f"concepts:{kind}", float(shows_all), shown)
            for kind, (shows_all, shown) in kinds.items()
        ]
    return found


def _shown(seen: NamedConcepts, kind: str) -> set[str]:
    """The concepts of one kind that a picture shows."""
    if kind == "attribute":
        return set(seen.attributes)
    name = {"scene": seen.scene, "action": seen.held, "clothing": seen.clothes}[kind]
    return set() if name is None else {name}


def image_text(pictures: Pictures, context: Context) -> list[MetricRow]:
    """The picture against its prompt, with the class word for `V*`."""
    return _image_text(pictures, context, "image_text", pictures.scorers.image_text)


def image_text_second(pictures: Pictures, context: Context) -> list[MetricRow]:
    """The same by the second image-text scorer."""
    return _image_text(pictures, context, "image_text_second", pictures.scorers.second_image_text)


def _image_text(
    pictures: Pictures, context: Context, name: str, scorer: ImageTextScorer | None
) -> list[MetricRow]:
    if scorer is None:
        return [_row(row, name, None, why.NO_SUCH_SCORER) for row in pictures.rows]
    if not pictures.rows:
        return []
    texts = [context.prompts[row.prompt_id].for_subject(context.class_word) for row in pictures.rows]
    values = scorer.score(pictures.images, texts)
    return [_row(row, name, float(value)) for row, value in zip(pictures.rows, values, strict=True)]


def diversity(pictures: Pictures, context: Context) -> list[MetricRow]:
    """How far a picture lies from the others of its prompt: the mean of 1 - cosine over them.

    The mean over a prompt's pictures is their mean pairwise distance; 0 means that they are equal.
    """
    if pictures.image_embeddings is None:
        return [_row(row, "diversity", None, why.NO_EMBEDDINGS) for row in pictures.rows]
    found = []
    for index, row in enumerate(pictures.rows):
        others = [
            other
            for other, each in enumerate(pictures.rows)
            if each.prompt_id == row.prompt_id and other != index
        ]
        if not others:
            found.append(_row(row, "diversity", None, why.ONLY_PICTURE))
            continue
        cosines = pictures.image_embeddings[others] @ pictures.image_embeddings[index]  # [others]
        found.append(_row(row, "diversity", float(np.clip(1 - cosines, 0, 2).mean())))
    return found


def attributes(pictures: Pictures, context: Context) -> list[MetricRow]:
    """Whether age and gender are read from the picture's face as from the photo's: the mean of both parts.

    Rows `attributes:gender` and `attributes:age` hold each, 1 or 0, with what was read as their detail.
    """
    reader = pictures.scorers.attributes
    if context.reference is None:
        raise ValueError("the attributes metric compares with a reference photo; pass `reference`")
    if reader is None:
        return [_row(row, "attributes", None, why.NO_ATTRIBUTES) for row in pictures.rows]
    face = largest_face(pictures.scorers.detector.detect([context.reference])[0])
    if face is None or not has_eyes(face):
        return [_row(row, "attributes", None, why.NO_REFERENCE_FACE) for row in pictures.rows]
    photo = reader.attributes([crop_face(context.reference, face, facial.PIXELS, None)])[0]
    found = []
    for row, image, face in zip(pictures.rows, pictures.images, pictures.faces, strict=True):
        if face is None or not has_eyes(face):
            found.append(_row(row, "attributes", None, why.NO_FACE if face is None else why.NO_EYES))
            continue
        seen = reader.attributes([crop_face(image, face, facial.PIXELS, None)])[0]
        asked = facial.asks_for_age(context.prompts[row.prompt_id].text)
        parts = facial.compare_attributes(seen, photo, age_asked=asked)
        found.append(_row(row, "attributes", float(np.mean([value for value, _ in parts.values()]))))
        found += [_row(row, f"attributes:{name}", value, was) for name, (value, was) in parts.items()]
    return found


def flagged(pictures: Pictures, context: Context) -> list[MetricRow]:
    """1 if the safety checker flags the picture, else 0; the picture itself stays."""
    checker = pictures.scorers.safety
    if checker is None:
        return [_row(row, "flagged", None, why.NO_SAFETY_CHECKER) for row in pictures.rows]
    return [
        _row(row, "flagged", float(is_flagged))
        for row, is_flagged in zip(pictures.rows, checker.flags(pictures.images), strict=True)
    ]


def attention(pictures: Pictures, context: Context) -> list[MetricRow]:
    """Share of the placeholder's attention that lies outside the face and hair of the picture."""
    if all(row.attention is None for row in pictures.rows):
        return [_row(row, "attention", None, why.NO_ATTENTION) for row in pictures.rows]
    found = []
    for row, image, crop in zip(pictures.rows, pictures.images, pictures.face_crops, strict=True):
        if row.attention is None:
            found.append(_row(row, "attention", None, why.NO_ATTENTION))
        elif crop is None:
            found.append(_row(row, "attention", None, why.NO_FACE))
        else:
            value = outside_share(row.attention, face_mask(crop.labels, crop.transform, image.shape[:2]))
            found.append(_row(row, "attention", value, why.EMPTY_ATTENTION if value is None else ""))
    return found


def leakage(pictures: Pictures, context: Context) -> list[MetricRow]:
    """Leakage of the photo: the mean of its parts, then `leakage:clothes` and so on, 1 or 0."""
    if context.reference is None:
        raise ValueError("the leakage metric compares with a reference photo; pass `reference`")
    photo = read_reference(context.reference, pictures.scorers)
    prompts = [context.prompts[row.prompt_id] for row in pictures.rows]
    return [
        _row(row, name, value, detail)
        for row, measured in zip(pictures.rows, measure_leakage(pictures, photo, prompts), strict=True)
        for name, (value, detail) in measured.items()
    ]


def copying(pictures: Pictures, context: Context) -> list[MetricRow]:
    """How much nearer the face is to the very photo than to other pictures of the person, see `copying.copying_of`."""
    if context.reference is None:
        raise ValueError("the copying metric compares with a reference photo; pass `reference`")

    def none(reason: NoValue) -> list[MetricRow]:
        return [_row(row, "copying", None, reason) for row in pictures.rows]

    if not context.others:
        return none(why.NO_OTHER_PICTURES)
    photo = embed_reference(pictures.scorers, context.reference)
    if photo is None:
        return none(why.NO_REFERENCE_FACE)
    faces = map(largest_face, pictures.scorers.detector.detect(list(context.others)))
    seen = [
        (other, face)
        for other, face in zip(context.others, faces, strict=True)
        if face is not None and has_eyes(face)
    ]
    if not seen:
        return none(why.NO_OTHER_FACE)
    if not pictures.rows:
        return []
    values = copying_of(pictures.embeddings, photo, embed_faces(pictures.scorers, seen))
    if values is None:
        return none(why.OTHERS_EQUAL_PHOTO)
    found = []
    for row, face, value in zip(pictures.rows, pictures.faces, values, strict=True):
        if np.isnan(value):
            found.append(_row(row, "copying", None, why.NO_FACE if face is None else why.NO_EYES))
        else:
            found.append(_row(row, "copying", float(value)))
    return found


@dataclass(frozen=True)
class Metric:
    """A metric as a stage; `weights.roles.ROLES` says which models it asks.

    Args:
        version: raised when the same pictures would get other values.
        function: see the functions of this module.
        needs_reference: whether the values belong to a reference photo as well as to the pictures.
        needs_other_pictures: whether they belong to other pictures of the person, too.
        detector_of_photos: whether faces in pictures of photographs' models are found by the detector that also
            finds them in people's photos, instead of the scorers' own. The role `detector` then means that one.
    """

    version: int
    function: Callable[[Pictures, Context], list[MetricRow]]
    needs_reference: bool = False
    needs_other_pictures: bool = False
    detector_of_photos: bool = False


METRICS: dict[str, Metric] = {
    "identity": Metric(1, identity, needs_reference=True),
    "detection": Metric(1, detection, detector_of_photos=True),
    "concepts": Metric(1, concepts),
    "image_text": Metric(1, image_text),
    "attention": Metric(1, attention),
    "leakage": Metric(1, leakage, needs_reference=True),
    "copying": Metric(1, copying, needs_reference=True, needs_other_pictures=True),
    "identity_second": Metric(1, identity_second, needs_reference=True),
    "image_text_second": Metric(1, image_text_second),
    "diversity": Metric(1, diversity),
    "attributes": Metric(1, attributes, needs_reference=True),
    "flagged": Metric(1, flagged),
}


def score(
    metric: str,
    rows: Sequence[ShardRow] | Pictures,
    *,
    prompts: Sequence[Prompt],
    reference: np.ndarray | None = None,
    others: Sequence[np.ndarray] = (),
    class_word: str,
    scorers: Scorers,
) -> list[MetricRow]:
    """One metric over the pictures of one subject.

    Args:
        metric: a name of `METRICS`.
        rows: of one shard, or `Pictures` made of them, which saves work between metrics.
        prompts: of the grid that drew them.
        reference: the reference photo uint8 [h, w, 3], for metrics that need one.
        others: other pictures of the person, for metrics that need some; each uint8 [h, w, 3].
        class_word: stands for `V*` in the texts.
        scorers: of one backend.

    Returns:
        Rows in the order of the pictures.

    Raises:
        ValueError: for an unknown metric, a picture whose prompt is not given, or an absent reference.
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is unknown; use one of: {', '.join(METRICS)}")
    pictures = rows if isinstance(rows, Pictures) else Pictures(rows, scorers)
    by_id = {prompt.id: prompt for prompt in prompts}
    unknown = sorted({row.prompt_id for row in pictures.rows} - set(by_id))
    if unknown:
        raise ValueError(f"the pictures belong to prompts that were not given: {', '.join(unknown)}")
    return METRICS[metric].function(pictures, Context(reference, class_word, by_id, others))
